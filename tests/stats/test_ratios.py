"""The score test of a paired ratio against brute force, closed forms, a delta-method interval and exact error rates."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats import multinomial, norm

from madx.errors import MadxError
from madx.stats import retention_interval, retention_statistic
from madx.stats.ratios import _spread
from madx.stats.skewness import widened

Z = norm.ppf(0.95)
COUNTS = st.tuples(st.integers(0, 1500), st.integers(0, 300), st.integers(0, 300))


def brute_force(a, b, c, ratio):
    """The definition: maximise the constrained likelihood over both free parameters numerically, then standardise."""
    n, wrong = 2 * (a + b + c), a + b + c

    def cells(parameters):
        right_on_both, lost = parameters
        gained = ratio * (right_on_both + lost) - right_on_both
        return np.array([right_on_both, lost, gained, 1 - right_on_both - lost - gained])

    def minus_log_likelihood(parameters):
        shares = cells(parameters)
        if (shares <= 0).any():
            return np.inf
        return -float(np.array([a, b, c, wrong]) @ np.log(shares))

    start = (0.4 * min(1, ratio), 0.4 * (1.1 - min(1, ratio)) + 0.02)
    options = {"xatol": 1e-12, "fatol": 1e-12, "maxiter": 20000, "maxfev": 20000}
    best = cells(minimize(minus_log_likelihood, start, method="Nelder-Mead", options=options).x)
    return ((a + c) - ratio * (a + b)) / math.sqrt(n * ratio * (best[1] + best[2]))


@pytest.mark.parametrize("counts", [(500, 30, 20), (40, 3, 9), (300, 5, 60), (7, 2, 1)])
@pytest.mark.parametrize("ratio", [0.7, 0.95, 1.0, 1.2])
def test_statistic_is_the_score_of_the_constrained_likelihood(counts, ratio):
    assert retention_statistic(*counts, ratio=ratio) == pytest.approx(brute_force(*counts, ratio), rel=1e-4)


def test_at_ratio_one_it_is_mcnemar():
    assert retention_statistic(400, 18, 7, ratio=1) == pytest.approx((7 - 18) / math.sqrt(18 + 7))


@pytest.mark.parametrize("a", [5, 100, 3000])
def test_without_discordant_images_everything_has_a_closed_form(a):
    assert retention_statistic(a, 0, 0, ratio=0.98) == pytest.approx(math.sqrt(a * 0.02 / 0.98))
    limit = 0.05 ** (1 / a)  # Clopper and Pearson's, wider than the score's a / (a + z^2)
    assert limit < a / (a + Z * Z)
    assert retention_interval(a, 0, 0, confidence=0.95) == (pytest.approx(limit), pytest.approx(1 / limit))


@pytest.mark.parametrize("counts", [(5000, 300, 200), (20000, 150, 160), (900, 80, 40)])
def test_interval_is_near_the_delta_method(counts):
    """ln ratio has the variance (b + c) / ((a + b)(a + c)); the two agree as counts grow."""
    a, b, c = counts
    ratio, deviation = (a + c) / (a + b), math.sqrt((b + c) / ((a + b) * (a + c)))
    theirs = ratio * math.exp(-Z * deviation), ratio * math.exp(Z * deviation)
    assert retention_interval(*counts, confidence=0.95) == pytest.approx(theirs, abs=0.03 * (theirs[1] - theirs[0]))


@given(COUNTS, st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_contains_the_estimate(counts, confidence):
    a, b, c = counts
    lower, upper = retention_interval(*counts, confidence=confidence)
    assert 0 <= lower < upper
    if a + b:
        assert lower <= (a + c) / (a + b) <= upper


@given(COUNTS, st.floats(0.01, 20), st.floats(0.01, 20))
def test_statistic_falls_with_the_ratio(counts, one, other):
    low, high = sorted((one, other))
    assert retention_statistic(*counts, ratio=high) <= retention_statistic(*counts, ratio=low) + 1e-7


@given(COUNTS, st.floats(0.05, 20))
def test_exchanging_the_engines_inverts_everything(counts, ratio):
    a, b, c = counts
    mirrored = -retention_statistic(a, c, b, ratio=1 / ratio)
    assert retention_statistic(a, b, c, ratio=ratio) == pytest.approx(mirrored, rel=1e-6, abs=1e-9)


@given(COUNTS, st.floats(0.3, 0.999))
def test_interval_is_no_sharper_than_the_test(counts, ratio):
    lower, upper = retention_interval(*counts, confidence=0.95)
    statistic = retention_statistic(*counts, ratio=ratio)
    assert statistic >= Z or lower < ratio
    assert statistic <= -Z or upper > ratio
    if counts[0] > 9 * counts[2] > 0:  # where most is kept, a loss has its long tail on the other side
        assert (statistic >= Z) == (lower >= ratio)


@pytest.mark.parametrize("counts", [(500, 30, 20), (40, 3, 9), (300, 5, 60), (7, 2, 1), (20, 1, 1)])
def test_a_limit_is_the_first_ratio_that_the_widened_test_refutes(counts):
    """The very first: the float beside it is not refuted, and no limit claims a bit more than its test."""
    for confidence in (0.8, 0.9, 0.95, 0.99):
        lower, upper = retention_interval(*counts, confidence=confidence)
        for limit, sign in ((lower, 1), (upper, -1)):
            inside, outside = (
                sign * retention_statistic(*counts, ratio=ratio)
                - widened(float(ndtri(confidence)), skewness=sign * skewness, deviation=deviation)
                for ratio in (math.nextafter(limit, sign * math.inf), limit)
                for deviation, skewness in [_spread(*counts, ratio)]
            )
            assert inside < 0 <= outside


def test_skewness_is_that_of_the_outcomes():
    """By the definition, from the shares that make the likelihood largest, here known: the counts as they are."""
    a, b, c = 500, 60, 20
    ratio = (a + c) / (a + b)
    values, shares = np.array([1 - ratio, -ratio, 1, 0]), np.array([a, b, c, 420]) / 1000
    expected = (shares @ values**3) / (shares @ values**2) ** 1.5 / math.sqrt(1000)
    deviation = math.sqrt(1000 * (shares @ values**2))
    assert _spread(a, b, c, ratio) == pytest.approx((deviation, expected))
    assert _spread(a, c, b, 1 / ratio) == pytest.approx((deviation / ratio, -expected))


def exact_error_rate(n, *, both, lost, gained, side):
    """Probability of refuting the true ratio, over all tables: no simulation noise."""
    tables = np.array([(a, b, c) for b in range(16) for c in range(10) for a in range(n + 1) if a + b + c <= n])
    cells = np.column_stack([tables, n - tables.sum(axis=1)])
    chances = multinomial.pmf(cells, n, [both, lost, gained, 1 - both - lost - gained])
    kept = chances > 3e-7
    truth = (both + gained) / (both + lost)
    limits = np.array([retention_interval(*map(int, row), confidence=0.95) for row in tables[kept]])
    refuted = limits[:, 0] >= truth if side > 0 else limits[:, 1] <= truth
    return float(chances[kept][refuted].sum()), float(chances[kept].sum())


@pytest.mark.parametrize(("both", "lost", "gained"), [(0.5, 0.10, 0.05), (0.6, 0.06, 0.01), (0.7, 0.05, 0.0)])
def test_exact_error_rate_of_forty_images(both, lost, gained):
    for side in (1, -1):
        rate, covered = exact_error_rate(40, both=both, lost=lost, gained=gained, side=side)
        assert covered > 0.998
        assert rate <= 0.05


@pytest.mark.parametrize(("lost", "gained"), [(0.05, 0.0), (0.07, 0.02)])
def test_simulated_coverage_at_the_size_of_a_gate(lost, gained):
    truth = (0.45 + gained) / (0.45 + lost)
    draws = np.random.default_rng(8).multinomial(2000, [0.45, lost, gained, 0.55 - lost - gained], size=3000)
    statistics = np.array([retention_statistic(*map(int, row[:3]), ratio=truth) for row in draws])
    assert np.mean(statistics >= Z) == pytest.approx(0.05, abs=0.013)  # three standard errors and a little
    assert np.mean(statistics <= -Z) == pytest.approx(0.05, abs=0.013)


def test_ratios_beyond_a_million_are_not_told_from_infinity():
    assert retention_interval(0, 1, 100_000, confidence=0.95)[1] < 1e6
    assert retention_interval(0, 1, 150_000, confidence=0.95)[1] == math.inf
    assert 1e-6 < retention_interval(0, 3_000_000, 10, confidence=0.95)[0] < 2e-6
    assert retention_interval(0, 9_000_000, 10, confidence=0.95)[0] == 0


@pytest.mark.parametrize(
    ("counts", "limits"),
    [((0, 0, 0), (0, math.inf)), ((0, 5, 0), (0, None)), ((0, 0, 5), (None, math.inf))],
)
def test_without_successes_there_is_no_limit(counts, limits):
    for found, expected in zip(retention_interval(*counts, confidence=0.95), limits, strict=True):
        assert expected is None or found == expected


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: retention_statistic(10, -1, 0, ratio=0.9), "images lost is -1"),
        (lambda: retention_statistic(10, 1, 0, ratio=0), "ratio is 0"),
        (lambda: retention_statistic(10, 1, 0, ratio=math.nan), "ratio is nan"),
        (lambda: retention_statistic(10, 1, 0, ratio=math.inf), "ratio is inf"),
        (lambda: retention_statistic(-1, 1, 0, ratio=0.9), "both engines is -1"),
        (lambda: retention_statistic(1, 1, -1, ratio=0.9), "gained is -1"),
        (lambda: retention_interval(10, 1, 0, confidence=95), "confidence is 95"),
        (lambda: retention_interval(10, -1, 0, confidence=0.95), "images lost is -1"),
    ],
)
def test_impossible_arguments_are_named(call, said):
    with pytest.raises(MadxError, match=said):
        call()
