"""Two engines on the same images: is the candidate worse by less than a margin?

Layout: of `n` images, `b` were lost (reference right, candidate wrong) and `c` gained (the other way round). The
drop is p_b - p_c, estimated by (b - c) / n; a margin is a drop, in shares of the images: 0.03 is 3 points.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from madx.errors import MadxError
from madx.stats.checks import check_confidence, check_count
from madx.stats.search import refuted_edge
from madx.stats.shares import clopper_pearson
from madx.stats.skewness import widened


def tango_statistic(n: int, b: int, c: int, *, margin: float) -> float:
    """Tango's score statistic of the drop against `margin`: positive when the data lie below it.

    Z = (n d - (b - c)) / sqrt(n (2 q + d (1 - d))) with q the maximum-likelihood estimate of p_c under
    p_b - p_c = d. Tango, Statistics in Medicine 17:891-908 (1998). It holds with zero cells.

    Args:
        n: images.
        b: images lost.
        c: images gained.
        margin: d, in (-1, 1).

    Raises:
        MadxError: if the counts do not fit together or the margin is outside (-1, 1).
    """
    _check_counts(n, b, c)
    if not -1 < margin < 1:
        raise MadxError(f"the margin is {margin:g}; expected a share between -1 and 1, for example 0.03 for 3 points")
    if margin < 0:  # the same question with the engines exchanged; q stays a probability this way
        return -tango_statistic(n, c, b, margin=-margin)
    deviation = n * margin - (b - c)
    variance = n * (2 * _gained_share(n, b, c, margin) + margin * (1 - margin))
    if variance <= 0:  # only at margin 0 with no discordant image: nothing seen, nothing claimed
        return 0.0
    return deviation / math.sqrt(variance)


def tango_interval(n: int, b: int, c: int, *, confidence: float) -> tuple[float, float]:
    """Limits of the drop: the margins at which Tango's Z is -z and +z, each one-sided at `confidence`.

    The test rejects a margin exactly when it is at or above the upper limit.

    Raises:
        MadxError: if an argument is out of range.
    """
    check_confidence(confidence)
    _check_counts(n, b, c)
    critical = float(ndtri(confidence))
    return -_upper_limit(n, c, b, critical), _upper_limit(n, b, c, critical)


def drop_interval(n: int, b: int, c: int, *, confidence: float) -> tuple[float, float]:
    """Limits of the drop for a gate: Tango's, widened where a score test refutes more often than it should.

    Few discordant images are skewed: their count has a longer tail above than below, and in a long tail the score must
    reach further (`widened`). Tango alone fails 8 % of the candidates with 200 images, a true drop of 3 points and no
    gain possible. And with c = 0 the upper limit is at least Clopper and Pearson's for the share of lost images, of
    which the drop cannot be more; with b = 0 the lower limit in the same way. Tango alone passes 6.45 % with 90 images
    and such a drop, because none of the 90 is lost that often. Exact error rates, summed over all tables:
    `benchmarks/gates.py`.

    Raises:
        MadxError: if an argument is out of range.
    """
    check_confidence(confidence)
    _check_counts(n, b, c)
    critical = float(ndtri(confidence))
    lower, upper = -_widened_limit(n, c, b, critical), _widened_limit(n, b, c, critical)
    if c == 0:
        upper = max(upper, clopper_pearson(b, n, confidence=confidence)[1])
    if b == 0:
        lower = min(lower, -clopper_pearson(c, n, confidence=confidence)[1])
    return lower, upper


def planned_images(variance: float, distance: float, *, alpha: float, power: float) -> int:
    """Images for a test to decide with `power` when the bound lies that far from the truth.

    n = (z_alpha + z_power)^2 * variance / distance^2, rounded up: the normal approximation.

    Args:
        variance: of the outcome of one image; for a drop the share of discordant images, (b + c) / n.
        distance: between the bound and the truth, above 0.
        alpha: one-sided error rate of the test.
        power: wanted probability of a decision.

    Raises:
        MadxError: if an argument is out of range.
    """
    if not (variance >= 0 and distance > 0 and 0 < alpha < 1 and 0 < power < 1):
        raise MadxError(
            f"no sample size for variance {variance:g}, distance {distance:g}, alpha {alpha:g}, power {power:g}; "
            "expected a variance from 0 on, a distance above 0, alpha and power between 0 and 1"
        )
    return max(1, math.ceil(float(ndtri(1 - alpha) + ndtri(power)) ** 2 * variance / distance**2))


def _gained_share(n: int, b: int, c: int, margin: float) -> float:
    """The root q >= 0 of A q^2 + B q + C = 0: p_c under p_b - p_c = margin >= 0."""
    A = 2 * n
    B = -b - c + (2 * n - b + c) * margin
    C = -c * margin * (1 - margin)
    root = math.sqrt(B * B - 4 * A * C)
    # Of the two forms of the same root, the one that does not subtract nearly equal numbers.
    return -2 * C / (B + root) if B > 0 else (root - B) / (2 * A)


def _upper_limit(n: int, b: int, c: int, critical: float) -> float:
    def refuted(margin: float) -> bool:
        return tango_statistic(n, b, c, margin=margin) >= critical

    return refuted_edge(refuted, inside=(b - c) / n, outside=1.0)


def _widened_limit(n: int, b: int, c: int, critical: float) -> float:
    def refuted(margin: float) -> bool:
        deviation, skewness = _spread(n, b, c, margin)
        reached = widened(critical, skewness=-skewness, deviation=deviation)
        return tango_statistic(n, b, c, margin=margin) >= reached

    return refuted_edge(refuted, inside=(b - c) / n, outside=1.0)


def _spread(n: int, b: int, c: int, margin: float) -> tuple[float, float]:
    """(standard deviation, skewness) of b - c at the shares of maximum likelihood under p_b - p_c = margin.

    The skewness is positive for a drop; without any spread both are 0.
    """
    if margin < 0:
        deviation, skewness = _spread(n, c, b, -margin)
        return deviation, -skewness
    discordance = 2 * _gained_share(n, b, c, margin) + margin
    variance = discordance - margin**2
    if variance <= 0:
        return 0.0, 0.0
    third_moment = margin - 3 * margin * discordance + 2 * margin**3
    return math.sqrt(n * variance), third_moment / (math.sqrt(n * variance) * variance)


def _check_counts(n: int, b: int, c: int) -> None:
    check_count(b, n, "the number of lost images")
    check_count(c, n, "the number of gained images")
    check_count(b + c, n, "the number of discordant images")
