"""What a report is made from: the files of one run, already read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from madx.report.headline import Headline, headline
from madx.report.next_step import Invocation
from madx.verify import Measurements, Verdict


@dataclass(frozen=True, eq=False)
class ReportContent:
    """One run. Mappings are JSON as the run directory holds it."""

    recipe: Mapping[str, Any]
    """The whole recipe that the verdict was reached by, defaults included."""
    verdict: Verdict
    provenance: Mapping[str, Any]
    """Of verdict.json: recipe, threat, attack, gate images and hash, engine hashes, machine, tool versions."""
    measurements: tuple[Measurements, ...]
    """One for each engine that was measured."""
    coverage: Mapping[str, Any]
    """coverage.json: kept share, and for each layer its shapes, weights, what was kept and the reason if all was."""
    finetuning: Mapping[str, Any]
    """Accuracies on the selection split: one-shot, recalibrated, and the evaluations of fine-tuning."""
    builds: Mapping[str, Mapping[str, Any]]
    """engines/<name>/build.json by engine name."""
    saliency: Mapping[str, Any]
    """saliency.json: what it was averaged over, how it settled, and each layer's mean, spread and kept share."""
    stages: Mapping[str, Mapping[str, Any]]
    """The manifest's record of each finished stage."""

    @cached_property
    def headline(self) -> Headline:
        """What decided the verdict, and what gets further."""
        return headline(self.verdict, self.recipe, self.provenance)

    @property
    def next_command(self) -> str | None:
        """What to type after the command line that the verdict was reached by; None where no command gets further."""
        return self.headline.command(Invocation.from_json(self.provenance.get("typed") or {}))
