"""matplotlib figures as inline SVG that takes its colours from the page.

A figure is drawn in the placeholder colours below; in the SVG each becomes a CSS variable of the page, so that the
picture follows the light or dark scheme. Text stays text, in the page's own font. The same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 4.7
"""Inches of a figure: on a phone it is drawn at about this size, so that its text can still be read there."""
INK, MUTED, RULE, PAPER = "#010101", "#020202", "#030303", "#040404"
DENSE, PRUNED = "#050505", "#060606"
PASS, FAIL, INCONCLUSIVE = "#070707", "#080808", "#090909"
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    PAPER: "paper",
    DENSE: "dense",
    PRUNED: "pruned",
    PASS: "pass",
    FAIL: "fail",
    INCONCLUSIVE: "inconclusive",
}
_STYLE: Any = {
    "svg.hashsalt": "madx",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of that many inches with one pair of axes, in the page's style; no global figure is made.

    matplotlib's settings are the user's own again afterwards.
    """
    with panels(width, height, (1,)) as (figure, (axes,)):
        yield figure, axes


@contextmanager
def panels(width: float, height: float, ratios: Sequence[float]) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """As `drawing`, with axes side by side that share their rows and have widths in these ratios."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure, figure.subplots(1, len(ratios), squeeze=False, sharey=True, width_ratios=ratios)[0]


def inline(figure: Figure, name: str, *, label: str) -> Markup:
    """The figure as an <svg> element; call it within `drawing`.

    Args:
        figure: drawn in the placeholder colours.
        name: unique on the page; it prefixes the ids within.
        label: what the picture shows, for readers who cannot see it.
    """
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The page's font draws the text, so it does not matter what matplotlib's own lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Markup(_adapted(stream.getvalue(), name, label))


def _adapted(svg: str, name: str, label: str) -> str:
    """Without what belongs to a file of its own, and with the page's colours and font."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*|<!--.*?-->\s*", "", body, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]*)"', body)
    start = f'<svg class="plot" viewBox="{box[1] if box else ""}" role="img" aria-label="{escape(label)}">'
    body = start + body[body.index(">") + 1 :]
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r"url\(#([^)]*)\)", body)) | set(re.findall(r'href="#([^"]*)"', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", body)
    body = _slimmed(body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return body.replace("font-family: 'DejaVu Sans'; ", "").strip()


def _slimmed(body: str) -> str:
    """Half of the bytes: a hundredth of a point is fine enough, and the dots of a row say their style once."""
    body = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"([.][0-9]{2})[0-9]+", r"\1", found[0]), body)
    return re.sub(r"<g( clip-path=\"[^\"]*\")?>\s*((?:<use [^>]*/>\s*)+)</g>", _style_once, body)


def _style_once(found: re.Match[str]) -> str:
    clip, dots = found[1] or "", found[2]
    styles = set(re.findall(r' style="[^"]*"', dots))
    if len(styles) != 1:
        return found[0]
    style = styles.pop()
    return f"<g{clip}{style}>{dots.replace(style, '')}</g>"
