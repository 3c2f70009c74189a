"""The ratio of two engines' p99s, and how much more timing would decide a gate on times.

Layout: seconds of every call [P, 2, C], as in `madx.verify.timings`. A ratio is b / a, as a latency promise reads.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from madx.stats import Percentile, percentile, planned_images
from madx.verify.limits import PLANNED_POWER
from madx.verify.timings import MAX_PAIRS, Calls, Latency

P99 = 0.99


@dataclass(frozen=True)
class Tail:
    """Both p99s, each with limits at half of the error, so that their ratio's hold whatever ties the two."""

    a: Percentile
    b: Percentile

    @property
    def carried(self) -> bool:
        """Whether both samples carry a p99; without, there is no ratio."""
        return self.a.carried and self.b.carried

    @property
    def limits(self) -> tuple[float, float, float]:
        """(estimate, lower, upper) of b / a; NaN, -inf and inf where it is not carried."""
        if self.a.estimate is None or self.b.estimate is None:
            return math.nan, -math.inf, math.inf
        lower = self.b.lower / self.a.upper if self.b.lower > 0 else -math.inf
        upper = self.b.upper / self.a.lower if self.a.lower > 0 else math.inf
        return self.b.estimate / self.a.estimate, lower, upper


def tail(a: Calls, b: Calls, confidence: float, *, pairs: NDArray[np.bool_] | None = None) -> Tail:
    """Of all pairs, or of those that `pairs` [P] marks; the ratio's limits are one-sided at `confidence`."""
    chosen = (a, b) if pairs is None else (a[pairs], b[pairs])
    each = 1 - (1 - confidence) / 2
    return Tail(*(percentile(calls.reshape(len(calls), -1), P99, confidence=each) for calls in chosen))


def pairs_to_carry(pairs: int, *tails: Tail) -> int | None:
    """How many pairs would carry all these p99s, if calls stay as alike as they are; None if that is anyone's guess."""
    worth = min(min(found.a.worth, found.b.worth) for found in tails)
    return math.ceil(pairs * tails[0].a.needed / worth) if worth > 0 else None


def pairs_to_decide(pairs: int, limits: tuple[float, float, float], bound: float, *, alpha: float) -> int | None:
    """How many pairs would decide a gate on a ratio of times, if both stay as they are; None if no number would.

    The distance from the estimate to its limit on the bound's side shrinks with the root of the pairs, as that of a
    mean does (`madx.stats.planned_images`).

    Args:
        pairs: that were timed.
        limits: estimate, lower and upper limit of the ratio.
        bound: of the gate, in the same unit.
        alpha: error rate of the limit, or of each of the two that it was made of.
    """
    estimate, lower, upper = limits
    limit = upper if estimate < bound else lower
    if not (0 < limit < math.inf and bound > 0) or estimate == bound:
        return None
    width, room = abs(math.log(limit / estimate)), abs(math.log(bound / estimate))
    variance = pairs * (width / float(ndtri(1 - alpha))) ** 2
    return max(planned_images(variance, room, alpha=alpha, power=PLANNED_POWER), pairs + 1)


def pairs_advice(latency: Latency, pairs: int | None, *, end: str) -> str:
    """The same in a sentence; `end` says what so many pairs would do.

    The number of pairs is what to ask for: it is kept even where it costs more than `verify.latency.seconds`, and
    sampling may end before these.
    """
    if pairs is None:
        return "The estimate lies on the bound itself, or has no limit yet: no number of pairs can be named."
    timed = len(latency.order)
    asked = f"pairs: {pairs}"
    if pairs > MAX_PAIRS:  # as many calls in fewer pairs
        asked = f"pairs: {MAX_PAIRS}, block_calls: {math.ceil(latency.calls * pairs / MAX_PAIRS)}"
    each = sum(float(calls.sum(dtype=np.float64)) for calls in latency.all_calls) / timed
    return (
        f"If the times stay as they are, about {pairs:,} pairs ({pairs * 2 * latency.calls:,} calls of each engine, "
        f"{pairs * each:,.0f} s), {pairs - timed:,} more than were timed, would {end}: verify.latency: {{{asked}}}."
    )
