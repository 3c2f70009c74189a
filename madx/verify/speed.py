"""What the timings say about the speed-up of the typical call: reference time / candidate time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from madx.recipe import GateConfig
from madx.verify.arrays import known
from madx.verify.evidence import Finding
from madx.verify.image_times import dependence
from madx.verify.limits import PLANNED_POWER
from madx.verify.measurements import Measurements
from madx.verify.noise import not_alone, steal, told, undisturbed
from madx.verify.remedies import Doubt, Remedy
from madx.verify.speed_limits import (
    ACCOUNTED,
    Clock,
    bias,
    clock_limits,
    clocks,
    control_limits,
    cpu_clock,
    excludes_one,
    margins,
    sampled_limits,
    speedup_limits,
    stolen_margin,
    strata_limits,
)
from madx.verify.tails import pairs_advice, pairs_to_decide
from madx.verify.timings import Latency

CONTROL_BIAS = 0.01
"""The control's interval may miss 1 by this share of the gain: with thousands of blocks a difference far too small to
move a verdict is significant too."""
_ONE_THREAD = (
    "Engines of one thread (threads: 1 in export.engines) are held to their CPU time as well, which stands still while "
    "a neighbour runs: that would decide."
)
_MARGIN = (
    "More pairs would not decide it: the bound is closer to the estimate than what the machine leaves open, by which "
    "the limits are wider. Quieten the machine and time again."
)
_CONTROL = (
    "The A/A control leaves more open than the bound is away. More pairs (verify.latency.pairs) narrow it too; how "
    "many it takes cannot be said."
)
_OPPOSITE = (
    "More pairs would not decide it: the wall clock and the CPU time lie on either side of the bound, so the machine "
    "cost one engine more than the other. Quieten it and time again."
)
DECIDE = f"decide it with a chance of {PLANNED_POWER:.0%}"


def speedup(measured: Measurements, gate: GateConfig) -> Finding:
    """`speedup_found` on what was timed."""
    return speedup_found(known(measured.latency, "reference engine"), gate)


def speedup_found(latency: Latency, gate: GateConfig) -> Finding:
    """Hodges-Lehmann over the pairs, by every clock that counts; void if the control or the machine gives reason to."""
    estimate, lower, upper = _exp(*speedup_limits(latency, gate.confidence, gate.bound))
    both, loads = clocks(latency), len(np.unique(latency.load_numbers))
    wanted, advice = _advice(latency, gate)
    tolerated = max(abs(math.log(gate.bound)), CONTROL_BIAS * abs(math.log(estimate)))
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls, and Student's t over {loads} loads of the engines.",
            *_strata_said(latency, gate.confidence),
            *_clocks_said(latency, both, gate),
            *latency.facts.get("remarks", ()),
            *told(latency.machine, latency.spikes),
        ),
        method="Hodges-Lehmann, signed-rank limits, t over loads",
        advice=(advice,),
        wanted_pairs=wanted,
        doubts=latency_doubts(latency),
        void=(
            *_unaccounted(latency),
            *chain.from_iterable(biased(latency, clock, tolerated) for clock in both),
        ),
    )


def _advice(latency: Latency, gate: GateConfig) -> tuple[int | None, str]:
    """How many pairs would decide the gate by either clock, and what to say of that.

    Only what is sampled narrows with more pairs: the bound is as far off as the margins leave it.
    """
    bound, wanted, above_it = math.log(gate.bound), [], set()
    for clock in clocks(latency):
        limits = sampled_limits(latency, clock, gate.confidence)
        above_it.add(side := limits[0] > bound)
        margin = margins(latency, clock, gate.bound)[not side]
        fixed = margin if excludes_one(clock) else stolen_margin(latency)
        room = abs(limits[0] - bound)
        if fixed >= room:
            return None, Doubt(_MARGIN, Remedy.QUIETER_MACHINE)
        if margin >= room:
            return None, _CONTROL
        needed = bound + (margin if side else -margin)
        wanted.append(pairs_to_decide(len(latency.order), _exp(*limits), math.exp(needed), alpha=1 - gate.confidence))
    if len(above_it) > 1:
        return None, Doubt(_OPPOSITE, Remedy.QUIETER_MACHINE)
    most = max((pairs for pairs in wanted if pairs), default=None) if all(wanted) else None
    return most, pairs_advice(latency, most, end=DECIDE)


def latency_doubts(latency: Latency) -> tuple[Doubt, ...]:
    """Why a time may not be what is asked for: of other images, or of a reference that its number type makes slow."""
    recorded: Mapping[str, str] = latency.facts.get("doubts", {})
    return (*image_doubts(latency), *(Doubt(sentence, Remedy(remedy)) for sentence, remedy in recorded.items()))


def image_doubts(latency: Latency) -> tuple[Doubt, ...]:
    """An engine that is fast for some images is as fast as the images that it was timed on, and nobody serves those."""
    found = []
    for name, calls in (("reference", latency.reference), ("candidate", latency.candidate)):
        if (depends := dependence(latency, calls)) is not None:
            found.append(
                f"The time of the {name} engine depends on the image: from {depends.fastest:.2f} to "
                f"{depends.slowest:.2f} times its typical call, batch by batch, far beyond chance. What it will take "
                "for the images that it serves is not known from these."
            )
    return tuple(Doubt(sentence, Remedy.MEND_ENGINE) for sentence in found)


def _strata_said(latency: Latency, confidence: float) -> tuple[str, ...]:
    strata = {name: _exp(*limits) for name, limits in strata_limits(latency, confidence).items()}
    if len(strata) < 2:
        return ()
    told = (f"{estimate:.3f} (at least {lower:.3f}) on {name} images" for name, (estimate, lower, _) in strata.items())
    return (f"{' and '.join(told)}; the worse one decides, to fail at half of the error. This is by the wall clock.",)


def _clocks_said(latency: Latency, both: Sequence[Clock], gate: GateConfig) -> tuple[str, ...]:
    """What the two clocks came to, and what the limits were widened by."""
    said = []
    if len(both) > 1:
        found = {clock.name: _exp(*clock_limits(latency, clock, gate.confidence, gate.bound)) for clock in both}
        each = (f"{estimate:.3f} ({low:.3f} to {high:.3f}) by {name}" for name, (estimate, low, high) in found.items())
        said.append(f"{' and '.join(each)}: the more cautious limits decide.")
    elif latency.cpu is not None:
        said.append("The CPU time is not that of one thread, or is missing of some blocks, and does not count.")
    for clock in both:
        if any(open_to := bias(clock, gate.bound)):
            said.append(f"They are wider by what the A/A control leaves open by {clock.name}: {_up_to(open_to)}.")
    if stolen_margin(latency):
        taken = float(steal(latency.machine).mean())
        said.append(f"They are wider by what the hypervisor took, {taken:.1%} of the time, and its turns may hide.")
    return tuple(said)


def _up_to(reach: tuple[float, float]) -> str:
    if not all(map(math.isfinite, reach)):
        return "anything, so few are the pairs"
    below, above = (math.expm1(value) for value in reach)
    return f"{below:.1%} in favour of the candidate and {above:.1%} in favour of the reference"


def _unaccounted(latency: Latency) -> tuple[str, ...]:
    """Why a machine that was disturbed most of the time in a way that no clock and no margin accounts for voids it."""
    of_others = undisturbed(latency.machine, latency.spikes, but=ACCOUNTED)
    if cpu_clock(latency) or not_alone(of_others):
        return not_alone(of_others)
    void = not_alone(undisturbed(latency.machine, latency.spikes))
    several = [facts.get("intra_op_threads", facts.get("threads")) for facts in _engine_facts(latency)]
    if any(isinstance(threads, int) and threads > 1 for threads in several):
        return tuple(f"{sentence} {_ONE_THREAD}" for sentence in void)
    return void


def _engine_facts(latency: Latency) -> list[Mapping[str, Any]]:
    return [latency.facts.get(side, {}) for side in ("reference", "candidate")]


def biased(latency: Latency, clock: Clock, tolerated: float) -> tuple[str, ...]:
    """The reference against itself must show 1, or miss it by no more than is tolerated, a logarithm."""
    _, lower, upper = control_limits(latency, clock)
    if max(lower, -upper) <= tolerated:
        return ()
    return (
        f"The A/A control does not contain 1: by {clock.name} the reference against itself is {_range(lower, upper)} "
        "times as fast, so the machine or the schedule favours one side.",
    )


def _range(lower: float, upper: float) -> str:
    return f"{math.exp(lower):.4f} to {math.exp(upper):.4f}"


def _exp(estimate: float, lower: float, upper: float) -> tuple[float, float, float]:
    """Exp that knows what to do with a limit that does not exist."""
    low, high = (math.exp(limit) if math.isfinite(limit) else limit for limit in (lower, upper))
    return math.exp(estimate), low, high
