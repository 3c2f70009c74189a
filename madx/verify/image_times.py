"""Does an engine's time depend on the image? Then its typical call is that of the images it was timed on, and no more.

Which batch of images a call is shown is drawn at random, whatever the machine does at that moment. So calls that are
fast, or slow, for their block fall on all batches alike, however noisy the machine, unless the engine looks at them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.verify.timings import Calls, Latency

FAR = 0.1
"""Share that a call must be off the typical one beside it to count as fast or slow."""
SURE = 8.0
"""Standard deviations beyond chance: a statistic of rare events has a long tail, and an accusation must hold."""
FEWEST = 64
"""Calls, below which nothing is said."""
_SHORT = 5
"""Calls of a block whose median says too little of what is typical."""


@dataclass(frozen=True)
class Dependence:
    """An engine whose time depends on the image."""

    fastest: float
    """Times the typical call, of the batch that was answered fastest."""
    slowest: float
    """The same of the slowest."""


def dependence(latency: Latency, calls: Calls) -> Dependence | None:
    """How much the calls of one engine, [P, 2, C], depend on what they were shown; None if they show no sign of it."""
    if latency.images is None or latency.images.max() == 0 or calls.size < FEWEST:
        return None
    times = calls.astype(np.float64)
    relative = (times / _typical(latency, calls)).ravel()
    shown = latency.images.ravel()
    beyond = max(_excess(relative < 1 - FAR, shown), _excess(relative > 1 + FAR, shown))
    if beyond <= SURE:
        return None
    typical = [float(np.median(relative[shown == number])) for number in np.unique(shown)]
    return Dependence(min(typical), max(typical))


def _typical(latency: Latency, calls: Calls) -> NDArray[np.float64]:
    """What each call is compared with, in a shape that [P, 2, C] can be divided by: the median of its block.

    That of a few calls is as likely one of a slow image as of a fast one. There it is the median of all calls, as much
    longer or shorter on each load as the other engine was.
    """
    if calls.shape[-1] >= _SHORT:
        return np.asarray(np.median(calls, axis=-1, keepdims=True), dtype=np.float64)
    loads = latency.load_numbers
    other = latency.candidate if calls is latency.reference else latency.reference
    pace = {load: np.median(other[loads == load]) / np.median(other) for load in np.unique(loads)}
    return float(np.median(calls)) * np.array([pace[load] for load in loads], dtype=np.float64)[:, None, None]


def _excess(hits: NDArray[np.bool_], shown: NDArray[np.int32]) -> float:
    """How far the hits' spread over the batches lies beyond chance, in standard deviations.

    Pearson's statistic of the shares in every batch, with the variance that it has where counts are small (Haldane,
    *Biometrika* 31:346, 1940).
    """
    share = float(hits.mean())
    if share in (0.0, 1.0):
        return 0.0
    n = np.bincount(shown).astype(np.float64)
    k = np.bincount(shown, weights=hits)
    n, k = n[n > 0], k[n > 0]
    spread = share * (1 - share)
    statistic = ((k - n * share) ** 2 / (n * spread)).sum()
    variance = (2 + (1 / spread - 6) / n).sum()
    return float((statistic - len(n)) / np.sqrt(variance))
