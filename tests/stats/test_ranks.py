"""Hodges-Lehmann and its limits against brute force, scipy's signed-rank test and simulated coverage."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, spearmanr, wilcoxon

from madx.errors import MadxError
from madx.stats import hodges_lehmann, ranks, signed_rank_cut, spearman


def brute_force_cut(n, alpha):
    """Enumerate all 2^n sign patterns."""
    sums = [
        sum(r for r, s in zip(range(1, n + 1), signs, strict=True) if s)
        for signs in itertools.product((0, 1), repeat=n)
    ]
    k = 0
    while sum(t <= k for t in sums) / 2**n <= alpha:
        k += 1
    return k


@pytest.mark.parametrize("n", range(1, 13))
@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.1, 1 / 16, 1 / 128])
def test_cut_counts_the_sign_patterns(n, alpha):
    assert signed_rank_cut(n, alpha) == brute_force_cut(n, alpha)


@pytest.mark.parametrize(("n", "critical"), [(10, 10), (15, 30), (20, 60), (25, 100), (30, 151), (50, 466)])
def test_cut_is_the_published_critical_value(n, critical):
    """Wilcoxon's table, one-sided 5 %: reject when T <= critical, which is the cut less one."""
    assert signed_rank_cut(n, 0.05) == critical + 1


def exact_cut(n, alpha):
    """In whole numbers: how many of the 2^n sign patterns have each sum of ranks."""
    ways = [1] + [0] * (n * (n + 1) // 2)
    for rank in range(1, n + 1):
        for total in range(len(ways) - 1, rank - 1, -1):
            ways[total] += ways[total - rank]
    return next(k for k, below in enumerate(itertools.accumulate(ways)) if below > alpha * 2**n)


def normal_cut(n, alpha):
    """Mean n (n + 1) / 4, variance n (n + 1) (2 n + 1) / 24, half a rank for sums being whole."""
    return math.floor(norm.ppf(alpha, n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)) + 0.5)


@pytest.mark.parametrize("alpha", [0.001, 0.0025, 0.005, 0.01])
def test_up_to_fifty_values_are_counted_out_and_more_are_taken_as_normal(alpha):
    assert signed_rank_cut(50, alpha) == exact_cut(50, alpha) != normal_cut(50, alpha)
    assert signed_rank_cut(51, alpha) == normal_cut(51, alpha) != exact_cut(51, alpha)
    assert signed_rank_cut(400, alpha) == normal_cut(400, alpha)


def test_no_cut_is_below_nothing():
    assert signed_rank_cut(51, 1e-12) == 0
    assert hodges_lehmann(np.arange(51.0), 1 - 1e-12)[1:] == (-math.inf, math.inf)


def test_values_of_few_digits_are_averaged_with_many():
    values = (1e6 + np.arange(20) / 3).astype(np.float32)
    assert hodges_lehmann(values, 0.95) == hodges_lehmann(values.astype(np.float64), 0.95)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95])
def test_what_is_no_confidence_is_refused(confidence):
    with pytest.raises(MadxError, match="confidence is"):
        hodges_lehmann([0.1, 0.2], confidence)


@pytest.mark.parametrize("alpha", [0.005, 0.025, 0.05, 0.1])
def test_normal_cut_continues_the_exact_one(alpha, monkeypatch):
    exact = signed_rank_cut(ranks.EXACT_UP_TO, alpha)
    monkeypatch.setattr(ranks, "EXACT_UP_TO", 0)
    # 0.2 % of the 1275 Walsh averages: the approximation is off in the tail by three ranks at most
    assert signed_rank_cut(50, alpha) == pytest.approx(exact, abs=3)


@pytest.mark.parametrize("n", [8, 25, 50, 80])
def test_limits_invert_scipys_wilcoxon(n):
    values = np.random.default_rng(n).laplace(0.4, 0.1, n)
    _, lower, upper = hodges_lehmann(values, 0.95)
    method = "exact" if n <= ranks.EXACT_UP_TO else "approx"

    def p_value(shift, alternative):
        return wilcoxon(values - shift, alternative=alternative, method=method, correction=True).pvalue

    step = 1e-9
    assert p_value(lower - step, "greater") <= 0.05 < p_value(lower + step, "greater")
    assert p_value(upper + step, "less") <= 0.05 < p_value(upper - step, "less")


def test_estimate_is_the_median_walsh_average():
    values = [0.1, 0.4, 0.2, 5.0]
    walsh = [(a + b) / 2 for a, b in itertools.combinations_with_replacement(values, 2)]
    assert hodges_lehmann(values, 0.95)[0] == pytest.approx(np.median(walsh))


def test_too_few_values_have_no_limits():
    assert hodges_lehmann([0.3, 0.31, 0.29, 0.3], 0.95)[1:] == (-math.inf, math.inf)  # 2^-4 > 0.05


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.floats(-3, 3))
def test_it_moves_with_the_data_and_mirrors(values, shift):
    estimate, lower, upper = hodges_lehmann(values, 0.9)
    assert lower <= estimate <= upper
    assert hodges_lehmann(np.add(values, shift), 0.9) == pytest.approx((estimate + shift, lower + shift, upper + shift))
    assert hodges_lehmann(np.negative(values), 0.9) == pytest.approx((-estimate, -upper, -lower))


@pytest.mark.parametrize("n", [12, 40, 60])
def test_each_limit_covers_as_promised(n):
    rng = np.random.default_rng(n)
    samples = 0.5 + 0.05 * rng.standard_t(2, size=(2000, n))  # heavy tails, as timings have
    limits = np.array([hodges_lehmann(sample, 0.95)[1:] for sample in samples])
    below, above = (limits[:, 0] <= 0.5).mean(), (limits[:, 1] >= 0.5).mean()
    for covered in (
        below,
        above,
    ):  # 0.015: three standard errors of 2000 draws; discreteness only adds coverage
        assert 0.935 <= covered <= 0.985


@pytest.mark.parametrize("values", [[], [0.1, math.nan], [[0.1, 0.2]], [math.inf]])
def test_what_is_not_a_row_of_numbers_is_refused(values):
    with pytest.raises(MadxError, match="finite log ratios"):
        hodges_lehmann(values, 0.95)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_scipys(ties):
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 5, 40))
    other = other + one
    if ties:
        one, other = one.round(), other.round()
    expected = [spearmanr(a, b).statistic for a, b in zip(one, other, strict=True)]
    assert spearman(one, other) == pytest.approx(expected, rel=1e-12)


def test_rank_correlation_of_special_rows():
    rows = [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
    found = spearman(rows, [[1.0, 8.0, 27.0], [0.0, -1.0, -2.0], [1.0, 2.0, 3.0]])
    assert found[:2].tolist() == [1.0, -1.0]
    assert math.isnan(found[2]), "where all is tied nothing is ranked"
    assert math.isnan(spearman([[1.0]], [[2.0]])[0])


@pytest.mark.parametrize(
    ("one", "other", "message"),
    [
        ([[1.0, 2.0]], [[1.0]], r"\[1, 2\] and \[1, 1\]"),
        ([1.0, 2.0], [1.0, 2.0], "two tables"),
        ([[]], [[]], "two tables"),
        ([[[1.0, 2.0]]], [[[1.0, 2.0]]], "two tables"),
        ([[1.0, 2.0]], [[1.0, 2.0], [1.0, 2.0]], r"\[1, 2\] and \[2, 2\]"),
        ([[1.0, math.nan]], [[1.0, 2.0]], "finite"),
        ([[1.0, 2.0]], [[math.inf, 2.0]], "finite"),
    ],
)
def test_what_cannot_be_ranked_is_refused(one, other, message):
    with pytest.raises(MadxError, match=message):
        spearman(one, other)
