"""How engines are timed: block after block of calls, once caches have settled, until enough is known.

A block is a number of calls of one engine. What one sample is made of (a pair of engines, a round of rungs)
and when the samples are tight enough is the caller's business.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from madx.clocks import CallTime
from madx.errors import EngineError
from madx.recipe import LatencyConfig
from madx.sensors import Watch
from madx.verify.timings import MAX_PAIRS

Timer = Callable[[int], float | CallTime]
"""Runs one inference on the batch of images of that number and returns its seconds, by the wall clock or by two."""
Block = list[CallTime]
T = TypeVar("T")

TIGHT_SHARE = 0.05
"""Sampling ends once the half-width of ln(speed-up) is at most this share of it ..."""
TIGHT_FLOOR = 0.005
"""... or at most this: half a percent of the speed-up decides nothing that a gate would ask."""
_WARM_UP_BLOCKS = 2
WARM_UP_SHARE = 0.05
WARM_UP_SECONDS = 2.0
_QUICK = 41
PROBES = 3
"""Calls of each engine, after a warm-up, from which the length of a call is estimated."""
PAIRS = 60
"""Samples that are aimed at where the recipe names no number, ..."""
FEWEST_PAIRS = 24
"""... and taken whatever they cost: three on each load, and calls enough to see whether a time depends on the image."""
BLOCK_CALLS = 20
"""Calls a block where the recipe names no number, ..."""
FEWEST_CALLS = 2
"""... and at least, where calls are long: a clean image and a perturbed one."""
_GROWTH = 1.1
"""Looking at the width costs time: the next look comes with that many times as many samples."""


def sample_until_tight(
    timers: Sequence[Timer],
    schedule: Iterator[T],
    *,
    config: LatencyConfig,
    watch: Watch,
    tight: Callable[[list[T]], bool],
    enough: Callable[[list[T]], bool] = lambda _: True,
) -> list[T]:
    """Warm up, then take samples until they are tight or the budget is spent, and at least `config.pairs`.

    Where the recipe names no number of pairs, the budget ends it from `FEWEST_PAIRS` on, and tightness from `PAIRS` on.

    Args:
        timers: of the engines that are warmed up; none where the schedule does so itself.
        schedule: one sample after the other, without end; nothing is drawn from it before the warm-up.
        config: the budget, the least number of samples and the calls a block.
        watch: the clock that the budget runs by.
        tight: whether to stop; asked only now and then.
        enough: whether the budget may end it.

    Raises:
        EngineError: if a timer returns something other than a positive number of seconds.
    """
    with _no_garbage_collection():
        deadline = watch.clock() + config.seconds
        if timers:
            settling = min(config.seconds * WARM_UP_SHARE, WARM_UP_SECONDS)
            warm_up(timers, calls=config.block_calls or FEWEST_CALLS, seconds=settling, clock=watch.clock)
        samples: list[T] = []
        least, look_at = config.pairs or FEWEST_PAIRS, config.pairs or PAIRS
        while len(samples) < max(MAX_PAIRS, least):
            samples.append(next(schedule))
            if len(samples) < least or not enough(samples):
                continue
            if watch.clock() >= deadline:
                break
            if len(samples) >= look_at:
                if tight(samples):
                    break
                look_at = math.ceil(look_at * _GROWTH)
    return samples


def calls_that_fit(call_seconds: float, seconds: float) -> int:
    """Blocks as long as `BLOCK_CALLS`, or so short that `PAIRS` samples still fit into the budget; an even number.

    Args:
        call_seconds: of a sample, for each call that its blocks have.
        seconds: the budget.
    """
    even = 2 * math.floor(seconds / (PAIRS * call_seconds) / 2)
    return min(max(even, FEWEST_CALLS), BLOCK_CALLS)


def time_block(timer: Timer, numbers: Iterable[int]) -> Block:
    """A call on each of these batches of images; an engine that reports seconds alone has no CPU time.

    Raises:
        EngineError: if one did not take a positive number of seconds.
    """
    taken = [took if isinstance(took, CallTime) else CallTime(took) for took in map(timer, numbers)]
    for value in taken:
        if not (math.isfinite(value.seconds) and value.seconds > 0):
            raise EngineError(f"an engine's timer returned {value.seconds!r} seconds; expected a positive number")
    return taken


def median_seconds(timers: Sequence[Timer], *, batches: int, calls: int = _QUICK) -> list[float]:
    """Of each timer the median over some calls, taken in turns on batches of images that follow each other."""
    warm_up(timers, calls=1, seconds=0.0, clock=lambda: 0.0)
    rounds = [[time_block(timer, [number % batches])[0].seconds for timer in timers] for number in range(calls)]
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def warm_up(timers: Sequence[Timer], *, calls: int, seconds: float, clock: Callable[[], float]) -> None:
    """Alternate until caches, allocators and clocks have settled: some blocks of each, for `seconds` at least."""
    end = clock() + seconds
    blocks = 0
    while blocks < _WARM_UP_BLOCKS or clock() < end:
        for timer in timers:
            time_block(timer, [0] * calls)
        blocks += 1


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a call would be timed; the earlier state comes back afterwards."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
