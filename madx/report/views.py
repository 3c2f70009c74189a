"""What the reports show, as rows: counts and medians of the raw samples, ready to be printed by any of them.

Nothing is judged here, and no interval is computed other than with the functions that the gates use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.classes import CLASS_NAMES
from madx.recipe import radius
from madx.report import words
from madx.report.content import ReportContent
from madx.verify import Accuracy, GateResult, Measurements
from madx.verify.limits import discordant

UNKNOWN = "not recorded"
_ROLES = ("dense", "baseline", "reference", "pruned", "engine")


@dataclass(frozen=True)
class EngineView:
    """One engine of the recipe, and all that is known of it."""

    name: str
    build: Mapping[str, Any]
    measured: Measurements | None
    gates: tuple[GateResult, ...]

    @property
    def status(self) -> str:
        """Whether it was built and measured, and the reason if not."""
        reason = f": {self.build['reason']}" if self.build.get("reason") else ""
        if not self.build:
            return "no record of its build"
        if not self.build.get("built"):
            return f"not built{reason}"
        if not self.build.get("can_run", True):
            return f"built; cannot run here{reason}"
        return "built and measured" if self.measured else "built; not measured"


@dataclass(frozen=True)
class CountRow:
    """Images that are still right, of all that were measured."""

    label: str
    reference: int | None
    """None, as the next two, where there was no reference."""
    candidate: int
    total: int
    lost: int | None
    """Right with the reference only."""
    gained: int | None
    """Right with the candidate only."""

    @property
    def drop(self) -> float | None:
        """In shares of the images."""
        return None if self.lost is None or self.gained is None else (self.lost - self.gained) / self.total

    @property
    def change(self) -> str:
        """The drop as a change: "−1.1 points"."""
        return words.ABSENT if self.drop is None else words.change(-self.drop)

    @property
    def before(self) -> str:
        """The reference's share."""
        return words.ABSENT if self.reference is None else words.percent(self.reference / self.total)


@dataclass(frozen=True)
class Step:
    """Accuracies on the selection split after one step of pruning."""

    label: str
    clean: float | None
    robust: float | None
    note: str


@dataclass(frozen=True)
class BuiltFile:
    """One file of an engine."""

    file: str
    size: str
    sha256: str
    sparse: str
    """How many layers have the 2:4 pattern."""
    facts: Mapping[str, Any]


def engine_views(content: ReportContent) -> tuple[EngineView, ...]:
    """Every engine that was built, measured or judged, in the recipe's order."""
    found = {value.engine: value for value in content.measurements}
    judged = [gate.engine for gate in content.verdict.gates]
    names = dict.fromkeys([*content.builds, *found, *judged])
    return tuple(
        EngineView(
            name=name,
            build=content.builds.get(name, {}),
            measured=found.get(name),
            gates=tuple(gate for gate in content.verdict.gates if gate.engine == name),
        )
        for name in names
    )


def measured(engines: Sequence[EngineView]) -> list[tuple[EngineView, Measurements]]:
    """Those of the engines that were measured, with what was."""
    return [(view, view.measured) for view in engines if view.measured]


def clauses(view: EngineView) -> tuple[tuple[GateResult, str], ...]:
    """The engine's gates in words, with the accuracies themselves where a gate names only their drop."""
    return tuple((gate, _with_accuracies(gate, view.measured)) for gate in view.gates)


def count_rows(accuracy: Accuracy) -> tuple[CountRow, ...]:
    """Images right on the clean image, then after each attack and all before it; the last row is robust accuracy."""
    reference, candidate = accuracy.clean_reference, accuracy.clean_candidate
    rows = [_count_row("clean images", reference, candidate)]
    for number, name in enumerate(accuracy.attacks):
        spared = ~accuracy.attacked[number]
        if reference is not None and accuracy.standing_reference is not None:
            reference = reference & (accuracy.standing_reference[number] | spared)
        candidate = candidate & (accuracy.standing_candidate[number] | spared)
        rows.append(_count_row(f"after {name}" if number == 0 else f"and after {name}", reference, candidate))
    if accuracy.answers:
        both = None if reference is None else accuracy.robust_reference
        rows.append(_count_row("and called as they are served", both, accuracy.robust_candidate))
    return tuple(rows)


def steps(finetuning: Mapping[str, Any]) -> tuple[Step, ...]:
    """What each step of pruning did to the accuracies, in order."""
    names = {"one_shot": "one-shot", "recalibrated": "recalibrated"}
    rows = [_step(label, finetuning[key]) for key, label in names.items() if key in finetuning]
    evaluations = finetuning.get("evaluations") or ()
    return (*rows, *(_step(f"step {entry.get('step', '?')}", entry) for entry in evaluations))


def attack_sentence(content: ReportContent) -> str:
    """The suite of attacks and its threat, as the verdict records them."""
    attack, threat = content.provenance.get("attack") or {}, content.provenance.get("threat") or {}
    if not {"suite", "budget"} <= set(attack) or "eps" not in threat:
        return f"The attacks' settings are {UNKNOWN}."
    norm = {"linf": "L∞", "l2": "L2"}.get(threat.get("norm", ""), threat.get("norm", UNKNOWN))
    again = " What still stood met the last examples once more in 8-bit pixels." if attack.get("eight_bit") else ""
    if attack.get("query_only"):
        again = f"{again} These are queries only, as no torch twin was given: attacks with gradients would find more."
    budget = "; ".join(attack["budget"])
    return f"The suite {attack['suite']} within {norm} radius {radius(threat['eps'])}: {budget}.{again}"


def class_names(content: ReportContent) -> tuple[str, ...]:
    """Of the data set, by number; none where only the numbers are known."""
    told = tuple(content.provenance.get("classes", ()))
    return told or CLASS_NAMES.get((content.recipe.get("data") or {}).get("name", ""), ())


def built_files(build: Mapping[str, Any]) -> dict[str, BuiltFile]:
    """The engine's files by role; none if it was not built. A run's record has the recipe's section under "engine"."""
    return {role: _built_file(build[role]) for role in _ROLES if "file" in build.get(role, {})}


def roles(measured: Measurements) -> tuple[str, str]:
    """What the reference and the candidate are called, also where there was no reference."""
    return measured.reference.role if measured.reference else "reference", measured.candidate.role


def _with_accuracies(gate: GateResult, measured: Measurements | None) -> str:
    if measured is None or gate.metric not in ("robust_drop", "clean_drop"):
        return words.clause(gate)
    rows = count_rows(measured.accuracy)
    row = rows[0] if gate.metric == "clean_drop" else rows[-1]
    if row.reference is None:
        return words.clause(gate)
    after = words.percent(row.candidate / row.total)
    return words.clause(gate, subject=f"{gate.metric.partition('_')[0]} accuracy {row.before} → {after}")


def _count_row(label: str, reference: NDArray[np.bool_] | None, candidate: NDArray[np.bool_]) -> CountRow:
    if reference is None:
        return CountRow(label, None, int(candidate.sum()), len(candidate), None, None)
    lost, gained = discordant(reference, candidate)
    return CountRow(label, int(reference.sum()), int(candidate.sum()), len(reference), lost, gained)


def _built_file(record: Mapping[str, Any]) -> BuiltFile:
    facts, table = record.get("facts", {}), record.get("sparsity_2_4", {})
    eligible = sum(bool(row.get("eligible")) for row in table.values())
    return BuiltFile(
        file=record.get("file", UNKNOWN),
        size=words.size(facts["bytes"]) if "bytes" in facts else UNKNOWN,
        sha256=record.get("sha256", UNKNOWN),
        sparse=f"{eligible} of {len(table)}" if table else UNKNOWN,
        facts=facts,
    )


def _step(label: str, entry: Mapping[str, Any]) -> Step:
    return Step(label, entry.get("clean"), entry.get("robust"), str(entry.get("event") or ""))
