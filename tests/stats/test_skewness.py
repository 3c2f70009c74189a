"""The critical value in a long tail: the formula with its numbers, and what it is for, exact tails of counts."""

import math

import pytest
from scipy.stats import binom, norm

from madx.stats.skewness import widened


@pytest.mark.parametrize("skewness", [0.0, -1e-9, -0.5, -3.0])
def test_a_short_tail_keeps_the_normal_value(skewness):
    """Exact error rates hold with it, and no limit becomes sharper."""
    assert widened(1.6, skewness=skewness, deviation=4.0) == 1.6


@pytest.mark.parametrize(("skewness", "deviation"), [(1e-9, 0.7), (0.3, 4.0), (1.5, 0.5)])
def test_a_long_tail_takes_laud_s_term_and_half_an_image(skewness, deviation):
    assert widened(2.0, skewness=skewness, deviation=deviation) == pytest.approx(2 + skewness / 2 + 0.5 / deviation)
    assert widened(3.0, skewness=skewness, deviation=deviation) == pytest.approx(3 + skewness * 4 / 3 + 0.5 / deviation)


def test_near_the_middle_the_term_would_take_away_what_it_must_not():
    """Below z = 1 it is negative: half an image is all that is left."""
    assert widened(0.5, skewness=0.9, deviation=2.0) == 0.75
    assert widened(1.2, skewness=1.0, deviation=2.0) == pytest.approx(1.2 + 0.44 / 6 + 0.25)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_with_it_a_count_is_seldom_enough_that_far_out(share, confidence):
    """The upper tail of a binomial count is its long one; the normal value alone is passed too often."""
    alpha, rates = 1 - confidence, {"normal": [], "widened": []}
    for n in range(100, 1000, 7):
        mean, deviation = n * share, math.sqrt(n * share * (1 - share))
        z = norm.ppf(confidence)
        reached = {"normal": z, "widened": widened(z, skewness=(1 - 2 * share) / deviation, deviation=deviation)}
        for name, value in reached.items():
            rates[name].append(binom.sf(math.ceil(mean + value * deviation) - 1, n, share))
    assert max(rates["widened"]) <= 1.2 * alpha < max(rates["normal"])
