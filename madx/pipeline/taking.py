"""The take stage: files from outside become part of the run, checked and built as the run's own would be.

An ONNX file is read (`madx.deploy.outside`), tried and built for every engine of the recipe; an engine of another run
is taken as it is, if its bytes are still those that its manifest vouches for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from madx.deploy.check import OnnxArtifact
from madx.deploy.engine import BuiltEngine, backend
from madx.deploy.int8 import require_int8
from madx.deploy.interface import Interface
from madx.deploy.outside import check_given, type_names
from madx.deploy.signature import Expected
from madx.errors import ArtifactError, ExportError, ModelError, RecipeError, RefusedFileError
from madx.models import Choice, find_state
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.exporting import availability_record, built_record
from madx.pipeline.given import CANDIDATE, Source
from madx.prune import describe_numbers, resize_to_
from madx.recipe import AttackConfig, EngineConfig, InputConfig, OutputConfig

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
        if source.engines[config.name].released is None and not record["built"]:
            continue  # it cannot be built here; the gates say so
        engine, facts = _engine(context, config, source, here=bool(record["built"]))
        name = files.taken_engine(config, role, engine.suffix)
        beside = {location: files.taken_data(config, role, location) for location in engine.data}
        interface = engine.interface and engine.interface.to_json()
        record[role] = facts | {"file": name, "data": beside, "interface": interface}
        payloads[name] = engine.payload
        payloads |= {file: engine.data[location] for location, file in beside.items()}
    record["built"] = all(role in record for role in context.sources)
    return _Engines(config, record, payloads)


def _write(context: Context, engines: _Engines) -> list[str]:
    name, built = engines.config.name, engines.record["built"]
    outputs = [context.write_bytes(file, payload) for file, payload in engines.payloads.items()]
    context.progress.say(f"{name}: {'taken' if built else 'NOT built'}: {', '.join(context.sources)}")
    return [*outputs, context.write_json(files.taken_build(engines.config), engines.record)]


def _engine(
    context: Context, config: EngineConfig, source: Source, *, here: bool
) -> tuple[BuiltEngine, dict[str, Any]]:
    """The engine and what is known of it; `here` is whether this machine can build such engines.

    Raises:
        ExportError: an ONNX file cannot be judged, or its runtime does not take it.
        EngineError: another engine cannot be built although this machine can build such engines.
    """
    payload, released = source.engines[config.name].payload, source.engines[config.name].released
    if released is not None and released.suffix != ".onnx":
        engine = BuiltEngine.of(payload, released.suffix, dict(released.facts), interface=released.interface)
        record = {"sha256": engine.sha256, "precision": released.precision, "facts": engine.facts, "sparsity_2_4": {}}
        return engine, record
    artifact = _checked(context, config, source)
    told = [f"it computes in {artifact.precision}"] if artifact.precision != config.precision else []
    told += [str(found)] if (found := artifact.facts.get("random")) else []
    for sentence in (*told, *artifact.notes):
        context.progress.say(f"{config.name}, {source.role}: {sentence}")
    if here:
        engine = _built(context, config, source, artifact)
    else:
        engine = BuiltEngine.of(payload, ".onnx", {}, interface=artifact.interface, data=artifact.data)
    _say_how_it_is_fed(context, config, source, engine)
    return engine, built_record("", engine, artifact)


def _built(context: Context, config: EngineConfig, source: Source, artifact: OnnxArtifact) -> BuiltEngine:
    """The engine of a file from outside.

    Raises:
        ExportError: its runtime does not take it.
        EngineError: the runtime itself does not work here, or computes a candidate of int8 in float32.
    """
    runtime = backend(config.kind)
    try:
        own = config.of_precision(artifact.precision)
        built = runtime.build(artifact, own, batch=context.recipe.verify.latency.batch)
    except (RefusedFileError, ExportError) as error:
        other = type_names(artifact.payload, artifact.data)
        types = f" The file computes in {other}." if other else ""
        raise ExportError(f"{_told_of(config, source)}: {error}.{types}") from error
    if source.role == CANDIDATE:
        require_int8(built, own)
    return built


def _say_how_it_is_fed(context: Context, config: EngineConfig, source: Source, engine: BuiltEngine) -> None:
    """Said where a file is not as madx's own; the record of the build has it in any case."""
    interface = engine.interface
    if interface is None or interface.plain:
        return
    _check_batch(context, config, source.role, interface.batch)
    told = interface.describe()
    context.progress.say(f"{config.name}, {source.role}: fed {told['fed']}; gives {told['gives']}")
    if interface.batch is not None:
        context.progress.say(
            f"{config.name}, {source.role}: it takes {interface.batch} images a call and no other number, so it is "
            "measured at that batch alone; a last short batch is filled up, and the filling's answers are dropped"
        )
    if interface.form == "probabilities":
        context.progress.say(
            f"{config.name}, {source.role}: the output is probabilities (a softmax); attacks know that and take their "
            "logarithm, which is the logits but for a constant"
        )


def _check_batch(context: Context, config: EngineConfig, role: str, batch: int | None) -> None:
    """RecipeError where engines are to be asked or timed at a batch that one of them does not take."""
    settings = context.recipe.verify
    if batch is not None and settings.batches and set(settings.batches) != {batch}:
        raise RecipeError(
            f"the {role} takes {batch} images a call and no other number, and verify.batches is "
            f"{list(settings.batches)}: leave it out, or export the file with a dynamic batch ({config.name})"
        )
    wanted = settings.latency.batch
    if batch in (None, wanted) or (len(context.sources) < 2 and context.alone):
        return
    raise RecipeError(
        f"the {role} takes {batch} images a call and no other number, and verify.latency.batch is {wanted}: set it to "
        f"{batch}, or export the file with a dynamic batch ({config.name})"
    )


def _checked(context: Context, config: EngineConfig, source: Source) -> OnnxArtifact:
    """The ONNX file, held against the data and the recipe; ExportError names who gave it."""
    train, settings = context.splits.train, context.recipe.verify
    own, section = (settings.input, settings.output), "verify.input"
    if source.role != CANDIDATE:
        own, section = _reference_fed(context, config, source), "verify.reference_input"
    # The recipe names the candidate's precision; what it is compared with may have another, and is judged by its own:
    # only the run that exported an int8 file knew which of its layers are to stay float32.
    released = source.engines[config.name].released
    known = "int8" if released is not None and released.exported and released.precision == "int8" else None
    named = config.precision if source.role == CANDIDATE else known
    expected = Expected(train.shape, train.classes, named, *own, section=section)
    try:
        return check_given(source.engines[config.name].payload, source.engines[config.name].data, expected)
    except ExportError as error:
        raise ExportError(f"{_told_of(config, source)}: {error}") from error


def _reference_fed(context: Context, config: EngineConfig, source: Source) -> tuple[InputConfig, OutputConfig]:
    """How what is compared with is fed: as its own keys say, else as its run fed it, else as the candidate."""
    settings = context.recipe.verify
    usual = (settings.input, settings.output) if context.alone else (InputConfig(), OutputConfig())
    if (released := source.engines[config.name].released) is not None:
        usual = _as_recorded(released.interface)
    return (
        usual[0] if settings.reference_input is None else settings.reference_input,
        usual[1] if settings.reference_output is None else settings.reference_output,
    )


def _as_recorded(fed: Interface | None) -> tuple[InputConfig, OutputConfig]:
    """What a recipe would say to have a file fed so; nothing is left to be guessed again."""
    if fed is None:
        return InputConfig(), OutputConfig()
    images = InputConfig(
        name=fed.input,
        layout=fed.layout,
        batch=fed.batch,
        scale=fed.scale,
        mean=fed.mean or (0.0,),
        std=fed.std or (1.0,),
        channel_order="bgr" if fed.bgr else "rgb",
    )
    return images, OutputConfig(name=fed.output, form=fed.form)


def _told_of(config: EngineConfig, source: Source) -> str:
    return f"the ONNX file given as {source.role} for {config.name}"


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
    numbers = describe_numbers(module, found.state)
    try:
        resize_to_(module, found.state)
    except (ModelError, RuntimeError) as error:
        raise ModelError(f"{path}: as the twin of the {source.role}: {error}") from None
    if numbers:
        context.progress.say(f"{path}: fewer heads, as madx removes them, not narrower ones: {numbers}")
    return module
