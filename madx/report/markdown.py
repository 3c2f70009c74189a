"""The report for pull requests: Markdown of a few kilobytes, as a step summary takes it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from madx.recipe import recipe_text
from madx.report import latency_views, saliency_views, views, words
from madx.report.content import ReportContent
from madx.report.markdown_robustness import robustness
from madx.report.markup import code, columns, fenced, outcome, table, text
from madx.report.views import EngineView
from madx.verify import GateResult, Ladder, Latency

_MOST_WARNINGS = 50


def render_markdown(content: ReportContent) -> str:
    """The verdict, its gates and warnings, accuracy, latency and saliency; tables of details are folded."""
    engines = views.engine_views(content)
    of_verdict = (_verdict(content, engines), _warnings(content), _gates(content))
    details = (_latency(engines), _saliency(content), _evidence(content), _provenance(content))
    lines = chain(*of_verdict, robustness(content, engines), *details)
    return words.clean("\n".join(lines).rstrip() + "\n")


def _verdict(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    verdict = content.verdict
    name = text(str(content.recipe.get("name", "unnamed run")))
    yield f"## {outcome(verdict.outcome)}: {name}"
    yield ""
    yield f"**{text(words.capital(content.headline.sentence))}.**"
    yield ""
    if content.next_command:
        remedy = content.headline.remedy
        yield f"Next{f' ({remedy.value})' if remedy else ''}:"
        yield ""
        yield from fenced(content.next_command, "console")
        yield ""
    yield words.tally(verdict.gates, verdict.outcome)
    yield ""
    for view in engines:
        if view.gates:
            yield f"- On {code(view.name)}:"
            for gate, clause in views.clauses(view):
                yield f"  - {outcome(gate.outcome)}: {text(clause)}"
    yield ""


def _warnings(content: ReportContent) -> Iterator[str]:
    warnings = content.verdict.warnings
    if not warnings:
        return
    yield "### Warnings"
    yield ""
    for warning in warnings[:_MOST_WARNINGS]:
        yield f"- {text(warning)}"
    if len(warnings) > _MOST_WARNINGS:
        yield f"- and {len(warnings) - _MOST_WARNINGS} more in the HTML report"
    yield ""


def _gates(content: ReportContent) -> Iterator[str]:
    yield "### Gates"
    yield ""
    gates = content.verdict.gates
    if not gates:
        yield "No gate was measured."
    else:
        yield from table(("gate", "engine", "required:", "measured:", "limits:", "outcome"), map(_gate_row, gates))
    yield ""


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    remark = words.confidence(gate)
    return (
        text(words.title(gate.metric)),
        code(gate.engine),
        words.required(gate),
        words.estimate(gate),
        f"{words.limits(gate)} ({remark})" if remark else words.limits(gate),
        outcome(gate.outcome),
    )


def _latency(engines: Sequence[EngineView]) -> Iterator[str]:
    yield "### Latency"
    yield ""
    measured = views.measured(engines)
    timed = [(view, found.latency, views.roles(found)) for view, found in measured if found.latency]
    if timed:
        _, _, roles = timed[0]
        times = (*columns(roles, "", " median"), *columns(roles, "", " p99"))
        rows = (_time_row(view, latency, roles) for view, latency, roles in timed)
        yield from table(("engine", "batch:", *times, "speed-up:", "A/A control:", "timed"), rows)
        for view, latency, _ in timed:
            said = f"{latency_views.course(latency)} {latency_views.by_clock(latency, view.gates)}"
            yield from ("", f"{code(view.name)}: {text(said)}")
        yield from chain.from_iterable(_disturbances(view, latency) for view, latency, _ in timed)
        yield from chain.from_iterable(_ladder(view, found.ladder) for view, found in measured)
    else:
        yield "Latency was not measured on any engine."
    yield ""


def _disturbances(view: EngineView, latency: Latency) -> Iterator[str]:
    if found := latency_views.disturbances(latency):
        yield ""
        yield f"{code(view.name)}: the machine was disturbed while timing: {'; '.join(found)}."


def _ladder(view: EngineView, ladder: Ladder | None) -> Iterator[str]:
    if ladder is None:
        return
    yield from ("", f"{code(view.name)}, which step bought what:", "")
    rows = latency_views.ladder_rows(ladder)
    cells = ((text(row.name), row.median, row.bought, row.word) for row in rows)
    yield from table(("rung", "median:", "times as fast as the rung above:", "so the step is"), cells)
    yield from ("", text(" ".join(latency_views.ladder_sentences(ladder))))


def _time_row(view: EngineView, latency: Latency, roles: tuple[str, str]) -> tuple[str, ...]:
    medians = [words.milliseconds(row.median) for row in latency_views.time_rows(latency, roles)]
    speedup, control = latency_views.speedup(latency, view.gates).text, latency_views.control(latency).text
    tails = latency_views.tail(latency)
    return code(view.name), str(latency.batch), *medians, *tails, speedup, control, text(latency.timing)


def _saliency(content: ReportContent) -> Iterator[str]:
    yield from ("### Saliency", "")
    if not content.saliency:
        yield from (f"Saliency was {views.UNKNOWN}.", "")
        return
    rows = saliency_views.layer_rows(content.saliency)
    yield from (text(" ".join(saliency_views.sentences(content.saliency))), "")
    yield from ("<details><summary>Layer by layer</summary>", "")
    cells = (
        (text(row.name), words.scientific(row.mean), words.percent(row.negative), words.percent(row.kept))
        for row in rows
    )
    yield from table(("layer", "mean saliency:", "below zero:", "kept:"), cells)
    yield from ("", "</details>", "")


def _evidence(content: ReportContent) -> Iterator[str]:
    sentences = [(gate, sentence) for gate in content.verdict.gates for sentence in gate.evidence]
    if not sentences:
        return
    yield from ("<details><summary>Evidence</summary>", "")
    for gate, sentence in sentences:
        yield f"- {code(gate.engine)}, {text(words.title(gate.metric))}: {text(sentence)}"
    yield from ("", "</details>", "")


def _provenance(content: ReportContent) -> Iterator[str]:
    provenance = content.provenance
    images = provenance.get("gate_images", {})
    facts = {
        "gate images": f"{images.get('images', views.UNKNOWN)}, split hash {images.get('sha256', views.UNKNOWN)}",
        **{f"of the data ({number})": told for number, told in enumerate(provenance.get("data", []), start=1)},
        **{
            f"{engine}, timed and measured": f"{times['latency']}, {times['rest']}"
            for engine, times in provenance.get("measured_at", {}).items()
        },
        "seed": provenance.get("seed", views.UNKNOWN),
        "machine": words.plain(provenance.get("machine")),
        "tools": words.plain(provenance.get("tools")),
    }
    hashes = {
        f"{name}, {role}": digest
        for name, roles in provenance.get("engines", {}).items()
        for role, digest in roles.items()
    }
    yield from ("<details><summary>Provenance</summary>", "")
    yield from table(("fact", "value"), ((text(name), text(str(value))) for name, value in (facts | hashes).items()))
    yield from ("", "</details>", "", "<details><summary>Recipe of this verdict, defaults included</summary>", "")
    yield from fenced(recipe_text(content.recipe))
    yield from ("", "</details>", "")
