"""The export stage: ONNX files that were read back and compared with torch, and the engines built from them."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn

from madx.closeness import between_batches_of, rounding_of
from madx.deploy.check import OnnxArtifact
from madx.deploy.engine import BuiltEngine, availability, backend
from madx.deploy.export import export_onnx
from madx.deploy.int8 import require_int8
from madx.deploy.quantised import quantised
from madx.deploy.sparsity import sparsity_2_4
from madx.errors import ExportError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.engines import as_classifier
from madx.pipeline.examples import examples_on
from madx.pipeline.overflow import check_range
from madx.precisions import PRECISIONS
from madx.recipe import AttackConfig, EngineConfig
from madx.verify import Images
from madx.verify.contract import Classifier
from madx.verify.parity import Contract, EngineParity, measure_parity

ROLES = ("dense", "pruned")
_LOOKS = ("depends_on_values", "batch_wide")
_SENTENCES = ("random", "computes_in", "numbers", "held_to")
ATTACK = AttackConfig(steps=10)
"""Makes the adversarial images of the comparison with torch; the gates have an attack of their own."""


def export(context: Context) -> list[str]:
    """Write the ONNX files, the parity record, and for each engine its bytes and the record of its build."""
    modules = {"dense": context.dense_model(), "pruned": context.pruned_model()}
    engines = context.recipe.export.engines
    wanted = sorted({(role, engine.precision_of(role)) for role in ROLES for engine in engines})
    artifacts: dict[tuple[str, str], OnnxArtifact] = {}
    outputs, parity = [], {}
    for role, precision in wanted:
        artifact = checked_onnx(context, modules[role], precision)
        artifacts[role, precision] = artifact
        name = context.write_bytes(files.onnx(role, precision), artifact.payload)
        context.progress.say(f"{name}: {len(artifact.payload) / 1e6:.2f} MB, checked")
        for sentence in artifact.notes:
            context.progress.say(f"{name}: {sentence}")
        parity[name] = _compared(context, modules[role], artifact)
        outputs.append(name)
    outputs.append(context.write_json(files.PARITY, parity))
    for engine in engines:
        outputs += _build(context, engine, {role: artifacts[role, engine.precision_of(role)] for role in ROLES})
    return outputs


def checked_onnx(context: Context, module: nn.Module, precision: str) -> OnnxArtifact:
    """The network's ONNX file, held against the contract and the data."""
    train, export = context.splits.train, context.recipe.export
    traced = "fp32" if precision == "int8" else precision
    artifact = export_onnx(module, train.shape, opset=export.opset, classes=train.classes, precision=traced)
    if precision != "int8":
        return artifact
    return quantised(artifact, _calibration_images(context, module), export.calibration)


def _calibration_images(context: Context, module: nn.Module) -> Images:
    """Selection images that the ranges of int8 activations are taken from, those that are attacked all over them."""
    settings = context.recipe.export.calibration
    split = context.splits.selection.take(settings.images)
    images, labels = split.tensors()
    attacked = round(settings.adversarial * len(images))
    found: Images = images.numpy().copy()
    if attacked:
        rows = np.linspace(0, len(images) - 1, attacked).round().astype(int)
        made = examples_on(context, module, images[rows], labels[rows], attack=ATTACK, stream=("calibration",))
        found[rows] = made.numpy()
    return found


def _compared(context: Context, module: nn.Module, artifact: OnnxArtifact) -> dict[str, Any]:
    """The ONNX file under ONNX Runtime against torch, on clean and adversarial selection images.

    Raises:
        ExportError: their logits differ by more than rounding explains.
    """
    split = context.splits.selection.take(context.recipe.export.parity_images)
    images, labels = split.tensors()
    adversarial = examples_on(context, module, images, labels, attack=ATTACK, stream=("parity",))
    config = EngineConfig(kind="ort-cpu", precision=artifact.precision)
    engine = backend("ort-cpu").load(artifact.payload, config)
    try:
        reference = as_classifier(module, context.device)
        clean, attacked = images.numpy(), adversarial.numpy()
        at_the_edges = _held(context, module, artifact, reference, clean, attacked)
        contract = Contract(
            rounding_of(artifact.precision), between_batches_of(artifact.precision), precision=artifact.precision
        )
        found = measure_parity(engine, reference, clean=clean, adversarial=attacked, contract=contract)
        largest = float(max(abs(reference(clean)).max(), abs(reference(attacked)).max()))
    finally:
        engine.close()
    _check_parity(found, artifact.precision)
    return {
        "images": found.images,
        "flips_clean": int(found.flips_clean.sum()),
        "flips_adversarial": int(found.flips_adversarial.sum()),
        "flips_changed": int(found.flips_changed.sum()),
        "largest_difference": float(found.difference.max()),
        "largest_logit": largest,
        "notes": list(artifact.notes),
        **at_the_edges,
    }


def _held(
    context: Context, module: nn.Module, artifact: OnnxArtifact, reference: Classifier, clean: Images, attacked: Images
) -> dict[str, Any]:
    """What was tried of a precision's range; float32 has no edge that a network reaches, and int8 saturates there."""
    if math.isinf(PRECISIONS[artifact.precision].largest):
        return {}
    return check_range(context, module, artifact, reference, clean, attacked)


def _check_parity(found: EngineParity, precision: str) -> None:
    if (times := float(found.apart.max())) > 1:
        why = (
            "quantising it changes the network. Keep its first and last layers in float32 (export.calibration.keep), "
            "take more images (export.calibration.images), or precision: fp32"
            if precision == "int8"
            else "the exported graph is not the network"
        )
        raise ExportError(
            f"the ONNX file's logits differ from torch's by up to {float(found.difference.max()):.3g}, {times:.3g} "
            f"times what {precision} explains: {why}"
        )
    if found.violations:
        raise ExportError(
            f"the ONNX file does not behave like a classifier in eval mode: {'; '.join(found.violations)}"
        )


def _build(context: Context, config: EngineConfig, artifacts: dict[str, OnnxArtifact]) -> list[str]:
    """Build one engine for both networks, or record that this machine cannot: the gates then say it is missing.

    Raises:
        EngineError: the machine can build such engines and this build failed; nothing is recorded.
    """
    record = availability_record(config)
    outputs = []
    if record["built"]:
        runtime = backend(config.kind)
        batch = context.recipe.verify.latency.batch
        built = {
            role: runtime.build(artifact, config.of_precision(artifact.precision), batch=batch)
            for role, artifact in artifacts.items()
        }
        require_int8(built["pruned"], config)
        for role, engine in built.items():
            name = context.write_bytes(files.engine(config, role, engine.suffix), engine.payload)
            record[role] = built_record(name, engine, artifacts[role])
            outputs.append(name)
    runs = "" if record["can_run"] else f"; cannot run here: {record['reason']}"
    context.progress.say(f"{config.name}: {'built' if record['built'] else 'NOT built'}{runs}")
    return [*outputs, context.write_json(files.build(config), record)]


def availability_record(config: EngineConfig) -> dict[str, Any]:
    """What this machine can do with such an engine: the head of the record of its build."""
    available = availability(config.kind)
    return {
        "config": config.model_dump(mode="json"),
        "built": available.can_build,
        "can_run": available.can_run,
        "reason": available.explanation,
    }


def built_record(name: str, engine: BuiltEngine, artifact: OnnxArtifact) -> dict[str, Any]:
    """What is known of one engine file; no times, so that equal engines have equal records."""
    facts = {key: value for key, value in engine.facts.items() if key != "build_seconds"}
    depending = {name: ", ".join(artifact.facts[name]) for name in _LOOKS if artifact.facts.get(name)}
    depending |= {name: artifact.facts[name] for name in _SENTENCES if artifact.facts.get(name)}
    if artifact.interface is None and artifact.notes:  # what exporting made of the network's constants
        depending["constants"] = "; ".join(artifact.notes)
    sparsity = {layer: asdict(row) for layer, row in sparsity_2_4(artifact.whole).items()}
    return {
        "file": name,
        "sha256": engine.sha256,
        "precision": artifact.precision,
        "facts": facts | {"onnx_sha256": artifact.sha256} | depending,
        "sparsity_2_4": sparsity,
    }
