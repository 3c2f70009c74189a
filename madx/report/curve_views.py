"""The security curve as rows: at each radius the share of images that still stand, with pointwise limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from madx.recipe import radius
from madx.report import words
from madx.stats import clopper_pearson
from madx.verify import Curve
from madx.verify.arrays import Bools

LEVEL = 0.95
"""Two-sided, at each radius for itself."""


@dataclass(frozen=True)
class Standing:
    """Images of one engine that stand."""

    count: int
    total: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.count / self.total

    @property
    def limits(self) -> tuple[float, float]:
        """Clopper-Pearson."""
        return clopper_pearson(self.count, self.total, confidence=(1 + LEVEL) / 2)

    @property
    def text(self) -> str:
        """The share and its limits: "75.2 % (72.4 to 77.9)"."""
        low, high = self.limits
        return f"{words.percent(self.share)} ({100 * low:.1f} to {100 * high:.1f})"


@dataclass(frozen=True)
class CurveRow:
    """One radius."""

    eps: float
    radius: str
    reference: Standing | None
    """None without a reference."""
    candidate: Standing
    is_threat: bool


def curve_rows(curve: Curve, threat: Mapping[str, Any]) -> tuple[CurveRow, ...]:
    """In the order of the radii; `threat` is the one of the gates, as the verdict records it."""
    asked = threat.get("eps")
    references = [None] * len(curve.eps) if curve.reference is None else [standing(row) for row in curve.reference]
    return tuple(
        CurveRow(
            eps=float(eps),
            radius="0 (clean)" if eps == 0 else radius(float(eps)),
            reference=reference,
            candidate=standing(candidate),
            is_threat=asked is not None and abs(eps - asked) < 1e-9,
        )
        for eps, reference, candidate in zip(curve.eps, references, curve.candidate, strict=True)
    )


def standing(rows: Bools) -> Standing:
    """How many of them."""
    return Standing(int(rows.sum()), len(rows))


def curve_sentence(curve: Curve, rows: tuple[CurveRow, ...], roles: tuple[str, str]) -> str:
    """What the curve was made with, and how far down it goes; `roles` are the two engines' names."""
    last = rows[-1]
    share = words.percent(last.candidate.share)
    end = f"At radius {last.radius}, {share} of the images stand on the {roles[1]} engine."
    if last.reference is not None:
        end = (
            f"At radius {last.radius}, {words.percent(last.reference.share)} of the images stand on the {roles[0]} "
            f"engine and {share} on the {roles[1]} one."
        )
    return (
        f"The first {curve.images} gate images under growing perturbations: the gates' whole suite at the threat's "
        f"radius; {curve.attack} at the others, on each engine's own twin, of what stood at the radius before. {end}"
    )
