"""The report for pull requests: Markdown of a few kilobytes, as a step summary takes it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import yaml

from madx.report import sensitivity, views, words
from madx.report.content import ReportContent
from madx.report.views import CountRow, EngineView
from madx.verify import GateResult, Latency, Measurements, Outcome

_SYMBOLS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "⚠️"}
_MARKUP = re.compile(r"([\\`*_\[\]#|~$])")
_MOST_WARNINGS = 50
_MOST_CHARACTERS = 2000
"""Of one sentence: an engine's error may hold a whole log, and a step summary has a limit of one MiB."""


def render_markdown(content: ReportContent) -> str:
    """The verdict, its gates and warnings, accuracy, latency and saliency; tables of details are folded."""
    engines = views.engine_views(content)
    parts = (_verdict(content, engines), _warnings(content), _gates(content), _accuracy(content, engines))
    lines = chain(*parts, _latency(engines), _saliency(content), _evidence(content), _provenance(content))
    return words.clean("\n".join(lines).rstrip() + "\n")


def _verdict(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    verdict = content.verdict
    name = _text(str(content.recipe.get("name", "unnamed run")))
    yield f"## {_outcome(verdict.outcome)}: {name}"
    yield ""
    yield f"**{words.headline(verdict.gates, verdict.outcome)}**"
    yield ""
    for view in engines:
        if view.gates:
            yield f"- On {_code(view.name)}:"
            for gate, clause in views.clauses(view):
                yield f"  - {_SYMBOLS[gate.outcome]} {_text(clause)}"
    yield ""


def _warnings(content: ReportContent) -> Iterator[str]:
    warnings = content.verdict.warnings
    if not warnings:
        return
    yield "### Warnings"
    yield ""
    for warning in warnings[:_MOST_WARNINGS]:
        yield f"- {_text(warning)}"
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
        yield from _table(("gate", "engine", "required:", "measured:", "limits:", "outcome"), map(_gate_row, gates))
    yield ""


def _gate_row(gate: GateResult) -> tuple[str, ...]:
    remark = words.confidence(gate)
    return (
        _text(words.title(gate.metric)),
        _code(gate.engine),
        words.required(gate),
        words.estimate(gate),
        f"{words.limits(gate)} ({remark})" if remark else words.limits(gate),
        _outcome(gate.outcome),
    )


def _accuracy(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    yield "### Accuracy"
    yield ""
    yield f"{_text(views.attack_sentence(content))} **Stronger attacks may find more**, so robust"
    yield "accuracy is an upper bound."
    yield ""
    measured = [view for view in engines if view.measured]
    for view in measured:
        if view.measured:
            yield _code(view.name)
            yield ""
            yield from _count_table(view.measured)
            yield ""
    if not measured:
        yield "Accuracy was not measured on any engine."
        yield ""


def _count_table(measured: Measurements) -> Iterator[str]:
    rows = views.count_rows(measured.accuracy)
    after = [f"{words.percent(row.candidate / row.total)} ({row.candidate} of {row.total})" for row in rows]
    own = f"{measured.candidate.role}:"
    if measured.reference is None:
        alone = ((_text(row.label), share) for row, share in zip(rows, after, strict=True))
        return _table(("images still right", own), alone)
    cells = (
        (_text(row.label), f"{row.before} ({row.reference} of {row.total})", share, row.change, *_both(row))
        for row, share in zip(rows, after, strict=True)
    )
    return _table(("images still right", f"{measured.reference.role}:", own, "change:", "lost:", "gained:"), cells)


def _both(row: CountRow) -> tuple[str, str]:
    return str(row.lost), str(row.gained)


def _latency(engines: Sequence[EngineView]) -> Iterator[str]:
    yield "### Latency"
    yield ""
    measured = [(view, view.measured.latency) for view in engines if view.measured and view.measured.latency]
    rows = (_time_row(view, latency) for view, latency in measured)
    if measured:
        headings = ("engine", "batch:", "dense median:", "pruned median:", "speed-up:", "A/A control:", "timed")
        yield from _table(headings, rows)
    else:
        yield "Latency was not measured on any engine."
    yield ""


def _time_row(view: EngineView, latency: Latency) -> tuple[str, ...]:
    medians = [words.milliseconds(row.median) for row in views.time_rows(latency)]
    speedup, control = views.speedup(latency, view.gates).text, views.control(latency).text
    return _code(view.name), str(latency.batch), *medians, speedup, control, _text(latency.timing)


def _saliency(content: ReportContent) -> Iterator[str]:
    yield from ("### Saliency", "")
    if not content.saliency:
        yield from (f"Saliency was {views.UNKNOWN}.", "")
        return
    rows = sensitivity.layer_rows(content.saliency)
    sentences = (
        sensitivity.basis(content.saliency),
        sensitivity.settled(content.saliency),
        sensitivity.most_sensitive(rows),
    )
    yield from (_text(" ".join(sentences)), "", "<details><summary>Layer by layer</summary>", "")
    cells = (
        (_text(row.name), words.scientific(row.mean), words.percent(row.negative), words.percent(row.kept))
        for row in rows
    )
    yield from _table(("layer", "mean saliency:", "below zero:", "kept:"), cells)
    yield from ("", "</details>", "")


def _evidence(content: ReportContent) -> Iterator[str]:
    sentences = [(gate, sentence) for gate in content.verdict.gates for sentence in gate.evidence]
    if not sentences:
        return
    yield from ("<details><summary>Evidence</summary>", "")
    for gate, sentence in sentences:
        yield f"- {_code(gate.engine)}, {_text(words.title(gate.metric))}: {_text(sentence)}"
    yield from ("", "</details>", "")


def _provenance(content: ReportContent) -> Iterator[str]:
    provenance = content.provenance
    images = provenance.get("gate_images", {})
    facts = {
        "gate images": f"{images.get('images', views.UNKNOWN)}, index hash {images.get('sha256', views.UNKNOWN)}",
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
    yield from _table(("fact", "value"), ((_text(name), _text(str(value))) for name, value in (facts | hashes).items()))
    yield from ("", "</details>", "", "<details><summary>Recipe</summary>", "")
    yield from _fenced(yaml.safe_dump(dict(content.recipe), sort_keys=False, allow_unicode=True))
    yield from ("", "</details>", "")


def _table(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A heading with a colon at its end is a column of numbers."""
    yield "| " + " | ".join(heading.rstrip(":") for heading in headings) + " |"
    yield "| " + " | ".join("---:" if heading.endswith(":") else "---" for heading in headings) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _outcome(outcome: Outcome) -> str:
    return f"{_SYMBOLS[outcome]} {outcome.value}"


def _text(text: str) -> str:
    """Free text on one line, with nothing that Markdown or HTML would act upon."""
    line = " ".join(text.split())
    shown = line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} … (cut)"
    return _MARKUP.sub(r"\\\1", html.escape(shown, quote=False))


def _code(text: str) -> str:
    """A name in code style; as HTML, since a code span of Markdown has no escapes."""
    return f"<code>{_text(text)}</code>"


def _fenced(text: str) -> Iterator[str]:
    """A code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}yaml", text.rstrip(), fence)
