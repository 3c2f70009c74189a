"""The report for pull requests: Markdown of a few kilobytes, as a step summary takes it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import yaml

from madx.report import attack_views, curve_views, latency_views, pictures, sensitivity, views, words
from madx.report.content import ReportContent
from madx.report.views import EngineView
from madx.verify import GateResult, Ladder, Latency, Measurements, Outcome
from madx.verify.signs import signs

_SYMBOLS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "⚠️"}
_MARKUP = re.compile(r"([\\`*_\[\]#|~$])")
_POINTWISE = f"pointwise {words.level(curve_views.LEVEL)} limits (Clopper and Pearson)"
_MOST_WARNINGS = 50
_MOST_CHARACTERS = 2000
"""Of one sentence: an engine's error may hold a whole log, and a step summary has a limit of one MiB."""


def render_markdown(content: ReportContent) -> str:
    """The verdict, its gates and warnings, accuracy, latency and saliency; tables of details are folded."""
    engines = views.engine_views(content)
    of_verdict = (_verdict(content, engines), _warnings(content), _gates(content))
    of_robustness = (
        _accuracy(content, engines),
        _attacks(engines),
        _curves(content, engines),
        _gallery(content, engines),
    )
    lines = chain(
        *of_verdict, *of_robustness, _latency(engines), _saliency(content), _evidence(content), _provenance(content)
    )
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
    cells = (
        (
            _text(row.label),
            row.before if row.reference is None else f"{row.before} ({row.reference} of {row.total})",
            f"{words.percent(row.candidate / row.total)} ({row.candidate} of {row.total})",
            row.change,
            words.count(row.lost),
            words.count(row.gained),
        )
        for row in rows
    )
    return _table(("images still right", *_columns(measured), "change:", "lost:", "gained:"), cells)


def _columns(measured: Measurements, before: str = "", after: str = "") -> tuple[str, str]:
    """Headings of a column of numbers for each of the two engines."""
    reference, candidate = views.roles(measured)
    return f"{before}{reference}{after}:", f"{before}{candidate}{after}:"


def _attacks(engines: Sequence[EngineView]) -> Iterator[str]:
    """What the attacks did on each engine, folded; signs against them stand open."""
    for view in engines:
        if view.measured is None:
            continue
        found = signs(view.measured)
        if found:
            yield from (f"**The attacks on** {_code(view.name)} **cannot be trusted:**", "")
            yield from (f"- {_text(sign)}" for sign in found)
            yield ""
        yield from (f"<details><summary>Attacks on {_code(view.name)}</summary>", "")
        yield from _attack_tables(view.measured)
        yield from ("", "</details>", "")


def _attack_tables(measured: Measurements) -> Iterator[str]:
    rows = attack_views.attack_rows(measured.accuracy)
    turned = _columns(measured, "turned on ")
    headings = ("attack", "kind", "images:", *turned, "gradients:", "forward passes:")
    counts = ("attacked", "turned_reference", "turned_candidate", "gradient", "forward")
    yield from _table(
        headings, ((_text(row.name), row.kind, *(words.count(getattr(row, name)) for name in counts)) for row in rows)
    )
    yield from ("", f"Cost: {attack_views.total_cost(rows, measured.accuracy.images)}.", "")
    doubtful = bool(signs(measured))
    yield from ("What they must do:" if doubtful else attack_views.trial_sentence(measured.soundness), "")
    checks = attack_views.check_rows(measured.soundness)
    yield from _table(
        ("images that …", "wanted:", *_columns(measured)),
        ((row.label, row.wanted, row.reference, row.candidate) for row in checks),
    )


def _curves(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    """The security curve of each engine, folded."""
    for view in engines:
        if view.measured is None or view.measured.curve is None:
            continue
        rows = curve_views.curve_rows(view.measured.curve, content.provenance.get("threat") or {})
        sentence = curve_views.curve_sentence(view.measured.curve, rows, views.roles(view.measured))
        yield from (f"<details><summary>Security curve of {_code(view.name)}</summary>", "")
        yield from (
            f"{_text(sentence)} In brackets: {_POINTWISE}.",
            "",
        )
        compared = view.measured.reference is not None
        yield from _table(
            ("radius", *_columns(view.measured)[0 if compared else 1 :]),
            (
                (
                    f"{row.radius}{', the threat' if row.is_threat else ''}",
                    *(side.text for side in (row.reference, row.candidate) if side is not None),
                )
                for row in rows
            ),
        )
        yield from ("", "</details>", "")


def _gallery(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    """In words what the HTML report shows in pictures, which GitHub would drop."""
    names = views.class_names(content)
    for view in engines:
        if view.measured is None or not len(view.measured.accuracy.gallery.index):
            continue
        gallery = view.measured.accuracy.gallery
        yield from (f"<details><summary>Images on which the engines differ, {_code(view.name)}</summary>", "")
        cells = (
            ("lost" if lost else "won", str(index), *(_text(pictures.class_name(number, names)) for number in classes))
            for lost, index, *classes in zip(
                gallery.lost, gallery.index, gallery.labels.tolist(), gallery.taken_for.tolist(), strict=True
            )
        )
        yield from _table(("lost or won", "image:", "class", "taken for"), cells)
        yield from ("", f"The first ones, at most {gallery.LIMIT} of each sort. Lost: only the {_of(view)} kept it.")
        yield from ("", "</details>", "")


def _of(view: EngineView) -> str:
    return views.roles(view.measured)[0] if view.measured else "reference"


def _latency(engines: Sequence[EngineView]) -> Iterator[str]:
    yield "### Latency"
    yield ""
    measured = [view.measured for view in engines if view.measured and view.measured.latency]
    timed = [(view, view.measured.latency) for view in engines if view.measured and view.measured.latency]
    if timed:
        times = (*_columns(measured[0], "", " median"), *_columns(measured[0], "", " p99"))
        rows = (_time_row(view, latency) for view, latency in timed)
        yield from _table(("engine", "batch:", *times, "speed-up:", "A/A control:", "timed"), rows)
        yield from chain.from_iterable(_disturbances(view, latency) for view, latency in timed)
        yield from chain.from_iterable(_ladder(view, view.measured.ladder) for view in engines if view.measured)
    else:
        yield "Latency was not measured on any engine."
    yield ""


def _disturbances(view: EngineView, latency: Latency) -> Iterator[str]:
    if found := latency_views.disturbances(latency):
        yield ""
        yield f"{_code(view.name)}: the machine was disturbed while timing: {'; '.join(found)}."


def _ladder(view: EngineView, ladder: Ladder | None) -> Iterator[str]:
    if ladder is None:
        return
    yield from ("", f"{_code(view.name)}, which step bought what:", "")
    rows = latency_views.ladder_rows(ladder)
    cells = ((_text(row.name), row.median, row.bought, row.word) for row in rows)
    yield from _table(("rung", "median:", "times as fast as the rung above:", "so the step is"), cells)
    yield from ("", _text(" ".join(latency_views.ladder_sentences(ladder))))


def _time_row(view: EngineView, latency: Latency) -> tuple[str, ...]:
    roles = views.roles(view.measured) if view.measured else ("reference", "candidate")
    medians = [words.milliseconds(row.median) for row in latency_views.time_rows(latency, roles)]
    speedup, control = latency_views.speedup(latency, view.gates).text, latency_views.control(latency).text
    tails = latency_views.tail(latency)
    return _code(view.name), str(latency.batch), *medians, *tails, speedup, control, _text(latency.timing)


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
    yield from ("", "</details>", "", f"<details><summary>{views.recipe_heading(content)}</summary>", "")
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
