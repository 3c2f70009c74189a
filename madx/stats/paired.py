"""Two engines on the same images: is the candidate worse by less than a margin?

Layout: of `n` images, `b` were lost (reference right, candidate wrong) and `c` gained (the other way round). The
drop is p_b - p_c, estimated by (b - c) / n; a margin is a drop, in shares of the images: 0.03 is 3 points.
"""

from __future__ import annotations

import math

from scipy.special import ndtri

from madx.errors import MadxError
from madx.stats.checks import check_confidence, check_count


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


def tango_test(n: int, b: int, c: int, *, margin: float, confidence: float) -> tuple[float, bool]:
    """Non-inferiority: (Z, whether "the drop is at least `margin`" is rejected at this one-sided confidence).

    Raises:
        MadxError: if an argument is out of range.
    """
    check_confidence(confidence)
    z = tango_statistic(n, b, c, margin=margin)
    return z, z >= float(ndtri(confidence))


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


def planned_images(discordance: float, margin: float, *, alpha: float, power: float) -> int:
    """Images for a non-inferiority test to pass with `power` when `margin` lies that far from the true drop.

    n = (z_alpha + z_power)^2 * discordance / margin^2, rounded up: the normal approximation.

    Args:
        discordance: share of images on which the engines differ, (b + c) / n.
        margin: distance between the bound and the true drop, above 0.
        alpha: one-sided error rate of the test.
        power: wanted probability of a decision.

    Raises:
        MadxError: if an argument is out of range.
    """
    if not (0 <= discordance <= 1 and margin > 0 and 0 < alpha < 1 and 0 < power < 1):
        raise MadxError(
            f"no sample size for discordance {discordance:g}, margin {margin:g}, alpha {alpha:g}, "
            f"power {power:g}; expected shares between 0 and 1 and a margin above 0"
        )
    return max(1, math.ceil(float(ndtri(1 - alpha) + ndtri(power)) ** 2 * discordance / margin**2))


def _gained_share(n: int, b: int, c: int, margin: float) -> float:
    """The root q >= 0 of A q^2 + B q + C = 0: p_c under p_b - p_c = margin >= 0."""
    A = 2 * n
    B = -b - c + (2 * n - b + c) * margin
    C = -c * margin * (1 - margin)
    root = math.sqrt(B * B - 4 * A * C)
    # Of the two forms of the same root, the one that does not subtract nearly equal numbers.
    return -2 * C / (B + root) if B > 0 else (root - B) / (2 * A)


def _upper_limit(n: int, b: int, c: int, critical: float) -> float:
    """Bisection on the test itself, down to neighbouring floats: test and interval cannot disagree."""
    inside, outside = (b - c) / n, 1.0
    while inside < (middle := (inside + outside) / 2) < outside:
        if tango_statistic(n, b, c, margin=middle) >= critical:
            outside = middle
        else:
            inside = middle
    return outside


def _check_counts(n: int, b: int, c: int) -> None:
    check_count(b, n, "the number of lost images")
    check_count(c, n, "the number of gained images")
    check_count(b + c, n, "the number of discordant images")
