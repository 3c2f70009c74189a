"""How engines are timed: block after block of calls, once caches have settled, until enough is known.

A block is a number of calls of one engine, in seconds. What one sample is made of (a pair of engines, a round of rungs)
and when the samples are tight enough is the caller's business.
"""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from madx.errors import EngineError
from madx.recipe import LatencyConfig
from madx.sensors import Watch
from madx.verify.timings import MAX_PAIRS

Timer = Callable[[int], float]
"""Runs one inference on the batch of images of that number and returns its seconds."""
T = TypeVar("T")

TIGHT_SHARE = 0.05
"""Sampling ends once the half-width of ln(speed-up) is at most this share of it ..."""
TIGHT_FLOOR = 0.005
"""... or at most this: half a percent of the speed-up decides nothing that a gate would ask."""
_WARM_UP_BLOCKS = 2
WARM_UP_SHARE = 0.05
WARM_UP_SECONDS = 2.0
_QUICK = 41
_GROWTH = 1.1
"""Looking at the width costs time: the next look comes with that many times as many samples."""


def sample_until_tight(
    timers: Sequence[Timer],
    schedule: Iterator[T],
    *,
    config: LatencyConfig,
    watch: Watch,
    tight: Callable[[list[T]], bool],
) -> list[T]:
    """Warm up, then take samples until they are tight or the budget is spent, and at least `config.pairs`.

    Args:
        timers: of the engines that are warmed up; none where the schedule does so itself.
        schedule: one sample after the other, without end; nothing is drawn from it before the warm-up.
        config: the budget, the least number of samples and the calls a block.
        watch: the clock that the budget runs by.
        tight: whether to stop; asked only now and then.

    Raises:
        EngineError: if a timer returns something other than a positive number of seconds.
    """
    with _no_garbage_collection():
        deadline = watch.clock() + config.seconds
        if timers:
            settling = min(config.seconds * WARM_UP_SHARE, WARM_UP_SECONDS)
            warm_up(timers, calls=config.block_calls, seconds=settling, clock=watch.clock)
        samples: list[T] = []
        look_at = config.pairs
        while len(samples) < max(MAX_PAIRS, config.pairs):
            samples.append(next(schedule))
            if len(samples) < config.pairs:
                continue
            if watch.clock() >= deadline:
                break
            if len(samples) >= look_at:
                if tight(samples):
                    break
                look_at = math.ceil(look_at * _GROWTH)
    return samples


def time_block(timer: Timer, numbers: Iterable[int]) -> list[float]:
    """Seconds of a call on each of these batches of images.

    Raises:
        EngineError: if one is not a positive number.
    """
    seconds = [timer(number) for number in numbers]
    for value in seconds:
        if not (math.isfinite(value) and value > 0):
            raise EngineError(f"an engine's timer returned {value!r} seconds; expected a positive number")
    return seconds


def median_seconds(timers: Sequence[Timer], *, batches: int) -> list[float]:
    """Of each timer the median over `_QUICK` calls, taken in turns on batches of images that follow each other."""
    warm_up(timers, calls=1, seconds=0.0, clock=lambda: 0.0)
    rounds = [[time_block(timer, [number % batches])[0] for timer in timers] for number in range(_QUICK)]
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
