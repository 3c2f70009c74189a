"""The part of the Markdown report on robustness: accuracy, attacks, security curve, images that were lost and won."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from madx.report import attack_views, curve_views, views, words
from madx.report.class_views import class_rows
from madx.report.content import ReportContent
from madx.report.gallery_views import class_name
from madx.report.markup import code, columns, table, text
from madx.report.views import EngineView
from madx.verify import Measurements
from madx.verify.signs import signs

_POINTWISE = f"pointwise {words.level(curve_views.LEVEL)} limits (Clopper and Pearson)"


def robustness(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    """What stands under attack; details are folded."""
    yield from _accuracy(content, engines)
    yield from _attacks(engines)
    yield from _curves(content, engines)
    yield from _gallery(content, engines)


def _accuracy(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    yield "### Accuracy"
    yield ""
    yield f"{text(views.attack_sentence(content))} **Stronger attacks may find more**, so robust"
    yield "accuracy is an upper bound."
    yield ""
    measured = views.measured(engines)
    for view, found in measured:
        yield code(view.name)
        yield ""
        yield from _count_table(found)
        yield ""
        for doubt in (*found.image_doubts, *found.reference_doubts):
            yield from (f"**{text(doubt)}**", "")
        yield from _class_table(found, views.class_names(content))
    if not measured:
        yield "Accuracy was not measured on any engine."
        yield ""


def _count_table(measured: Measurements) -> Iterator[str]:
    rows = views.count_rows(measured.accuracy)
    cells = (
        (
            text(row.label),
            row.before if row.reference is None else f"{row.before} ({row.reference} of {row.total})",
            f"{words.percent(row.candidate / row.total)} ({row.candidate} of {row.total})",
            row.change,
            words.count(row.lost),
            words.count(row.gained),
        )
        for row in rows
    )
    return table(("images still right", *columns(views.roles(measured)), "change:", "lost:", "gained:"), cells)


def _class_table(measured: Measurements, names: tuple[str, ...]) -> Iterator[str]:
    """Accuracy by class and what is taken for what, folded."""
    roles = views.roles(measured)
    compared = measured.reference is not None
    heads = [f"{role}, {kind}:" for role in roles[0 if compared else 1 :] for kind in ("clean", "robust")]
    cells = (
        (text(row.name), str(row.images), *(row.reference or ()), *row.candidate, text(row.taken_for))
        for row in class_rows(measured.accuracy, names)
    )
    yield from ("<details><summary>By class</summary>", "")
    yield from table(("class", "images:", *heads, "clean images taken for"), cells)
    yield from ("", "</details>", "")


def _attacks(engines: Sequence[EngineView]) -> Iterator[str]:
    """What the attacks did on each engine, folded; signs against them stand open."""
    for view, measured in views.measured(engines):
        found = signs(measured)
        if found:
            yield from (f"**The attacks on** {code(view.name)} **cannot be trusted:**", "")
            yield from (f"- {text(sign)}" for sign in found)
            yield ""
        yield from (f"<details><summary>Attacks on {code(view.name)}</summary>", "")
        yield from _attack_tables(measured, doubtful=bool(found))
        yield from ("", "</details>", "")


def _attack_tables(measured: Measurements, *, doubtful: bool) -> Iterator[str]:
    rows = attack_views.attack_rows(measured.accuracy)
    roles = views.roles(measured)
    turned = columns(roles, "turned on ")
    headings = ("attack", "kind", "images:", *turned, "gradients:", "forward passes:")
    counts = ("attacked", "turned_reference", "turned_candidate", "gradient", "forward")
    yield from table(
        headings, ((text(row.name), row.kind, *(words.count(getattr(row, name)) for name in counts)) for row in rows)
    )
    yield from ("", f"Cost: {attack_views.total_cost(rows, measured.accuracy.images)}.", "")
    yield from ("What they must do:" if doubtful else attack_views.trial_sentence(measured.soundness), "")
    checks = (*attack_views.check_rows(measured.soundness), *attack_views.parity_rows(measured))
    yield from table(
        ("images", "wanted:", *columns(roles)),
        ((text(row.label), row.wanted, text(row.reference), text(row.candidate)) for row in checks),
    )


def _curves(content: ReportContent, engines: Sequence[EngineView]) -> Iterator[str]:
    """The security curve of each engine, folded."""
    for view, measured in views.measured(engines):
        if measured.curve is None:
            continue
        roles = views.roles(measured)
        rows = curve_views.curve_rows(measured.curve, content.provenance.get("threat") or {})
        sentence = curve_views.curve_sentence(measured.curve, rows, roles)
        yield from (f"<details><summary>Security curve of {code(view.name)}</summary>", "")
        yield from (f"{text(sentence)} In brackets: {_POINTWISE}.", "")
        compared = measured.reference is not None
        yield from table(
            ("radius", *columns(roles)[0 if compared else 1 :]),
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
    for view, measured in views.measured(engines):
        gallery = measured.accuracy.gallery
        if not len(gallery.index):
            continue
        yield from (f"<details><summary>Images on which the engines differ, {code(view.name)}</summary>", "")
        cells = (
            ("lost" if lost else "won", str(index), *(text(class_name(number, names)) for number in classes))
            for lost, index, *classes in zip(
                gallery.lost, gallery.index, gallery.labels.tolist(), gallery.taken_for.tolist(), strict=True
            )
        )
        yield from table(("lost or won", "image:", "class", "taken for"), cells)
        kept_by = views.roles(measured)[0]
        yield from ("", f"The first ones, at most {gallery.LIMIT} of each sort. Lost: only the {kept_by} kept it.")
        yield from ("", "</details>", "")
