"""How sensitive each layer is to adversarial examples, as the saliency has it: rows and sentences for any report.

All of it is read from saliency.json, which the prune stage wrote; an empty mapping means that there is none.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madx.report import words

_MOST_TICKS = 8
_ROUNDING = 1e-9
_DECADES = 5
"""Below the largest mean; what is smaller counts as nearly zero."""
_SMALLEST = -300
"""Decade below which float64 has no powers of ten."""


@dataclass(frozen=True)
class LayerRow:
    """One layer, in the network's order."""

    name: str
    mean: float
    """Mean saliency of its weights and biases."""
    kept: float
    """Share of them that is kept."""
    negative: float
    """Share of them with a saliency below zero."""
    zero: float
    """Share of them whose saliency is exactly zero."""
    quantiles: Mapping[float, float]
    """Level -> saliency."""
    kept_counts: tuple[int, ...]
    removed_counts: tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """What the halves of the first batches agree on."""

    batches: int
    correlation: float | None
    overlap: float
    chance: float


@dataclass(frozen=True)
class SignedLog:
    """Places on the axis: zero to `first` takes `inner` units, and each decade from there on takes one."""

    first: float
    """A power of ten."""
    inner: float

    def place(self, values: ArrayLike) -> NDArray[np.float64]:
        """Where the values stand."""
        parts = np.asarray(values, dtype=np.float64) / self.first
        beyond = self.inner + np.log10(np.maximum(np.abs(parts), 1))
        return np.where(np.abs(parts) <= 1, self.inner * parts, np.sign(parts) * beyond)

    def ticks(self, low: float, high: float) -> dict[float, str]:
        """Zero and some of the decades between two places, with their labels; none too near to zero to be read."""
        step = math.ceil((high - low) / _MOST_TICKS)
        reach = max(-low, high) - self.inner
        exponents = range(math.floor(reach + _ROUNDING), -1, -step)  # from outside inwards: the largest has a number
        ticks = {0.0: "0"}
        for exponent in exponents:
            power = words.power_of_ten(round(math.log10(self.first)) + exponent)
            for place, label in ((self.inner + exponent, power), (-self.inner - exponent, f"{words.MINUS}{power}")):
                if low - _ROUNDING <= place <= high + _ROUNDING and abs(place) > 0.07 * (high - low):
                    ticks[place] = label
        return ticks


def layer_rows(saliency: Mapping[str, Any]) -> tuple[LayerRow, ...]:
    """Every layer that was scored."""
    return tuple(
        LayerRow(
            name=layer["name"] or "the network",
            mean=layer["mean"],
            kept=layer["kept"] / layer["entries"],
            negative=layer["negative"],
            zero=layer["zero"],
            quantiles=dict(zip(saliency["quantile_levels"], layer["quantiles"], strict=True)),
            kept_counts=tuple(layer["kept_counts"]),
            removed_counts=tuple(layer["removed_counts"]),
        )
        for layer in saliency.get("layers", ())
    )


def curve(saliency: Mapping[str, Any]) -> tuple[Point, ...]:
    """How the halves came to agree; empty where they were not compared."""
    settling = saliency.get("settling") or {}
    return tuple(Point(**point) for point in settling.get("curve", ()))


def sentences(saliency: Mapping[str, Any]) -> tuple[str, str, str]:
    """What stands above the rows: what it is an average of, whether that has settled, and which layers stand out."""
    return basis(saliency), settled(saliency), most_sensitive(layer_rows(saliency))


def basis(saliency: Mapping[str, Any]) -> str:
    """What the saliency is an average of, and whether masks were learned from it."""
    batches, size, passes = saliency["batches"], saliency["batch_size"], saliency["passes"]
    steps = saliency.get("learned_steps", 0)
    learned = f" From there masks were learned in {steps} steps; what is shown is where they started." if steps else ""
    if batches == 0:
        source = "which looks at nothing" if saliency["criterion"] == "random" else "from the weights alone"
        return f"Criterion: {saliency['criterion']}, {source}.{learned}"
    images = f"{batches} {'batch' if batches == 1 else 'batches'} of {size} adversarial images"
    share = (
        f"{words.percent(passes)} of the training split"
        if passes <= 1
        else f"{passes:.1f} passes over the training split"
    )
    masks = ", masks in bfloat16" if saliency.get("precision") == "bf16" else ""
    return f"Criterion: {saliency['criterion']}{masks}, averaged over {images} ({share}).{learned}"


def settled(saliency: Mapping[str, Any]) -> str:
    """Whether more batches would have kept other weights; nothing where that was not measured."""
    points = curve(saliency)
    if not points:
        return ""
    last, settling = points[-1], saliency["settling"]
    found = (
        f"chosen by either half of the batches alone, the kept sets overlap by {words.percent(last.overlap)} "
        f"(wanted {words.percent(settling['enough'])} twice in a row; by chance {words.percent(last.chance)})"
    )
    what = "The start of learning" if saliency.get("learned_steps") else "The kept set"
    shared = " After more than one pass the halves share images." if saliency["passes"] > 1 else ""
    if settling["settled"]:
        return f"{what} has settled: {found}.{shared}"
    return f"{what} has not settled: {found}. Other images would keep other weights.{shared}"


def most_sensitive(rows: Sequence[LayerRow]) -> str:
    """The layers that stand out, in a sentence."""
    if len(rows) < 3:
        return ""
    first, second, *_ = sorted(rows, key=lambda row: row.mean, reverse=True)
    middle = statistics.median(row.mean for row in rows)
    by = f" ({_times(first.mean / middle)} times that of the median layer)" if middle > 0 else ""
    return f"Highest mean saliency: {first.name}{by}, then {second.name}."


def scale_of(means: ArrayLike) -> SignedLog:
    """An axis for means: decades from that of the smallest mean on; at most a few below that of the largest."""
    sizes = np.abs(np.asarray(means, dtype=np.float64))
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return SignedLog(1.0, 1.0)
    lowest, highest = (math.floor(math.log10(size)) for size in (sizes.min(), sizes.max()))
    return SignedLog(10.0 ** max(lowest, highest - _DECADES, _SMALLEST), 0.5)


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}"
