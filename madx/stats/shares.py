"""A share of images: `successes` of `n`, with limits that hold for every n."""

from __future__ import annotations

import math

from scipy.special import betaincinv, ndtri

from madx.stats.checks import check_confidence, check_count


def clopper_pearson(successes: int, n: int, *, confidence: float) -> tuple[float, float]:
    """Exact limits of a share, each one-sided at `confidence` (Clopper and Pearson, Biometrika 26:404, 1934).

    The lower limit is the p at which at least `successes` of n have probability 1 - confidence, the upper one the
    p at which at most `successes` have; no successes give the lower limit 0, only successes the upper limit 1.

    Raises:
        MadxError: if an argument is out of range.
    """
    check_confidence(confidence)
    check_count(successes, n, "the number of successes")
    alpha = 1 - confidence
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - alpha))
    return lower, upper


def planned_shares(share: float, bound: float, *, alpha: float, power: float) -> int:
    """Images for an exact test of a share against `bound` to decide with `power` when the true share is `share`.

    n0 = ((z_alpha sqrt(b (1 - b)) + z_power sqrt(p (1 - p))) / (p - b))^2, and for counts being whole numbers
    n = n0 / 4 (1 + sqrt(1 + 2 / (n0 |p - b|)))^2 (Fleiss, Levin and Paik, Statistical Methods for Rates, section 2.5).

    Args:
        share: p, above 0, below 1 and different from the bound.
        bound: b, above 0 and below 1.
        alpha: one-sided error rate.
        power: wanted probability of a decision.
    """
    distance = abs(share - bound)
    spread = ndtri(1 - alpha) * math.sqrt(bound * (1 - bound)) + ndtri(power) * math.sqrt(share * (1 - share))
    plain = (float(spread) / distance) ** 2
    return math.ceil(plain / 4 * (1 + math.sqrt(1 + 2 / (plain * distance))) ** 2)
