"""What the timings say about the slowest call in a hundred: the p99s and their ratio, candidate / reference."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from madx.recipe import GateConfig
from madx.stats import Percentile
from madx.verify.arrays import known
from madx.verify.evidence import Finding
from madx.verify.measurements import Measurements
from madx.verify.noise import not_alone, told, undisturbed
from madx.verify.speed import CONTROL_BIAS, DECIDE, biased, latency_doubts
from madx.verify.speed_limits import CONTROL_CONFIDENCE, wall_clock
from madx.verify.tails import Tail, pairs_advice, pairs_to_carry, pairs_to_decide, tail
from madx.verify.timings import Latency


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
    tolerated = CONTROL_BIAS * max(abs(math.log(limits[0])), abs(math.log(gate.bound)))
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
        advice=(pairs_advice(latency, wanted, end=DECIDE),),
        wanted_pairs=wanted,
        doubts=latency_doubts(latency),
        void=(
            *not_alone(calm),
            *biased(latency, wall_clock(latency), tolerated),
            *_biased_tail(control),
        ),
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
