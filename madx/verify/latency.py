"""How much faster is the candidate? Interleaved blocks on one machine, with the reference against itself as control.

A block is a number of calls of one engine and counts with its median, in seconds. A pair is four blocks, ABBA or BAAB
in random order (A the reference): a linear drift of the machine cancels within it. Beside every pair runs the A/A
control on the same schedule, before or after it at random; the machine is read after both. Pairs are nested in loads of
the engines, and the control compares two loads of the reference, so that what one load differs from the next shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from madx.machine import describe_machine
from madx.recipe import LatencyConfig
from madx.seeds import numpy_generator
from madx.sensors import Reading, Watch
from madx.verify.noise import ratio_limits
from madx.verify.sampling import (
    FEWEST_CALLS,
    FEWEST_PAIRS,
    PAIRS,
    PROBES,
    TIGHT_FLOOR,
    TIGHT_SHARE,
    WARM_UP_SECONDS,
    WARM_UP_SHARE,
    Block,
    Timer,
    calls_that_fit,
    median_seconds,
    sample_until_tight,
    time_block,
    warm_up,
)
from madx.verify.speed_limits import CONTROL_CONFIDENCE, CONTROL_SHARE, clocks
from madx.verify.tails import tail
from madx.verify.timings import Latency

_TIGHT_TAIL_FLOOR = 0.03
"""As `TIGHT_FLOOR`, of a ratio of p99s, where it is asked for: slow calls are few, and no promise on them is finer."""
_TIGHT_CONFIDENCE = 0.95


Load = Callable[[], AbstractContextManager[Timer]]
"""Loads an engine afresh, sets it up for the batches of images that are timed, and releases it at the end."""
LOADS = 8
"""The least number of times that the engines are loaded: sessions of one file differ by a percent or two, and pairs of
one load say nothing of the next."""


_FEWEST_BATCHES = 8
"""Of each sort of images. Where calls are few, fewer are shown than there are: each about four times, or nobody could
tell whether the time depends on it."""
_PAIRS_A_LOAD = 7
"""At most: more pairs are to be on more loads, or they would not narrow the limits."""


@dataclass(frozen=True)
class Timed:
    """What is timed."""

    timing: str
    """What the timers measure, by name."""
    clean: int = 1
    """Batches of clean images, with the numbers from 0 on."""
    perturbed: int = 0
    """Batches of perturbed ones, with the numbers after these; half of the calls of a block are shown such, if any."""


def measure_latency(
    reference: Load,
    candidate: Load,
    *,
    config: LatencyConfig,
    seed: int,
    timed: Timed,
    tails: bool = False,
    watch: Watch | None = None,
) -> Latency:
    """Time both engines until the interval is tight enough or the budget is spent, and at least `config.pairs` pairs.

    Where the recipe names no numbers, blocks are as long and pairs as many as the budget carries, from `FEWEST_PAIRS`
    on; a number of pairs that it names is kept even when it costs more. Whether to go on depends on the width of the
    intervals only, never on which side of a bound they lie: stopping when the wanted answer shows would be cheating.
    Both engines are loaded anew at least `LOADS` times on the way, the control's second side by itself, and every call
    is shown a batch of images drawn at random, both engines the same ones.

    Args:
        reference: loads the engine to compare with.
        candidate: loads the engine that is judged, set up the same way.
        config: batch, budget, pairs and calls a block.
        seed: the recipe's seed, for the order of the blocks and the images.
        timed: what the timers measure, and on how many batches of images.
        tails: whether the p99s are wanted too: sampling then goes on until the calls carry them, those of the control
            included, and their ratio's limits are narrow.
        watch: the clock that the budget runs by and the sensors that are read beside every pair; without it, those of
            this machine.

    Raises:
        EngineError: if a timer returns something other than a positive number of seconds.
    """
    watch = watch or Watch.over_this_machine()
    with ExitStack() as stack:
        course = _Course((reference, candidate, reference), config, seed, timed, watch, stack)
        tight = _tight_with_tails if tails else _tight
        pairs = sample_until_tight(
            (),
            course.pairs(),
            config=config,
            watch=watch,
            tight=lambda pairs: tight(course.latency(pairs)),
            enough=lambda pairs: pairs[-1].load + 1 >= LOADS,
        )
    return replace(course.latency(pairs), facts={"machine": describe_machine()})


@dataclass(frozen=True)
class _Pair:
    """Eight blocks, a pair and the control beside it, and the machine's state over both."""

    order: str
    blocks: tuple[list[Block], ...]
    """The two blocks of the reference, the candidate and the control's two."""
    machine: Reading
    images: list[list[int]]
    """Of each of its two blocks, the numbers of the batches that its calls were shown."""
    load: int


class _Course:
    """One pair after the other, on one load of the engines after the other."""

    def __init__(
        self, loads: Sequence[Load], config: LatencyConfig, seed: int, timed: Timed, watch: Watch, stack: ExitStack
    ) -> None:
        self.loads, self.config, self.timed, self.watch, self.stack = loads, config, timed, watch, stack
        self.generator = numpy_generator(seed, "latency")
        self.images = numpy_generator(seed, "latency", "images")
        self.calls = config.block_calls or 0
        self.batches = max(timed.clean, timed.perturbed)

    def pairs(self) -> Iterator[_Pair]:
        """Without end."""
        timers: list[Timer] = []
        began = self.watch.clock()
        for load in itertools.count():
            timers.clear()  # what a timer is bound to is released before the engines are loaded anew
            timers += self._loaded()
            if not self.calls:
                self._fit(timers)
            calls = self.calls if self.calls > FEWEST_CALLS else 1  # long ones have settled sooner
            warm_up(timers, calls=calls, seconds=self._settling(first=load == 0), clock=self.watch.clock)
            self.watch.read()  # shares count from here on
            for number in range(min(_PAIRS_A_LOAD, max(1, (self.config.pairs or PAIRS) // LOADS))):
                late = self.watch.clock() - began > (load + 1) * self.config.seconds / LOADS
                if late and not self.config.pairs and number >= FEWEST_PAIRS // LOADS:
                    break  # or a budget that carries few pairs would be spent on few loads
                yield self._pair(timers, load)

    def latency(self, pairs: Sequence[_Pair]) -> Latency:
        """What they come to."""
        taken = np.array([pair.blocks for pair in pairs], dtype=np.float32)  # [P, 4, 2, C, 2]: two clocks
        seconds, cpu = np.moveaxis(taken[..., 0], 1, 0), np.moveaxis(taken[..., 1], 1, 0)
        return Latency(
            batch=self.config.batch,
            timing=self.timed.timing,
            order=tuple(pair.order for pair in pairs),
            reference=seconds[0],
            candidate=seconds[1],
            control_a=seconds[2],
            control_b=seconds[3],
            machine=_series([pair.machine for pair in pairs]),
            facts={},
            images=np.array([pair.images for pair in pairs], dtype=np.int32),
            clean=self.timed.clean,
            loads=np.array([pair.load for pair in pairs], dtype=np.int32),
            cpu=cpu if np.isfinite(cpu).all() else None,
        )

    def _fit(self, timers: Sequence[Timer]) -> None:
        """Calls of a block, and batches of images, as many as the budget carries."""
        each = median_seconds(timers, batches=1, calls=PROBES)
        of_a_pair = 2 * (sum(each) + each[0])  # two blocks of both engines, and of both sides of the control
        self.calls = calls_that_fit(of_a_pair, self.config.seconds)
        pairs = self.config.pairs or min(PAIRS, self.config.seconds / (self.calls * of_a_pair))
        self.batches = max(_FEWEST_BATCHES, int(pairs * self.calls / 4))

    def _loaded(self) -> list[Timer]:
        """The engines once more, and those of before released."""
        self.stack.close()
        return [self.stack.enter_context(load()) for load in self.loads]

    def _settling(self, *, first: bool) -> float:
        """Seconds of warming up: the first load also warms up the machine."""
        return min(self.config.seconds * WARM_UP_SHARE, WARM_UP_SECONDS) if first else 0.0

    def _pair(self, timers: Sequence[Timer], load: int) -> _Pair:
        """The reference and the candidate in the places of A and B, and beside it the reference and its other load."""
        a, b, control_b = timers
        control_a = a
        order = "ABBA" if self.generator.random() < 0.5 else "BAAB"
        control_first = self.generator.random() < 0.5
        images = [self._draw(), self._draw()]
        if control_first:
            control = _schedule(control_a, control_b, order, images)
            measured = _schedule(a, b, order, images)
        else:
            measured = _schedule(a, b, order, images)
            control = _schedule(control_a, control_b, order, images)
        return _Pair(order, (*measured, *control), machine=self.watch.read(), images=images, load=load)

    def _draw(self) -> list[int]:
        """The batches of images that the calls of a block are shown: one half clean, one half perturbed, if any are."""
        calls = self.calls
        clean, perturbed = min(self.timed.clean, self.batches), min(self.timed.perturbed, self.batches)
        others = calls // 2 if perturbed else 0
        drawn = self.images.integers(clean, size=calls - others)
        if others:
            drawn = np.concatenate([drawn, self.timed.clean + self.images.integers(perturbed, size=others)])
        return [int(number) for number in self.images.permutation(drawn)]


def _schedule(a: Timer, b: Timer, order: str, images: Sequence[Sequence[int]]) -> tuple[list[Block], list[Block]]:
    """Run the four blocks of "ABBA" or "BAAB"; each engine's two, which are shown the same images in turn."""
    blocks: dict[str, list[Block]] = {"A": [], "B": []}
    for letter in order:
        own = blocks[letter]
        own.append(time_block(a if letter == "A" else b, images[len(own)]))
    return blocks["A"], blocks["B"]


def _tight(latency: Latency) -> bool:
    """By every clock that decides, the speed-up's interval and the control's are as narrow as a verdict needs them."""
    loads, every = latency.load_numbers, np.ones(len(latency.order), dtype=bool)
    for clock in clocks(latency):
        gain, lower, upper = ratio_limits(clock.log_ratios(), clock.calm, loads, confidence=_TIGHT_CONFIDENCE)
        _, least, most = ratio_limits(clock.control_log_ratios, every, loads, confidence=CONTROL_CONFIDENCE)
        if (upper - lower) / 2 > max(TIGHT_SHARE * abs(gain), TIGHT_FLOOR):
            return False
        if most - least >= max(CONTROL_SHARE * abs(gain), 2 * TIGHT_FLOOR):
            return False
    return True


def _tight_with_tails(latency: Latency) -> bool:
    """The same, and the p99s are carried and their ratio is known as well as a promise on them needs it."""
    if not _tight(latency):
        return False
    wanted = tail(latency.reference, latency.candidate, _TIGHT_CONFIDENCE)
    control = tail(latency.control_a, latency.control_b, CONTROL_CONFIDENCE)
    if not (wanted.carried and control.carried):
        return False
    ratio, lower, upper = wanted.limits
    if not 0 < lower <= upper < math.inf:
        return False
    return math.log(upper / lower) / 2 <= max(TIGHT_SHARE * abs(math.log(ratio)), _TIGHT_TAIL_FLOOR)


def _series(readings: Sequence[Reading]) -> dict[str, NDArray[np.float64]]:
    """[P] of each source that answered at all; NaN where it did not."""
    names = sorted({name for reading in readings for name in reading})
    return {name: np.array([reading.get(name, math.nan) for reading in readings], dtype=np.float64) for name in names}
