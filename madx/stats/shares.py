"""A share of images: `successes` of `n`, with limits that hold for every n."""

from __future__ import annotations

from scipy.special import betaincinv

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
