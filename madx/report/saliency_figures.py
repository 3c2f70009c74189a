"""The pictures of the saliency: each layer's mean beside what was kept of it, histograms, and how it settled.

Scores are signed and span many decades. They are drawn on an axis that is logarithmic in both directions from zero, and
linear nearer to zero than its first decade.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter
from numpy.typing import NDArray

from madx.report import svg, words
from madx.report.saliency_views import LayerRow, Point, SignedLog, scale_of

_ROW = 0.2
"""Inches of a layer's row."""
_LONGEST_NAME = 23
"""Characters of a label beside a picture."""


def layers(rows: Sequence[LayerRow], name: str) -> Markup:
    """Mean saliency of each layer, from the network's first to its last, beside the share of it that is kept."""
    if not rows:
        return Markup("")
    means, number = np.array([row.mean for row in rows]), np.arange(len(rows))
    scale = scale_of(means)
    places = scale.place(means)
    with svg.panels(svg.WIDTH, 0.55 + _ROW * len(rows), (3, 2)) as (figure, (left, right)):
        left.hlines(number, 0, places, color=svg.PRUNED, linewidth=1.4)
        left.plot(places, number, "o", color=svg.PRUNED, markersize=4.5)
        left.axvline(0, color=svg.MUTED, linewidth=0.8)
        left.set_xlim(min(0, 1.08 * places.min()), max(0.5, 1.08 * places.max()))
        _signed_axis(left, scale)
        left.set_yticks(number, [words.ending(row.name, _LONGEST_NAME) for row in rows])
        left.set(ylim=(len(rows) - 0.4, -0.6), xlabel="mean saliency of a weight")
        kept = [100 * row.kept for row in rows]
        right.barh(number, [100] * len(rows), height=0.5, color=svg.RULE)
        right.barh(number, kept, height=0.5, color=svg.PRUNED)
        right.set(xlim=(0, 100), xlabel="% kept")
        for axes in (left, right):
            axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
            axes.spines["left"].set_visible(False)
        left.grid(axis="x")
        return svg.inline(figure, name, label="mean saliency and kept share of each layer, in the network's order")


def histogram(saliency: Mapping[str, Any], rows: Sequence[LayerRow], name: str) -> Markup:
    """How many weights of the whole network have which saliency, and which of them were kept."""
    if not rows:
        return Markup("")
    total = sum(sum(row.kept_counts) + sum(row.removed_counts) for row in rows)
    kept, removed = (
        100 * np.sum([getattr(row, side) for row in rows], axis=0) / total for side in ("kept_counts", "removed_counts")
    )
    edges = np.array(saliency["edges"])
    scale = _bins_scale(edges)
    with svg.drawing(svg.WIDTH, 2.2) as (figure, axes):
        top = _stacked(axes, scale.place(edges), removed, kept)
        axes.set(ylim=(0, 1.12 * top), xlabel="saliency of a weight", ylabel="% of the weights")
        _say_what_is_cut(axes, scale, (removed + kept)[_middle(edges)], top)
        if saliency["threshold"] is not None:
            axes.axvline(float(scale.place(saliency["threshold"])), color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)))
        _signed_axis(axes, scale)
        axes.grid(axis="y")
        return svg.inline(figure, name, label="histogram of the saliency: weights that were kept and that were removed")


def histograms(saliency: Mapping[str, Any], rows: Sequence[LayerRow], name: str) -> Markup:
    """The same layer by layer, each to its own height."""
    if not rows:
        return Markup("")
    edges = np.array(saliency["edges"])
    scale = _bins_scale(edges)
    with svg.drawing(svg.WIDTH, 0.5 + 1.7 * _ROW * len(rows)) as (figure, axes):
        for number, row in enumerate(rows):
            kept, removed = np.array(row.kept_counts, dtype=np.float64), np.array(row.removed_counts, dtype=np.float64)
            _stacked(axes, scale.place(edges), removed, kept, base=number + 0.45, height=-0.85)
        axes.set_yticks(range(len(rows)), [words.ending(row.name, _LONGEST_NAME) for row in rows])
        axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel="saliency of a weight")
        axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
        axes.spines["left"].set_visible(False)
        axes.axvline(0, color=svg.MUTED, linewidth=0.8)
        _signed_axis(axes, scale)
        return svg.inline(figure, name, label="histogram of the saliency of each layer, kept and removed")


def settling(points: Sequence[Point], enough: float, name: str) -> Markup:
    """Overlap and rank correlation of the halves against the number of batches."""
    if not points:
        return Markup("")
    batches = np.array([point.batches for point in points])
    with svg.drawing(svg.WIDTH, 2.2) as (figure, axes):
        axes.axhline(enough, color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(batches, [point.chance for point in points], color=svg.MUTED, linewidth=1, linestyle=":")
        ranked = [(point.batches, point.correlation) for point in points if point.correlation is not None]
        axes.plot(*zip(*ranked, strict=True), "o-", color=svg.DENSE, markersize=3.5, linewidth=1.3) if ranked else None
        axes.plot(batches, [point.overlap for point in points], "o-", color=svg.PRUNED, markersize=4.5, linewidth=1.6)
        axes.set_xscale("log", base=2)
        shown = batches[:: max(1, math.ceil(len(batches) / 8))]
        axes.xaxis.set_major_locator(FixedLocator(shown.tolist()))
        axes.xaxis.set_minor_locator(FixedLocator([]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        low = min(0.0, *(value for _, value in ranked)) if ranked else 0.0
        axes.set(ylim=(low - 0.02, 1.03), xlabel="batches (log scale)")
        axes.grid(axis="y")
        return svg.inline(figure, name, label="agreement of the saliency's two halves against the number of batches")


def _bins_scale(edges: NDArray[np.float64]) -> SignedLog:
    """The bin around zero is as wide as its neighbours."""
    positive = edges[edges > 0]
    return SignedLog(float(positive[0]), float(np.log10(positive[1] / positive[0])) / 2 if len(positive) > 1 else 1.0)


def _middle(edges: NDArray[np.float64]) -> int:
    return int(np.searchsorted(edges, 0.0)) - 1


def _stacked(
    axes: Axes,
    places: NDArray[np.float64],
    removed: NDArray[np.float64],
    kept: NDArray[np.float64],
    *,
    base: float = 0.0,
    height: float = 0.0,
) -> float:
    """Removed entries with the kept ones on top; returns the highest bar beside that at zero.

    The bar at zero may hold most of the weights, with mad-paper all those that no mask has touched; it is cut at the
    others' height. With a `height`, the bars are drawn from `base` and scaled to it.
    """
    whole = removed + kept
    beside = np.delete(whole, int(np.searchsorted(places, 0.0)) - 1)
    top = float(beside.max(initial=0)) or float(whole.max()) or 1.0
    factor = height / top if height else 1.0
    limit = base + np.array([0.0, 1.1 * top * factor])
    low, high = (np.clip(base + factor * values, limit.min(), limit.max()) for values in (removed, whole))
    options: Any = {"step": "post", "linewidth": 0}
    ground = np.full(len(places), base)
    axes.fill_between(places, ground, np.append(low, low[-1]), color=svg.DENSE, alpha=0.55, **options)
    axes.fill_between(places, np.append(low, low[-1]), np.append(high, high[-1]), color=svg.PRUNED, **options)
    return top


def _say_what_is_cut(axes: Axes, scale: SignedLog, share: float, top: float) -> None:
    if share > 1.1 * top:
        place = (float(scale.place(0.0)), 1.12 * top)
        axes.annotate(
            f"{share:.0f} %", place, xytext=(0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=8
        )


def _signed_axis(axes: Axes, scale: SignedLog) -> None:
    ticks = scale.ticks(*axes.get_xlim())
    axes.set_xticks(list(ticks), list(ticks.values()))
