"""From a torch network to an ONNX file that has been read back and checked.

Canonical layout: input `input` float32 [batch, C, H, W], output `logits` float32 [batch, K], dynamic batch,
evaluation mode. The exporter folds BatchNorm into the convolution before it, so a file has fewer initialisers than
the network; a convolution's weight keeps its name. The network that is handed in stays as it was: a copy is exported.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from madx.deploy.check import WEIGHTED_OPS, OnnxArtifact, check_onnx, documented, require_known
from madx.deploy.graphs import nodes, tensors, values
from madx.deploy.interface import INPUT, OUTPUT
from madx.errors import ExportError
from madx.models.copies import copied
from madx.precisions import PRECISIONS

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

__all__ = ["OnnxArtifact", "check_onnx", "export_onnx"]

_LEAST_FP16 = 1e-7
"""Non-zeros below it become it, so that what was not pruned does not look so; the converter's own choice."""
_LARGEST_FP16 = PRECISIONS["fp16"].largest
_LISTED = 5
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def export_onnx(
    module: nn.Module,
    shape: tuple[int, int, int],
    *,
    opset: int,
    classes: int | None = None,
    precision: str = "fp32",
) -> OnnxArtifact:
    """Export a network in evaluation mode, on the CPU, with a dynamic batch.

    Args:
        module: A network taking float32 images [B, C, H, W] in [0, 1] and returning logits [B, K]. It is not changed.
        shape: (C, H, W) of one image.
        opset: ONNX operator set, 18 or newer.
        classes: K that the file must have; without it, K must only be fixed.
        precision: 'fp32', or 'fp16' to convert the fp32 file (inputs and outputs stay float32).

    Returns:
        The file as `check_onnx` read it back.

    Raises:
        ExportError: The network cannot be exported or converted, or the written file breaks the layout.
    """
    require_known(precision)
    model = _traced(copied(module).cpu().eval(), shape, opset)
    notes: tuple[str, ...] = ()
    if precision == "fp16":
        model, notes = _to_fp16(model)
    _strip(model)
    payload = model.SerializeToString(deterministic=True)
    found = check_onnx(payload, shape=shape, classes=classes, opset=opset, precision=precision)
    return replace(found, notes=notes)


def _traced(module: nn.Module, shape: tuple[int, int, int], opset: int) -> ModelProto:
    """The exporter's model; the example batch of 2 keeps the exporter from taking 1 for a constant."""
    import torch

    example = next((p.new_zeros((2, *shape)) for p in module.parameters()), torch.zeros(2, *shape))
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module,
                (example,),
                None,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: "batch"},),
                external_data=False,
                opset_version=opset,
                verbose=False,
            )
    except RuntimeError as error:  # every error of torch.onnx derives from it
        raise ExportError(f"torch.onnx cannot export {type(module).__name__}: {_reason(error)}") from error
    assert program is not None  # dynamo=True always returns a program
    model: ModelProto = program.model_proto
    return model


def _to_fp16(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """Weights and arithmetic in fp16, input and output float32; and what of the constants was changed for it."""
    from onnxconverter_common import float16

    if problem := _beyond(model):
        raise ExportError(problem)
    notes = _clamped(model)
    with _quiet():  # what it would warn of is in the notes
        converted: ModelProto = float16.convert_float_to_float16(
            model, keep_io_types=True, min_positive_val=_LEAST_FP16, max_finite_val=_LARGEST_FP16
        )
    return converted, notes


def _beyond(model: ModelProto) -> str:
    """The first weight of a product that fp16 cannot hold, or nothing: clamped, it would be another network."""
    weights = {name for node in nodes(model) if node.op_type in WEIGHTED_OPS for name in node.input[1:]}
    for name, tensor in tensors(model):
        array = values(tensor)
        if name in weights and np.issubdtype(array.dtype, np.floating):
            largest = float(np.abs(array).max(initial=0))
            if not largest <= _LARGEST_FP16:
                return (
                    f"the weight {name!r} reaches {largest:g}, and float16 ends at {_LARGEST_FP16:g}; use precision: "
                    "fp32, or bring the network's weights into range"
                )
    return ""


def _clamped(model: ModelProto) -> tuple[str, ...]:
    """What the converter changes beyond rounding, a sentence for each kind; infinities and zeros stay what they are."""
    large, small = [], []
    for name, tensor in tensors(model):
        array = values(tensor)
        if not np.issubdtype(array.dtype, np.floating) or not array.size:
            continue
        size = np.abs(array[np.isfinite(array)].astype(np.float64))
        if size.max(initial=0) > _LARGEST_FP16:
            large.append(f"{name!r} ({float(size.max()):.3g})")
        if tiny := int(((size > 0) & (size < _LEAST_FP16)).sum()):
            small.append(tiny)
    found = []
    if large:
        listed = ", ".join(large[:_LISTED]) + (", ..." if len(large) > _LISTED else "")
        found.append(
            f"{len(large)} constants beyond float16's range were set to {_LARGEST_FP16:g} with their sign; a mask "
            f"stays one, and whether the rest does is checked: {listed}"
        )
    if small:
        found.append(
            f"{sum(small)} non-zero numbers below {_LEAST_FP16:g} in {len(small)} constants were set to it with their "
            "sign: float16 has next to none so small"
        )
    return tuple(found)


def _strip(model: ModelProto) -> None:
    """Remove doc strings and metadata: the exporter leaves stack traces with local paths there."""
    for part in documented(model):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress text, log lines or warnings from the exporter; errors are exceptions and still arrive."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _reason(error: BaseException) -> str:
    """The first line of the innermost cause, where torch says what it could not do."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOUR.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
