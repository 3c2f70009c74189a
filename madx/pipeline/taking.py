"""The take stage: files from outside become part of the run, checked and built as the run's own would be.

An ONNX file is held against the contract of `madx.deploy.check` and built for every engine of the recipe; an engine
of another run is taken as it is, if its bytes are still those that its manifest vouches for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from madx.deploy.check import OnnxArtifact, check_onnx
from madx.deploy.engine import BuiltEngine, backend
from madx.errors import ArtifactError, ExportError, ModelError, RecipeError
from madx.models import Choice, find_state
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.exporting import availability_record, built_record
from madx.pipeline.given import Source
from madx.prune import resize_to_
from madx.recipe import AttackConfig, EngineConfig

_A_TWINS = Choice(settable=False)
"""Settings of the recipe speak of model.weights, not of a twin's file."""


def take(context: Context) -> list[str]:
    """Write the given engines, the records of their building, and their twins."""
    sources = context.sources
    if not any(source.twin for source in sources.values()) and isinstance(context.recipe.verify.attack, AttackConfig):
        raise RecipeError(
            "verify.attack: {steps: ...} attacks torch twins alone, and none was given; give --twin WEIGHTS, or choose "
            "verify.attack: quick, standard or paranoid, which have attacks that ask the engine alone"
        )
    twins = {role: _twin(context, source) for role, source in sources.items() if source.twin is not None}
    built = [_engines(context, config) for config in context.recipe.export.engines]
    # Nothing was written so far: what is refused leaves a folder as it was, with the verdict that it may hold.
    outputs = [context.write_tensors(files.taken_twin(role), dict(twin.state_dict())) for role, twin in twins.items()]
    for engines in built:
        outputs += _write(context, engines)
    return outputs


@dataclass(frozen=True)
class _Engines:
    """The given engines of one entry of the recipe."""

    config: EngineConfig
    record: dict[str, Any]
    """`taken/<name>/build.json`."""
    payloads: dict[str, bytes]
    """Bytes of the engines, by file name."""


def _engines(context: Context, config: EngineConfig) -> _Engines:
    record, payloads = availability_record(config), {}
    for role, source in context.sources.items():
        if why := source.absent.get(config.name):
            record["reason"] = why
            continue
        if config.name not in source.built and not record["built"]:
            continue  # it cannot be built here; the gates say so
        engine, facts = _engine(context, config, source)
        name = files.taken_engine(config, role, engine.suffix)
        record[role] = facts | {"file": name}
        payloads[name] = engine.payload
    record["built"] = all(role in record for role in context.sources)
    return _Engines(config, record, payloads)


def _write(context: Context, engines: _Engines) -> list[str]:
    name, built = engines.config.name, engines.record["built"]
    outputs = [context.write_bytes(file, payload) for file, payload in engines.payloads.items()]
    context.progress.say(f"{name}: {'taken' if built else 'NOT built'}: {', '.join(context.sources)}")
    return [*outputs, context.write_json(files.taken_build(engines.config), engines.record)]


def _engine(context: Context, config: EngineConfig, source: Source) -> tuple[BuiltEngine, dict[str, Any]]:
    """The engine and what is known of it.

    Raises:
        ExportError: an ONNX file breaks the contract.
        EngineError: it cannot be built although this machine can build such engines.
    """
    payload = source.payloads[config.name]
    if suffix := source.built.get(config.name):
        if suffix == ".onnx":
            _checked(context, config, source)
        engine = BuiltEngine.of(payload, suffix, {})
        return engine, {"sha256": engine.sha256, "facts": engine.facts, "sparsity_2_4": {}}
    artifact = _checked(context, config, source)
    engine = backend(config.kind).build(artifact, config, batch=context.recipe.verify.latency.batch)
    return engine, built_record("", engine, artifact)


def _checked(context: Context, config: EngineConfig, source: Source) -> OnnxArtifact:
    """The ONNX file, held against the contract and the data; ExportError names who gave it."""
    train, payload = context.splits.train, source.payloads[config.name]
    try:
        return check_onnx(payload, shape=train.shape, classes=train.classes, precision=config.precision)
    except ExportError as error:
        raise ExportError(f"the ONNX file given as {source.role} for {config.name}: {error}") from error


def _twin(context: Context, source: Source) -> nn.Module:
    """The recipe's network with the given weights, in their shapes if channels were removed.

    Raises:
        ModelError: they belong to another network, or are not finite.
    """
    path = source.twin
    if path is None:
        raise ArtifactError(f"the {source.role} has no twin")
    module = context.new_model()
    found = find_state(module, path, _A_TWINS, any_shape=True)
    if told := found.describe():
        context.progress.say(f"twin of the {source.role} taken from {path}: {told}")
    if found.same_shapes:
        module.load_state_dict(found.state, strict=True)
        return module
    try:
        resize_to_(module, found.state)
    except (ModelError, RuntimeError) as error:
        raise ModelError(f"{path}: as the twin of the {source.role}: {error}") from None
    return module
