"""What the timings say about speed: the speed-up of the typical call, and the ratio of the slowest in a hundred.

The speed-up is reference time / candidate time, the p99 ratio candidate / reference, as a latency promise reads.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from madx.recipe import GateConfig
from madx.stats import Percentile, hodges_lehmann
from madx.verify.arrays import known
from madx.verify.evidence import Finding
from madx.verify.latency import CONTROL_BIAS, CONTROL_CONFIDENCE, CONTROL_SHARE
from madx.verify.limits import PLANNED_POWER
from madx.verify.measurements import Measurements
from madx.verify.noise import not_alone, ratio_limits, told, undisturbed
from madx.verify.tails import Tail, pairs_advice, pairs_to_carry, pairs_to_decide, tail
from madx.verify.timings import Latency

_DECIDE = f"decide it with a chance of {PLANNED_POWER:.0%}"


def speedup(measured: Measurements, gate: GateConfig) -> Finding:
    """`speedup_found` on what was timed."""
    return speedup_found(known(measured.latency, "reference engine"), gate)


def speedup_found(latency: Latency, gate: GateConfig) -> Finding:
    """Hodges-Lehmann over the pairs; void if the control or the machine gives reason to."""
    calm = undisturbed(latency.machine, latency.spikes)
    gain = claimed_gain(latency, gate.bound, gate.confidence)
    estimate, lower, upper = limits = _exp(*speedup_limits(latency, gate.confidence))
    wanted = pairs_to_decide(len(latency.order), limits, gate.bound, alpha=1 - gate.confidence)
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls.",
            *told(latency.machine, latency.spikes),
        ),
        method="Hodges-Lehmann, signed-rank limits",
        advice=(pairs_advice(latency, wanted, end=_DECIDE),),
        wanted_pairs=wanted,
        void=(*not_alone(calm), *_biased(latency, gain), *_blunt(latency, gain)),
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
            *told(latency.machine, no_spikes),
        ),
        method="order statistics, Bonferroni",
        advice=(pairs_advice(latency, wanted, end=_DECIDE),),
        wanted_pairs=wanted,
        void=(*not_alone(calm), *_biased(latency, _stake(limits[0], gate.bound)), *_biased_tail(control)),
    )


def speedup_limits(latency: Latency, confidence: float) -> tuple[float, float, float]:
    """(estimate, lower, upper) of ln(speed-up), as the gate judges it."""
    calm = undisturbed(latency.machine, latency.spikes)
    return ratio_limits(latency.log_ratios, calm, confidence=confidence)


def claimed_gain(measured: Latency, bound: float, confidence: float) -> float:
    """|ln speed-up| that is at stake: the measured or the required one, whichever is larger.

    The required one counts so that an engine without any gain can fail its gate although its own gain is zero.
    """
    estimate, _, _ = hodges_lehmann(measured.log_ratios, confidence)
    return _stake(math.exp(estimate), bound)


def _stake(ratio: float, bound: float) -> float:
    """The larger of the two on the log scale."""
    return max(abs(math.log(ratio)), abs(math.log(bound)) if bound > 0 else 0.0)


def _biased(latency: Latency, gain: float) -> tuple[str, ...]:
    """The reference against itself must show 1."""
    lower, upper = _control_limits(latency)
    if max(lower, -upper) <= CONTROL_BIAS * gain:
        return ()
    return (
        f"The A/A control does not contain 1: the reference against itself is {_range(lower, upper)} times as fast, so "
        "the machine or the schedule favours one side.",
    )


def _blunt(latency: Latency, gain: float) -> tuple[str, ...]:
    """And it must show it sharply, or a bias as large as the gain could hide in it."""
    lower, upper = _control_limits(latency)
    if upper - lower < CONTROL_SHARE * gain:
        return ()
    return (
        f"The A/A control is too wide: the reference against itself is {_range(lower, upper)} times as fast, wider "
        f"than a quarter of the gain at stake ({math.exp(gain):.3f} times, on the log scale). Quieten the machine or "
        "give verify.latency more seconds.",
    )


def _control_limits(latency: Latency) -> tuple[float, float]:
    _, lower, upper = hodges_lehmann(latency.control_log_ratios, CONTROL_CONFIDENCE)
    return lower, upper


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
    _, low, high = _exp(0.0, lower, upper)
    return f"{low:.4f} to {high:.4f}"


def _exp(estimate: float, lower: float, upper: float) -> tuple[float, float, float]:
    """Exp that knows what to do with a limit that does not exist."""
    low, high = (math.exp(limit) if math.isfinite(limit) else limit for limit in (lower, upper))
    return math.exp(estimate), low, high
