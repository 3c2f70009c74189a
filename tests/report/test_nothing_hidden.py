"""Every field of what was measured and judged is shown: another value of it gives another report."""

import functools
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import report_cases as cases
from markupsafe import Markup

from madx.report import ReportContent, render_html, svg
from madx.verify import GateResult, Ladder, Measurements, Verdict
from madx.verify.remedies import Remedy

pytestmark = pytest.mark.slow  # a whole report for each field
NOT_SHOWN = {
    "accuracy.index": "positions in the source, which say nothing to a reader; those of the gallery are shown",
    "accuracy.answers_reference.classes": "what the reference takes images for; the table by class has the engine's",
    "latency.order": "a coin toss before each pair of blocks, for whoever analyses the samples again",
    "accuracy.answers_candidate.flat": "beyond one image in a hundred the gates' evidence says how many",
    "accuracy.answers_reference.flat": "nobody asks: a reference that looks better makes any loss look larger",
    "ladder.batch": "the ladder is timed as the engine is, whose batch and timing stand above it",
    "ladder.timing": "the same",
    "sizes.reference": "the size of each engine file stands beside that file, in the record of its build",
    "sizes.candidate": "the same",
    "reference.sha256": "the hash of each engine file stands beside that file, and in the verdict's provenance",
    "candidate.sha256": "the same",
}
"""What no section of the report has, with the reason; the samples themselves are in measurements/*.npz."""


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every field that is no dataclass itself, by dotted name."""
    found: dict[str, Any] = {}
    for field in fields(value):
        name, held = f"{path}{field.name}", getattr(value, field.name)
        found |= leaves(held, f"{name}.") if is_dataclass(held) else {name: held}
    return found


def with_other(value: Any, path: str, other: Any) -> Any:
    first, _, rest = path.partition(".")
    return replace(value, **{first: with_other(getattr(value, first), rest, other) if rest else other})


def another(held: Any) -> Any:
    """A value of the same kind and shape that differs everywhere."""
    if isinstance(held, np.ndarray):
        return ~held if held.dtype == bool else held + 1 if held.dtype.kind == "i" else held * 1.5 + 0.25
    if isinstance(held, str):
        return f"{held} and more"
    if isinstance(held, int | float):
        return held + 3
    if isinstance(held, tuple):
        return tuple(another(one) for one in held) or ("something",)
    if isinstance(held, dict):
        return {name: another(one) for name, one in held.items()} or {"something": "here"}
    return "a" * 64 if held is None else held


MEASURED: Measurements = cases.measurements()
OTHERS = {
    "accuracy.kinds": ("white-box", "white-box", "engine in the loop"),
    "latency.images": np.zeros((40, 2, 20), dtype=np.int32),
    "latency.loads": np.zeros(40, dtype=np.int32),
    "latency.order": tuple(reversed(MEASURED.latency.order)) if MEASURED.latency else (),
    "accuracy.gallery.adversarial": 1 - MEASURED.accuracy.gallery.adversarial,
    "accuracy.gallery.clean": 1 - MEASURED.accuracy.gallery.clean,
    "curve.eps": MEASURED.curve.eps * 1.5 if MEASURED.curve else None,
    "curve.reference": MEASURED.curve.reference & (np.arange(500) > 40) if MEASURED.curve else None,
    "curve.candidate": MEASURED.curve.candidate & (np.arange(500) > 40) if MEASURED.curve else None,
    "ladder.missing": {"a rung": "no such engine"},
    "latency.machine": {"load": np.full(40, 3.0)},
    "parity.reference.violations": ("its logits change from call to call",),
    "parity.candidate.violations": ("its logits change from call to call",),
}
"""Other values that such a field may have; the rest are made by `another`."""


def content(measured: Measurements) -> ReportContent:
    """The same verdict whatever was measured: what only its sentences tell is not shown by the report itself."""
    return replace(cases.PASSING, measurements=(measured,))


def rendered(shown: ReportContent, *, drawn: bool) -> str:
    """The page; its pictures take a second or more, and most of what it shows stands in words too."""
    with pytest.MonkeyPatch.context() as patch:
        if not drawn:
            patch.setattr(svg, "inline", lambda _, name, **__: Markup(name))
        return render_html(shown)


@functools.cache
def page_of(measured: Measurements, *, drawn: bool) -> str:
    return rendered(content(measured), drawn=drawn)


@pytest.mark.parametrize("path", [name for name in leaves(MEASURED) if name != "engine"])
def test_another_measurement_is_another_report(path: str) -> None:
    other = OTHERS[path] if path in OTHERS else another(leaves(MEASURED)[path])
    changed = any(
        page_of(with_other(MEASURED, path, other), drawn=drawn) != page_of(MEASURED, drawn=drawn)
        for drawn in (False, True)
    )
    assert changed is (path not in NOT_SHOWN), NOT_SHOWN.get(path, "no section of the report shows it")


def test_what_is_not_shown_is_still_measured() -> None:
    assert set(NOT_SHOWN) <= set(leaves(MEASURED))
    assert set(OTHERS) <= set(leaves(MEASURED))
    assert isinstance(MEASURED.ladder, Ladder)


GATE = replace(cases.UNDECIDED.verdict.gates[1], more_images=4321, evidence=("what was counted",), method="a method")
GATE_FIELDS: dict[str, Any] = {field.name: getattr(GATE, field.name) for field in fields(GateResult)} | {
    "direction": "at_least",
    "metric": "clean_drop",
    "outcome": cases.FAILING.verdict.outcome,
    "confidence": 0.9,
    "remedy": Remedy.STRONGER_ATTACK,
    "more_images": 900,
}
NOT_SHOWN_OF_GATES = {"wanted_pairs": "the advice in the evidence says it; the headline makes a command of it"}


@pytest.mark.parametrize("name", [*GATE_FIELDS, "warnings"])
def test_another_verdict_is_another_report(name: str) -> None:
    before = Verdict(gates=(GATE,))
    if name == "warnings":
        after = Verdict(gates=(GATE,), warnings=("beware",))
    else:
        other = GATE_FIELDS[name] if GATE_FIELDS[name] != getattr(GATE, name) else another(getattr(GATE, name))
        after = Verdict(gates=(replace(GATE, **{name: other}),))
    pages = [rendered(replace(content(MEASURED), verdict=verdict), drawn=False) for verdict in (before, after)]
    assert (pages[0] != pages[1]) is (name not in NOT_SHOWN_OF_GATES), "no section of the report shows it"
