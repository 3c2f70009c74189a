import re

import pytest

from madx.report import figures
from madx.report.views import Step
from madx.verify import GateResult, Outcome


def gate(**changes):
    fields = {
        "engine": "e",
        "metric": "speedup",
        "bound": 1.5,
        "direction": "at_least",
        "estimate": 2.0,
        "lower": 1.9,
        "upper": 2.1,
        "confidence": 0.95,
        "outcome": Outcome.PASS,
        "evidence": (),
    }
    return GateResult(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "colour"),
    [
        ({}, "pass"),
        ({"outcome": Outcome.FAIL, "estimate": 1.2, "lower": 1.1, "upper": 1.3}, "fail"),
        ({"outcome": Outcome.INCONCLUSIVE, "lower": None, "upper": None}, "inconclusive"),
        ({"metric": "size_ratio", "direction": "at_most", "estimate": 1.5, "lower": 1.5, "upper": 1.5}, "pass"),
        ({"metric": "parity_flips", "direction": "at_most", "bound": 0.0, "estimate": 0.0, "lower": 0.0}, "pass"),
    ],
)
def test_intervals_have_the_colour_of_their_outcome(changes, colour):
    picture = figures.interval(gate(**changes), "g")
    used = set(re.findall(r"var\(--(\w+)\)", picture))
    assert used & {"pass", "fail", "inconclusive"} == {colour}


def test_what_was_not_measured_has_no_picture():
    assert figures.interval(gate(estimate=None, lower=None, upper=None, outcome=Outcome.INCONCLUSIVE), "g") == ""
    assert figures.accuracies((Step("one-shot", None, None, ""),), "steps") == ""
