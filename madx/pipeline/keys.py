"""What each stage depends on: its part of the recipe, the user's files and code, and tools where they matter.

Paths play no part: a run directory that is moved with its recipe stays up to date. Images count with their content and
their labels, as they were read, whatever they were read from; those of a large folder with names, sizes, times and the
content of some. A stage depends on the splits that it uses. A network stays what it is when a tool is updated; an
engine and a measurement do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import madx
from madx.artifacts import sha256_file
from madx.attacks import SUITES
from madx.deploy.check import CHECK
from madx.deploy.engine import availability
from madx.errors import DataError, ModelError
from madx.machine import describe_machine
from madx.pipeline.context import Context
from madx.pipeline.given import Source
from madx.pipeline.versions import tool_versions
from madx.plugins import source_digest
from madx.prune import CRITERIA, removes_channels
from madx.recipe import ENGINE_KINDS, METRICS, PruneConfig, Recipe
from madx.recipe.data import DATA_FILES
from madx.verify.measurements import FORMAT

FED = ("input", "output", "reference_input", "reference_output")
"""Of verify: how files from outside are fed."""
METHOD = 5
"""Counts up whenever the same recipe comes to prune otherwise."""


def train(context: Context) -> dict[str, Any]:
    """Everything that decides the dense weights."""
    recipe = context.recipe
    weights = recipe.model.weights
    return _common(context, "train", "selection") | {
        "weights": sha256_file(weights) if weights else None,
        **{f"weights.{name}": value for name, value in _chosen(recipe).items()},
        "train": recipe.train.model_dump(mode="json") if recipe.train else None,
    }


def _chosen(recipe: Recipe) -> dict[str, str]:
    """What the recipe says of the state in model.weights; where it says nothing, keys are those of earlier versions."""
    given = {"key": recipe.model.key, "strip_prefix": recipe.model.strip_prefix}
    return {name: value for name, value in given.items() if value is not None}


def prune(context: Context) -> dict[str, Any]:
    """Everything beside the dense weights that decides the pruned ones; not what the criterion has no use for."""
    config = context.recipe.prune
    fields = config.model_dump(mode="json", exclude=_without_effect(config))
    return (
        _common(context, "train", "selection") | {"prune": fields, "method": METHOD} | CRITERIA.code(config.criterion)
    )


def _without_effect(config: PruneConfig) -> set[str]:
    """Fields of the recipe that nothing reads as the others stand."""
    criterion, fields = CRITERIA[config.criterion], set()
    if criterion.learner is None:
        fields |= {"learning"}
    if config.batches != "auto":
        fields |= {"max_batches"}
    if not criterion.images:
        fields |= {"batches", "max_batches", "settled"}
    if not removes_channels(config):
        fields |= {"round_to"}
    if config.recalibration_batches == 0:
        fields |= {"recalibration", "recalibration_rounds"}
    if config.recalibration == "clean":
        fields |= {"recalibration_rounds"}
    return fields


def take(context: Context) -> dict[str, Any]:
    """The bytes that were given, how the recipe says that they are fed, and what becomes of them here."""
    fed = context.recipe.verify.model_dump(mode="json", include=set(FED))
    given = {role: source.digests() for role, source in context.sources.items()}
    recorded = {role: known for role, source in context.sources.items() if (known := _recorded_feeding(source))}
    return export(context) | {"given": given, "fed": fed, "fed_by_its_run": recorded}


def _recorded_feeding(source: Source) -> dict[str, Any]:
    """How its engines were fed by the run that released them; nothing of files that come without their run."""
    known = {name: one.released.interface for name, one in source.engines.items() if one.released is not None}
    return {name: interface and interface.to_json() for name, interface in known.items()}


def export(context: Context) -> dict[str, Any]:
    """ONNX and engines; engines belong to the machine they were built on and to the runtimes it has."""
    recipe = context.recipe
    engines = [engine.model_dump(mode="json", exclude={"verify"}) for engine in recipe.export.engines]
    return _common(context, "selection") | {
        "export": recipe.export.model_dump(mode="json", exclude={"engines"}) | {"engines": engines},
        "batch": recipe.verify.latency.batch,
        "check": CHECK,
        **_engines_code(recipe),
        "can_build": {engine.name: availability(engine.kind).can_build for engine in recipe.export.engines},
        "machine": describe_machine(),
        "tools": tool_versions(),
    }


def verify(context: Context) -> dict[str, Any]:
    """Measurements and gates; they belong to the machine, and to the madx and the runtimes, that measured."""
    recipe, attack = context.recipe, context.recipe.verify.attack
    return _common(context, "selection", "gate") | {
        **_engines_code(recipe),
        **(SUITES.code(attack) if isinstance(attack, str) else {}),
        **{name: code for gate in recipe.verify.gates for name, code in METRICS.code(gate.metric).items()},
        "verify": recipe.verify.model_dump(mode="json"),
        "format": FORMAT,
        "engines": [engine.model_dump(mode="json") for engine in recipe.export.engines],
        "can_run": {engine.name: availability(engine.kind).can_run for engine in recipe.export.engines},
        "machine": describe_machine(),
        "tools": tool_versions(),
    }


def _engines_code(recipe: Recipe) -> dict[str, str]:
    """Of engines that installed packages add."""
    return {name: code for engine in recipe.export.engines for name, code in ENGINE_KINDS.code(engine.kind).items()}


def measuring(depends: dict[str, Any]) -> dict[str, Any]:
    """What of `verify`'s decides the measurements: gates judge them, and say no more than when and what to measure."""
    settings = depends["verify"]
    if settings["sequential"]:  # the gates end the measuring
        return depends
    depends = {name: value for name, value in depends.items() if not name.startswith(f"{METRICS.group}:")}
    gates = settings["gates"]
    asked = {
        "query_only": any(gate.get("query_only") for gate in gates),
        "tails": any(gate["metric"] == "p99_ratio" for gate in gates),
    }
    return depends | {"verify": settings | {"gates": asked}}


def beside_timings(depends: dict[str, Any]) -> dict[str, Any]:
    """What of `verify`'s decides everything but the timings; engines are built for the batch that they are timed at."""
    found = measuring(depends)
    settings = found["verify"] | {"latency": {"batch": found["verify"]["latency"]["batch"]}}
    if isinstance(gates := settings["gates"], dict):
        settings["gates"] = {name: asked for name, asked in gates.items() if name != "tails"}
    return found | {"verify": settings}


def report(_: Context) -> dict[str, Any]:
    """How reports look belongs to madx's version, what they show (the recipe too) to the files they are made from."""
    return {"madx": madx.__version__}


def across_processes(depends: dict[str, Any]) -> dict[str, Any]:
    """What `depends` says of a stage that must be the same on every machine of a job.

    Copies of a folder have modification times of their own; the splits' fingerprints are compared instead.
    """
    return depends | {"data": {name: value for name, value in depends["data"].items() if name != "files"}}


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Dotted names of what is not the same in two pieces of JSON, such as what two keys were made of."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted(before.keys() | now.keys())
            for difference in differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [name.removeprefix("depends.").removeprefix("inputs.")]


def _common(context: Context, *splits: str) -> dict[str, Any]:
    """What all stages depend on, and these splits; networks do not depend on how many gate images will judge them."""
    recipe = context.recipe
    hidden = {*DATA_FILES, *(() if "gate" in splits else ("gate",))}
    return {
        "seed": recipe.seed,
        "threads": recipe.threads,
        "device": context.device.type,
        "data": recipe.data.model_dump(mode="json", exclude=hidden) | _images(context, splits),
        "model": recipe.model.architecture | {"code": _model_code(recipe)},
        "threat": recipe.threat.model_dump(mode="json"),
    }


def _images(context: Context, names: Sequence[str]) -> dict[str, Any]:
    """The content of the splits, and what on this machine tells that their files, or the factory's code, changed."""
    factory = context.recipe.data.factory
    used = {name: getattr(context.splits, name) for name in names}
    return {
        "code": source_digest(factory, error=DataError) if factory else None,
        "images": {name: split.fingerprint for name, split in used.items()},
        "files": {name: split.stamp for name, split in used.items()},
        "copies": asdict(context.splits.copies) if "gate" in names else None,  # a verdict tells of them
    }


def _model_code(recipe: Recipe) -> str | None:
    return source_digest(recipe.model.factory, error=ModelError) if recipe.model.factory else None
