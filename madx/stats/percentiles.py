"""Percentiles of latencies: which of them a sample can carry, and limits that hold when calls resemble each other.

Layout: seconds [P, M], P block pairs in the order of timing, M calls of one engine in each. A level is a share in
[0.5, 1): 0.99 is the p99, the value that at most one call in a hundred exceeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import bdtr, betainc, stdtrit

from madx.errors import MadxError
from madx.stats.checks import check_confidence

CARRIED_CONFIDENCE = 0.99
"""That the sample's second largest value is at or above the percentile: MLPerf's choice."""
FEWEST_GROUPS = 8
"""Groups of pairs in which the spread of a share is still counted."""
_ROUNDING = 1e-6
"""Of a rank that was solved for, before it is rounded to a whole one."""


def samples_needed(level: float) -> int:
    """The smallest sample that carries a percentile: 64 for p90, 130 for p95, 662 for p99, 6,636 for p99.9.

    The smallest n whose second largest value is an upper limit of the percentile at 99 % confidence, that is with at
    most one of n calls above it in less than one sample of a hundred: I_level(n - 1, 2) <= 0.01 (MLPerf Inference
    rules, "early stopping", with one query over the latency bound).

    Raises:
        MadxError: if the level is not in [0.5, 1).
    """
    _check_level(level)
    n = 2
    while bdtr(1, n, 1 - level) > 1 - CARRIED_CONFIDENCE:
        n = max(n + 1, math.floor(n * 1.2))  # beyond the answer in large steps, back to it in single ones
    while bdtr(1, n - 1, 1 - level) <= 1 - CARRIED_CONFIDENCE:
        n -= 1
    return n


@dataclass(frozen=True)
class Percentile:
    """A percentile of one engine's calls."""

    level: float
    estimate: float | None
    """Seconds; None where the sample cannot carry it."""
    lower: float
    """-inf if the data give no limit."""
    upper: float
    """inf if the data give no limit."""
    calls: int
    worth: float
    """How many independent calls the sample is worth."""
    needed: int
    """How many would carry it."""


def percentile(seconds: ArrayLike, level: float, *, confidence: float) -> Percentile:
    """The smallest call at or above the level, with limits one-sided at `confidence`, if the sample carries it.

    The limits are calls themselves, so nothing is assumed of the distribution: the r-th smallest of n independent calls
    is an upper limit when Beta(r, n - r + 1) exceeds the level often enough (David and Nagaraja, Order Statistics, 3rd
    ed., section 7.1). Calls near each other are alike, so N calls count as n = N / deff: deff is how many times more
    the share of slow calls varies between groups of adjacent pairs than independent calls would have it, the largest
    over groups of 1, 2, 4, ... pairs and at least 1. For limits n shrinks further, by Student's t for the number of
    these groups (Korn and Graubard, Survey Methodology 24:193, 1998).

    Args:
        seconds: [P, M], finite.
        level: in [0.5, 1).
        confidence: of each limit, in (0.5, 1).

    Raises:
        MadxError: if an argument is out of range.
    """
    _check_level(level)
    check_confidence(confidence)
    table = np.asarray(seconds, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or not np.isfinite(table).all():
        raise MadxError(f"expected finite seconds of shape [pairs, calls], got shape {list(table.shape)}")
    ordered = np.sort(table, axis=None)
    estimate = float(ordered[math.ceil(level * table.size) - 1])
    effect, groups = _design_effect(table > estimate, level)
    worth, needed = table.size / effect, samples_needed(level)
    if worth < needed:
        return Percentile(level, None, -math.inf, math.inf, table.size, worth, needed)
    size = _for_limits(worth, groups, confidence)
    return Percentile(
        level=level,
        estimate=estimate,
        lower=_lower(ordered, level, size, confidence),
        upper=_upper(ordered, level, size, confidence),
        calls=table.size,
        worth=worth,
        needed=needed,
    )


def _design_effect(slow: NDArray[np.bool_], level: float) -> tuple[float, int]:
    """(deff, groups it was counted over) of [P, M]; infinite where there are too few pairs to count it at all."""
    pairs, calls = slow.shape
    found = [(math.inf, pairs)] if pairs < FEWEST_GROUPS else [(1.0, pairs)]
    size = 1
    while pairs // size >= FEWEST_GROUPS:
        groups = pairs // size
        shares = slow[: groups * size].reshape(groups, size * calls).mean(axis=1)
        independent = level * (1 - level) / (size * calls)
        found.append((float(shares.var(ddof=1)) / independent, groups))
        size *= 2
    return max(found)


def _for_limits(worth: float, groups: int, confidence: float) -> float:
    """An effect that was itself estimated from few groups is less certain."""
    return worth * float(stdtrit(worth - 1, confidence) / stdtrit(groups - 1, confidence)) ** 2


def _upper(ordered: NDArray[np.float64], level: float, size: float, confidence: float) -> float:
    """The smallest call that is an upper limit, were the sample `size` independent calls; inf if there is none."""
    if betainc(size, 1, level) > 1 - confidence:
        return math.inf
    rank = brentq(lambda r: betainc(r, size - r + 1, level) - (1 - confidence), level * size, size)
    return float(ordered[min(math.ceil(rank * len(ordered) / size - _ROUNDING), len(ordered)) - 1])


def _lower(ordered: NDArray[np.float64], level: float, size: float, confidence: float) -> float:
    """The largest call that is a lower limit, were the sample `size` independent calls; -inf if there is none."""
    if betainc(1, size, level) < confidence:
        return -math.inf
    rank = brentq(lambda r: betainc(r, size - r + 1, level) - confidence, 1, level * size + 1)
    return float(ordered[math.floor(rank * len(ordered) / size + _ROUNDING) - 1])


def _check_level(level: float) -> None:
    if not 0.5 <= level < 1:
        raise MadxError(f"the percentile's level is {level:g}; expected a share such as 0.99 for the p99")
