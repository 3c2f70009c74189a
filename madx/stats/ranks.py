"""The centre of paired log ratios: Hodges-Lehmann, with limits from the signed-rank test; and rank correlation.

Layout of log ratios: float64 [P], one independent value per block pair. The limits assume that the values lie
symmetrically about their centre; random order of the two engines within a pair gives that under no difference.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from madx.errors import MadxError
from madx.stats.checks import check_confidence

EXACT_UP_TO = 50
"""Values up to which the null distribution is counted out; above, it is taken as normal."""


def hodges_lehmann(log_ratios: ArrayLike, confidence: float) -> tuple[float, float, float]:
    """(estimate, lower, upper): median of the Walsh averages, and each limit one-sided at `confidence`.

    The limits are the ends of the shifts that Wilcoxon's signed-rank test does not reject: the k-th smallest and
    the k-th largest Walsh average (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods, 3rd ed.,
    section 3.3). With too few values for the confidence there is no limit, and they are -inf and inf. Needs
    P (P + 1) / 2 floats of memory.

    Args:
        log_ratios: [P], P >= 1, finite.
        confidence: of each limit, in (0.5, 1).

    Raises:
        MadxError: if the values are empty or not finite, or the confidence is out of range.
    """
    check_confidence(confidence)
    values = np.asarray(log_ratios, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
        raise MadxError(f"expected one row of finite log ratios, got an array of shape {list(values.shape)}: {values}")
    walsh = _walsh_averages(values)
    cut = signed_rank_cut(len(values), 1 - confidence)
    lower, upper = (float(walsh[cut - 1]), float(walsh[-cut])) if cut else (-math.inf, math.inf)
    return float(np.median(walsh)), lower, upper


@functools.lru_cache(maxsize=1024)
def signed_rank_cut(n: int, alpha: float) -> int:
    """The largest k with P(T <= k - 1) <= alpha; T is the signed-rank statistic of n values under no shift.

    Counted out up to EXACT_UP_TO values; above, normal with a continuity correction of one half.
    """
    if n <= EXACT_UP_TO:
        return int(np.searchsorted(np.cumsum(_null_distribution(n)), alpha, side="right"))
    mean, deviation = n * (n + 1) / 4, math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return max(0, math.floor(mean + float(ndtri(alpha)) * deviation + 0.5))


def spearman(one: ArrayLike, other: ArrayLike) -> NDArray[np.float64]:
    """Spearman's rank correlation of each row of two tables, tied values at their mean rank (Biometrika 3:271, 1904).

    Args:
        one: [R, N], N >= 1, finite.
        other: the same.

    Returns:
        [R] in [-1, 1]; NaN where all values of a row are tied, as nothing is ranked there.

    Raises:
        MadxError: if the tables differ in shape, are empty, or hold a value that is not finite.
    """
    tables = [np.asarray(table, dtype=np.float64) for table in (one, other)]
    shapes = [list(table.shape) for table in tables]
    if shapes[0] != shapes[1] or tables[0].ndim != 2 or not tables[0].size:
        raise MadxError(f"expected two tables of one shape [rows, values], got {shapes[0]} and {shapes[1]}")
    if not all(np.isfinite(table).all() for table in tables):
        raise MadxError("expected finite values to rank, got NaN or infinity")
    first, second = (rankdata(table, axis=1) - (table.shape[1] + 1) / 2 for table in tables)
    scale = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    with np.errstate(invalid="ignore"):
        correlations: NDArray[np.float64] = np.clip((first * second).sum(1) / scale, -1, 1)
    return correlations


def _null_distribution(n: int) -> NDArray[np.float64]:
    """P(T = t) for t = 0 ... n (n + 1) / 2: each rank is in the sum or not, with probability one half."""
    chances = np.ones(1)
    for rank in range(1, n + 1):
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    return chances


def _walsh_averages(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(x_i + x_j) / 2 for all i <= j, ascending."""
    rows, columns = np.triu_indices(len(values))
    return np.sort((values[rows] + values[columns]) / 2)
