import re

import numpy as np
import pytest
import report_cases as cases

from madx.report import figures
from madx.report.views import Step, speedup
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


def dots(picture, variable):
    """Places of the dots drawn in that colour, row by row."""
    rows = re.findall(rf'<g[^>]*style="[^"]*fill: var\(--{variable}\)[^"]*">((?:<use[^>]*/>\s*)+)</g>', picture)
    return [re.findall(r'x="([\d.]+)" y="([\d.]+)"', row) for row in rows]


def test_every_block_is_drawn_where_it_was_measured():
    latency = cases.latency(noise=0.2, pairs=35)
    picture = figures.blocks(latency, "blocks")
    for variable, values in (("dense", latency.reference), ("pruned", latency.candidate)):
        (row,) = dots(picture, variable)
        assert len(row) == values.size
        places = np.array([float(x) for x, _ in row])
        assert np.corrcoef(places, values.ravel())[0, 1] > 0.9999


def test_every_pair_and_its_control_are_drawn():
    latency = cases.latency(noise=0.2, pairs=35)
    picture = figures.ratios(latency, speedup(latency, ()), "ratios", bound=1.5)
    for variable, values in (("pruned", latency.log_ratios), ("dense", latency.control_log_ratios)):
        (row,) = dots(picture, variable)
        heights = np.array([-float(y) for _, y in row])
        assert np.corrcoef(heights, np.exp(values))[0, 1] > 0.9999


def test_an_outlier_stays_in_the_picture():
    latency = cases.latency(pairs=30)
    latency.reference[3, 0] = 0.2
    (row,) = dots(figures.blocks(latency, "blocks"), "dense")
    places = [float(x) for x, _ in row]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', figures.blocks(latency, "blocks"))[1])
    assert max(places) < width
    assert sorted(places)[-1] - sorted(places)[-2] > 0.3 * width


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
