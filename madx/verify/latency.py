"""How much faster is the candidate? Interleaved blocks on one machine, with the reference against itself as control.

A block is a number of calls of one engine and counts with its median, in seconds. A pair is four blocks, ABBA or BAAB
in random order (A the reference): a linear drift of the machine cancels within it. Beside every pair runs the A/A
control on the same schedule, before or after it at random.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from types import MappingProxyType
from typing import Any

import numpy as np

from madx.errors import EngineError
from madx.machine import describe_machine
from madx.recipe import LatencyConfig
from madx.seeds import numpy_generator
from madx.stats import hodges_lehmann
from madx.verify.measurements import Latency

Timer = Callable[[], float]
"""Runs one inference and returns its seconds."""

CONTROL_SHARE = 0.25
"""The control's interval must be narrower than this share of the gain, on the log scale."""
CONTROL_BIAS = 0.01
"""The control's interval may miss 1 by this share of the gain: with thousands of blocks a difference far too small to
move a verdict is significant too."""
CONTROL_CONFIDENCE = 0.995
"""One-sided: a sound control excludes 1 in one measurement of a hundred."""
TIGHT_SHARE = 0.05
"""Sampling ends once the half-width of ln(speed-up) is at most this share of it ..."""
TIGHT_FLOOR = 0.005
"""... or at most this: half a percent of the speed-up decides nothing that a gate would ask."""
MAX_PAIRS = 2000
"""The interval takes all averages of two pairs: two million numbers at this many."""
_TIGHT_CONFIDENCE = 0.95
_WARM_UP_BLOCKS = 2
_WARM_UP_SHARE = 0.05
_WARM_UP_SECONDS = 2.0
_GROWTH = 1.1
_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


def measure_latency(
    reference: Timer,
    candidate: Timer,
    *,
    config: LatencyConfig,
    seed: int,
    timing: str,
    facts: Mapping[str, Any] = _NO_FACTS,
    clock: Callable[[], float] = time.monotonic,
) -> Latency:
    """Time both engines until the interval is tight enough or the budget is spent, and at least `config.pairs` pairs.

    The minimum of pairs is kept even when it costs more than the budget. Whether to go on depends on the width of the
    intervals only, never on which side of a bound they lie: stopping when the wanted answer shows would be cheating.

    Args:
        reference: timer of the dense engine, set up for `config.batch` images.
        candidate: timer of the pruned engine, set up the same way.
        config: batch, budget, pairs and calls a block.
        seed: the recipe's seed, for the order of the blocks.
        timing: what the timers measure, by name.
        facts: what the caller knows of the engines (threads, clocks); the machine's own facts are added.
        clock: seconds, for the budget only.

    Raises:
        EngineError: if a timer returns something other than a positive number of seconds.
    """
    before = _load_average()
    with _no_garbage_collection():
        deadline = clock() + config.seconds
        settling = min(config.seconds * _WARM_UP_SHARE, _WARM_UP_SECONDS)
        _warm_up(reference, candidate, calls=config.block_calls, seconds=settling, clock=clock)
        pairs = _sample(reference, candidate, config=config, seed=seed, out_of_time=lambda: clock() >= deadline)
    return Latency(
        batch=config.batch,
        timing=timing,
        calls=config.block_calls,
        order=tuple(pair.order for pair in pairs),
        reference=np.array([pair.reference for pair in pairs]),
        candidate=np.array([pair.candidate for pair in pairs]),
        control_a=np.array([pair.control_a for pair in pairs]),
        control_b=np.array([pair.control_b for pair in pairs]),
        facts={"machine": describe_machine(), "load_before": before, "load_after": _load_average(), **facts},
    )


@dataclass(frozen=True)
class _Pair:
    """Eight block medians: a pair and the control beside it."""

    order: str
    reference: list[float]
    candidate: list[float]
    control_a: list[float]
    control_b: list[float]


def _sample(
    reference: Timer, candidate: Timer, *, config: LatencyConfig, seed: int, out_of_time: Callable[[], bool]
) -> list[_Pair]:
    """Pairs until tight or out of time; looks at the width only now and then, as looking costs time too."""
    generator = numpy_generator(seed, "latency")
    pairs: list[_Pair] = []
    look_at = config.pairs
    while len(pairs) < max(MAX_PAIRS, config.pairs):
        order = "ABBA" if generator.random() < 0.5 else "BAAB"
        control_first = generator.random() < 0.5
        pairs.append(_pair(reference, candidate, order=order, control_first=control_first, calls=config.block_calls))
        if len(pairs) < config.pairs:
            continue
        if out_of_time():
            break
        if len(pairs) >= look_at:
            if _tight(pairs):
                break
            look_at = math.ceil(look_at * _GROWTH)
    return pairs


def _pair(reference: Timer, candidate: Timer, *, order: str, control_first: bool, calls: int) -> _Pair:
    if control_first:
        control_a, control_b = _schedule(reference, reference, order, calls)
        a, b = _schedule(reference, candidate, order, calls)
    else:
        a, b = _schedule(reference, candidate, order, calls)
        control_a, control_b = _schedule(reference, reference, order, calls)
    return _Pair(order=order, reference=a, candidate=b, control_a=control_a, control_b=control_b)


def _schedule(a: Timer, b: Timer, order: str, calls: int) -> tuple[list[float], list[float]]:
    """Run the four blocks of "ABBA" or "BAAB"; each engine's two block medians."""
    blocks: dict[str, list[float]] = {"A": [], "B": []}
    for letter in order:
        blocks[letter].append(_block(a if letter == "A" else b, calls))
    return blocks["A"], blocks["B"]


def _block(timer: Timer, calls: int) -> float:
    seconds = median(timer() for _ in range(calls))
    if not (math.isfinite(seconds) and seconds > 0):
        raise EngineError(f"an engine's timer returned {seconds!r} seconds; expected a positive number")
    return seconds


def _tight(pairs: list[_Pair]) -> bool:
    """Both the speed-up's interval and the control's are as narrow as a verdict needs them."""
    a, b = np.log([pair.reference for pair in pairs]), np.log([pair.candidate for pair in pairs])
    gain, lower, upper = hodges_lehmann((a - b).mean(axis=1), _TIGHT_CONFIDENCE)
    a, b = np.log([pair.control_a for pair in pairs]), np.log([pair.control_b for pair in pairs])
    _, control_lower, control_upper = hodges_lehmann((a - b).mean(axis=1), CONTROL_CONFIDENCE)
    narrow = (upper - lower) / 2 <= max(TIGHT_SHARE * abs(gain), TIGHT_FLOOR)
    return narrow and control_upper - control_lower < max(CONTROL_SHARE * abs(gain), 2 * TIGHT_FLOOR)


def _warm_up(a: Timer, b: Timer, *, calls: int, seconds: float, clock: Callable[[], float]) -> None:
    """Alternate until caches, allocators and clocks have settled: some blocks of each, for `seconds` at least."""
    end = clock() + seconds
    blocks = 0
    while blocks < _WARM_UP_BLOCKS or clock() < end:
        _block(a, calls)
        _block(b, calls)
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


def _load_average() -> list[float] | None:
    """Over 1, 5 and 15 minutes; None where the system has none."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None
