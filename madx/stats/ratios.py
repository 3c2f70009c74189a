"""Two engines on the same images: which share of the reference's successes does the candidate keep?

Layout: of the images, `a` are right on both engines, `b` on the reference only (lost), `c` on the candidate only
(gained). The retention is p_candidate / p_reference, estimated by (a + c) / (a + b). Images that are wrong on both
engines say nothing about it: its likelihood under any ratio leaves their share where it was seen.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from madx.errors import MadxError
from madx.stats.checks import check_confidence, check_count
from madx.stats.search import refuted_edge
from madx.stats.shares import clopper_pearson
from madx.stats.skewness import widened

_LARGEST = 1e6
"""Ratios above this are not told from infinity."""


def retention_statistic(a: int, b: int, c: int, *, ratio: float) -> float:
    """The score statistic of the paired ratio against `ratio`: positive when the data lie above it.

    T = ((a + c) - ratio (a + b)) / sqrt(N ratio (v + w)) with N = a + b + c, and v, w the maximum-likelihood shares of
    lost and gained among the N under p_candidate = ratio p_reference. Nam and Blackwelder, Statistics in Medicine
    21:689-699 (2002); Tang, Tang and Chan, Statistics in Medicine 22:1217-1233 (2003). It holds with zero cells.

    Args:
        a: images right on both engines.
        b: images lost.
        c: images gained.
        ratio: the retention under the hypothesis, above 0.

    Raises:
        MadxError: if a count is negative or the ratio is not above 0.
    """
    _check_counts(a, b, c)
    if not 0 < ratio < math.inf:
        raise MadxError(f"the ratio is {ratio:g}; expected one above 0, for example 0.95 for 95 % kept")
    if ratio > 1:  # the same question with the engines exchanged; the shares stay probabilities this way
        return -retention_statistic(a, c, b, ratio=1 / ratio)
    total = a + b + c
    gained = _gained_share(a, b, c, ratio)
    variance = total * ratio * (1 - ratio + (1 + ratio) * gained)
    if variance <= 0:  # nothing right anywhere, or ratio 1 with no discordant image: nothing seen, nothing claimed
        return 0.0
    return ((a + c) - ratio * (a + b)) / math.sqrt(variance)


def retention_interval(a: int, b: int, c: int, *, confidence: float) -> tuple[float, float]:
    """Limits of the retention: the ratios at which the score is z and -z, each one-sided at `confidence`.

    Widened as `drop_interval` is, and for its reasons. z is a larger one in the long tail of a skewed count. Where a
    discordant cell is empty, the limits are no tighter than exact ones: with c = 0 the lower limit is at most Clopper
    and Pearson's for a among a + b, of which the retention cannot be less; with b = 0 the upper limit is at least the
    inverse of theirs for a among a + c. Without a limit they are 0 and inf: without a success of the reference nothing
    bounds the ratio from above.

    Raises:
        MadxError: if an argument is out of range.
    """
    check_confidence(confidence)
    _check_counts(a, b, c)
    critical = float(ndtri(confidence))

    def too_low(ratio: float) -> bool:
        deviation, skewness = _spread(a, b, c, ratio)
        reached = widened(critical, skewness=skewness, deviation=deviation)
        return retention_statistic(a, b, c, ratio=ratio) >= reached

    def too_high(ratio: float) -> bool:
        deviation, skewness = _spread(a, b, c, ratio)
        reached = widened(critical, skewness=-skewness, deviation=deviation)
        return retention_statistic(a, b, c, ratio=ratio) <= -reached

    least, most = 1 / _LARGEST, _LARGEST
    lower = refuted_edge(too_low, inside=most, outside=least, middle=_geometric) if too_low(least) else 0.0
    upper = refuted_edge(too_high, inside=least, outside=most, middle=_geometric) if too_high(most) else math.inf
    if c == 0 and a + b > 0:
        lower = min(lower, clopper_pearson(a, a + b, confidence=confidence)[0])
    if b == 0 and a + c > 0:
        least = clopper_pearson(a, a + c, confidence=confidence)[0]
        upper = max(upper, 1 / least if least > 0 else math.inf)
    return lower, upper


def _gained_share(a: int, b: int, c: int, ratio: float) -> float:
    """The w >= 0 that maximises a ln u + b ln v + c ln w under u + v + w = 1 and u + w = ratio (u + v), ratio <= 1.

    The constraint leaves u = ratio - (1 + ratio) w and v = 1 - ratio + ratio w; the derivative is a quadratic in w.
    """
    A = ratio * (1 + ratio) * (a + b + c)
    B = a * (1 - ratio**2) - b * ratio**2 + c * (1 - 2 * ratio**2)
    C = -c * ratio * (1 - ratio)
    if A == 0:
        return 0.0
    root = math.sqrt(B * B - 4 * A * C)
    # Of the two forms of the same root, the one that does not subtract nearly equal numbers.
    return -2 * C / (B + root) if B > 0 else (root - B) / (2 * A)


def _spread(a: int, b: int, c: int, ratio: float) -> tuple[float, float]:
    """(standard deviation, skewness) of (a + c) - ratio (a + b) at the shares of maximum likelihood under `ratio`.

    The skewness is negative for a loss; without any spread both are 0.
    """
    if ratio > 1:  # the engines exchanged: the same contrast, turned round and in units of 1 / ratio
        deviation, skewness = _spread(a, c, b, 1 / ratio)
        return ratio * deviation, -skewness
    w = _gained_share(a, b, c, ratio)
    u, v = ratio - (1 + ratio) * w, 1 - ratio + ratio * w
    variance = (a + b + c) * ratio * (v + w)
    if variance <= 0:
        return 0.0, 0.0
    third_moment = (a + b + c) * (u * (1 - ratio) ** 3 - v * ratio**3 + w)
    return math.sqrt(variance), third_moment / (variance * math.sqrt(variance))


def _geometric(one: float, other: float) -> float:
    return math.sqrt(one * other)


def _check_counts(a: int, b: int, c: int) -> None:
    names = {"right on both engines": a, "lost": b, "gained": c}
    for name, count in names.items():
        check_count(count, max(*names.values(), 1), f"the number of images {name}")
