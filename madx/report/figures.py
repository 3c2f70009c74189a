"""The pictures of the HTML report, drawn from raw samples: what is drawn is what was measured, outliers included."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from madx.report import svg, words
from madx.report.views import Step
from madx.verify import GateResult, Outcome

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
    with svg.drawing(svg.WIDTH, 2.2) as (figure, axes):
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


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Ends of an axis that shows them all with some air."""
    low, high = min(values), max(values)
    air = 0.14 * (high - low) or 0.1 * abs(high) or 0.1
    return low - air, high + air
