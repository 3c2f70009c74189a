"""Percentiles: MLPerf's table, exact order statistics by binomial sums, and error rates where calls are alike."""

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, norm, rankdata, t

from madx.errors import MadxError
from madx.stats import percentile, samples_needed

MLPERF = {0.9: 64, 0.95: 130, 0.99: 662, 0.999: 6636}


def calls_that_remember(generator, *, memory, pairs=60, calls=40):
    """Log-normal seconds whose logarithms are an autoregression of that memory from call to call."""
    noise = generator.standard_normal(pairs * calls) * math.sqrt(1 - memory**2)
    value, values = generator.standard_normal(), np.empty(pairs * calls)
    for place, shock in enumerate(noise):
        value = memory * value + shock
        values[place] = value
    return np.exp(values).reshape(pairs, calls)


@pytest.mark.parametrize(("level", "needed"), MLPERF.items())
def test_the_table_of_mlperf(level, needed):
    assert samples_needed(level) == needed

    def at_most_one_above(n):  # the sum itself, term by term
        return level**n + n * (1 - level) * level ** (n - 1)

    assert at_most_one_above(needed) <= 0.01 < at_most_one_above(needed - 1)


def evenly_spread(n):
    """1 to n, one call a pair, in steps of the golden section: no stretch has more slow calls than another."""
    return rankdata(np.arange(n) * (math.sqrt(5) - 1) / 2 % 1)[:, None]


@pytest.mark.parametrize("level", MLPERF)
def test_a_sample_that_is_one_call_short_is_refused(level):
    found = percentile(evenly_spread(MLPERF[level] - 1), level, confidence=0.95)
    assert (found.estimate, found.lower, found.upper, found.carried) == (None, -math.inf, math.inf, False)
    assert found.worth == found.calls == found.needed - 1
    enough = percentile(evenly_spread(MLPERF[level]), level, confidence=0.95)
    assert (enough.carried, enough.estimate) == (True, math.ceil(level * MLPERF[level]))


def slow_effect(table, level, estimate):
    """(how many times more the share of slow calls varies than it should, groups), in plain loops."""
    found = [(1.0, len(table))]
    for size in (1, 2, 4, 8, 16, 32):
        groups = [table[first : first + size] for first in range(0, len(table) - size + 1, size)]
        if len(groups) >= 8:
            shares = [sum(call > estimate for row in group for call in row) / group.size for group in groups]
            mean = sum(shares) / len(shares)
            variance = sum((share - mean) ** 2 for share in shares) / (len(shares) - 1)
            found.append((variance / (level * (1 - level) / groups[0].size), len(groups)))
    return max(found)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("level", [0.5, 0.9])
@pytest.mark.parametrize("pairs", [8, 50, 67])
def test_worth_and_limits_are_what_the_text_says(memory, level, pairs):
    """By loops over groups, and over every rank whether it is a limit of so many independent calls."""
    table = calls_that_remember(np.random.default_rng(5), memory=memory, pairs=pairs, calls=30)
    calls, ordered = table.size, sorted(table.ravel())
    estimate = ordered[math.ceil(level * calls) - 1]
    effect, groups = slow_effect(table, level, estimate)
    found = percentile(table, level, confidence=0.95)
    assert found.worth == pytest.approx(calls / effect)
    assert found.carried == (found.worth >= MLPERF.get(level, 11))
    if found.carried:
        size = found.worth * (t.ppf(0.95, found.worth - 1) / t.ppf(0.95, groups - 1)) ** 2
        ranks = np.arange(1, calls + 1) * size / calls
        chances = beta.cdf(level, ranks, size - ranks + 1)
        upper = next((ordered[k] for k in range(calls) if chances[k] <= 0.05), math.inf)
        lower = next((ordered[k] for k in reversed(range(calls)) if ranks[k] >= 1 and chances[k] >= 0.95), -math.inf)
        assert (found.estimate, found.lower, found.upper) == (estimate, lower, upper)


def test_a_sample_may_carry_a_percentile_and_no_limit():
    """All of its calls lie on one side more often than the confidence allows."""
    assert 1e-4 < 0.99**700 < 1e-3
    found = percentile(evenly_spread(700), 0.99, confidence=0.9999)
    assert found.carried
    assert (found.lower > 600, found.upper) == (True, math.inf)
    assert percentile(evenly_spread(700), 0.99, confidence=0.999).upper == 700
    found = percentile(evenly_spread(12), 0.5, confidence=0.9999)
    assert (found.estimate, found.lower, found.upper) == (6, -math.inf, math.inf)


def test_in_fewer_than_eight_groups_no_spread_is_counted():
    calls = np.random.default_rng(2).random((8, 500))
    assert percentile(calls, 0.9, confidence=0.95).carried
    few = percentile(calls[:7], 0.9, confidence=0.95)
    assert (few.carried, few.worth, few.calls) == (False, 0.0, 3500)


@pytest.mark.parametrize("n", [700, 1000, 3000])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_limits_of_independent_calls_are_exact_order_statistics(n, confidence):
    found = percentile(evenly_spread(n), 0.99, confidence=confidence)
    upper = next(rank for rank in range(1, n + 1) if binom.cdf(rank - 1, n, 0.99) >= confidence)
    lower = next(rank for rank in range(n, 0, -1) if binom.sf(rank - 1, n, 0.99) >= confidence)
    assert (found.lower, found.estimate, found.upper) == (lower, math.ceil(0.99 * n), upper)


@pytest.mark.parametrize("memory", [0.0, 0.6, 0.9])
def test_limits_hold_where_calls_resemble_their_neighbours(memory):
    """Of 200 samples at most 5 % and three standard errors may lie wholly on one side of the true p99."""
    generator, truth, wrong = np.random.default_rng(3), math.exp(norm.ppf(0.99)), np.zeros(2)
    worth = []
    for _ in range(200):
        found = percentile(calls_that_remember(generator, memory=memory), 0.99, confidence=0.95)
        wrong += (found.lower > truth, found.upper < truth)
        worth.append(found.worth)
    assert (wrong / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)).all(), wrong
    if memory == 0.9:
        assert np.median(worth) < 662, "these calls say less than a p99 needs"


def test_limits_that_ignored_the_memory_would_not_hold():
    """The known-bad twin of the test above: the same calls shuffled, so that their memory cannot be seen."""
    generator, truth, wrong = np.random.default_rng(3), math.exp(norm.ppf(0.9)), np.zeros(2)
    for _ in range(100):
        shuffled = generator.permutation(calls_that_remember(generator, memory=0.99).ravel()).reshape(60, 40)
        found = percentile(shuffled, 0.9, confidence=0.95)
        wrong += (found.lower > truth, found.upper < truth)
    assert wrong.max() / 100 > 0.2


def test_one_long_burst_carries_no_tail():
    table = np.random.default_rng(0).uniform(1, 1.01, (60, 40))
    table[20:23] *= 5
    assert not percentile(table, 0.99, confidence=0.95).carried


@pytest.mark.parametrize(
    ("seconds", "level", "confidence", "said"),
    [
        (np.ones((60, 40)), 99, 0.95, "0.99 for the p99"),
        (np.ones((60, 40)), 1, 0.95, "level is 1"),
        (np.ones((60, 40)), 0.49, 0.95, "level is 0.49"),
        (np.ones((0, 40)), 0.99, 0.95, r"shape \[0, 40\]"),
        (np.where(np.eye(60) > 0, np.inf, 1), 0.99, 0.95, "finite"),
        (np.ones((60, 40)), 0.99, 95, "confidence"),
        (np.ones(60), 0.99, 0.95, r"shape \[60\]"),
        (np.full((60, 40), np.nan), 0.99, 0.95, "finite"),
    ],
)
def test_nonsense_is_refused(seconds, level, confidence, said):
    with pytest.raises(MadxError, match=said):
        percentile(seconds, level, confidence=confidence)


def test_a_level_is_asked_for_before_a_sample_is():
    with pytest.raises(MadxError, match="level is 1"):
        samples_needed(1)
    assert samples_needed(0.5) == 11


def test_calls_of_few_digits_are_compared_with_many():
    calls = np.random.default_rng(4).random((60, 40)).astype(np.float32)
    assert percentile(calls, 0.9, confidence=0.95) == percentile(calls.astype(np.float64), 0.9, confidence=0.95)
