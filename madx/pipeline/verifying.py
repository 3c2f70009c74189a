"""The verify stage: measurements on the deployed engines, and the gates' verdict on them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.artifacts import read_json, write_atomically, write_json
from madx.deploy.engine import Engine, backend
from madx.errors import ArtifactError, EngineError
from madx.machine import describe_machine
from madx.pipeline.context import Context
from madx.pipeline.exporting import build_record
from madx.pipeline.reporting import VERDICT, read_arrays
from madx.pipeline.twins import examples_on, twin
from madx.pipeline.versions import tool_versions
from madx.recipe import EngineConfig
from madx.verify import Adversary, Chunk, Measurements, Sizes, judge
from madx.verify.latency import measure_latency
from madx.verify.measurements import Accuracy, Latency, Parity
from madx.verify.parity import measure_parity
from madx.verify.robustness import measure_accuracy

_PARITY_IMAGES = 256
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2}


def verify(context: Context) -> list[str]:
    """Write the measurements of every engine, and the verdict."""
    measured, missing, outputs = [], {}, []
    for engine in context.recipe.export.engines:
        if not engine.verify:
            continue
        try:
            values = _measured(context, engine)
        except EngineError as error:
            context.progress.say(f"{engine.name}: not measured: {error}")
            missing[engine.name] = str(error)
            continue
        measured.append(values)
        outputs.append(_write_arrays(context, measurements_file(engine), values.to_arrays()))
    verdict = judge(measured, context.recipe.verify.gates, missing=missing)
    write_json(context.run.path(VERDICT), verdict.to_json() | {"provenance": _provenance(context)})
    return [*outputs, VERDICT]


def measurements_file(engine: EngineConfig) -> str:
    """Name of the file with an engine's raw measurements."""
    return f"measurements/{engine.name}.npz"


def _measured(context: Context, config: EngineConfig) -> Measurements:
    """Everything about one engine.

    Raises:
        EngineError: it was not built, or cannot run here.
    """
    record = read_json(context.run.path(build_record(config)))
    if not record["built"]:
        raise EngineError(f"it could not be built: {record['reason']}")
    payloads = {role: context.run.path(record[role]["file"]).read_bytes() for role in ("dense", "pruned")}
    runtime = backend(config.kind)
    reference = runtime.load(payloads["dense"], config)
    candidate = runtime.load(payloads["pruned"], config)
    try:
        context.progress.say(f"{config.name}: measuring {_images(context)} images and latency")
        dense, pruned = context.dense_model(), context.pruned_model()
        return Measurements(
            engine=config.name,
            latency=_latency(context, reference, candidate),
            parity=_parity(context, config, (reference, dense), (candidate, pruned)),
            accuracy=_accuracy(context, config, (reference, dense), (candidate, pruned)),
            sizes=Sizes(reference=len(payloads["dense"]), candidate=len(payloads["pruned"])),
        )
    finally:
        reference.close()
        candidate.close()


def _accuracy(
    context: Context, config: EngineConfig, reference: tuple[Engine, nn.Module], candidate: tuple[Engine, nn.Module]
) -> Accuracy:
    """Attacks on both twins, scored on both engines; finished chunks of a killed run are read, not made again."""
    adversaries = [
        ("PGD on the dense twin", _adversary(context, reference[1], "verify-dense")),
        ("PGD on the pruned twin", _adversary(context, candidate[1], "verify-pruned")),
    ]
    total = -(-_images(context) // context.recipe.verify.chunk)
    stored = dict(_stored_chunks(context, config, total))
    chunks = context.progress.track(_chunks(context), "attacking both networks", total=total)
    return measure_accuracy(
        reference[0],
        candidate[0],
        chunks=chunks,
        adversaries=adversaries,
        threat=context.recipe.threat,
        stored=stored,
        on_chunk=lambda number, value: _store_chunk(context, config, number, value),
    )


def _adversary(context: Context, module: nn.Module, purpose: str) -> Adversary:
    def examples(images: Tensor, labels: Tensor, number: int) -> Tensor:
        return examples_on(context, module, images, labels, number=number, purpose=purpose)

    return examples


def _chunks(context: Context) -> Iterator[Chunk]:
    """The gate's images in their committed order."""
    split, size = context.splits.gate, context.recipe.verify.chunk
    for number, start in enumerate(range(0, _images(context), size)):
        stop = min(start + size, _images(context))
        images, labels = split.tensors(start, stop)
        yield Chunk(number, split.index[start:stop], images.numpy(), labels.numpy())


def _images(context: Context) -> int:
    wanted = context.recipe.verify.images or len(context.splits.gate)
    return min(wanted, len(context.splits.gate))


def _parity(
    context: Context, config: EngineConfig, reference: tuple[Engine, nn.Module], candidate: tuple[Engine, nn.Module]
) -> Parity:
    """Each engine beside its own twin, on the first gate images and on examples made from them on that twin."""
    images, labels = context.splits.gate.tensors(0, min(_PARITY_IMAGES, _images(context)))
    sides = []
    for engine, module in (reference, candidate):
        adversarial = examples_on(context, module, images, labels, number=0, purpose="verify-parity")
        sides.append(
            measure_parity(
                engine,
                twin(module, context.device),
                clean=images.numpy(),
                adversarial=adversarial.numpy(),
                tolerance=_TOLERANCE[config.precision],
            )
        )
    return Parity(reference=sides[0], candidate=sides[1])


def _latency(context: Context, reference: Engine, candidate: Engine) -> Latency:
    config = context.recipe.verify.latency
    images = context.splits.gate.tensors(0, config.batch)[0].numpy()
    if len(images) < config.batch:
        raise ArtifactError(f"verify.latency.batch is {config.batch}, the gate split has {len(images)} images")
    if reference.timing != candidate.timing:
        raise EngineError(
            f"the engines cannot be compared: one is timed as {reference.timing!r}, the other as {candidate.timing!r}"
        )
    context.progress.say(f"timing both engines at batch {config.batch}, up to {config.seconds:g} s")
    return measure_latency(
        reference.timer(images),
        candidate.timer(images),
        config=config,
        seed=context.recipe.seed,
        timing=reference.timing,
        facts={"reference": reference.facts, "candidate": candidate.facts},
    )


def _provenance(context: Context) -> dict[str, Any]:
    """What the verdict speaks of: these bytes, these images, this machine."""
    gate = context.splits.gate
    engines = {}
    for engine in context.recipe.export.engines:
        record = read_json(context.run.path(build_record(engine)))
        engines[engine.name] = {role: record[role]["sha256"] for role in ("dense", "pruned") if role in record}
    return {
        "recipe": context.recipe.name,
        "seed": context.recipe.seed,
        "threat": context.recipe.threat.model_dump(mode="json"),
        "attack": context.recipe.verify.attack.model_dump(mode="json"),
        "gate_images": {"images": _images(context), "split": len(gate), "sha256": gate.fingerprint},
        "engines": engines,
        "machine": describe_machine(),
        "tools": tool_versions(),
    }


def _chunk_file(context: Context, config: EngineConfig, number: int) -> str:
    return f"checkpoints/{context.key[:16]}-{config.name}-{number:05d}.npz"


def _store_chunk(context: Context, config: EngineConfig, number: int, value: Accuracy) -> None:
    _write_arrays(context, _chunk_file(context, config, number), value.to_arrays())


def _stored_chunks(context: Context, config: EngineConfig, total: int) -> Iterator[tuple[int, Accuracy]]:
    for number in range(total):
        path = context.run.path(_chunk_file(context, config, number))
        if path.is_file():
            yield number, Accuracy.from_arrays(read_arrays(path.read_bytes()))


def _write_arrays(context: Context, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    write_atomically(context.run.path(name), buffer.getvalue())
    return name
