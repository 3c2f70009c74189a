import re
from dataclasses import replace

import numpy as np
import pytest
import report_cases as cases

from madx.report import curve_figure, render_html, render_markdown
from madx.report.curve_views import curve_rows, curve_sentence, standing
from madx.stats import clopper_pearson

THREAT = {"norm": "linf", "eps": 8 / 255}


def test_a_row_is_what_stands_at_its_radius():
    curve = cases.curve()
    rows = curve_rows(curve, THREAT)
    assert [row.reference.count for row in rows] == curve.reference.sum(axis=1).tolist()
    assert [row.candidate.count for row in rows] == curve.candidate.sum(axis=1).tolist()
    assert [row.eps for row in rows if row.is_threat] == [8 / 255]
    assert (rows[0].radius, rows[4].radius) == ("0 (clean)", "8/255")
    assert not any(row.is_threat for row in curve_rows(curve, {}))


@pytest.mark.parametrize("count", [0, 1, 250, 500])
def test_limits_are_pointwise_and_two_sided(count):
    row = standing(np.arange(500) < count)
    assert row.limits == clopper_pearson(count, 500, confidence=0.975)
    assert row.limits[0] <= row.share <= row.limits[1]


def test_the_sentence_says_how_far_down_the_curve_goes():
    curve = cases.curve()
    sentence = curve_sentence(curve, curve_rows(curve, THREAT), ("dense", "pruned"))
    assert "The first 500 gate images" in sentence
    assert "apgd cross-entropy, 1 x 10 steps at the others" in sentence
    assert "At radius 20/255, 0.0 % of the images stand on the dense engine" in sentence


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_radius_is_drawn_for_both_engines(norm):
    rows = curve_rows(cases.curve(), THREAT)
    suite = (standing(np.arange(100) < 60), standing(np.arange(100) < 58))
    picture = curve_figure.security_curve(rows, suite, "curve", norm=norm)
    for colour, sides in (("dense", [r.reference for r in rows]), ("pruned", [r.candidate for r in rows])):
        dots = re.findall(rf'<g[^>]*style="[^"]*fill: var\(--{colour}\)[^"]*">((?:<use[^>]*/>\s*)+)</g>', picture)
        places = [(float(x), -float(y)) for x, y in re.findall(r'x="([\d.]+)" y="([\d.]+)"', max(dots, key=len))]
        assert len(places) == len(rows)
        assert np.corrcoef([x for x, _ in places], [row.eps for row in rows])[0, 1] > 0.9999
        assert np.corrcoef([y for _, y in places], [side.share for side in sides])[0, 1] > 0.9999
    assert ("1/255" in picture) == (norm == "linf")


def test_both_reports_show_the_curve():
    for text in (render_html(cases.PASSING).replace("\xa0", " "), render_markdown(cases.PASSING)):
        assert "The first 500 gate images under growing perturbations" in text
        assert "8/255, the" in text
        assert "pointwise 95 % limits" in text


def test_an_engine_alone_has_its_one_curve():
    lone = cases.lone(cases.measurements())
    for text in (render_html(cases.content((lone,))).replace("\xa0", " "), render_markdown(cases.content((lone,)))):
        assert "of the images stand on the engine engine." in text
        assert "8/255, the" in text
    rows = curve_rows(lone.curve, THREAT)
    assert all(row.reference is None for row in rows)
    both = curve_figure.security_curve(
        curve_rows(cases.curve(), THREAT), (standing(np.ones(9)), standing(np.ones(9))), "two", norm="linf"
    )
    one = curve_figure.security_curve(rows, (None, standing(np.ones(9))), "one", norm="linf")
    assert "var(--pruned)" in one
    assert "var(--dense)" not in one
    assert "var(--dense)" in both


def test_an_engine_without_a_curve_says_so():
    content = cases.content((replace(cases.measurements(), curve=None),))
    assert "The curve was not measured on this engine." in render_html(content)
    assert "Security curve of" not in render_markdown(content)
