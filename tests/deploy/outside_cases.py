"""Small ONNX files as other tools write them: one linear classifier of 4 x 4 images, wrapped in many ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CLASSES, SIDE = 5, 4


def weights(channels: int = 1) -> np.ndarray:
    """[C * 4 * 4, K], the same each time."""
    return np.random.default_rng(channels).normal(size=(channels * SIDE * SIDE, CLASSES)).astype(np.float32)


def images(count: int, channels: int = 1) -> np.ndarray:
    """On the grid of 8-bit images, so that rounding to it changes nothing."""
    levels = np.random.default_rng(7).integers(256, size=(count, channels, SIDE, SIDE))
    return (levels / 255).astype(np.float32)


def expected(x: np.ndarray) -> np.ndarray:
    """The classifier's logits [B, K] of images [B, C, 4, 4] in [0, 1]."""
    return x.reshape(len(x), -1) @ weights(x.shape[1])


def node(kind: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), name=f"{kind}_{outputs.split()[0]}", **attributes)


def constant(name: str, value: Any, kind: Any = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, kind), name)


def value(name: str, kind: int, dims: Sequence[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, list(dims))


FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8


def model(
    *,
    channels: int = 1,
    input: tuple[str, int, Sequence[Any]] | None = None,
    before: Sequence[onnx.NodeProto] = (),
    after: Sequence[onnx.NodeProto] = (),
    outputs: Sequence[onnx.ValueInfoProto] | None = None,
    extra: Sequence[onnx.TensorProto] = (),
    weight: Any = np.float32,
    **kind: Any,
) -> onnx.ModelProto:
    """`before` is from the input to `x` (or it is `x`), `after` from the logits `z` to the outputs (or `z` is it)."""
    given = value(*input) if input else value("x", FLOAT, ("batch", channels, SIDE, SIDE))
    outs = outputs or [value("z", FLOAT, ("batch", CLASSES))]
    source = "x" if before else given.name
    own = [node("Flatten", source, "flat"), node("MatMul", "flat w", "z")]
    graph = helper.make_graph(
        [*before, *own, *after], "net", [given], list(outs), [constant("w", weights(channels), weight), *extra]
    )
    opsets = [
        helper.make_opsetid("", kind.pop("opset", 17)),
        *(helper.make_opsetid(*one) for one in kind.pop("domains", ())),
    ]
    return helper.make_model(graph, opset_imports=opsets, ir_version=kind.pop("ir", 8), **kind)
