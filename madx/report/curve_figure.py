"""The picture of the security curve: both engines over the radius of the perturbation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from madx.report import svg
from madx.report.curve_views import CurveRow, Standing

_ASIDE = 0.012
"""How far the suite's results stand beside the threat's radius, as a share of the axis: so that both can be seen."""
_STEPS = 255
"""Radii are drawn in steps of 8-bit images where the largest one is less than all of them."""


def security_curve(
    rows: Sequence[CurveRow], suite: tuple[Standing | None, Standing], name: str, *, norm: str
) -> Markup:
    """Share of images standing over eps, with a band of pointwise limits for each engine that was measured.

    Args:
        rows: of the curve.
        suite: robust images of the reference, if there is one, and of the candidate under the whole suite, drawn at the
            threat's radius.
        name: unique on the page.
        norm: linf or l2, of the threat.
    """
    unit = _STEPS if norm == "linf" else 1
    radii = unit * np.array([row.eps for row in rows])
    threat = [row.eps * unit for row in rows if row.is_threat]
    references = [row.reference for row in rows if row.reference is not None]
    sides = ((references, svg.DENSE), ([row.candidate for row in rows], svg.PRUNED))
    with svg.drawing(svg.WIDTH, 2.4) as (figure, axes):
        for standing, colour in sides:
            if standing:
                _band(axes, radii, standing, colour)
        if threat:
            axes.axvline(threat[0], color=svg.INK, linewidth=1.2, linestyle=(0, (4, 3)))
            for side, (result, (_, colour)) in enumerate(zip(suite, sides, strict=True)):
                if result is not None:
                    _result(axes, threat[0] + (2 * side - 1) * _ASIDE * radii[-1], result, colour)
        label = "L∞ radius, in steps of 1/255" if norm == "linf" else "L2 radius"
        axes.set(
            xlim=(-0.015 * radii[-1], 1.015 * radii[-1]), ylim=(0, 100), xlabel=label, ylabel="% of images standing"
        )
        axes.grid(axis="y")
        return svg.inline(figure, name, label="share of images standing over the radius of the perturbation")


def _band(axes: Axes, radii: np.ndarray[tuple[int], np.dtype[np.float64]], side: list[Standing], colour: str) -> None:
    low, high = np.transpose([standing.limits for standing in side])
    axes.fill_between(radii, 100 * low, 100 * high, color=colour, alpha=0.18, linewidth=0)
    shares = 100 * np.array([standing.share for standing in side])
    axes.plot(radii, shares, "o-", color=colour, markersize=3.6, linewidth=1.5, markeredgewidth=0)


def _result(axes: Axes, place: float, result: Standing, colour: str) -> None:
    low, high = result.limits
    axes.plot([place, place], [100 * low, 100 * high], color=colour, linewidth=1.6)
    axes.plot([place], [100 * result.share], "D", color=colour, markersize=4.6, markeredgecolor=svg.PAPER)
