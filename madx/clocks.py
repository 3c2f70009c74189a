"""Two clocks around one call: the wall's, and the CPU time of this process.

On a machine that is shared they differ by what others cost. The wall clock holds what a user waits for, a neighbour's
turns on the CPU included; the CPU's clock stands still while another process runs.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

FINE = 2e-5
"""Seconds: a CPU clock with longer steps says nothing of a call of a millisecond."""


class CallTime(NamedTuple):
    """How long one call took."""

    seconds: float
    """By the wall clock."""
    cpu: float = math.nan
    """Seconds that this process spent on a CPU meanwhile; NaN where that is not the time that the call itself needs."""


def clocked(call: Callable[[], object], *, one_thread: bool) -> CallTime:
    """Run it once.

    Args:
        call: what is timed.
        one_thread: whether a single thread does the work, on a CPU. Of several the CPU times add up, whatever they do
            one after the other and whatever one of them spends waiting for another by going round in circles; so how
            long the call takes does not follow from their sum, and none is taken.
    """
    before = time.process_time() if one_thread else math.nan
    started = time.perf_counter()
    call()
    seconds = time.perf_counter() - started
    return CallTime(seconds, time.process_time() - before if one_thread else math.nan)


@functools.cache
def cpu_clock_is_fine() -> bool:
    """Whether this system counts a process's CPU time in steps that are short beside a call; tried, not asked."""
    return min(step(time.process_time) for _ in range(5)) <= FINE  # an interruption is no step


def step(clock: Callable[[], float]) -> float:
    """Seconds between two readings of a clock that differ; what a system says of its clock may be another number."""
    first = clock()
    while (second := clock()) == first:
        pass
    while (third := clock()) == second:
        pass
    return third - second
