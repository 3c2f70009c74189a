"""Which step bought the speed-up: engines from the dense one to the deployed one, each one step further.

A round runs a block of every rung in random order and then in the reverse of it, so that a linear drift cancels between
any two. Layout: seconds of every call [R, 2, N, C], float32: R rounds, the two halves of a round, N rungs in the order
of the ladder, C calls a block. Everything that is compared was timed in one session.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError, EngineError
from madx.recipe import LatencyConfig
from madx.seeds import numpy_generator
from madx.sensors import Watch
from madx.stats import hodges_lehmann
from madx.verify.arrays import Arrays, read_array
from madx.verify.sampling import (
    PROBES,
    TIGHT_FLOOR,
    TIGHT_SHARE,
    Timer,
    calls_that_fit,
    median_seconds,
    sample_until_tight,
    time_block,
)

CONFIDENCE = 0.95
"""One-sided, of each limit of a step; the ladder explains and judges nothing, so no gate sets it."""


@dataclass(frozen=True)
class Step:
    """From one rung to another: how many times as fast, with one-sided limits."""

    start: str
    end: str
    estimate: float
    lower: float
    upper: float


@dataclass(frozen=True, eq=False)
class Ladder:
    """The timings of all rungs."""

    rungs: tuple[str, ...]
    """[N] names, from the dense engine down."""
    batch: int
    """Images a call."""
    timing: str
    """What was timed, by name."""
    seconds: NDArray[np.float32]
    """[R, 2, N, C]"""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Rungs that could not be had here, and why; the steps beside such a one are one step of the rest."""

    def __post_init__(self) -> None:
        shape = self.seconds.shape
        if len(self.rungs) < 2 or len(shape) != 4 or shape[1:3] != (2, len(self.rungs)) or 0 in shape:
            raise ArtifactError(
                f"the ladder's arrays do not fit together: {list(shape)} for {len(self.rungs)} rungs, expected "
                "[rounds, 2, rungs, calls] with at least two rungs"
            )
        if not (np.isfinite(self.seconds).all() and (self.seconds > 0).all()):
            raise ArtifactError("a timed call of the ladder is not a positive number of seconds; measure again")

    def steps(self) -> tuple[Step, ...]:
        """From each rung to the next; the product of their estimates is exactly the estimate of `whole`."""
        return tuple(self._step(place, place + 1) for place in range(len(self.rungs) - 1))

    def medians(self) -> tuple[float, ...]:
        """[N] seconds of a typical call of each rung: the median of its blocks' medians."""
        blocks = np.median(self.seconds.astype(np.float64), axis=-1)
        return tuple(float(value) for value in np.median(blocks, axis=(0, 1)))

    def whole(self) -> Step:
        """From the first rung to the last."""
        return self._step(0, len(self.rungs) - 1)

    def _step(self, start: int, end: int) -> Step:
        """The estimate from what each rung adds to a round, so that steps add up; the limits from the rounds' ratios.

        Hodges-Lehmann both times (`madx.stats.ranks`). The two centres of a step agree but for the noise, and the
        limits are stretched to the estimate should they not.
        """
        logs = _log_medians(self.seconds)
        added = logs - logs.mean(axis=1, keepdims=True)
        first, last = (hodges_lehmann(added[:, place], CONFIDENCE)[0] for place in (start, end))
        _, lower, upper = hodges_lehmann(logs[:, start] - logs[:, end], CONFIDENCE)
        estimate = first - last
        values = (math.exp(value) for value in (estimate, min(lower, estimate), max(upper, estimate)))
        return Step(self.rungs[start], self.rungs[end], *values)

    def to_arrays(self) -> Arrays:
        """The calls as they are; the rest as text."""
        rest = {"batch": self.batch, "timing": self.timing, "rungs": list(self.rungs), "missing": dict(self.missing)}
        return {"seconds": self.seconds, "rest": np.array(json.dumps(rest))}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        try:
            rest = json.loads(str(read_array(arrays, "rest")))
            rungs, batch, timing = tuple(rest["rungs"]), int(rest["batch"]), str(rest["timing"])
            missing = dict(rest["missing"])
        except (json.JSONDecodeError, AttributeError, TypeError, KeyError, ValueError) as error:
            raise ArtifactError(f"the ladder's text was not written by madx: {error!r}; measure again") from None
        seconds = read_array(arrays, "seconds")
        return cls(rungs=rungs, batch=batch, timing=timing, seconds=seconds, missing=missing)


def measure_ladder(
    timers: Mapping[str, Timer],
    *,
    config: LatencyConfig,
    seed: int,
    timing: str,
    missing: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    images: int = 1,
) -> Ladder:
    """Time all rungs until every step is tight enough or the budget is spent, and at least `config.pairs` rounds.

    As in `measure_latency`, whether to go on depends on the widths of the steps only.

    Args:
        timers: by the rung's name, from the dense engine down, each set up for `config.batch` images.
        config: batch, budget, rounds (its pairs) and calls a block.
        seed: the recipe's seed, for the order within the rounds.
        timing: what the timers measure, by name; the same for all, or they could not be compared.
        missing: rungs that belong between these and could not be had, and why.
        watch: the clock that the budget runs by.
        images: batches of images that the timers know by number.

    Raises:
        EngineError: if there are fewer than two rungs, or a timer returns something other than a positive number.
    """
    if len(timers) < 2:
        raise EngineError(f"a ladder has two rungs at least; it was given {list(timers)}")
    rungs = list(timers.values())
    calls = config.block_calls or _calls(rungs, config)
    schedule = _rounds(rungs, calls=calls, seed=seed, images=images)
    rounds = sample_until_tight(rungs, schedule, config=config, watch=watch or Watch(), tight=_tight)
    seconds = np.stack(rounds)
    return Ladder(rungs=tuple(timers), batch=config.batch, timing=timing, seconds=seconds, missing=dict(missing or {}))


def _calls(timers: Sequence[Timer], config: LatencyConfig) -> int:
    """Of a block, two of which every rung has in a round."""
    return calls_that_fit(2 * sum(median_seconds(timers, batches=1, calls=PROBES)), config.seconds)


def _rounds(timers: Sequence[Timer], *, calls: int, seed: int, images: int) -> Iterator[NDArray[np.float32]]:
    """One round after the other, [2, N, C] each, without end."""
    generator = numpy_generator(seed, "ladder")
    while True:
        order = generator.permutation(len(timers)).tolist()
        yield _round(timers, order, generator.integers(images, size=(2, calls)).tolist())


def _round(timers: Sequence[Timer], order: Sequence[int], images: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """There and back again, all rungs on the same images."""
    seconds = np.empty((2, len(timers), len(images[0])), dtype=np.float32)
    for half, places in enumerate((order, order[::-1])):
        for place in places:
            seconds[half, place] = [took.seconds for took in time_block(timers[place], images[half])]
    return seconds


def _tight(rounds: Sequence[NDArray[np.float32]]) -> bool:
    """Every step is known to half a percent, or to a twentieth of itself where it is a large one."""
    logs = _log_medians(np.stack(rounds))
    for steps in (logs[:, :-1] - logs[:, 1:]).T:
        gain, lower, upper = hodges_lehmann(steps, CONFIDENCE)
        if (upper - lower) / 2 > max(TIGHT_SHARE * abs(gain), TIGHT_FLOOR):
            return False
    return True


def _log_medians(seconds: NDArray[np.float32]) -> NDArray[np.float64]:
    """[R, N] mean of the logarithms of a rung's two block medians."""
    logs: NDArray[np.float64] = np.log(np.median(seconds.astype(np.float64), axis=-1)).mean(axis=1)
    return logs
