"""The pictures of a latency, drawn from the single calls and the blocks: outliers included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from madx.report import svg, words
from madx.report.latency_views import Ratio
from madx.verify import Ladder, Latency
from madx.verify.noise import undisturbed
from madx.verify.timings import block_medians

_LOG_FROM = 8.0
"""A positive axis whose ends differ by more than this factor is logarithmic."""
_CORNERS = 300
"""Of a drawn distribution: its every step would be megabytes."""


def distribution(latency: Latency, name: str) -> Markup:
    """How many of the calls took longer than so many ms: one line for each engine, the tail spread out."""
    sides = ((latency.reference, svg.DENSE), (latency.candidate, svg.PRUNED))
    with svg.drawing(svg.WIDTH, 2.2) as (figure, axes):
        for calls, colour in sides:
            times, slower = _survival(1000 * calls.ravel())
            axes.plot(times, slower, color=colour, linewidth=1.5, drawstyle="steps-post")
        axes.set_yscale("log")
        axes.set(xlabel="ms per call", ylabel="calls that took longer")
        axes.set_ylim(0.7 / latency.reference.size, 1.3)
        axes.yaxis.set_major_locator(LogLocator(numticks=8))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
        _fit_positive(axes, 1000 * np.stack([latency.reference, latency.candidate]))
        axes.grid()
        return svg.inline(figure, name, label="share of the calls of the two engines that took longer")


def blocks(latency: Latency, name: str, roles: Sequence[str]) -> Markup:
    """Every block median of both engines; within a row, time runs from top to bottom."""
    sides = ((roles[0], latency.reference, svg.DENSE), (roles[1], latency.candidate, svg.PRUNED))
    with svg.drawing(svg.WIDTH, 1.9) as (figure, axes):
        for row, (_, values, colour) in enumerate(sides):
            times = 1000 * block_medians(values).ravel()
            axes.plot(times, row + np.linspace(-0.3, 0.3, times.size), "o", color=colour, **_dots(times.size))
            axes.plot([np.median(times)] * 2, [row - 0.4, row + 0.4], color=svg.INK, linewidth=1.4)
        axes.set_yticks(range(len(sides)), [side for side, _, _ in sides])
        axes.set(ylim=(len(sides) - 0.45, -0.55), xlabel="ms per call")
        _fit_positive(axes, 1000 * np.stack([block_medians(values) for _, values, _ in sides]))
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0, labelcolor=svg.INK)
        axes.spines["left"].set_visible(False)
        label = f"block medians of the {roles[0]} and of the {roles[1]} engine, ms per call"
        return svg.inline(figure, name, label=label)


def ratios(latency: Latency, speedup: Ratio, name: str, *, bound: float | None) -> Markup:
    """Reference time / candidate time of each pair in the order they were timed, and the A/A control beside it.

    A pair that was disturbed has a tick at the foot of the picture.
    """
    series = ((latency.control_log_ratios, svg.DENSE), (latency.log_ratios, svg.PRUNED))
    number = np.arange(1, len(latency.order) + 1)
    with svg.drawing(svg.WIDTH, 2.2) as (figure, axes):
        axes.axhline(speedup.estimate, color=svg.PRUNED, linewidth=1.2, zorder=3)
        if bound is not None:
            axes.axhline(bound, color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)), zorder=3)
        for values, colour in series:
            axes.plot(number, np.exp(values), "o", color=colour, **_dots(number.size))
        if not (calm := undisturbed(latency.machine, latency.spikes)).all():
            axes.plot(
                number[~calm],
                np.zeros((~calm).sum()),
                "|",
                color=svg.INCONCLUSIVE,
                markersize=9,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
            )
        axes.set(xlabel="pair, in the order of timing", ylabel="times as fast")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="y")
        return svg.inline(figure, name, label="speed-up of each block pair over time, with the A/A control")


def rungs(ladder: Ladder, name: str) -> Markup:
    """A bar for each rung, as long as its typical call takes; names stand above their bars, as on a phone."""
    medians = 1000 * np.array(ladder.medians())
    with svg.drawing(svg.WIDTH, 0.35 + 0.42 * len(medians)) as (figure, axes):
        for row, (rung, median) in enumerate(zip(ladder.rungs, medians, strict=True)):
            axes.barh(row + 0.2, median, height=0.36, color=svg.PRUNED if row else svg.DENSE)
            axes.text(0, row - 0.07, f"{rung}: {words.milliseconds(median / 1000)}", va="bottom", fontsize=8)
        axes.set(ylim=(len(medians) - 0.45, -0.5), xlabel="ms per call", xlim=(0, 1.02 * float(medians.max())))
        axes.set_yticks([])
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.spines["left"].set_visible(False)
        return svg.inline(figure, name, label="ms per call of each rung of the ladder")


def _survival(values: NDArray[np.floating[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(seconds, share above), with corners evenly spread over the logarithm of the share, the slowest call included."""
    ordered = np.sort(values)
    above = np.unique(np.geomspace(1, ordered.size, _CORNERS).round().astype(np.int64)) - 1
    place = ordered.size - 1 - above[::-1]
    slower = (ordered.size - 1 - place) / ordered.size
    return ordered[place], np.maximum(slower, 0.7 / ordered.size)


def _dots(count: int) -> dict[str, Any]:
    """Smaller and fainter where there are many, so that a crowd shows as one."""
    few = count <= 150
    return {"markersize": 3.6 if few else 2.4, "alpha": 0.6 if few else 0.35, "markeredgewidth": 0}


def _far_apart(values: NDArray[np.floating[Any]]) -> bool:
    return bool((values > 0).all() and values.max() > _LOG_FROM * values.min())


def _fit_positive(axes: Axes, values: NDArray[np.floating[Any]]) -> None:
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
