import re

import numpy as np
import report_cases as cases

from madx.report import latency_figures, latency_views
from madx.verify.timings import block_medians

ROLES = ("dense", "pruned")


def dots(picture, variable):
    """Places of the dots drawn in that colour, row by row."""
    rows = re.findall(rf'<g[^>]*style="[^"]*fill: var\(--{variable}\)[^"]*">((?:<use[^>]*/>\s*)+)</g>', picture)
    return [re.findall(r'x="([\d.]+)" y="([\d.]+)"', row) for row in rows]


def test_every_block_is_drawn_where_it_was_measured():
    latency = cases.latency(noise=0.2, pairs=35)
    picture = latency_figures.blocks(latency, "blocks", ROLES)
    for variable, values in (("dense", latency.reference), ("pruned", latency.candidate)):
        (row,) = dots(picture, variable)
        assert len(row) == 2 * len(values)
        places = np.array([float(x) for x, _ in row])
        assert np.corrcoef(places, block_medians(values).ravel())[0, 1] > 0.9999


def test_every_pair_and_its_control_are_drawn():
    latency = cases.latency(noise=0.2, pairs=35)
    picture = latency_figures.ratios(latency, latency_views.speedup(latency, ()), "ratios", bound=1.5)
    for variable, values in (("pruned", latency.log_ratios), ("dense", latency.control_log_ratios)):
        (row,) = dots(picture, variable)
        heights = np.array([-float(y) for _, y in row])
        assert np.corrcoef(heights, np.exp(values))[0, 1] > 0.9999


def test_an_outlier_stays_in_the_picture():
    latency = cases.latency(pairs=30)
    latency.reference[3, 0, :] = 0.2
    (row,) = dots(latency_figures.blocks(latency, "blocks", ROLES), "dense")
    places = [float(x) for x, _ in row]
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', latency_figures.blocks(latency, "blocks", ROLES))[1])
    assert max(places) < width
    assert sorted(places)[-1] - sorted(places)[-2] > 0.3 * width


def test_disturbed_pairs_have_ticks_and_quiet_ones_have_none():
    for disturbed in (0, 7):
        latency = cases.latency(disturbed=disturbed)
        picture = latency_figures.ratios(latency, latency_views.speedup(latency, ()), "ratios", bound=None)
        ticks = re.findall(r'<g[^>]*style="[^"]*var\(--inconclusive\)[^"]*">((?:<use[^>]*/>\s*)+)</g>', picture)
        assert sum(row.count("<use") for row in ticks) == disturbed


def test_the_distribution_shows_the_slowest_call_and_the_shares_above():
    """The corners that are drawn are points of the empirical distribution, counted here by brute force."""
    generator = np.random.default_rng(0)
    values = generator.pareto(2, size=(40, 2, 20)).ravel() + 1
    times, slower = latency_figures._survival(values)
    assert times[-1] == values.max()
    for place in range(0, len(times) - 1, 17):
        assert slower[place] == (values > times[place]).mean()
    assert len(times) <= 300
    assert (np.diff(times) >= 0).all()


def test_the_distribution_is_drawn_for_both_engines():
    picture = latency_figures.distribution(cases.latency(), "calls")
    for variable in ("dense", "pruned"):
        assert re.search(rf'<path[^>]*style="[^"]*stroke: var\(--{variable}\)', picture)


def test_every_rung_has_a_bar_as_long_as_its_call():
    picture = latency_figures.rungs(cases.ladder(), "ladder")
    bars = re.findall(r'd="M ([\d.]+) [\d.]+ \s*L ([\d.]+) [\d.]+ [^"]*"[^>]*fill: var\(--(dense|pruned)\)', picture)
    lengths = np.array([float(right) - float(left) for left, right, _ in bars])
    np.testing.assert_allclose(lengths / lengths[0], [1, 0.5, 0.4, 0.4], rtol=0.01)
    assert [colour for _, _, colour in bars] == ["dense", "pruned", "pruned", "pruned"]
    for name in cases.RUNGS:
        assert name in picture
