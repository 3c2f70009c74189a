"""The report for people: one HTML page that needs nothing but itself, in the light or the dark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from madx.report import figures, saliency_figures, sensitivity, views, words
from madx.report.content import ReportContent
from madx.report.views import EngineView
from madx.verify import GateResult, Latency, Measurements


def render_html(content: ReportContent) -> str:
    """The whole page; what a run does not have is said to be missing."""
    environment = Environment(
        loader=PackageLoader("madx.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    engines = views.engine_views(content)
    page = environment.get_template("report.html.j2").render(
        content=content,
        verdict=content.verdict,
        headline=words.headline(content.verdict.gates, content.verdict.outcome),
        engines=[_engine(view, number) for number, view in enumerate(engines, start=1)],
        attack=views.attack_sentence(content),
        steps=views.steps(content.finetuning),
        steps_plot=figures.accuracies(views.steps(content.finetuning), "steps"),
        saliency=_saliency(content.saliency) if content.saliency else None,
        recipe=yaml.safe_dump(dict(content.recipe), sort_keys=False, allow_unicode=True),
        unknown=views.UNKNOWN,
    )
    return words.clean(page)


def _engine(view: EngineView, number: int) -> dict[str, Any]:
    """What the page shows of one engine; ids carry its number, as its name is free text."""
    shown: dict[str, Any] = {
        "view": view,
        "gates": [(gate, figures.interval(gate, f"e{number}g{place}")) for place, gate in enumerate(view.gates)],
        "builds": views.built_files(view.build),
        "measured": None,
    }
    return shown if view.measured is None else shown | {"measured": _measured(view.measured, view.gates, number)}


def _measured(measured: Measurements, gates: Sequence[GateResult], number: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"counts": views.count_rows(measured.accuracy), "latency": measured.latency}
    return shown if measured.latency is None else shown | _timed(measured.latency, gates, number)


def _timed(latency: Latency, gates: Sequence[GateResult], number: int) -> dict[str, Any]:
    """What the page shows of the timings."""
    speedup = views.speedup(latency, gates)
    bounds = [gate.bound for gate in gates if gate.metric == "speedup"]
    required = bounds[0] if bounds else None
    return {
        "times": views.time_rows(latency),
        "speedup": speedup,
        "control": views.control(latency),
        "required": required,
        "blocks": figures.blocks(latency, f"e{number}blocks"),
        "ratios": figures.ratios(latency, speedup, f"e{number}ratios", bound=required),
    }


def _saliency(saliency: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of the saliency."""
    rows, points = sensitivity.layer_rows(saliency), sensitivity.curve(saliency)
    enough = saliency["settling"]["enough"] if points else 1.0
    return {
        "sentences": (sensitivity.basis(saliency), sensitivity.settled(saliency), sensitivity.most_sensitive(rows)),
        "rows": rows,
        "threshold": saliency["threshold"],
        "enough": enough,
        "layers": saliency_figures.layers(rows, "layers"),
        "settling": saliency_figures.settling(points, enough, "settling"),
        "histogram": saliency_figures.histogram(saliency, rows, "histogram"),
        "histograms": saliency_figures.histograms(saliency, rows, "histograms"),
    }


def _tied(text: str) -> str:
    """Numbers are not parted from their units at a line's end."""
    return re.sub(r"(?<=\d) (?=%|points|ms\b)", "\u00a0", text)


_FILTERS = {
    "percent": words.percent,
    "milliseconds": words.milliseconds,
    "size": words.size,
    "duration": words.duration,
    "title": words.title,
    "estimate": words.estimate,
    "limits": words.limits,
    "required": words.required,
    "clauses": views.clauses,
    "confidence": words.confidence,
    "plain": words.plain,
    "scientific": words.scientific,
    "tied": _tied,
}
