"""What the gates decided: values that go to JSON and back, and nothing that computes.

A verdict FAILS if any gate fails, is INCONCLUSIVE if any gate is, and PASSES otherwise; a verdict without a single
gate result is INCONCLUSIVE. Numbers are in the unit of the gate's metric.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self

from madx.errors import ArtifactError, ExitCode
from madx.verify.remedies import Remedy

SCHEMA = 3
"""Of verdict.json."""


class Outcome(StrEnum):
    """Of a gate, and of all of them."""

    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class GateResult:
    """One gate on one engine."""

    engine: str
    metric: str
    bound: float
    direction: Literal["at_least", "at_most"]
    estimate: float | None
    """None if there is none: not measured, or the data do not carry it."""
    lower: float | None
    """One-sided limit at `confidence`; None if the data give none."""
    upper: float | None
    """One-sided limit at `confidence`; None if the data give none."""
    confidence: float
    outcome: Outcome
    evidence: tuple[str, ...]
    """Sentences: what was counted, and why the outcome is what it is."""
    method: str = ""
    """What the limits come from; empty where there was no number."""
    more_images: int | None = None
    """Of an undecided gate over images: about how many more would decide it."""
    wanted_pairs: int | None = None
    """Of an undecided gate on times: about how many block pairs in all would decide it."""
    remedy: Remedy | None = None
    """What would get a gate further that did not pass."""
    reason: str = ""
    """Of an undecided gate: the sentence of the evidence that keeps it, and that the remedy is for."""

    def to_json(self) -> dict[str, Any]:
        """The fields under their names."""
        return {**self.__dict__, "outcome": self.outcome.value, "evidence": list(self.evidence)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; KeyError, TypeError or ValueError if it is not one."""
        fields = {**content, "outcome": Outcome(content["outcome"]), "evidence": tuple(content["evidence"])}
        remedy = content.get("remedy")
        return cls(**fields | {"remedy": remedy if remedy is None else Remedy(remedy)})


@dataclass(frozen=True)
class Verdict:
    """Every gate on every engine, and what a reader must know beside them."""

    gates: tuple[GateResult, ...]
    warnings: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst of the gates; no gate at all decides nothing."""
        outcomes = {gate.outcome for gate in self.gates}
        if Outcome.FAIL in outcomes:
            return Outcome.FAIL
        return Outcome.PASS if outcomes == {Outcome.PASS} else Outcome.INCONCLUSIVE

    @property
    def exit_code(self) -> ExitCode:
        """What `madx verify` and `madx run` end with."""
        return {
            Outcome.PASS: ExitCode.PASSED,
            Outcome.FAIL: ExitCode.FAILED,
            Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
        }[self.outcome]

    def to_json(self) -> dict[str, Any]:
        """JSON-able; the overall outcome is written for readers and checked on the way back."""
        return {
            "schema": SCHEMA,
            "outcome": self.outcome.value,
            "gates": [gate.to_json() for gate in self.gates],
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            ArtifactError: if the schema is another, a field is missing, or the outcome does not follow from the gates.
        """
        if content.get("schema") != SCHEMA:
            raise ArtifactError(
                f"the verdict has schema {content.get('schema')!r}; this madx reads schema {SCHEMA}; verify again"
            )
        try:
            gates = tuple(GateResult.from_json(gate) for gate in content["gates"])
            verdict = cls(gates=gates, warnings=tuple(content["warnings"]))
            stated = Outcome(content["outcome"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"the verdict cannot be read: {type(error).__name__}: {error}") from None
        if stated is not verdict.outcome:
            raise ArtifactError(f"the verdict says {stated} but its gates say {verdict.outcome}; it was edited")
        return verdict
