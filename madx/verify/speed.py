"""What the timings say about speed: the speed-up of the typical call, and the ratio of the slowest in a hundred.

The speed-up is reference time / candidate time, the p99 ratio candidate / reference, as a latency promise reads.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from madx.recipe import GateConfig
from madx.stats import Percentile
from madx.verify.arrays import known
from madx.verify.evidence import Finding
from madx.verify.image_times import dependence
from madx.verify.limits import PLANNED_POWER
from madx.verify.measurements import Measurements
from madx.verify.noise import not_alone, steal, told, undisturbed
from madx.verify.remedies import Doubt, Remedy
from madx.verify.speed_limits import (
    CONTROL_CONFIDENCE,
    Clock,
    bias,
    clock_limits,
    clocks,
    control_limits,
    cpu_clock,
    speedup_limits,
    strata_limits,
    wall_clock,
)
from madx.verify.tails import Tail, pairs_advice, pairs_to_carry, pairs_to_decide, tail
from madx.verify.timings import Latency

CONTROL_BIAS = 0.01
"""The control's interval may miss 1 by this share of the gain: with thousands of blocks a difference far too small to
move a verdict is significant too."""
_ONE_THREAD = (
    "Engines of one thread (threads: 1 in export.engines) are held to their CPU time as well, which stands still while "
    "a neighbour runs: that would decide."
)
_DECIDE = f"decide it with a chance of {PLANNED_POWER:.0%}"


def speedup(measured: Measurements, gate: GateConfig) -> Finding:
    """`speedup_found` on what was timed."""
    return speedup_found(known(measured.latency, "reference engine"), gate)


def speedup_found(latency: Latency, gate: GateConfig) -> Finding:
    """Hodges-Lehmann over the pairs, by every clock that counts; void if the control or the machine gives reason to."""
    estimate, lower, upper = limits = _exp(*speedup_limits(latency, gate.confidence, gate.bound))
    loads = len(np.unique(latency.load_numbers))
    at_stake = abs(math.log(gate.bound)) if gate.bound > 0 else 0.0
    biased = chain.from_iterable(_biased(latency, clock, at_stake) for clock in clocks(latency))
    wanted = pairs_to_decide(len(latency.order), limits, gate.bound, alpha=1 - gate.confidence)
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls, and Student's t over {loads} loads of the engines.",
            *_strata_said(latency, gate.confidence),
            *_clocks_said(latency, gate),
            *latency.facts.get("remarks", ()),
            *told(latency.machine, latency.spikes),
        ),
        method="Hodges-Lehmann, signed-rank limits, t over loads",
        advice=(pairs_advice(latency, wanted, end=_DECIDE),),
        wanted_pairs=wanted,
        doubts=image_doubts(latency),
        void=(*_unaccounted(latency), *biased),
    )


def p99_ratio(measured: Measurements, gate: GateConfig) -> Finding:
    """`p99_found` on what was timed."""
    return p99_found(known(measured.latency, "reference engine"), gate)


def p99_found(latency: Latency, gate: GateConfig) -> Finding:
    """Over all pairs, with limits that hold for the undisturbed ones alone too, as those of the speed-up do.

    A neighbour's turns on the CPU are what tails are made of: here waiting flags a pair even if the medians are sound.
    Void if the reference's own p99s show that one side is favoured, or its medians do.
    """
    no_spikes = np.zeros(len(latency.order))
    calm = undisturbed(latency.machine, no_spikes)
    sides = latency.reference, latency.candidate
    tails = [tail(*sides, gate.confidence)]
    if calm.any() and not calm.all():
        tails.append(tail(*sides, gate.confidence, pairs=calm))
    control = tail(latency.control_a, latency.control_b, CONTROL_CONFIDENCE)
    if any(not found.carried for found in (*tails, control)):
        return _not_carried(latency, tails, control, void=not_alone(calm))
    limits = _widest(tails)
    wanted = pairs_to_decide(len(latency.order), limits, gate.bound, alpha=(1 - gate.confidence) / 2)
    return Finding(
        *limits,
        evidence=(
            _tail_sentence(latency, tails[0], gate.confidence),
            _control_sentence(control),
            *latency.facts.get("remarks", ()),
            *told(latency.machine, no_spikes),
        ),
        method="order statistics, Bonferroni",
        advice=(pairs_advice(latency, wanted, end=_DECIDE),),
        wanted_pairs=wanted,
        doubts=image_doubts(latency),
        void=(*not_alone(calm), *_biased(latency, wall_clock(latency), 0.0), *_biased_tail(control)),
    )


def image_doubts(latency: Latency) -> tuple[str, ...]:
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
    return (f"{' and '.join(told)}; the worse one decides, to fail at half of the error.",)


def _clocks_said(latency: Latency, gate: GateConfig) -> tuple[str, ...]:
    """What the two clocks came to, and what the limits were widened by."""
    both, said = clocks(latency), []
    if len(both) > 1:
        found = {clock.name: _exp(*clock_limits(latency, clock, gate.confidence, gate.bound)) for clock in both}
        each = (f"{estimate:.3f} ({low:.3f} to {high:.3f}) by {name}" for name, (estimate, low, high) in found.items())
        said.append(f"{' and '.join(each)}: the more cautious limits decide.")
    for clock in both:
        if any(open_to := bias(clock, gate.bound)):
            said.append(f"They are wider by what the A/A control leaves open by {clock.name}: {_up_to(open_to)}.")
    if taken := steal(latency.machine):
        said.append(f"They are wider by what the hypervisor took: {taken:.1%} of the time.")
    return tuple(said)


def _up_to(reach: tuple[float, float]) -> str:
    if not all(map(math.isfinite, reach)):
        return "anything, so few are the pairs"
    below, above = (math.expm1(value) for value in reach)
    return f"{below:.1%} in favour of the candidate and {above:.1%} in favour of the reference"


def _unaccounted(latency: Latency) -> tuple[str, ...]:
    """Why a machine that was disturbed most of the time in a way that no clock and no margin accounts for voids it."""
    covered = ("steal", "waiting") if cpu_clock(latency) else ("steal",)
    if not (void := not_alone(undisturbed(latency.machine, latency.spikes, but=covered))):
        return ()
    several = [facts.get("intra_op_threads") or facts.get("threads") for facts in _engine_facts(latency)]
    if any(threads and threads > 1 for threads in several) and "waiting" not in covered:
        return tuple(f"{sentence} {_ONE_THREAD}" for sentence in void)
    return void


def _engine_facts(latency: Latency) -> list[Mapping[str, Any]]:
    return [latency.facts.get(side, {}) for side in ("reference", "candidate")]


def _biased(latency: Latency, clock: Clock, tolerated: float) -> tuple[str, ...]:
    """The reference against itself must show 1, or miss it by no more than is tolerated, a logarithm."""
    _, lower, upper = control_limits(latency, clock)
    if max(lower, -upper) <= max(tolerated, CONTROL_BIAS * abs(clock_limits(latency, clock, CONTROL_CONFIDENCE)[0])):
        return ()
    return (
        f"The A/A control does not contain 1: by {clock.name} the reference against itself is {_range(lower, upper)} "
        "times as fast, so the machine or the schedule favours one side.",
    )


def _biased_tail(control: Tail) -> tuple[str, ...]:
    """The reference's p99 against itself must contain 1: what strikes the slow calls of one side shows in no median."""
    _, lower, upper = control.limits
    if lower <= 1 <= upper:
        return ()
    return (
        f"The A/A control of the p99 does not contain 1: the reference's p99 is {lower:.3f} to {upper:.3f} of its own, "
        "so the machine or the schedule favours one side in the tail.",
    )


def _widest(tails: list[Tail]) -> tuple[float, float, float]:
    """The estimate over all pairs, and the more cautious limits."""
    limits = [found.limits for found in tails]
    return limits[0][0], min(lower for _, lower, _ in limits), max(upper for _, _, upper in limits)


def _not_carried(latency: Latency, tails: list[Tail], control: Tail, *, void: tuple[str, ...]) -> Finding:
    """No ratio; which of the p99s was the trouble, and about how many pairs would carry all of them."""
    lacking = next((found for found in tails if not found.carried), None)
    if lacking is None:
        said = f"the reference's against itself, the A/A control: {_said(control.a)} and {_said(control.b)}"
    else:
        said = f"{_said(lacking.a)} of the reference, {_said(lacking.b)}"
    wanted = pairs_to_carry(len(latency.order), *tails, control)
    if wanted is None:
        advice = "More undisturbed pairs in verify.latency carry it: many times as many."
    else:
        advice = pairs_advice(latency, wanted, end="carry it, as far as they are undisturbed")
    evidence = f"p99 at batch {latency.batch} ({latency.timing}): {said}."
    nothing = Finding(math.nan, -math.inf, math.inf, evidence=(evidence,))
    return replace(nothing, advice=(advice,), wanted_pairs=wanted, void=void)


def _tail_sentence(latency: Latency, found: Tail, confidence: float) -> str:
    estimate, lower, upper = found.limits
    return (
        f"p99 at batch {latency.batch} ({latency.timing}): {_said(found.a)} of the reference, {_said(found.b)}: "
        f"{estimate:.3f} of it, one-sided {confidence:.3g} limits {lower:.3f} and {upper:.3f} (order statistics of "
        "both, Bonferroni)."
    )


def _control_sentence(control: Tail) -> str:
    estimate, lower, upper = control.limits
    return (
        f"A/A control: the reference's p99 against itself is {estimate:.3f}, limits {lower:.3f} and {upper:.3f}; a "
        "bias of the tail within these would go unseen."
    )


def _said(value: Percentile) -> str:
    if value.estimate is not None:
        return f"{1000 * value.estimate:.3g} ms"
    return (
        f"not carried ({value.calls:,} calls are worth {value.worth:,.0f} independent ones, and a p99 needs "
        f"{value.needed:,})"
    )


def _range(lower: float, upper: float) -> str:
    return f"{math.exp(lower):.4f} to {math.exp(upper):.4f}"


def _exp(estimate: float, lower: float, upper: float) -> tuple[float, float, float]:
    """Exp that knows what to do with a limit that does not exist."""
    low, high = (math.exp(limit) if math.isfinite(limit) else limit for limit in (lower, upper))
    return math.exp(estimate), low, high
