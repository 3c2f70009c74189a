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
from typing import TYPE_CHECKING

import numpy as np

from madx.deploy.check import OnnxArtifact, check_onnx, documented, require_known
from madx.deploy.graphs import tensors, values
from madx.deploy.interface import INPUT, OUTPUT
from madx.errors import ExportError
from madx.models.copies import copied

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

__all__ = ["OnnxArtifact", "check_onnx", "export_onnx"]

LARGEST_FP16_WEIGHT = 1e4
"""Above it onnxconverter-common would clamp silently; fp16 itself ends at 65504."""
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
    if precision == "fp16":
        model = _to_fp16(model)
    _strip(model)
    payload = model.SerializeToString(deterministic=True)
    return check_onnx(payload, shape=shape, classes=classes, opset=opset, precision=precision)


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


def _to_fp16(model: ModelProto) -> ModelProto:
    """Weights and arithmetic in fp16, input and output float32. Non-zeros below 1e-7 become 1e-7, zeros stay zero."""
    from onnxconverter_common import float16

    for name, tensor in tensors(model):
        array = values(tensor)
        largest = np.abs(array).max(initial=0) if np.issubdtype(array.dtype, np.floating) else 0
        if not largest <= LARGEST_FP16_WEIGHT:
            raise ExportError(
                f"the weight {name!r} reaches {largest:g}, beyond the {LARGEST_FP16_WEIGHT:g} that fp16 export "
                "allows; use precision: fp32, or bring the network's weights into range"
            )
    with _quiet():
        converted: ModelProto = float16.convert_float_to_float16(model, keep_io_types=True)
    return converted


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
