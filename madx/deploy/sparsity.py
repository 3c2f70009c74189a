"""Which layers of an ONNX file TensorRT may run as 2:4 sparse: an own count over the written weights.

Canonical layout: a weight is seen as [..., R], where R is the axis that the layer sums over, cut into aligned
groups of four; a group satisfies the rule with at most two non-zeros. For a convolution [K, C, r, s] a group is
four input channels at one output channel and one kernel position (axis 1), not four values side by side in
memory. Eligible is not chosen: TensorRT takes a sparse kernel only where it is faster.

The rule is NVIDIA's (TensorRT developer guide, "Structured sparsity"); group convolutions have no sparse kernels
(NVIDIA/TensorRT issue 4054).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from madx.deploy.check import read_model
from madx.deploy.graphs import Scope, constant_behind, damage_told, input_of, scopes, values

GROUP, KEPT = 4, 2
_COVERED = ("Conv", "Gemm", "MatMul")
_OTHERS = ("ConvTranspose", "Einsum", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")


@dataclass(frozen=True)
class LayerSparsity:
    """What the 2:4 rule says of one layer."""

    op: str
    weight: str
    """Name of the weight, or nothing if it is not a constant."""
    shape: tuple[int, ...]
    zeros: float
    """Share of the weights that are zero."""
    groups: int
    """Groups of four along the reduction."""
    satisfied: int
    """Groups with at most two non-zeros."""
    eligible: bool
    reason: str
    """Why the layer is eligible or not, in a few words."""


def sparsity_2_4(payload: bytes) -> dict[str, LayerSparsity]:
    """Judge every convolution and matrix product of an ONNX file.

    Args:
        payload: The bytes of an ONNX file.

    Returns:
        One record per layer, by node name (by its first output if the node has none); no layer is left out.

    Raises:
        ExportError: The bytes are no ONNX file.
    """
    with damage_told():
        return {
            node.name or node.output[0]: _judge(node, scope)
            for scope in scopes(read_model(payload))
            for node in scope.nodes
            if node.op_type in (*_COVERED, *_OTHERS)
        }


def _judge(node: NodeProto, scope: Scope) -> LayerSparsity:
    """The record of one layer."""
    if node.op_type in _OTHERS:
        return _refused(node, f"the 2:4 rule is not defined for {node.op_type}")
    weight = constant_behind(input_of(node, 1), scope)
    if weight is None:
        return _refused(node, "the weight is computed, not constant")
    array = _without_zero_point(values(weight), node.input[1], scope)
    if array.ndim < 2:
        return _refused(node, f"a weight with {array.ndim} dimensions has no reduction to group")
    rows = _reduction_last(node, array)
    satisfied, groups = count_2_4(rows)
    reason = _obstacle(node, rows.shape[-1], satisfied, groups)
    return LayerSparsity(
        op=node.op_type,
        weight=weight.name,
        shape=array.shape,
        zeros=1 - float(np.count_nonzero(array)) / array.size,
        groups=groups,
        satisfied=satisfied,
        eligible=not reason,
        reason=reason or "every group is 2:4",
    )


def count_2_4(rows: NDArray[np.generic]) -> tuple[int, int]:
    """Satisfied groups and all groups along the last axis; an incomplete last group is not counted."""
    whole = rows.shape[-1] // GROUP * GROUP
    grouped = rows[..., :whole].reshape(*rows.shape[:-1], -1, GROUP)
    counts = np.count_nonzero(grouped, axis=-1)
    return int(np.count_nonzero(counts <= KEPT)), int(counts.size)


def _reduction_last(node: NodeProto, array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The weight with the axis that the layer sums over in last place."""
    if node.op_type == "Conv":
        return np.moveaxis(array, 1, -1)
    if node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute):
        return array  # [N, R]
    return np.moveaxis(array, -2, -1)  # B of a product is [..., R, N]


def _obstacle(node: NodeProto, reduction: int, satisfied: int, groups: int) -> str:
    """What keeps the layer from sparse math, or nothing."""
    group = next((a.i for a in node.attribute if a.name == "group"), 1)
    if node.op_type == "Conv" and group != 1:
        return f"TensorRT has no sparse kernels for group convolutions (group={group})"
    if reduction % GROUP:
        return f"the reduction has {reduction} entries, not a multiple of {GROUP}"
    if satisfied < groups:
        return f"{groups - satisfied} of {groups} groups have more than {KEPT} non-zeros"
    return ""


def _without_zero_point(array: NDArray[np.generic], name: str, scope: Scope) -> NDArray[np.generic]:
    """Quantised weights minus their zero point, because only that difference is a zero to the arithmetic."""
    for node, where in scope.trail(name):
        if isinstance(node, NodeProto) and node.op_type == "DequantizeLinear":
            zero = where.constant(input_of(node, 2))
            break
    else:
        return array
    if zero is None:
        return array
    point = values(zero).astype(np.int32)
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    if point.size > 1:
        point = point.reshape([-1 if dim == axis % array.ndim else 1 for dim in range(array.ndim)])
    return array.astype(np.int32) - point


def _refused(node: NodeProto, reason: str) -> LayerSparsity:
    return LayerSparsity(node.op_type, "", (), 0.0, 0, 0, False, reason)
