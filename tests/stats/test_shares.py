"""Clopper-Pearson against its definition and against statsmodels."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.proportion import proportion_confint

from madx.errors import MadxError
from madx.stats import clopper_pearson


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


@pytest.mark.parametrize(("k", "n", "said"), [(6, 5, "successes is 6"), (0, 0, "at least one"), (-1, 5, "is -1")])
def test_impossible_counts_are_named(k, n, said):
    with pytest.raises(MadxError, match=said):
        clopper_pearson(k, n, confidence=0.95)
