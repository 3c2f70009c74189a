"""Findings on the metrics over images: drops, accuracies, retention and the worst class, from `Accuracy` alone.

One function per metric, in a table. Drops and accuracies are shares of the images; the retention is the share of the
reference's robust accuracy that the candidate has. `sequential` says which limits: see `madx.verify.limits`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from madx.recipe import METRICS, GateConfig
from madx.stats import clopper_pearson, planned_shares
from madx.verify.arrays import Bools, known
from madx.verify.class_findings import worst_class_drop
from madx.verify.evidence import Finding, points
from madx.verify.limits import (
    PLANNED_POWER,
    Limits,
    discordant,
    drop_limits,
    images_advice,
    more_images,
    retention_limits,
    share_limits,
)
from madx.verify.measurements import Accuracy

CHANCE_CONFIDENCE = 0.95
"""One-sided, that the reference knows more than the most frequent class, and has some robustness to keep."""
NO_ROBUSTNESS = 0.05
"""A reference whose robust accuracy is not clearly above this has nothing to keep, however many classes there are."""


def over_images(accuracy: Accuracy, gate: GateConfig, *, sequential: bool) -> Finding:
    """The finding on a metric over the gate's images; what else was measured may add doubts."""
    if gate.about.find is None:
        return _METRICS[gate.metric](accuracy, gate, sequential)
    with METRICS.blamed(gate.metric):
        found = gate.about.find(accuracy, gate, sequential)
        if not isinstance(found, Finding):
            raise TypeError(f"`find` gave {type(found).__name__}, expected madx.verify.evidence.Finding")
        return found


def share_finding(hits: Bools, gate: GateConfig, *, word: str, sequential: bool) -> Finding:
    """A plain share of images against its bound."""
    n, count = len(hits), int(hits.sum())
    limits = share_limits(hits, gate, sequential=sequential)
    share = (count + 0.5) / (n + 1)  # no hit at all does not mean no variance
    if sequential or not 0 < gate.bound < 1 or share == gate.bound:
        more = _more(n, gate, variance=share * (1 - share), distance=gate.bound - count / n, sequential=sequential)
    else:
        more = max(planned_shares(share, gate.bound, alpha=1 - gate.confidence, power=PLANNED_POWER) - n, 1)
    evidence = (
        f"{count} of {n} images ({count / n:.2%}) {word}; one-sided {gate.confidence:.3g} limits "
        f"{limits.lower:.2%} and {limits.upper:.2%} ({limits.method})."
    )
    return _limited(count / n, limits, evidence=evidence, images=n, more=more, sequential=sequential)


def _robust_drop(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    doubts = _robust_doubts(accuracy)
    found = _drop(accuracy.robust_reference, accuracy.robust_candidate, gate, word="robust", sequential=sequential)
    return replace(found, doubts=(*doubts, *found.doubts))


def _clean_drop(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    reference = known(accuracy.clean_reference, "reference engine")
    doubts = _chance_doubts(reference, accuracy, "correct")
    found = _drop(reference, accuracy.clean_candidate, gate, word="correct", sequential=sequential)
    return replace(found, doubts=(*doubts, *found.doubts))


def _drop(reference: Bools, candidate: Bools, gate: GateConfig, *, word: str, sequential: bool) -> Finding:
    n, (lost, gained) = len(reference), discordant(reference, candidate)
    limits = drop_limits(reference, candidate, gate, sequential=sequential)
    estimate = (lost - gained) / n
    more = _more(n, gate, variance=(lost + gained) / n, distance=gate.bound - estimate, sequential=sequential)
    evidence = (
        f"Of {n} images the reference engine has {int(reference.sum())} {word} and this one "
        f"{int(candidate.sum())}: {lost} lost, {gained} gained, a drop of {points(estimate)}; one-sided "
        f"{gate.confidence:.3g} limits {points(limits.lower)} and {points(limits.upper)} ({limits.method})."
    )
    doubts = _nothing_to_lose(reference, gate.bound, word)
    return _limited(estimate, limits, evidence=evidence, images=n, more=more, sequential=sequential, doubts=doubts)


def _robust_accuracy(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    return share_finding(accuracy.robust_candidate, gate, word="robust", sequential=sequential)


def _clean_accuracy(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    return share_finding(accuracy.clean_candidate, gate, word="correct", sequential=sequential)


def _retention(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    reference, candidate = accuracy.robust_reference, accuracy.robust_candidate
    n, before, after = accuracy.images, int(reference.sum()), int(candidate.sum())
    if before == 0:
        nothing = "The reference is robust on no image: there is no robustness of which a share could be kept."
        return Finding(estimate=math.nan, lower=-math.inf, upper=math.inf, evidence=(), void=(nothing,))
    limits = retention_limits(reference, candidate, gate, sequential=sequential)
    # The ratio is at its bound where this contrast of an image has the mean 0.
    contrast = candidate.astype(np.float64) - gate.bound * reference
    more = _more(n, gate, variance=float(contrast.var()), distance=float(contrast.mean()), sequential=sequential)
    lost, gained = discordant(reference, candidate)
    evidence = (
        f"Of {n} images the reference engine has {before} robust and this one {after}: {lost} lost, {gained} "
        f"gained, {after / before:.2%} of the robustness kept; one-sided {gate.confidence:.3g} limits "
        f"{limits.lower:.2%} and {limits.upper:.2%} ({limits.method})."
    )
    doubts = _robust_doubts(accuracy)
    return _limited(
        after / before, limits, evidence=evidence, images=n, more=more, sequential=sequential, doubts=doubts
    )


def _worst_class_drop(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> Finding:
    return worst_class_drop(accuracy, gate, sequential=sequential, doubts=_robust_doubts(accuracy))


def _more(n: int, gate: GateConfig, *, variance: float, distance: float, sequential: bool) -> int | None:
    """`more_images` at the gate's own error rate."""
    return more_images(n, variance=variance, distance=distance, sequential=sequential, alpha=1 - gate.confidence)


def _limited(
    estimate: float,
    limits: Limits,
    *,
    evidence: str,
    images: int,
    more: int | None,
    sequential: bool,
    doubts: tuple[str, ...] = (),
) -> Finding:
    """The finding on an estimate over `images` images with these limits; `more` would decide it."""
    return Finding(
        estimate=estimate,
        lower=limits.lower,
        upper=limits.upper,
        evidence=(evidence,),
        method=limits.method,
        advice=(images_advice(images, more, sequential=sequential),),
        more_images=more,
        doubts=doubts,
        void=limits.contradiction,
    )


def _nothing_to_lose(reference: Bools, bound: float, word: str) -> tuple[str, ...]:
    """A drop cannot exceed what there is: a gate that cannot fail is no gate."""
    share = float(reference.mean())
    if share > bound:
        return ()
    return (
        f"The reference has only {points(share)} {word}, no more than the drop allowed: the gate could not fail, so "
        "it shows nothing.",
    )


def _robust_doubts(accuracy: Accuracy) -> tuple[str, ...]:
    """Where there are many classes, a reference may know more than chance and still have hardly any robustness."""
    robust = accuracy.robust_reference
    if doubts := _chance_doubts(robust, accuracy, "robust"):
        return doubts
    lower, _ = clopper_pearson(int(robust.sum()), accuracy.images, confidence=CHANCE_CONFIDENCE)
    if lower > NO_ROBUSTNESS:
        return ()
    return (
        f"The reference is robust on {int(robust.sum())} of {accuracy.images} images only: there is hardly any "
        "robustness to keep. Was it trained adversarially, at this eps?",
    )


def _chance_doubts(right: Bools, accuracy: Accuracy, word: str) -> tuple[str, ...]:
    """A reference that knows no more than which class is the most frequent has nothing that could be kept."""
    chance = float(np.bincount(accuracy.labels).max()) / accuracy.images
    lower, _ = clopper_pearson(int(right.sum()), accuracy.images, confidence=CHANCE_CONFIDENCE)
    if lower > chance:
        return ()
    return (
        f"The reference has {right.mean():.1%} {word}; answering the most frequent class every time would have "
        f"{chance:.1%}. There is nothing to keep: are these its weights, its classes, its scale of images?",
    )


_METRICS: dict[str, Callable[[Accuracy, GateConfig, bool], Finding]] = {
    "robust_drop": _robust_drop,
    "clean_drop": _clean_drop,
    "robust_accuracy": _robust_accuracy,
    "clean_accuracy": _clean_accuracy,
    "retention": _retention,
    "worst_class_drop": _worst_class_drop,
}
