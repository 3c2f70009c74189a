"""What the timings say about speed: the speed-up of the typical call, and the ratio of the slowest in a hundred.

The speed-up is reference time / candidate time, the p99 ratio candidate / reference, as a latency promise reads.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from madx.recipe import GateConfig
from madx.stats import Percentile, hodges_lehmann, percentile
from madx.verify.arrays import known
from madx.verify.evidence import Finding
from madx.verify.latency import CONTROL_BIAS, CONTROL_CONFIDENCE, CONTROL_SHARE
from madx.verify.measurements import Measurements
from madx.verify.noise import FEWEST_CALM, disturbed, ratio_limits, undisturbed
from madx.verify.timings import Latency

_P99 = 0.99


def speedup(measured: Measurements, gate: GateConfig) -> Finding:
    """Hodges-Lehmann over the pairs; void if the control or the machine gives reason to."""
    latency = known(measured.latency, "reference engine")
    calm = undisturbed(latency.machine, latency.spikes)
    estimate, lower, upper = (_exp(value) for value in speedup_limits(latency, gate.confidence))
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls.",
            *_disturbances(latency, latency.spikes),
        ),
        method="Hodges-Lehmann, signed-rank limits",
        advice=("More seconds or pairs in verify.latency narrow the limits.",),
        void=(*_not_alone(calm), *_control_faults(latency, claimed_gain(latency, gate.bound, gate.confidence))),
    )


def p99_ratio(measured: Measurements, gate: GateConfig) -> Finding:
    """Over all pairs, with limits that hold for the undisturbed ones alone too, as those of the speed-up do.

    A neighbour's turns on the CPU are what tails are made of: here waiting flags a pair even if the medians are sound.
    """
    latency = known(measured.latency, "reference engine")
    calm = undisturbed(latency.machine, np.zeros(len(latency.order)))
    tails = [_tails(latency, np.ones_like(calm), gate.confidence)]
    if calm.any() and not calm.all():
        tails.append(_tails(latency, calm, gate.confidence))
    void = _not_alone(calm)
    if missing := [tail for tail in tails if math.isnan(tail.estimate)]:
        nothing = Finding(estimate=math.nan, lower=-math.inf, upper=math.inf, evidence=missing[0].evidence)
        return replace(nothing, advice=missing[0].advice, void=void)
    return Finding(
        estimate=tails[0].estimate,
        lower=min(tail.lower for tail in tails),
        upper=max(tail.upper for tail in tails),
        evidence=(*tails[0].evidence, *_disturbances(latency, np.zeros(len(calm)))),
        method="order statistics, Bonferroni",
        advice=("More pairs in verify.latency narrow the limits.",),
        void=void,
    )


def _tails(latency: Latency, pairs: NDArray[np.bool_], confidence: float) -> Finding:
    """The ratio over these pairs: limits of both p99s, each at half of the error, hold whatever ties the two."""
    sides = (latency.reference[pairs], latency.candidate[pairs])
    each = 1 - (1 - confidence) / 2
    reference, candidate = (percentile(calls.reshape(len(calls), -1), _P99, confidence=each) for calls in sides)
    shown = f"p99 at batch {latency.batch} ({latency.timing}): {_said(reference)} of the reference, {_said(candidate)}"
    if reference.estimate is None or candidate.estimate is None:
        needed = _pairs_needed(latency, reference, candidate)
        advice = f"More undisturbed pairs in verify.latency carry it: about {needed} would."
        return Finding(math.nan, -math.inf, math.inf, evidence=(f"{shown}.",), advice=(advice,))
    estimate = candidate.estimate / reference.estimate
    lower = candidate.lower / reference.upper if candidate.lower > 0 else -math.inf
    upper = candidate.upper / reference.lower if reference.lower > 0 else math.inf
    evidence = (
        f"{shown}: {estimate:.3f} of it, one-sided {confidence:.3g} limits {lower:.3f} and {upper:.3f} (order "
        "statistics of both, Bonferroni)."
    )
    return Finding(estimate=estimate, lower=lower, upper=upper, evidence=(evidence,))


def speedup_limits(latency: Latency, confidence: float) -> tuple[float, float, float]:
    """(estimate, lower, upper) of ln(speed-up), as the gate judges it."""
    calm = undisturbed(latency.machine, latency.spikes)
    return ratio_limits(latency.log_ratios, calm, confidence=confidence)


def claimed_gain(measured: Latency, bound: float, confidence: float) -> float:
    """|ln speed-up| that is at stake: the measured or the required one, whichever is larger.

    The required one counts so that an engine without any gain can fail its gate although its own gain is zero.
    """
    estimate, _, _ = hodges_lehmann(measured.log_ratios, confidence)
    required = abs(math.log(bound)) if bound > 0 else 0.0
    return max(abs(estimate), required)


def _control_faults(latency: Latency, gain: float) -> tuple[str, ...]:
    """The reference against itself must show 1, sharply."""
    _, lower, upper = hodges_lehmann(latency.control_log_ratios, CONTROL_CONFIDENCE)
    shown = f"{_exp(lower):.4f} to {_exp(upper):.4f}"
    faults = []
    if max(lower, -upper) > CONTROL_BIAS * gain:
        faults.append(
            f"The A/A control does not contain 1: the reference against itself is {shown} times as fast, so the "
            "machine or the schedule favours one side."
        )
    if not upper - lower < CONTROL_SHARE * gain:
        faults.append(
            f"The A/A control is too wide: the reference against itself is {shown} times as fast, wider than a quarter "
            f"of the gain at stake ({_exp(gain):.3f} times, on the log scale). Quieten the machine or give "
            "verify.latency more seconds."
        )
    return tuple(faults)


def _disturbances(latency: Latency, spikes: NDArray[np.float64]) -> tuple[str, ...]:
    """Nothing is dropped, and nothing that was disturbed goes unsaid."""
    flags = disturbed(latency.machine, spikes)
    if not flags:
        return ()
    told = "; ".join(f"{reason} in {int(hit.sum())}" for reason, hit in flags.items())
    return (f"Of {len(latency.order)} pairs some were disturbed and are counted all the same: {told}.",)


def _not_alone(calm: NDArray[np.bool_]) -> tuple[str, ...]:
    """A machine that was disturbed most of the time has no quiet pairs to compare the disturbed ones with."""
    if calm.mean() >= FEWEST_CALM:
        return ()
    return (
        f"The machine was disturbed in {int((~calm).sum())} of {len(calm)} pairs: what was timed is these engines and "
        "their neighbours. Quieten the machine and measure again.",
    )


def _said(value: Percentile) -> str:
    if value.estimate is not None:
        return f"{1000 * value.estimate:.3g} ms"
    return (
        f"not carried ({value.calls:,} calls are worth {value.worth:,.0f} independent ones, and a p99 needs "
        f"{value.needed:,})"
    )


def _pairs_needed(latency: Latency, *sides: Percentile) -> int | str:
    """If the calls stay as alike as they are."""
    worth = min(side.worth for side in sides)
    return math.ceil(len(latency.order) * sides[0].needed / worth) if worth > 0 else "many times as many"


def _exp(value: float) -> float:
    """Exp that knows what to do with a limit that does not exist."""
    return math.exp(value) if math.isfinite(value) else value
