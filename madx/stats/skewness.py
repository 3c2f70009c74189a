"""How much farther a score must lie out in the long tail of a skewed count."""

from __future__ import annotations


def widened(critical: float, skewness: float) -> float:
    """The critical value of a score whose tail on this side is longer than the normal one by its skewness.

    z + skewness (z^2 - 1) / 6, the Cornish-Fisher term with which Laud, Pharmaceutical Statistics 16:334-348 (2017),
    corrects score limits. Only where it widens: a short tail keeps the normal value, so that no limit becomes sharper.

    Args:
        critical: z, the normal one.
        skewness: of the score under the hypothesis, positive where the tail in question is the longer one.
    """
    return critical + max(0.0, skewness) * max(0.0, critical**2 - 1) / 6
