"""What the measurements say about one metric: estimate, one-sided limits, and reasons to distrust them.

One function per metric of `GateConfig`, in a table. Drops, accuracies and flips are shares of the images; the speed-up
is reference time / candidate time; the size ratio is candidate bytes / reference bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from madx.recipe import GateConfig
from madx.stats import clopper_pearson, hodges_lehmann, planned_images, tango_interval
from madx.verify.arrays import Bools, known
from madx.verify.latency import CONTROL_BIAS, CONTROL_CONFIDENCE, CONTROL_SHARE
from madx.verify.measurements import Latency, Measurements

PLANNED_POWER = 0.8
"""Chance of a decision that the advice on more images aims at."""

CHANCE_CONFIDENCE = 0.95
"""One-sided, that the reference knows more than the most frequent class."""
TWIN_FLIPS = 0.01
"""Share of images on which an engine may disagree with its twin before examples made on the twin say too little."""


@dataclass(frozen=True)
class Finding:
    """The numbers of one metric, before they meet the bound."""

    estimate: float
    lower: float
    """-inf if the data give no limit."""
    upper: float
    """inf if the data give no limit."""
    evidence: tuple[str, ...]
    advice: tuple[str, ...] = ()
    """What would decide an undecided gate."""
    doubts: tuple[str, ...] = ()
    """Reasons why this gate must not pass; it may still fail."""
    void: tuple[str, ...] = ()
    """Reasons why the numbers decide nothing either way."""


def finding(measured: Measurements, gate: GateConfig) -> Finding:
    """The finding on the gate's metric, with limits at the gate's confidence."""
    return _METRICS[gate.metric](measured, gate)


def discordant(reference: Bools, candidate: Bools) -> tuple[int, int]:
    """(lost, gained): images that only the reference gets right, and that only the candidate does."""
    return int((reference & ~candidate).sum()), int((~reference & candidate).sum())


def claimed_gain(measured: Latency, bound: float, confidence: float) -> float:
    """|ln speed-up| that is at stake: the measured or the required one, whichever is larger.

    The required one counts so that an engine without any gain can fail its gate although its own gain is zero.
    """
    estimate, _, _ = hodges_lehmann(measured.log_ratios, confidence)
    required = abs(math.log(bound)) if bound > 0 else 0.0
    return max(abs(estimate), required)


def _speedup(measured: Measurements, gate: GateConfig) -> Finding:
    latency = known(measured.latency, "reference engine")
    estimate, lower, upper = (_exp(value) for value in hodges_lehmann(latency.log_ratios, gate.confidence))
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"{estimate:.3f} times as fast at batch {latency.batch} ({latency.timing}), one-sided "
            f"{gate.confidence:.3g} limits {lower:.3f} and {upper:.3f}: Hodges-Lehmann over {len(latency.order)} "
            f"interleaved pairs of blocks of {latency.calls} calls.",
        ),
        advice=("More seconds or pairs in verify.latency narrow the limits.",),
        void=_control_faults(latency, claimed_gain(latency, gate.bound, gate.confidence)),
    )


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


def _robust_drop(measured: Measurements, gate: GateConfig) -> Finding:
    accuracy = measured.accuracy
    return _drop(
        accuracy.robust_reference, accuracy.robust_candidate, gate, word="robust", doubts=_doubts(measured, "robust")
    )


def _clean_drop(measured: Measurements, gate: GateConfig) -> Finding:
    accuracy = measured.accuracy
    return _drop(
        known(accuracy.clean_reference, "reference engine"),
        accuracy.clean_candidate,
        gate,
        word="correct",
        doubts=_doubts(measured, "correct"),
    )


def _drop(reference: Bools, candidate: Bools, gate: GateConfig, *, word: str, doubts: tuple[str, ...]) -> Finding:
    n, (lost, gained) = len(reference), discordant(reference, candidate)
    lower, upper = tango_interval(n, lost, gained, confidence=gate.confidence)
    estimate = (lost - gained) / n
    return Finding(
        estimate=estimate,
        lower=lower,
        upper=upper,
        evidence=(
            f"Of {n} images the reference engine has {int(reference.sum())} {word} and this one "
            f"{int(candidate.sum())}: {lost} lost, {gained} gained, a drop of {_points(estimate)}; one-sided "
            f"{gate.confidence:.3g} limits {_points(lower)} and {_points(upper)} (Tango's score test).",
        ),
        advice=(_more_images(n, lost + gained, abs(gate.bound - estimate), gate.confidence),),
        doubts=(*doubts, *_nothing_to_lose(reference, gate.bound, word)),
    )


def _more_images(n: int, discordant_images: int, distance: float, confidence: float) -> str:
    """An image that differs is assumed even where none was seen, or no image would seem to be needed."""
    if distance == 0:
        return "The estimate lies on the bound itself: no number of images would decide it."
    discordance = max(discordant_images, 1) / n
    needed = planned_images(discordance, distance, alpha=1 - confidence, power=PLANNED_POWER)
    more = max(needed - n, 1)
    return (
        f"If the rates stay as they are, about {n + more} images, {more} more than were measured, would decide it "
        f"with a chance of {PLANNED_POWER:.0%}."
    )


def _nothing_to_lose(reference: Bools, bound: float, word: str) -> tuple[str, ...]:
    """A drop cannot exceed what there is: a gate that cannot fail is no gate."""
    share = float(reference.mean())
    if share > bound:
        return ()
    return (
        f"The reference has only {_points(share)} {word}, no more than the drop allowed: the gate could not fail, so "
        "it shows nothing.",
    )


def _robust_accuracy(measured: Measurements, gate: GateConfig) -> Finding:
    return _share(measured.accuracy.robust_candidate, gate, word="robust", doubts=_contract_doubts(measured))


def _clean_accuracy(measured: Measurements, gate: GateConfig) -> Finding:
    return _share(measured.accuracy.clean_candidate, gate, word="correct", doubts=_contract_doubts(measured))


def _parity_flips(measured: Measurements, gate: GateConfig) -> Finding:
    """The worse of the two engines: a comparison is as good as the worse of its sides."""
    name, worse = max(measured.parity.sides.items(), key=lambda item: float(item[1].flips.mean()))
    word = f"labelled otherwise than by the torch twin, clean or adversarial, on the worse ({name}) engine"
    return _share(worse.flips, gate, word=word, doubts=())


def _share(hits: Bools, gate: GateConfig, *, word: str, doubts: tuple[str, ...]) -> Finding:
    n, count = len(hits), int(hits.sum())
    lower, upper = clopper_pearson(count, n, confidence=gate.confidence)
    return Finding(
        estimate=count / n,
        lower=lower,
        upper=upper,
        evidence=(
            f"{count} of {n} images ({count / n:.2%}) {word}; one-sided {gate.confidence:.3g} limits {lower:.2%} and "
            f"{upper:.2%} (Clopper-Pearson).",
        ),
        advice=("More images narrow the limits.",),
        doubts=doubts,
    )


def _size_ratio(measured: Measurements, _gate: GateConfig) -> Finding:
    """Files are counted, not sampled: the limits are the estimate."""
    sizes = measured.sizes
    reference = known(sizes.reference, "reference engine")
    ratio = sizes.candidate / reference
    evidence = f"{sizes.candidate:,} bytes against {reference:,} of the reference: {ratio:.3f} of its size."
    return Finding(estimate=ratio, lower=ratio, upper=ratio, evidence=(evidence,))


def _doubts(measured: Measurements, word: str) -> tuple[str, ...]:
    """Of a drop: the contract's, and a reference that knows no more than which class is the most frequent."""
    accuracy = measured.accuracy
    clean = known(accuracy.clean_reference, "reference engine")
    right = accuracy.robust_reference if word == "robust" else clean
    chance = float(np.bincount(accuracy.labels).max()) / accuracy.images
    lower, _ = clopper_pearson(int(right.sum()), accuracy.images, confidence=CHANCE_CONFIDENCE)
    if lower > chance:
        return _contract_doubts(measured)
    return (
        *_contract_doubts(measured),
        f"The reference has {right.mean():.1%} {word}; answering the most frequent class every time would have "
        f"{chance:.1%}. There is nothing to keep: are these its weights, its classes, its scale of images?",
    )


def _contract_doubts(measured: Measurements) -> tuple[str, ...]:
    """An engine that breaks its contract, or is not its twin, has no accuracy that deserves the name."""
    sides = measured.parity.sides
    broken = [
        f"The {name} engine breaks its contract: {sentence}."
        for name, side in sides.items()
        for sentence in side.violations
    ]
    strange = [
        f"The {name} engine labels {int(side.flips.sum())} of {side.images} images otherwise than the torch twin that "
        "the adversarial examples were made on, so these examples do not attack the engine."
        for name, side in sides.items()
        if side.images and float(side.flips.mean()) > TWIN_FLIPS
    ]
    return (*broken, *strange)


def _points(share: float) -> str:
    """Shares of images in points, as papers print them."""
    return f"{100 * share:.2f} points"


def _exp(value: float) -> float:
    """Exp that knows what to do with a limit that does not exist."""
    return math.exp(value) if math.isfinite(value) else value


_METRICS: dict[str, Callable[[Measurements, GateConfig], Finding]] = {
    "speedup": _speedup,
    "robust_drop": _robust_drop,
    "clean_drop": _clean_drop,
    "robust_accuracy": _robust_accuracy,
    "clean_accuracy": _clean_accuracy,
    "parity_flips": _parity_flips,
    "size_ratio": _size_ratio,
}
