"""Limits of a mean from few independent draws, and how far off a bound it must be for them to show it."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from madx.errors import MadxError
from madx.stats.checks import check_confidence


def student_limits(values: ArrayLike, confidence: float) -> tuple[float, float]:
    """(lower, upper) one-sided limits of the mean of normal draws (Student, *Biometrika* 6:1, 1908).

    Args:
        values: [n], finite; with fewer than two there are no limits.
        confidence: of each limit, one-sided.

    Raises:
        MadxError: if a value is not finite or the confidence is out of range.
    """
    check_confidence(confidence)
    draws = np.asarray(values, dtype=np.float64)
    if not np.isfinite(draws).all():
        raise MadxError("a mean was asked for of values that are not finite; expected numbers")
    if len(draws) < 2:
        return -math.inf, math.inf
    from scipy.special import stdtrit

    reach = float(stdtrit(len(draws) - 1, confidence)) * float(draws.std(ddof=1)) / math.sqrt(len(draws))
    mean = float(draws.mean())
    return mean - reach, mean + reach


def student_reach(draws: int, confidence: float, *, power: float) -> float:
    """How many standard deviations of one draw a mean must be off a bound, to be shown to be with that chance.

    By the noncentral t distribution of Student's statistic (Johnson and Welch, *Biometrika* 31:362, 1940).

    Args:
        draws: that the limit is made of, at least two.
        confidence: of the limit, one-sided.
        power: the chance.

    Raises:
        MadxError: if there are too few draws or the confidence is out of range.
    """
    check_confidence(confidence)
    if draws < 2:
        raise MadxError(f"the spread of {draws} draws is not known; expected two at least")
    from scipy.special import nctdtrinc, stdtrit

    freedom = draws - 1
    return float(nctdtrinc(freedom, 1 - power, stdtrit(freedom, confidence))) / math.sqrt(draws)
