"""How much farther a score must lie out in the long tail of a skewed count."""

from __future__ import annotations


def widened(critical: float, *, skewness: float, deviation: float) -> float:
    """The critical value of a score whose tail on this side is longer than the normal one by its skewness.

    z + skewness (z^2 - 1) / 6 + 1 / (2 deviation): the Cornish-Fisher term with which Laud, Pharmaceutical Statistics
    16:334-348 (2017), corrects score limits, and half an image for counts being whole. Only where the tail is long: a
    short one keeps the normal value, with which exact error rates hold, so that no limit becomes sharper.

    Args:
        critical: z, the normal one.
        skewness: of the score under the hypothesis, positive where the tail in question is the longer one.
        deviation: standard deviation of the count under the hypothesis, in images, above 0.
    """
    if skewness <= 0:
        return critical
    return critical + skewness * max(0.0, critical**2 - 1) / 6 + 1 / (2 * deviation)
