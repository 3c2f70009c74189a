"""The report for people: one HTML page that needs nothing but itself, in the light or the dark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from madx.recipe import recipe_text
from madx.report import (
    attack_views,
    class_views,
    curve_figure,
    curve_views,
    figures,
    gallery_views,
    latency_figures,
    latency_views,
    saliency_figures,
    saliency_views,
    views,
    words,
)
from madx.report.content import ReportContent
from madx.report.views import EngineView
from madx.verify import Gallery, GateResult, Ladder, Measurements
from madx.verify.signs import signs


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
        tally=words.tally(content.verdict.gates, content.verdict.outcome),
        headline=content.headline,
        engines=[_engine(view, number, content) for number, view in enumerate(engines, start=1)],
        attack=views.attack_sentence(content),
        steps=views.steps(content.finetuning),
        steps_plot=figures.accuracies(views.steps(content.finetuning), "steps"),
        saliency=_saliency(content.saliency) if content.saliency else None,
        recipe=recipe_text(content.recipe),
        unknown=views.UNKNOWN,
        most=Gallery.LIMIT,
    )
    return words.clean(page)


def _engine(view: EngineView, number: int, content: ReportContent) -> dict[str, Any]:
    """What the page shows of one engine; ids carry its number, as its name is free text."""
    shown: dict[str, Any] = {
        "view": view,
        "gates": [(gate, figures.interval(gate, f"e{number}g{place}")) for place, gate in enumerate(view.gates)],
        "builds": views.built_files(view.build),
        "measured": None,
    }
    if view.measured is None:
        return shown
    threat, names = content.provenance.get("threat") or {}, views.class_names(content)
    of_robustness = {
        "curve": _curve(view.measured, threat, number),
        "gallery": _gallery(view.measured, names),
        "attacks": _attacks(view.measured),
        "image_doubts": (*view.measured.image_doubts, *view.measured.reference_doubts),
        "classes": class_views.class_rows(view.measured.accuracy, names),
    }
    return shown | {"measured": _measured(view.measured, view.gates, number) | of_robustness}


def _measured(measured: Measurements, gates: Sequence[GateResult], number: int) -> dict[str, Any]:
    latency = measured.latency
    shown: dict[str, Any] = {"counts": views.count_rows(measured.accuracy), "roles": views.roles(measured)}
    if latency is None:
        return shown
    speedup = latency_views.speedup(latency, gates)
    bounds = [gate.bound for gate in gates if gate.metric == "speedup"]
    required = bounds[0] if bounds else None
    return shown | {
        "times": latency_views.time_rows(latency, views.roles(measured)),
        "speedup": speedup,
        "control": latency_views.control(latency),
        "required": required,
        "percentiles": latency_views.percentile_rows(latency),
        "machine": latency_views.machine_rows(latency),
        "unknown": latency_views.unknown_sources(latency),
        "ladder": _ladder(measured.ladder, number) if measured.ladder else None,
        "disturbances": latency_views.disturbances(latency),
        "course": latency_views.course(latency),
        "by_clock": latency_views.by_clock(latency, gates),
        "distribution": latency_figures.distribution(latency, f"e{number}calls"),
        "blocks": latency_figures.blocks(latency, f"e{number}blocks", views.roles(measured)),
        "ratios": latency_figures.ratios(latency, speedup, f"e{number}ratios", bound=required),
    }


def _ladder(ladder: Ladder, number: int) -> dict[str, Any]:
    """What the page shows of the steps that lead up to an engine."""
    return {
        "rows": latency_views.ladder_rows(ladder),
        "sentences": latency_views.ladder_sentences(ladder),
        "plot": latency_figures.rungs(ladder, f"e{number}ladder"),
    }


def _curve(measured: Measurements, threat: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """What the page shows of the security curve."""
    if measured.curve is None:
        return None
    rows = curve_views.curve_rows(measured.curve, threat)
    accuracy = measured.accuracy
    reference = None if measured.reference is None else curve_views.standing(accuracy.robust_reference)
    suite = (reference, curve_views.standing(accuracy.robust_candidate))
    return {
        "sentence": curve_views.curve_sentence(measured.curve, rows, views.roles(measured)),
        "rows": rows,
        "compared": measured.reference is not None,
        "plot": curve_figure.security_curve(rows, suite, f"e{number}curve", norm=threat.get("norm", "")),
    }


def _attacks(measured: Measurements) -> dict[str, Any]:
    """What the page shows of the attacks themselves."""
    rows = attack_views.attack_rows(measured.accuracy)
    return {
        "rows": rows,
        "cost": attack_views.total_cost(rows, measured.accuracy.images),
        "checks": (*attack_views.check_rows(measured.soundness), *attack_views.parity_rows(measured)),
        "trial": attack_views.trial_sentence(measured.soundness),
        "signs": signs(measured),
    }


def _gallery(measured: Measurements, names: tuple[str, ...]) -> tuple[tuple[str, int, Any], ...]:
    """What the page shows of the lost and of the won images: the word, how many there are, and the first of them."""
    if measured.reference is None:
        return ()
    total = views.count_rows(measured.accuracy)[-1]
    gallery = measured.accuracy.gallery
    return (
        ("Lost", total.lost or 0, gallery_views.exhibits(gallery, names, lost=True)),
        ("Won", total.gained or 0, gallery_views.exhibits(gallery, names, lost=False)),
    )


def _saliency(saliency: Mapping[str, Any]) -> dict[str, Any]:
    """What the page shows of the saliency."""
    rows, points = saliency_views.layer_rows(saliency), saliency_views.curve(saliency)
    enough = saliency["settling"]["enough"] if points else 1.0
    return {
        "sentences": saliency_views.sentences(saliency),
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
    "count": words.count,
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
    "capital": words.capital,
}
