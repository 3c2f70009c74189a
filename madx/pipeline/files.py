"""Names of the files that stages write, relative to the run directory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from madx.deploy.external import file_of
from madx.recipe import EngineConfig

DENSE = "dense/model.safetensors"
TRAINING = "dense/training.json"
SALIENCY = "saliency.safetensors"
SALIENCY_SUMMARY = "saliency.json"
MASKS = "masks.safetensors"
PRUNED = "pruned/model.safetensors"
FINETUNING = "pruned/finetuning.json"
COVERAGE = "coverage.json"
PARITY = "parity.json"
FOUND_IN_FILE = ("depends_on_values", "batch_wide", "random", "computes_in", "numbers")
"""Facts that the record of a build has from the ONNX file, whoever compares with the engine; what it was held to is
not among them, as that was one recipe's word."""
VERDICT = "verdict.json"
MARKDOWN = "report.md"
REPORTS = ("report.html", MARKDOWN, "junit.xml")


def onnx(role: str, precision: str) -> str:
    """The ONNX file of the dense or the pruned network."""
    return f"{role}-{precision}.onnx"


ENGINES = "engines"
"""Folder of the engines that the run exported itself."""


def engine(config: EngineConfig, role: str, suffix: str) -> str:
    """The engine built from it."""
    return f"{ENGINES}/{config.name}/{role}{suffix}"


def build(config: EngineConfig) -> str:
    """How an engine was built, or why it was not."""
    return f"{ENGINES}/{config.name}/build.json"


def recorded(record: Mapping[str, Any], role: str, fact: Literal["file", "sha256"] = "file") -> str | None:
    """What the record of a build says of a role's file; None where none was built, or the record is silent."""
    entry = record.get(role)
    return entry.get(fact) if isinstance(entry, Mapping) else None


def taken_engine(config: EngineConfig, role: str, suffix: str) -> str:
    """An engine that came from outside the run."""
    return f"taken/{config.name}/{role}{suffix}"


def taken_data(config: EngineConfig, role: str, location: str) -> str:
    """A file of its external data, which it names by that location."""
    return f"taken/{config.name}/{role}.data/{file_of(location)}"


def taken_build(config: EngineConfig) -> str:
    """How it was built, or why it was not."""
    return f"taken/{config.name}/build.json"


def taken_twin(role: str) -> str:
    """Its torch twin, in the recipe's own names."""
    return f"taken/{role}.safetensors"


MEASUREMENTS = "measurements/*.npz"
"""Pattern of the following."""


def measurements(config: EngineConfig) -> str:
    """An engine's raw samples."""
    return f"measurements/{config.name}.npz"
