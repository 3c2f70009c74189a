"""int8 files: weights and activations as whole numbers, between QuantizeLinear and DequantizeLinear nodes.

ONNX Runtime's static quantiser writes them
(https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html): activations uint8 with one scale and
zero point each, weights int8, symmetric, with a scale for each output channel. Ranges come from images that the caller
gives, clean and attacked ones. What is written is read back by `check_onnx`, and every product that stays float32 is
named.

A CPU without VNNI adds up pairs of uint8 x int8 products in 16 bits, where two large ones saturate; with weights of 7
bits none can.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from numpy.typing import NDArray

from madx.closeness import apart, rounding_of
from madx.deploy.check import OnnxArtifact, check_onnx, read_model, weighted
from madx.deploy.graphs import constant_behind, input_of
from madx.deploy.interface import INPUT
from madx.deploy.ort import answers_of
from madx.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto

    from madx.recipe import CalibrationConfig

Images = NDArray[np.float32]
_BATCH = 50
"""Images a call while ranges are collected; all batches are alike, which histograms want."""
_SAFE_BITS = 7
_SATURATED = 0.25
"""Share of what int8 explains that the CPU's own kernels may differ by from those that add up in 32 bits."""


def quantised(artifact: OnnxArtifact, images: Images, config: CalibrationConfig) -> OnnxArtifact:
    """The int8 file of one of madx's own float32 exports.

    Args:
        artifact: the float32 file.
        images: [N, C, H, W] that the ranges of activations are taken from.
        config: how; weight bits that it leaves open are 8, or 7 where this CPU's sums saturate.

    Raises:
        ExportError: no layer can be quantised, a pattern of layers to keep fits none, or the written file is not sound.
    """
    kept = _float_layers(artifact, config.keep)
    bits = 8 if config.weight_bits == "auto" else config.weight_bits
    found = _checked(artifact, _written(artifact, images, config, bits=bits, kept=kept), kept)
    if bits > _SAFE_BITS and (times := _saturation(found, images)):
        told = (
            f"sums of its products saturate in 16 bits on this CPU: logits differ by up to {times:.2g} times what int8 "
            "explains from those of kernels that add up in 32 bits"
        )
        if config.weight_bits == 8:
            return replace(found, notes=(*found.notes, f"{told}; take export.calibration.weight_bits: 7"))
        found = _checked(artifact, _written(artifact, images, config, bits=7, kept=kept), kept)
        found = replace(found, notes=(*found.notes, f"weights have 7 bits: with 8, {told}"))
    return found


def _float_layers(artifact: OnnxArtifact, patterns: Sequence[str]) -> dict[str, str]:
    """Names of the nodes that stay float32, by the names of their weights."""
    model = read_model(artifact.payload)
    found: dict[str, str] = {}
    weights = {
        weight.name: node.name
        for scope, node in weighted(model)
        if (weight := constant_behind(input_of(node, 1), scope)) is not None
    }
    for pattern in patterns:
        fitting = {name: node for name, node in weights.items() if fnmatchcase(name, pattern)}
        if not fitting:
            raise ExportError(
                f"export.calibration.keep: {pattern!r} fits no weight of a product in the ONNX file; it has "
                f"{', '.join(weights)}"
            )
        found |= fitting
    if weights and len(found) == len(weights):
        raise ExportError("export.calibration.keep leaves every layer in float32, and the engine would be none of int8")
    return found


def _written(
    artifact: OnnxArtifact, images: Images, config: CalibrationConfig, *, bits: int, kept: dict[str, str]
) -> bytes:
    """The quantiser's file, without what it says of this machine."""
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    methods = {
        "min-max": CalibrationMethod.MinMax,
        "percentile": CalibrationMethod.Percentile,
        "entropy": CalibrationMethod.Entropy,
    }
    with tempfile.TemporaryDirectory() as folder, _quiet():
        file = Path(folder) / "int8.onnx"
        quantize_static(
            read_model(artifact.payload),
            file,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=bits == 7,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(kept.values()),
            calibrate_method=methods[config.method],
        )
        model: ModelProto = onnx.load_model(file)
    model.ClearField("metadata_props")
    payload: bytes = model.SerializeToString(deterministic=True)
    return payload


class _Batches:
    """Equal batches of images, as the quantiser asks for them; a few of the last ones may be left out for that."""

    def __init__(self, images: Images) -> None:
        parts = -(-len(images) // _BATCH)
        self._parts = iter(np.split(images[: len(images) // parts * parts], parts))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the name of the input; None after the last."""
        part = next(self._parts, None)
        return None if part is None else {INPUT: np.ascontiguousarray(part)}


def _checked(artifact: OnnxArtifact, payload: bytes, kept: dict[str, str]) -> OnnxArtifact:
    """Read back; every product has int8 weights, or is named as one that stays float32."""
    found = check_onnx(
        payload,
        shape=artifact.input_shape,
        classes=artifact.classes,
        opset=artifact.opset,
        precision="int8",
        float_layers=kept,
    )
    notes = (f"stays float32 as the recipe says: {', '.join(sorted(kept))}",) if kept else ()
    return replace(found, notes=(*artifact.notes, *notes))


def _saturation(artifact: OnnxArtifact, images: Images) -> float:
    """How far, in units of what int8 explains, this CPU's kernels are from precise ones; 0 where that is little."""
    shown = images[:: max(1, len(images) // _BATCH)][:_BATCH]  # clean and attacked ones
    usual, precise = (answers_of(artifact.payload, shown, precise=exact) for exact in (False, True))
    times = float(apart(usual, precise, rounding=rounding_of("int8")).max())
    return times if times > _SATURATED else 0.0


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantiser's prints and advice: exports need no pre-processing, as BatchNorm is folded already."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(disabled)
