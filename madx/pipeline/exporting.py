"""The export stage: ONNX files that were read back and compared with torch, and the engines built from them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from torch import nn

from madx.artifacts import write_atomically, write_json
from madx.deploy.check import OnnxArtifact, check_onnx
from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.deploy.sparsity import sparsity_2_4
from madx.errors import EngineError, ExportError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.twins import TOLERANCE, examples_on, twin
from madx.recipe import AttackConfig, EngineConfig
from madx.verify.measurements import EngineParity
from madx.verify.parity import measure_parity

ROLES = ("dense", "pruned")
_ATTACK = AttackConfig(steps=10)
"""Makes the adversarial images of the comparison with torch; the gates have an attack of their own."""


def export(context: Context) -> list[str]:
    """Write the ONNX files, the parity record, and for each engine its bytes and the record of its build."""
    modules = {"dense": context.dense_model(), "pruned": context.pruned_model()}
    precisions = sorted({engine.precision for engine in context.recipe.export.engines})
    artifacts: dict[tuple[str, str], OnnxArtifact] = {}
    outputs, parity = [], {}
    for role, module in modules.items():
        for precision in precisions:
            artifact = _checked_onnx(context, module, precision)
            artifacts[role, precision] = artifact
            name = files.onnx(role, precision)
            write_atomically(context.run.path(name), artifact.payload)
            context.progress.say(f"{name}: {len(artifact.payload) / 1e6:.2f} MB, checked")
            parity[name] = _compared(context, module, artifact)
            outputs.append(name)
    write_json(context.run.path(files.PARITY), parity)
    for engine in context.recipe.export.engines:
        outputs += _build(context, engine, {role: artifacts[role, engine.precision] for role in ROLES})
    return [*outputs, files.PARITY]


def _checked_onnx(context: Context, module: nn.Module, precision: str) -> OnnxArtifact:
    """Export, and hold the bytes themselves against the contract."""
    train = context.splits.train
    opset = context.recipe.export.opset
    artifact = export_onnx(module, train.shape, opset=opset, precision=precision)
    return check_onnx(artifact.payload, shape=train.shape, classes=train.classes, opset=opset, precision=precision)


def _compared(context: Context, module: nn.Module, artifact: OnnxArtifact) -> dict[str, Any]:
    """The ONNX file under ONNX Runtime against torch, on clean and adversarial selection images.

    Raises:
        ExportError: their logits differ by more than rounding explains.
    """
    split = context.splits.selection.take(context.recipe.export.parity_images)
    images, labels = split.tensors()
    adversarial = examples_on(context, module, images, labels, attack=_ATTACK, stream=("parity",))
    config = EngineConfig(kind="ort-cpu", precision=artifact.precision)
    engine = backend("ort-cpu").load(artifact.payload, config)
    try:
        tolerance = TOLERANCE[artifact.precision]
        reference = twin(module, context.device)
        clean, attacked = images.numpy(), adversarial.numpy()
        found = measure_parity(engine, reference, clean=clean, adversarial=attacked, tolerance=tolerance)
        largest = float(max(abs(reference(clean)).max(), abs(reference(attacked)).max()))
    finally:
        engine.close()
    _check_parity(found, tolerance * largest)
    return {
        "images": found.images,
        "flips_clean": int(found.flips_clean.sum()),
        "flips_adversarial": int(found.flips_adversarial.sum()),
        "largest_difference": float(found.difference.max()),
        "largest_logit": largest,
    }


def _check_parity(found: EngineParity, allowed: float) -> None:
    difference = float(found.difference.max())
    if difference > allowed:
        raise ExportError(
            f"the ONNX file's logits differ from torch's by up to {difference:.3g}, more than the {allowed:.3g} that "
            "rounding explains: the exported graph is not the network"
        )
    if found.violations:
        raise ExportError(
            f"the ONNX file does not behave like a classifier in eval mode: {'; '.join(found.violations)}"
        )


def _build(context: Context, config: EngineConfig, artifacts: dict[str, OnnxArtifact]) -> list[str]:
    """Build one engine for both networks, or record why it cannot be built here; the gates then say it is missing."""
    record: dict[str, Any] = {"engine": config.model_dump(mode="json"), "built": False}
    outputs = [files.build(config)]
    try:
        runtime = backend(config.kind)
        for role, artifact in artifacts.items():
            built = runtime.build(artifact, config, batch=context.recipe.verify.latency.batch)
            name = files.engine(config, role, built.suffix)
            write_atomically(context.run.path(name), built.payload)
            sparsity = {layer: asdict(row) for layer, row in sparsity_2_4(artifact.payload).items()}
            facts = built.facts | {"onnx_sha256": artifact.sha256}
            record[role] = {"file": name, "sha256": built.sha256, "facts": facts, "sparsity_2_4": sparsity}
            outputs.append(name)
        available = runtime.availability()
        record |= {"built": True, "can_run": available.can_run, "reason": available.reason}
        runs = "" if available.can_run else f"; it cannot run here: {available.reason}"
        context.progress.say(f"{config.name}: built{runs}")
    except EngineError as error:
        record |= {"can_run": False, "reason": str(error)}
        context.progress.say(f"{config.name}: NOT built: {error}")
    write_json(context.run.path(files.build(config)), record)
    return outputs if record["built"] else [files.build(config)]
