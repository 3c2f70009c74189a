"""The pictures of the saliency: what is drawn is what was summed up, on an axis that can hold it."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
import report_cases as cases

from madx.report import saliency_figures as figures
from madx.report import saliency_views

MINUS = "\N{MINUS SIGN}"


def rows(means):
    return saliency_views.layer_rows(cases.saliency(means))


def texts(picture):
    return re.findall(r">([^<>]+)</text>", picture)


def dots(picture, variable):
    """Places of the dots drawn in that colour."""
    groups = re.findall(rf'<g[^>]*style="[^"]*fill: var\(--{variable}\)[^"]*">((?:<use[^>]*/>\s*)+)</g>', picture)
    return [(float(x), float(y)) for group in groups for x, y in re.findall(r'x="([\d.]+)" y="([\d.]+)"', group)]


@pytest.mark.parametrize(
    ("means", "order"),
    [
        ([1e-9, 1e-7, 3e-5], [0, 1, 2]),
        ([-1e-6, 2e-6, -3e-9], [0, 2, 1]),
        ([-1e-6, -1e-8, -1e-7], [0, 2, 1]),
        ([0.2, 0.3, 0.25], [0, 2, 1]),
        ([0.0, -1e-300, 1.0], [1, 0, 2]),
    ],
)
def test_layers_stand_in_the_networks_order_and_as_far_right_as_they_are_sensitive(means, order):
    picture = figures.layers(rows({f"layer{number}": mean for number, mean in enumerate(means)}), "layers")
    places = dots(picture, "pruned")
    assert len(places) == len(means)
    assert [y for _, y in places] == sorted(y for _, y in places)
    assert sorted(range(len(means)), key=lambda number: (places[number][0], means[number])) == order
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', picture)[1])
    assert all(0 < x < width for x, _ in places)
    assert [text for text in texts(picture) if text.startswith("layer")] == ["layer0", "layer1", "layer2"]


@pytest.mark.parametrize("means", [{"a": 0.0}, {"a": 1e-30, "b": 1e30}, {"a": 5e-324}])
def test_any_magnitude_can_be_drawn(means):
    assert figures.layers(rows(means), "layers").startswith("<svg")


def test_the_axis_is_monotone_odd_and_continuous():
    axis = saliency_views.SignedLog(1e-8, 0.5)
    values = np.concatenate([-np.logspace(-3, -12, 400), [0.0], np.logspace(-12, -3, 400)])
    places = axis.place(values)
    assert (np.diff(places) > 0).all()
    assert places == pytest.approx(-places[::-1])
    assert axis.place([0.0, 1e-8, 1e-7, 1e-5]) == pytest.approx([0, 0.5, 1.5, 3.5])


@pytest.mark.parametrize(("low", "high"), [(-3.5, 4.5), (0, 0.5), (-12, 0), (0, 30), (-1, 1)])
def test_ticks_stand_where_their_labels_say(low, high):
    axis = saliency_views.SignedLog(1e-8, 0.5)
    ticks = axis.ticks(low, high)
    assert ticks[0.0] == "0"
    assert len(ticks) <= 2 * 8 + 1
    digits = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    for place, label in ticks.items():
        assert low - 1e-6 <= place <= high + 1e-6
        if place:
            sign = -1 if label.startswith(MINUS) else 1
            value = sign * 10.0 ** int(label.removeprefix(MINUS)[2:].translate(digits))
            assert axis.place(value) == pytest.approx(place)
    gaps = np.diff(sorted(ticks))
    assert not gaps.size or gaps.min() > 0.06 * (high - low)


def test_the_histogram_marks_the_threshold_and_says_what_it_cut():
    content = cases.saliency()
    shown = saliency_views.layer_rows(content)
    marked = figures.histogram(content, shown, "h")
    plain = figures.histogram(content | {"threshold": None}, shown, "h")
    assert marked.count("stroke-dasharray") == plain.count("stroke-dasharray") + 1
    assert "60 %" not in texts(marked)
    assert "50 %" in texts(marked), "half of the weights are in the bar at zero, which is cut"


def test_the_curve_draws_every_round():
    points = saliency_views.curve(cases.saliency(overlaps=(0.1, 0.5, 0.8, 0.9)))
    picture = figures.settling(points, 0.9, "s")
    drawn = dots(picture, "pruned")
    assert len(drawn) == 4
    heights = np.array([-y for _, y in drawn])
    assert np.corrcoef(heights, [0.1, 0.5, 0.8, 0.9])[0, 1] > 0.9999
    assert {"2", "4", "8", "16"} <= set(texts(picture))


def test_a_round_without_ranks_is_drawn():
    point = saliency_views.Point(batches=2, correlation=None, overlap=0.4, chance=0.1)
    assert figures.settling((point,), 0.9, "s").startswith("<svg")


def test_what_is_not_known_has_no_picture():
    assert figures.layers((), "a") == figures.settling((), 0.9, "b") == ""
    assert figures.histogram({}, (), "c") == figures.histograms({}, (), "d") == ""


@pytest.mark.parametrize(
    "draw", [figures.layers, lambda shown, name: figures.histograms(cases.saliency(), shown, name)]
)
def test_a_picture_is_xml_with_unique_ids_of_its_own(draw):
    text = draw(rows({"<b>&\x1b\udcff": 1.0, "层" * 60: 2.0}), "mine")
    root = ElementTree.fromstring(text)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith("mine-") for name in ids)
    assert "http" not in text
    assert "<style" not in text
