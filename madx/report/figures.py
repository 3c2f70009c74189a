"""The pictures of the HTML report, drawn from raw samples: what is drawn is what was measured, outliers included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from madx.report import svg, words
from madx.report.views import Ratio, Step
from madx.verify import GateResult, Latency, Outcome

_WIDTH = 4.7
"""Inches of a figure: on a phone it is drawn at about this size, so that its text can still be read there."""
_LOG_FROM = 8.0
"""A positive axis whose ends differ by more than this factor is logarithmic."""
_COLOURS = {Outcome.PASS: svg.PASS, Outcome.FAIL: svg.FAIL, Outcome.INCONCLUSIVE: svg.INCONCLUSIVE}


def interval(gate: GateResult, name: str) -> Markup:
    """The gate's limits and estimate against its bound; the tinted side is the one the gate asks for."""
    if gate.estimate is None:
        return Markup("")
    known = [value for value in (gate.lower, gate.upper) if value is not None]
    left, right = _padded([*known, gate.estimate, gate.bound])
    lower = left if gate.lower is None else gate.lower
    upper = right if gate.upper is None else gate.upper
    colour = _COLOURS[gate.outcome]
    with svg.drawing(2.0, 0.34) as (figure, axes):
        axes.set_axis_off()
        axes.set(xlim=(left, right), ylim=(-1, 1))
        wanted = (gate.bound, right) if gate.direction == "at_least" else (left, gate.bound)
        axes.axvspan(*wanted, color=svg.MUTED, alpha=0.14, linewidth=0)
        axes.axvline(gate.bound, color=svg.INK, linewidth=1.2)
        axes.plot([lower, upper], [0, 0], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot([gate.estimate], [0], "o", color=colour, markersize=6.5, markeredgecolor=svg.PAPER)
        label = f"{words.estimate(gate)}, limits {words.limits(gate)}, {words.required(gate)}"
        return svg.inline(figure, name, label=label)


def blocks(latency: Latency, name: str) -> Markup:
    """Every block median of both engines; within a row, time runs from top to bottom."""
    sides = (("dense", latency.reference, svg.DENSE), ("pruned", latency.candidate, svg.PRUNED))
    with svg.drawing(_WIDTH, 1.9) as (figure, axes):
        for row, (_, values, colour) in enumerate(sides):
            times = 1000 * values.ravel()
            axes.plot(times, row + np.linspace(-0.3, 0.3, times.size), "o", color=colour, **_dots(times.size))
            axes.plot([np.median(times)] * 2, [row - 0.4, row + 0.4], color=svg.INK, linewidth=1.4)
        axes.set_yticks(range(len(sides)), [side for side, _, _ in sides])
        axes.set(ylim=(len(sides) - 0.45, -0.55), xlabel="ms per call")
        _fit_positive(axes, 1000 * np.stack([latency.reference, latency.candidate]))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
        axes.spines["left"].set_visible(False)
        return svg.inline(figure, name, label="block medians of the dense and of the pruned engine, ms per call")


def ratios(latency: Latency, speedup: Ratio, name: str, *, bound: float | None) -> Markup:
    """Dense time / pruned time of each pair in the order they were timed, and the A/A control beside it."""
    series = ((latency.control_log_ratios, svg.DENSE), (latency.log_ratios, svg.PRUNED))
    number = np.arange(1, len(latency.order) + 1)
    with svg.drawing(_WIDTH, 2.2) as (figure, axes):
        axes.axhline(speedup.estimate, color=svg.PRUNED, linewidth=1.2, zorder=3)
        if bound is not None:
            axes.axhline(bound, color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
        for values, colour in series:
            axes.plot(number, np.exp(values), "o", color=colour, **_dots(number.size))
        axes.set(xlabel="pair, in the order of timing", ylabel="times as fast")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        return svg.inline(figure, name, label="speed-up of each block pair over time, with the A/A control")


def accuracies(steps: Sequence[Step], name: str) -> Markup:
    """Clean and robust accuracy on the selection split along the steps of pruning."""
    known = [step for step in steps if step.clean is not None and step.robust is not None]
    if not known:
        return Markup("")
    place = np.arange(len(known))
    series = {
        "clean": ([step.clean for step in known], svg.MUTED),
        "robust": ([step.robust for step in known], svg.PRUNED),
    }
    with svg.drawing(_WIDTH, 2.2) as (figure, axes):
        for label, (values, colour) in series.items():
            shares = 100 * np.array(values, dtype=np.float64)
            axes.plot(place, shares, "o-", color=colour, markersize=4, linewidth=1.5)
            axes.annotate(
                label, (place[-1], shares[-1]), xytext=(6, 0), textcoords="offset points", va="center", color=colour
            )
        shown = place[:: max(1, math.ceil(len(known) / 6))]
        axes.set_xticks(shown, [known[number].label for number in shown])
        axes.set(ylim=(0, 100), ylabel="% of selection images", xlim=(-0.3, len(known) - 1 + 0.12 * len(known) + 0.2))
        axes.grid(axis="y")
        return svg.inline(figure, name, label="clean and robust accuracy along the steps of pruning")


def _dots(count: int) -> dict[str, Any]:
    """Smaller and fainter where there are many, so that a crowd shows as one."""
    few = count <= 150
    return {"markersize": 3.6 if few else 2.4, "alpha": 0.6 if few else 0.35, "markeredgewidth": 0}


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows them all with some air."""
    low, high = min(values), max(values)
    air = 0.14 * (high - low) or 0.1 * abs(high) or 0.1
    return low - air, high + air


def _far_apart(values: NDArray[np.float64]) -> bool:
    return bool((values > 0).all() and values.max() > _LOG_FROM * values.min())


def _fit_positive(axes: Axes, values: NDArray[np.float64]) -> None:
    """From zero, so that lengths can be compared; logarithmic where an outlier would squeeze the rest."""
    if _far_apart(values):
        _logarithmic(axes)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(0, 1.05 * float(values.max()))


def _logarithmic(axes: Axes) -> None:
    """Ticks at 1, 2 and 5 of each decade where there are few decades, so that two at least have a number."""
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = axes.get_xlim()
    few = high < 150 * low
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
