"""A graph of float16 or bfloat16 computed as its numbers say: what every node gives is rounded, on any machine.

ONNX Runtime has few kernels for float16 on a CPU: it computes in float32 and drops the casts between nodes, so what
becomes infinite on a GPU stays finite there, and nobody sees it. Here the same graph is written in float32, with a cast
to its own type and back behind every node; kernels that add up in float32 and round once do just that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from madx.deploy.check import read_model
from madx.deploy.graphs import values
from madx.deploy.ort import every_output
from madx.errors import ExportError

_KINDS = MappingProxyType({"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16})
_EXACT, _ROUND = "/exact", "/rounded"
"""Behind the name of a value: before it is rounded, and in its own type."""


def rounded(payload: bytes, precision: str) -> bytes:
    """The ONNX file in float32 that computes what `payload` computes in its own precision.

    Args:
        payload: one of madx's own exports; everything is inside it.
        precision: 'fp16' or 'bf16'.
    """
    model = ModelProto()
    model.CopyFrom(onnx.shape_inference.infer_shapes(read_model(payload)))
    _round(model.graph, _KINDS[precision])
    found: bytes = model.SerializeToString(deterministic=True)
    return found


def _round(graph: GraphProto, kind: int) -> None:
    """In place: constants become float32, and what was of `kind` is rounded to it and back."""
    known = (*graph.value_info, *graph.output)
    low = {value.name for value in known if value.type.tensor_type.elem_type == kind}
    for tensor in graph.initializer:
        _widen(tensor, kind)
    made: list[NodeProto] = []
    for node in graph.node:
        for attribute in node.attribute:
            _round_attribute(attribute, kind)
        own = [name for name in node.output if name in low]
        node.output[:] = [name + _EXACT if name in low else name for name in node.output]
        made.append(node)
        for name in own:
            made.append(helper.make_node("Cast", [name + _EXACT], [name + _ROUND], to=kind))
            made.append(helper.make_node("Cast", [name + _ROUND], [name], to=TensorProto.FLOAT))
    made = [_copied(node) for node in made]
    del graph.node[:]
    graph.node.extend(made)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == kind:
            value.type.tensor_type.elem_type = TensorProto.FLOAT


def _copied(node: NodeProto) -> NodeProto:
    """A node of its own: those of a graph vanish with its list."""
    found = NodeProto()
    found.CopyFrom(node)
    return found


def _round_attribute(attribute: AttributeProto, kind: int) -> None:
    """A constant that it holds, a type that it names, graphs inside it."""
    if attribute.HasField("t"):
        _widen(attribute.t, kind)
    if attribute.name in ("to", "dtype") and attribute.i == kind:
        attribute.i = TensorProto.FLOAT
    for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
        _round(graph, kind)


def _widen(tensor: TensorProto, kind: int) -> None:
    if tensor.data_type == kind:
        tensor.CopyFrom(numpy_helper.from_array(values(tensor).astype(np.float32), tensor.name))


# --- Where a value leaves the range ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Overflow:
    """A node that gives what its precision has no number for, of numbers that were still there."""

    node: str
    operator: str
    largest: float
    """What it gives at most, before it is rounded; infinite or NaN where it is already."""


def first_overflow(payload: bytes, precision: str, images: NDArray[np.float32]) -> Overflow | None:
    """The first node, in the order of the graph, whose output is no number although all that goes in are numbers.

    Args:
        payload: as for `rounded`.
        precision: 'fp16' or 'bf16'.
        images: [N, C, H, W], few: every value inside the network is kept for them.

    Raises:
        ExportError: ONNX Runtime does not compute the graph with all of its values shown.
    """
    model = read_model(rounded(payload, precision))
    nodes = [(node, own) for node in model.graph.node for own in _exact(node)]
    shown = {value.name for value in model.graph.output}
    names = [name for _, own in nodes for name in (own, own.removesuffix(_EXACT)) if name not in shown]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    found = every_output(model.SerializeToString(), images)
    endless = {one.name for one in model.graph.initializer if not np.isfinite(_floats(values(one))).all()}
    for node, own in nodes:
        value = found.get(own.removesuffix(_EXACT))
        if value is None:
            raise ExportError(f"{node.name or node.op_type}: its output was asked for and did not come")
        if np.isfinite(value).all():
            continue
        if node.op_type != "Constant" and not endless & set(node.input):
            exact = np.abs(found[own].astype(np.float64))
            return Overflow(node.name or own.removesuffix(_EXACT), node.op_type, float(exact.max(initial=0.0)))
        endless.add(own.removesuffix(_EXACT))
    return None


def _exact(node: NodeProto) -> Iterator[str]:
    return (name for name in node.output if name.endswith(_EXACT))


def _floats(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return array.astype(np.float64) if np.issubdtype(array.dtype, np.floating) else np.zeros(0)
