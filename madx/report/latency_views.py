"""What the reports show of a latency, as rows: the single calls, the blocks, the ratios and the machine beside them.

Nothing is judged here, and every interval, percentile and flag comes from the functions that the gates use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.report import words
from madx.sensors import SOURCES
from madx.stats import Percentile, percentile
from madx.verify import GateResult, Ladder, Latency
from madx.verify.ladder import CONFIDENCE, Step
from madx.verify.noise import disturbed
from madx.verify.speed_limits import (
    CONTROL_CONFIDENCE,
    clock_limits,
    clocks,
    control_limits,
    speedup_limits,
    strata_limits,
)
from madx.verify.timings import Calls, block_medians

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
_SPEEDUP_CONFIDENCE = 0.95
"""For engines without a gate on the speed-up."""
_SHARES = ("others", "steal", "waiting")


@dataclass(frozen=True)
class TimeRow:
    """Block medians of one side, in seconds."""

    label: str
    median: float
    low: float
    """5th percentile."""
    high: float
    """95th percentile."""


@dataclass(frozen=True)
class Ratio:
    """A ratio of times with its one-sided limits; infinite where the pairs are too few."""

    estimate: float
    lower: float
    upper: float
    confidence: float

    @property
    def text(self) -> str:
        """The estimate, and the limits with their confidence if there are any."""
        if not self._limited:
            return self.times
        return f"{self.times[:-1]}, each limit at {words.level(self.confidence)})"

    @property
    def times(self) -> str:
        """The same without the confidence, for a table that says it once."""
        if not self._limited:
            return f"{words.ratio(self.estimate)} (too few pairs for limits)"
        low, high = math.floor(1000 * self.lower) / 1000, math.ceil(1000 * self.upper) / 1000
        return f"{self.estimate:.3f}{words.TIMES} ({low:.3f}{words.TIMES} to {high:.3f}{words.TIMES})"

    @property
    def _limited(self) -> bool:
        return math.isfinite(self.lower) and math.isfinite(self.upper)


@dataclass(frozen=True)
class PercentileRow:
    """A percentile of the single calls of both engines; where the calls do not carry it, the reason."""

    label: str
    reference: str
    candidate: str


@dataclass(frozen=True)
class RungRow:
    """One rung of the ladder, as text: its typical call, and what the step to it from the rung above bought."""

    name: str
    median: str
    bought: str
    """Times as fast, with limits; nothing for the first rung."""
    word: str
    """What the limits say of the step: faster, slower, or that they show no difference."""


@dataclass(frozen=True)
class MachineRow:
    """One source of the machine's state over the pairs, as text."""

    label: str
    low: str
    median: str
    high: str


def time_rows(latency: Latency, roles: tuple[str, str]) -> tuple[TimeRow, ...]:
    """Both engines, as `roles` names them; the control is the reference once more and has no row of its own."""
    return _time_row(roles[0], latency.reference), _time_row(roles[1], latency.candidate)


def speedup(latency: Latency, gates: Sequence[GateResult]) -> Ratio:
    """Over the block pairs, as the gate on it has it if there is one."""
    confidence, bound = _asked(gates)
    return _ratio(speedup_limits(latency, confidence, bound), confidence)


def control(latency: Latency) -> Ratio:
    """The reference against itself: it should contain 1."""
    return _ratio(control_limits(latency), CONTROL_CONFIDENCE)


def by_clock(latency: Latency, gates: Sequence[GateResult]) -> str:
    """The speed-up and the control by each clock that decides, each within its limits."""
    confidence, bound = _asked(gates)
    told = (
        f"by {clock.name} {_ratio(clock_limits(latency, clock, confidence, bound), confidence).times}, the "
        f"control {_ratio(control_limits(latency, clock), CONTROL_CONFIDENCE).times}"
        for clock in clocks(latency)
    )
    decided = f"Speed-up {'; '.join(told)}."
    if latency.cpu is None:
        return f"{decided} CPU time, which stands still while a neighbour runs, is known of engines of one thread."
    return decided if len(clocks(latency)) > 1 else f"{decided} The CPU time is not one thread's and does not count."


def percentile_rows(latency: Latency) -> tuple[PercentileRow, ...]:
    """Of the single calls, as far as they carry them."""
    pairs = len(latency.order)
    sides = (latency.reference.reshape(pairs, -1), latency.candidate.reshape(pairs, -1))
    return tuple(
        PercentileRow(label, *(_shown(percentile(side, level, confidence=_SPEEDUP_CONFIDENCE)) for side in sides))
        for label, level in PERCENTILES.items()
    )


def tail(latency: Latency) -> tuple[str, str]:
    """The p99 of the reference and of the candidate, for a table without room for reasons."""
    (row,) = (row for row in percentile_rows(latency) if row.label == "p99")
    reference, candidate = (text.partition(":")[0] for text in (row.reference, row.candidate))
    return reference, candidate


def ladder_rows(ladder: Ladder | None) -> tuple[RungRow, ...]:
    """From the dense engine down; nothing where no ladder was measured."""
    if ladder is None:
        return ()
    medians = [words.milliseconds(seconds) for seconds in ladder.medians()]
    steps = ladder.steps()
    return (
        RungRow(ladder.rungs[0], medians[0], "", ""),
        *(RungRow(step.end, median, *_bought(step)) for step, median in zip(steps, medians[1:], strict=True)),
    )


def ladder_sentences(ladder: Ladder) -> tuple[str, ...]:
    """The whole way, how to read the steps, and the rungs that are not there."""
    whole = ladder.whole()
    ratio, word = _bought(whole)
    return (
        f"All the way from {whole.start} to {whole.end}: {ratio}, {word}. The steps multiply to it; each limit holds "
        f"at {words.level(CONFIDENCE)}.",
        "All rungs were timed in one session, in random order and back again, round by round. No gate reads them: the "
        "speed-up that is judged compares two engines of one precision.",
        *(f"The rung {name} is missing: {reason}." for name, reason in ladder.missing.items()),
    )


def machine_rows(latency: Latency) -> tuple[MachineRow, ...]:
    """Every source that answered."""
    return tuple(_machine_row(source, latency.machine[source]) for source in SOURCES if source in latency.machine)


def unknown_sources(latency: Latency) -> tuple[str, ...]:
    """What this machine, or an engine of this kind, has no sensor for."""
    return tuple(meaning for source, meaning in SOURCES.items() if source not in latency.machine)


def course(latency: Latency) -> str:
    """On how many loads of the engines and on which images they were timed, and what they came to on each sort."""
    loads = len(np.unique(latency.load_numbers))
    if latency.images is None:
        return f"Loaded {words.count(loads)} times; every call was shown the same images."
    shown = np.unique(latency.images)
    clean = int((shown < latency.clean).sum())
    told = f"Loaded {loads} times; shown {clean} batches of clean images and {len(shown) - clean} of perturbed ones"
    strata = strata_limits(latency, _SPEEDUP_CONFIDENCE)
    if len(strata) < 2:
        return f"{told}."
    found = (f"on {name} images {_ratio(limits, _SPEEDUP_CONFIDENCE).times}" for name, limits in strata.items())
    return f"{told}: {', '.join(found)} at {words.level(_SPEEDUP_CONFIDENCE)} confidence."


def disturbances(latency: Latency) -> tuple[str, ...]:
    """Each reason to mistrust a pair, and how many it concerns."""
    pairs, flags = len(latency.order), disturbed(latency.machine, latency.spikes)
    return tuple(f"{reason} in {int(hit.sum())} of {pairs} pairs" for reason, hit in flags.items())


def _bought(step: Step) -> tuple[str, str]:
    """The ratio with its limits, and in a word what they show."""
    text = Ratio(step.estimate, step.lower, step.upper, CONFIDENCE).times
    if step.lower > 1:
        return text, "faster"
    return text, "slower" if step.upper < 1 else "no difference shown"


def _time_row(label: str, calls: Calls) -> TimeRow:
    low, median, high = (float(value) for value in np.percentile(block_medians(calls), [5, 50, 95]))
    return TimeRow(label, median, low, high)


def _asked(gates: Sequence[GateResult]) -> tuple[float, float]:
    """Confidence and bound of the gate on the speed-up; without one, of no gain at all."""
    asked = [(gate.confidence, gate.bound) for gate in gates if gate.metric == "speedup"]
    return [*asked, (_SPEEDUP_CONFIDENCE, 1.0)][0]


def _ratio(limits: tuple[float, float, float], confidence: float) -> Ratio:
    estimate, lower, upper = (math.exp(value) for value in limits)
    return Ratio(estimate, lower, upper, confidence)


def _shown(found: Percentile) -> str:
    if found.estimate is None:
        return f"not carried: worth {found.worth:,.0f} independent calls of {found.needed:,}"
    return words.milliseconds(found.estimate)


def _machine_row(source: str, values: NDArray[np.float64]) -> MachineRow:
    low, median, high = (_machine_value(source, float(value)) for value in np.nanpercentile(values, [0, 50, 100]))
    return MachineRow(SOURCES[source], low, median, high)


def _machine_value(source: str, value: float) -> str:
    return words.percent(value) if source in _SHARES else f"{value:,.4g}"
