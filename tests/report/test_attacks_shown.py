# ruff: noqa: RUF001 - the reports print true minus signs
from dataclasses import replace

import numpy as np
import pytest
import report_cases as cases
from accuracy_cases import gallery, sound

from madx.report import render_html, render_markdown
from madx.report.attack_views import KNEW, attack_rows, check_rows, parity_rows, total_cost, trial_sentence
from madx.report.views import count_rows
from madx.verify import Accuracy, Parity

KINDS = ("white-box", "engine in the loop", "query", "8-bit")


def accuracy(seed=0, images=60):
    """Outcomes at random, consistent with the rule that what has fallen on both engines is not attacked again."""
    rng = np.random.default_rng(seed)
    reference, candidate = (rng.random(images) < 0.9 for _ in range(2))
    clean = (reference.copy(), candidate.copy())
    attacked, outcomes = [], ([], [])
    for _ in KINDS:
        chosen = reference | candidate
        attacked.append(chosen.copy())
        for left, rows in zip((reference, candidate), outcomes, strict=True):
            right = chosen & (rng.random(images) < 0.8)
            rows.append(right)
            left &= right
    return Accuracy(
        index=np.arange(images),
        labels=np.zeros(images, dtype=np.int64),
        clean_reference=clean[0],
        clean_candidate=clean[1],
        attacks=("twin", "loop", "square", "rounding"),
        kinds=KINDS,
        attacked=np.stack(attacked),
        standing_reference=np.stack(outcomes[0]),
        standing_candidate=np.stack(outcomes[1]),
        overrun=np.zeros(4),
        passes=np.array([[1, 20_000], [2, 3000], [123_456, 0], [0, 0]]),
        gallery=gallery(0, 0),
    )


@pytest.mark.parametrize("seed", range(5))
def test_what_attacks_turned_is_what_is_missing_from_the_counts(seed):
    measured = accuracy(seed)
    rows, counts = attack_rows(measured), count_rows(measured)
    assert sum(row.turned_reference for row in rows) == measured.clean_reference.sum() - measured.robust_reference.sum()
    for row, before, after in zip(rows, counts, counts[1:], strict=False):
        assert row.turned_reference == before.reference - after.reference
        assert row.turned_candidate == before.candidate - after.candidate
    assert [row.attacked for row in rows] == measured.attacked.sum(axis=1).tolist()
    assert [row.kind for row in rows] == list(KNEW)


def test_the_cost_is_the_sum():
    assert total_cost(attack_rows(accuracy()), 60) == (
        "23,000 gradients and 123,459 forward passes on 60 images, on average 383.3 and 2,057.7 an image"
    )


def test_a_check_has_its_counts_and_what_is_wanted():
    most = np.arange(200) < 140
    rows = check_rows(sound(doubled=2, blind=np.arange(200) < 3, engine_right=np.arange(200) < 150, twin_right=most))
    cells = {row.label: (row.wanted, row.reference, row.candidate) for row in rows}
    assert cells["with an input gradient of exactly zero"] == ("none", "0 of 200", "3 of 200")
    doubled = cells["that withstood everything and are turned by twice the steps"]
    assert doubled == ("at most 1 %", "0 of 300", "2 of 300")
    assert cells["that stand although any change is allowed"][0] == "at most 2 %"
    assert cells["right on the engine where its twin was turned, less the other way round"] == (
        "at most 0.5 %",
        "0 − 0 of 200",
        "10 − 0 of 200",
    )
    assert cells["that stand on an undefended linear classifier"] == (
        "at most 10 %",
        "0 of 200; clean: 140",
        "the same",
    )


def shown(**side):
    measured = replace(cases.measurements(), accuracy=accuracy(), soundness=sound(**side))
    content = cases.content((measured,))
    return render_html(content), render_markdown(content)


def test_both_reports_show_every_attack():
    page, text = shown()
    (row, *_) = attack_rows(accuracy())
    assert "| square | query |" in text
    assert (
        f"| twin | white-box | {row.attacked} | {row.turned_reference} | {row.turned_candidate} | 20,000 | 1 |" in text
    )
    for phrase in (*KNEW.values(), *KINDS):
        assert phrase.replace("'", "&#39;") in page
    assert page.count("123,456") == 1
    assert "Cost: 23,000 gradients" in text
    assert "Cost:\n23,000 gradients" in page


def test_signs_against_the_attacks_are_said_in_words():
    page, text = shown(blind=np.ones(200, dtype=bool))
    for report in (page.replace("&#39;", "'"), text):
        assert "The candidate's input gradient is exactly zero on 200 of 200 images" in report
    assert "Not surely." in page
    assert "cannot be trusted:" in text


def test_a_sound_attack_is_said_to_be_sound():
    quiet = replace(cases.measurements(), soundness=sound())
    page, text = render_html(cases.content((quiet,))), render_markdown(cases.content((quiet,)))
    for report in (page, text):
        assert "no sign of masked" in " ".join(report.split())
        assert "What gradients would find on this engine is not known." not in report
    assert "cannot be trusted" not in text


UNTRIED = replace(sound(), reference=None, candidate=None, doubled_reference=None, doubled_candidate=None)


@pytest.mark.parametrize("doubled", [None, np.zeros(300, dtype=bool)])
def test_queries_that_were_doubled_are_shown_and_others_are_not_claimed(doubled):
    queried = replace(UNTRIED, doubled_candidate=doubled)
    (row,) = (row for row in check_rows(queried) if row.label.endswith("turned by twice the queries"))
    assert (row.reference, row.candidate) == ("not measured", "not measured" if doubled is None else "0 of 300")
    assert ("with twice as many" in trial_sentence(queried)) is (doubled is not None)


def test_without_a_twin_nobody_claims_that_gradients_were_checked():
    """Nothing was tried on the engine, so finding no sign means nothing."""
    queried = replace(cases.measurements(), soundness=UNTRIED)
    page, text = render_html(cases.content((queried,))), render_markdown(cases.content((queried,)))
    for report in (page, text):
        assert "no sign of masked" not in " ".join(report.split())
        assert "What gradients would find on this engine is not known." in report.replace("\xa0", " ")
    assert page.count("not measured</td>") >= 8


def test_each_side_is_shown_its_own_bound_of_flips():
    """The larger of both would call flips of float32 allowed that keep a gate from passing."""
    plain = cases.measurements()
    both = replace(plain, parity=Parity(replace(plain.parity.reference, precision="fp16"), plain.parity.candidate))
    assert parity_rows(plain)[0].wanted == "at most 1 %"
    assert parity_rows(both)[0].wanted == "reference at most 5 %, candidate at most 1 %"
