"""From timings to the speed-up's limits: by two clocks, on two sorts of images, beside the control and the hypervisor.

Each of these can only widen the limits. A machine that is shared so costs margin, and not the verdict, as long as what
it did to the times is known: by the CPU's clock of engines of one thread, and by the hypervisor's account of what it
took.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.stats import hodges_lehmann
from madx.verify.arrays import Bools
from madx.verify.noise import FEWEST_CALM, ratio_limits, steal, undisturbed, widest
from madx.verify.timings import Calls, Latency, block_medians, log_ratios

CONTROL_CONFIDENCE = 0.995
"""One-sided: a sound control excludes 1 in one measurement of a hundred."""
CONTROL_SHARE = 0.25
"""The control is sharp if its interval is narrower than this share of the gain, on the log scale."""
ACCOUNTED = ("steal", "waiting")
"""Disturbances that a second clock or a margin accounts for."""
_MORE_THAN_ONE = 1.1
"""Times the wall clock's seconds: an engine with more CPU time than that did not run on one thread."""

Limits = tuple[float, float, float]
"""(estimate, lower, upper) of a logarithm."""


@dataclass(frozen=True)
class Clock:
    """Everything that was timed, as one of the two clocks has it."""

    name: str
    sides: Sequence[Calls]
    """Four of [P, 2, C] seconds, in the order of `Latency.all_calls`."""
    calm: Bools
    """[P] pairs in which nothing disturbed this clock; where these are few, nothing that no margin accounts for."""
    alone: bool
    """Whether it was undisturbed for most of the pairs."""

    def log_ratios(self, calls: Bools | None = None) -> NDArray[np.float64]:
        """[P] ln(reference / candidate) of the block medians; of `calls` [P, 2, C] alone, of which every block has."""
        return log_ratios(*(side if calls is None else np.where(calls, side, np.nan) for side in self.sides[:2]))

    @property
    def control_log_ratios(self) -> NDArray[np.float64]:
        """[P] the same of the reference against itself."""
        return log_ratios(*self.sides[2:])


def wall_clock(latency: Latency) -> Clock:
    """What a user waits for, a neighbour's turns included."""
    return _clock("the wall clock", latency, latency.all_calls, undisturbed(latency.machine, latency.spikes))


def _clock(name: str, latency: Latency, sides: Sequence[Calls], calm: Bools) -> Clock:
    alone = bool(calm.mean() >= FEWEST_CALM)
    return Clock(name, sides, calm if alone else undisturbed(latency.machine, latency.spikes, but=ACCOUNTED), alone)


def cpu_clock(latency: Latency) -> Clock | None:
    """The engines' own time on a CPU, which stands still while they wait for one; None where it cannot be believed.

    It is taken of engines of one thread only. It must be there for every block, and must not exceed the wall clock's:
    then other threads ran too, and the sum of theirs is no time that anybody waits for.
    """
    if latency.cpu is None or not np.isfinite(latency.cpu).all():
        return None
    perturbed = latency.perturbed
    sorts = [np.ones_like(latency.reference, dtype=bool)] if perturbed is None else [perturbed, ~perturbed]
    if not all((block_medians(np.where(sort, calls, np.nan)) > 0).all() for calls in latency.cpu for sort in sorts):
        return None
    for cpu, wall in zip(latency.cpu, latency.all_calls, strict=True):
        if not cpu.sum(dtype=np.float64) <= _MORE_THAN_ONE * wall.sum(dtype=np.float64):
            return None
    calm = undisturbed(latency.machine, np.zeros(len(latency.order)), but=("waiting",))
    return _clock("CPU time", latency, tuple(latency.cpu), calm)


def clocks(latency: Latency) -> tuple[Clock, ...]:
    """Those that decide: the wall's, and the CPU's where it can be believed."""
    cpu = cpu_clock(latency)
    return (wall_clock(latency), *((cpu,) if cpu else ()))


def speedup_limits(latency: Latency, confidence: float, bound: float = 1.0) -> Limits:
    """Of ln(speed-up), as a gate with this bound judges it: on the worse images, by the more cautious clock.

    To pass, both sorts must pass. To fail, one must fail at half of the error (Bonferroni). By either clock the limit
    must be on the right side of the bound, so a verdict is wrong only where both clocks are: each limit is the more
    cautious of the two. The estimate is the wall clock's, or where that was disturbed most of the time the CPU's.
    """
    both = clocks(latency)
    found = [clock_limits(latency, clock, confidence, bound) for clock in both]
    return widest(*(found if both[0].alone else found[::-1]))


def clock_limits(latency: Latency, clock: Clock, confidence: float, bound: float = 1.0) -> Limits:
    """The same by one clock."""
    below, above = margins(latency, clock, bound)
    estimate, lower, upper = sampled_limits(latency, clock, confidence)
    return estimate, lower - below, upper + above


def sampled_limits(latency: Latency, clock: Clock, confidence: float) -> Limits:
    """The same without `margins`: what more pairs would narrow."""
    strata = strata_limits(latency, confidence, clock=clock)
    halved = strata if len(strata) < 2 else strata_limits(latency, 1 - (1 - confidence) / 2, clock=clock)
    return (
        min(estimate for estimate, _, _ in strata.values()),
        min(lower for _, lower, _ in strata.values()),
        min(upper for _, _, upper in halved.values()),
    )


def strata_limits(latency: Latency, confidence: float, *, clock: Clock | None = None) -> Mapping[str, Limits]:
    """Of ln(speed-up) on "clean" and on "perturbed" images, "all" where there is one sort; without `margins`.

    Without a clock, by the wall's.
    """
    clock, loads, perturbed = clock or wall_clock(latency), latency.load_numbers, latency.perturbed
    if perturbed is None:
        sorts = {"all": clock.log_ratios()}
    else:
        sorts = {"clean": clock.log_ratios(~perturbed), "perturbed": clock.log_ratios(perturbed)}
    return {name: ratio_limits(values, clock.calm, loads, confidence=confidence) for name, values in sorts.items()}


def margins(latency: Latency, clock: Clock, bound: float) -> tuple[float, float]:
    """How much lower and how much higher the limits of ln(speed-up) have to be, each at least 0."""
    below, above = bias(clock, bound)
    taken = stolen_margin(latency)
    return below + taken, above + taken


def stolen_margin(latency: Latency) -> float:
    """The part of both that is for what the hypervisor took.

    It may be in either engine's times, and not all systems take it out of the CPU time. A share s of the time makes a
    call longer by s / (1 - s) of itself on average, and a median over calls, which is what counts, by twice the average
    of that at most (Markov's inequality): as where a quota ends in the middle of every long call and of no short one.
    """
    shares = steal(latency.machine)
    return math.log1p(2 * float((shares / (1 - shares)).mean())) if len(shares) else 0.0


def bias(clock: Clock, bound: float) -> tuple[float, float]:
    """By how much the machine or the schedule may have favoured the candidate, and the reference.

    As far as the control's limits reach, where they exclude 1; else as far as they exceed what a sharp control leaves
    open: half of `CONTROL_SHARE` of the gain at stake, which is the measured or the required one, if that is larger.
    """
    _, lower, upper = hodges_lehmann(clock.control_log_ratios, CONTROL_CONFIDENCE)
    gain = max(abs(float(np.median(clock.log_ratios()))), abs(math.log(bound)) if bound > 0 else 0.0)
    open_at_best = 0.0 if excludes_one(clock) else CONTROL_SHARE / 2 * gain
    return max(upper - open_at_best, 0.0), max(-lower - open_at_best, 0.0)


def excludes_one(clock: Clock) -> bool:
    """Whether the control proves that one side was favoured."""
    _, lower, upper = hodges_lehmann(clock.control_log_ratios, CONTROL_CONFIDENCE)
    return lower > 0 or upper < 0


def control_limits(latency: Latency, clock: Clock | None = None) -> Limits:
    """Of ln(reference / another load of it) over the loads, at `CONTROL_CONFIDENCE`; without a clock, by the wall's."""
    values = (clock or wall_clock(latency)).control_log_ratios
    calm = np.ones(len(values), dtype=bool)
    return ratio_limits(values, calm, latency.load_numbers, confidence=CONTROL_CONFIDENCE)
