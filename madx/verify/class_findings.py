"""The largest drop of robust accuracy in one class: pruning may keep the average and give up a class.

The claim "no class drops by more than the bound" is an intersection of claims, one per class, so that each class must
pass at the gate's own confidence and no correction for their number is due (intersection-union test; Berger,
Technometrics 24:295, 1982). "Some class drops by more" is a union: with K classes the luckiest alarm counts, and each
gets alpha / K (Bonferroni; Holm's first step is the same). The estimate is the largest of K noisy drops and so leans
towards too large a drop; the limits do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from madx.recipe import GateConfig
from madx.verify.evidence import Finding, points
from madx.verify.limits import PLANNED_POWER, Limits, discordant, drop_limits, images_advice, more_images
from madx.verify.measurements import Accuracy


@dataclass(frozen=True)
class _Class:
    """One class's images on both engines."""

    label: int
    images: int
    reference: int
    lost: int
    gained: int
    lower: float
    """At alpha / K."""
    upper: float
    """At alpha."""
    limits: Limits
    """At alpha, for what they say about themselves."""

    @property
    def drop(self) -> float:
        return (self.lost - self.gained) / self.images


def worst_class_drop(
    accuracy: Accuracy, gate: GateConfig, *, sequential: bool, doubts: tuple[str, ...] = ()
) -> Finding:
    """The finding on the class that loses most; a class without an image of the gate is not judged."""
    classes = _classes(accuracy, gate, sequential)
    worst = max(classes, key=lambda one: one.drop)
    lower, upper = max(one.lower for one in classes), max(one.upper for one in classes)
    method = f"{classes[0].limits.method}, class by class"
    more = _more_images(classes, accuracy.images, gate, sequential)
    return Finding(
        estimate=worst.drop,
        lower=lower,
        upper=upper,
        evidence=(_sentence(classes, worst, gate, lower=lower, upper=upper, method=method), *_blind(classes, gate)),
        method=method,
        advice=(images_advice(accuracy.images, more, sequential=sequential), _widest(classes)),
        more_images=more,
        doubts=(*doubts, *_nothing_to_lose(classes, gate)),
        void=next((one.limits.contradiction for one in classes if one.limits.contradiction), ()),
    )


def _classes(accuracy: Accuracy, gate: GateConfig, sequential: bool) -> list[_Class]:
    labels = np.unique(accuracy.labels)
    stricter = 1 - (1 - gate.confidence) / len(labels)
    found = []
    for label in labels:
        chosen = accuracy.labels == label
        reference, candidate = accuracy.robust_reference[chosen], accuracy.robust_candidate[chosen]
        lost, gained = discordant(reference, candidate)
        limits = drop_limits(reference, candidate, gate, sequential=sequential)
        corrected = drop_limits(reference, candidate, gate, sequential=sequential, confidence=stricter)
        found.append(
            _Class(
                label=int(label),
                images=len(reference),
                reference=int(reference.sum()),
                lost=lost,
                gained=gained,
                lower=corrected.lower,
                upper=limits.upper,
                limits=limits,
            )
        )
    return found


def _sentence(
    classes: list[_Class], worst: _Class, gate: GateConfig, *, lower: float, upper: float, method: str
) -> str:
    sizes = [one.images for one in classes]
    return (
        f"Of {len(classes)} classes of {min(sizes)} to {max(sizes)} images, class {worst.label} loses most: "
        f"{worst.lost} lost and {worst.gained} gained of {worst.images}, a drop of {points(worst.drop)}; one-sided "
        f"{gate.confidence:.3g} limits of the largest drop {points(lower)} (Bonferroni over the classes) and "
        f"{points(upper)} (every class at its own {gate.confidence:.3g}), {method}."
    )


def _more_images(classes: list[_Class], n: int, gate: GateConfig, sequential: bool) -> int | None:
    """Of the class that needs most, if the classes keep their shares of the images; all of them must be decided."""
    alpha, wanted = 1 - gate.confidence, 0
    for one in classes:
        if one.upper <= gate.bound:
            continue
        more = more_images(
            one.images,
            variance=(one.lost + one.gained) / one.images,
            distance=gate.bound - one.drop,
            sequential=sequential,
            alpha=alpha if one.drop < gate.bound else alpha / len(classes),
            power=1 - (1 - PLANNED_POWER) / len(classes),
        )
        if more is None:
            return None
        wanted = max(wanted, -(-more * n // one.images))
    return wanted or None


def _widest(classes: list[_Class]) -> str:
    """Which class keeps the gate from passing."""
    one = max(classes, key=lambda each: each.upper)
    return f"Class {one.label} is the least certain: {one.images} images, a drop of up to {points(one.upper)}."


def _blind(classes: list[_Class], gate: GateConfig) -> tuple[str, ...]:
    """A class that has no more than the drop allowed passes for that reason; a reader must know."""
    blind = [str(one.label) for one in classes if one.reference <= gate.bound * one.images]
    if not blind:
        return ()
    return (f"Classes on which the reference is hardly robust, so that they could not fail: {', '.join(blind)}.",)


def _nothing_to_lose(classes: list[_Class], gate: GateConfig) -> tuple[str, ...]:
    if any(one.reference > gate.bound * one.images for one in classes):
        return ()
    return (
        "The reference is robust on no more than the drop allowed in every single class: the gate could not fail, so "
        "it shows nothing.",
    )
