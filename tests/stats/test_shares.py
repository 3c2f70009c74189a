"""Clopper-Pearson against its definition and against statsmodels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm
from statsmodels.stats.proportion import proportion_confint

from madx.errors import MadxError
from madx.stats import clopper_pearson, planned_shares


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_limits_solve_the_binomial_tails(case):
    k, n = case
    lower, upper = clopper_pearson(k, n, confidence=0.95)
    assert lower <= k / n <= upper
    if k > 0:
        assert binom.sf(k - 1, n, lower) == pytest.approx(0.05, rel=1e-6)
    if k < n:
        assert binom.cdf(k, n, upper) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize(("k", "n"), [(0, 5), (5, 5), (3, 10), (512, 1000)])
def test_same_as_statsmodels(k, n):
    assert clopper_pearson(k, n, confidence=0.975) == pytest.approx(proportion_confint(k, n, 0.05, method="beta"))


def test_limits_stop_at_nothing_and_at_everything():
    assert clopper_pearson(0, 7, confidence=0.95) == (0.0, pytest.approx(1 - 0.05 ** (1 / 7)))
    assert clopper_pearson(7, 7, confidence=0.95) == (pytest.approx(0.05 ** (1 / 7)), 1.0)
    assert clopper_pearson(1, 1, confidence=0.95)[1] == 1.0


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(MadxError, match="confidence is"):
        clopper_pearson(1, 2, confidence=confidence)


@pytest.mark.parametrize(("share", "bound"), [(0.52, 0.5), (0.9, 0.85), (0.005, 0.02), (0.3, 0.35)])
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.01, 0.9)])
def test_planned_images_of_a_share_have_their_power(share, bound, alpha, power):
    """By the exact test; counts are whole numbers, so the chance of a decision is looked at around the plan too."""

    def chance(n):
        hits = np.arange(n + 1)
        tail = binom.sf(hits - 1, n, bound) if share > bound else binom.cdf(hits, n, bound)
        return float(binom.pmf(hits, n, share) @ (tail <= alpha))

    planned = planned_shares(share, bound, alpha=alpha, power=power)
    deviations = [math.sqrt(one * (1 - one)) for one in (bound, share)]
    plain = ((norm.ppf([1 - alpha, power]) @ deviations) / (share - bound)) ** 2
    assert planned == math.ceil(plain / 4 * (1 + math.sqrt(1 + 2 / (plain * abs(share - bound)))) ** 2)
    nearby = [chance(n) for n in np.linspace(0.96 * planned, 1.04 * planned, 9).astype(int)]
    assert np.mean(nearby) == pytest.approx(power, abs=0.05)


@pytest.mark.parametrize(("k", "n", "said"), [(6, 5, "successes is 6"), (0, 0, "at least one"), (-1, 5, "is -1")])
def test_impossible_counts_are_named(k, n, said):
    with pytest.raises(MadxError, match=said):
        clopper_pearson(k, n, confidence=0.95)
