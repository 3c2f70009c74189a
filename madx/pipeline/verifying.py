"""The verify stage: measurements on the deployed engines, and the gates' verdict on them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.artifacts import sha256_bytes
from madx.deploy.engine import Engine, backend
from madx.errors import ArtifactError, EngineError
from madx.machine import describe_machine
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.ladders import ladder
from madx.pipeline.reporting import read_arrays, read_verdict
from madx.pipeline.twins import TOLERANCE, blind_images, examples_on, twin
from madx.pipeline.versions import tool_versions
from madx.recipe import EngineConfig
from madx.rundir import CHECKPOINTS
from madx.sensors import Watch
from madx.verify import Adversary, Chunk, Measurements, Sizes, judge
from madx.verify.latency import measure_latency
from madx.verify.measurements import Accuracy, EngineParity, Parity
from madx.verify.parity import measure_parity
from madx.verify.robustness import measure_accuracy, measure_chunk
from madx.verify.timings import Latency

_PARITY_IMAGES = 256
_REPEATED = "these engines were measured {} times for these gates, and this is the last: read the earlier verdicts too"


@dataclass(frozen=True)
class _Side:
    """A loaded engine and its torch twin."""

    engine: Engine
    module: nn.Module


def verify(context: Context) -> list[str]:
    """Write the measurements of every engine, and the verdict."""
    world = context.world
    earlier = world.share(lambda: _earlier_provenance(context))
    measured, missing, outputs = [], {}, []
    hashes: dict[str, dict[str, str]] = {}
    for config in context.recipe.export.engines:
        if reason := world.share(partial(_why_missing, context, config)):
            context.progress.say(f"{config.name}: missing: {reason}")
            missing[config.name] = reason
            continue
        values, hashes[config.name] = _measured(context, config)
        if values is not None:
            measured.append(values)
            outputs.append(_write_arrays(context, files.measurements(config), values.to_arrays()))
    verdict = judge(measured, context.recipe.verify.gates, missing=missing)
    subject = {"engines": hashes, "verify": context.recipe.verify.model_dump(mode="json")}
    attempt = _attempts(earlier, subject) + 1
    if attempt > 1:
        verdict = replace(verdict, warnings=(*verdict.warnings, _REPEATED.format(attempt)))
    provenance = _provenance(context) | subject | {"attempt": attempt}
    context.write_json(files.VERDICT, verdict.to_json() | {"provenance": provenance})
    return [*outputs, files.VERDICT]


def _why_missing(context: Context, config: EngineConfig) -> str:
    """Every engine of the recipe is promised: why this one cannot be had here, or nothing."""
    record = context.read_json(files.build(config))
    if not record["built"]:
        return f"it could not be built: {record['reason']}"
    available = backend(config.kind).availability()
    return "" if available.can_run or not config.verify else f"it cannot run here: {available.reason}"


def _measured(context: Context, config: EngineConfig) -> tuple[Measurements | None, dict[str, str]]:
    """Everything about one engine (nothing with verify: false), and the SHA-256 of the bytes that were loaded.

    Raises:
        EngineError: the engine does not work; nothing is recorded, and the next call tries again.
    """
    record = context.read_json(files.build(config))
    payloads = {role: context.read_bytes(record[role]["file"]) for role in ("dense", "pruned")}
    hashes = {role: sha256_bytes(payload) for role, payload in payloads.items()}
    if not config.verify:
        return None, hashes
    context.progress.say(f"{config.name}: measuring {_images(context)} images and latency")
    runtime = backend(config.kind)
    with (
        closing(runtime.load(payloads["dense"], config)) as dense,
        closing(runtime.load(payloads["pruned"], config)) as pruned,
    ):
        reference, candidate = _Side(dense, context.dense_model()), _Side(pruned, context.pruned_model())
        # Timed by process 0 while the others wait idle: another process at work would be measured too.
        latency = context.world.share(lambda: _latency(context, config, dense, pruned))
        measurements = Measurements(
            engine=config.name,
            latency=latency,
            parity=context.world.share(lambda: _parity(context, config, reference, candidate)),
            accuracy=_accuracy(context, config, reference, candidate),
            sizes=Sizes(reference=len(payloads["dense"]), candidate=len(payloads["pruned"])),
            ladder=context.world.share(lambda: ladder(context, config)),
        )
    return measurements, hashes


def _accuracy(context: Context, config: EngineConfig, reference: _Side, candidate: _Side) -> Accuracy:
    """Attacks on both twins, scored on both engines; finished chunks of a killed run are read, not made again."""
    adversaries = [
        ("PGD on the dense twin", _adversary(context, reference.module, "verify-dense")),
        ("PGD on the pruned twin", _adversary(context, candidate.module, "verify-pruned")),
    ]
    threat = context.recipe.threat
    total = -(-_images(context) // context.recipe.verify.chunk)
    stored = context.world.share(lambda: dict(_stored_chunks(context, config, total)))
    left = [number for number in range(total) if number not in stored]

    def measured(number: int) -> Accuracy:
        chunk = _chunk(context, number)
        return measure_chunk(reference.engine, candidate.engine, chunk=chunk, adversaries=adversaries, threat=threat)

    values = context.world.map(measured, left)
    values = context.progress.track(values, "attacking both networks", total=total, done=len(stored))
    for number, value in zip(left, values, strict=True):
        _store_chunk(context, config, number, value)
        stored[number] = value
    return measure_accuracy(
        reference.engine,
        candidate.engine,
        chunks=(_chunk(context, number) for number in range(total)),
        adversaries=adversaries,
        threat=threat,
        stored=stored,
    )


def _adversary(context: Context, module: nn.Module, purpose: str) -> Adversary:
    attack = context.recipe.verify.attack

    def examples(images: Tensor, labels: Tensor, number: int) -> Tensor:
        return examples_on(context, module, images, labels, attack=attack, stream=(purpose, number))

    return examples


def _chunk(context: Context, number: int) -> Chunk:
    """Some of the gate's images, in their committed order."""
    split, size = context.splits.gate, context.recipe.verify.chunk
    start, stop = number * size, min((number + 1) * size, _images(context))
    images, labels = split.tensors(start, stop)
    return Chunk(number, split.index[start:stop], images.numpy(), labels.numpy())


def _images(context: Context) -> int:
    wanted = context.recipe.verify.images or len(context.splits.gate)
    return min(wanted, len(context.splits.gate))


def _parity(context: Context, config: EngineConfig, reference: _Side, candidate: _Side) -> Parity:
    """Each engine beside its own twin, on the first gate images and on examples made from them on that twin."""
    images, labels = context.splits.gate.tensors(0, min(_PARITY_IMAGES, _images(context)))
    attack = context.recipe.verify.attack
    sides = []
    for side in (reference, candidate):
        adversarial = examples_on(context, side.module, images, labels, attack=attack, stream=("verify-parity",))
        found = measure_parity(
            side.engine,
            twin(side.module, context.device),
            clean=images.numpy(),
            adversarial=adversarial.numpy(),
            tolerance=TOLERANCE[config.precision],
        )
        sides.append(_with_blind_spots(context, found, side.module, images, labels))
    return Parity(reference=sides[0], candidate=sides[1])


def _with_blind_spots(
    context: Context, found: EngineParity, module: nn.Module, images: Tensor, labels: Tensor
) -> EngineParity:
    """A twin whose loss is flat at an image cannot lead an attack there: its robustness must not be believed."""
    blind = blind_images(module, images, labels, context.device)
    if blind == 0:
        return found
    sentence = (
        f"its twin's input gradient is exactly zero on {blind} of {len(images)} images, so attacks by gradient see "
        "nothing there (masked gradients)"
    )
    return replace(found, violations=(*found.violations, sentence))


def _latency(context: Context, engine: EngineConfig, reference: Engine, candidate: Engine) -> Latency:
    config = context.recipe.verify.latency
    images = context.splits.gate.tensors(0, config.batch)[0].numpy()
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
        watch=Watch.over_this_machine(gpu=engine.on_gpu),
    )


def _earlier_provenance(context: Context) -> dict[str, Any]:
    """Of the verdict that this one replaces; nothing if there is none or it is damaged."""
    if files.VERDICT not in context.run.hashes("verify"):
        return {}
    try:
        return read_verdict(context)[1]
    except ArtifactError:
        return {}


def _attempts(earlier: Mapping[str, Any], subject: Mapping[str, Any]) -> int:
    """How often these very engines were measured for these very gates before: rolling the dice must be visible."""
    same = all(earlier.get(name) == value for name, value in subject.items())
    return int(earlier.get("attempt", 0)) if same else 0


def _provenance(context: Context) -> dict[str, Any]:
    """What the verdict speaks of: these images, this threat, this machine."""
    gate = context.splits.gate
    return {
        "seed": context.recipe.seed,
        "threat": context.recipe.threat.model_dump(mode="json"),
        "attack": context.recipe.verify.attack.model_dump(mode="json"),
        "gate_images": {"images": _images(context), "split": len(gate), "sha256": gate.fingerprint},
        "machine": describe_machine(),
        "tools": tool_versions(),
    }


def _chunk_file(context: Context, config: EngineConfig, number: int) -> str:
    return f"{CHECKPOINTS}/{context.key[:16]}/{config.name}-{number:05d}.npz"


def _store_chunk(context: Context, config: EngineConfig, number: int, value: Accuracy) -> None:
    _write_arrays(context, _chunk_file(context, config, number), value.to_arrays())


def _stored_chunks(context: Context, config: EngineConfig, total: int) -> Iterator[tuple[int, Accuracy]]:
    """Chunks of a killed run; one that cannot be read is measured again."""
    for number in range(total):
        path = context.run.path(_chunk_file(context, config, number))
        if not path.is_file():
            continue
        try:
            yield number, Accuracy.from_arrays(read_arrays(path.read_bytes()))
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, ArtifactError):
            context.progress.say(f"{config.name}: the stored images {path.name} are damaged and measured again")


def _write_arrays(context: Context, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
    return context.write_bytes(name, buffer.getvalue())
