"""Reading an ONNX file back: what it says of itself is found here, never taken from whoever wrote it.

`check_onnx` is for madx's own exports; files from outside may look otherwise (`madx.deploy.outside`). Canonical layout:
one input `input`, float32 [batch, C, H, W]; one output `logits`, float32 [batch, K]; `batch` is dynamic. Weights are
inside the file and finite, operators of the standard domain, weights of one precision.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from madx.artifacts import KIND_BYTES, kind_of
from madx.deploy.external import NONE, Data, identity, put_inside
from madx.deploy.graphs import Scope, constant_behind, graphs, input_of, nodes, scopes, tensors, values
from madx.deploy.interface import INPUT, OUTPUT, Form, Interface
from madx.errors import ExportError

CHECK = 7
"""Of what a file is held to: one that an earlier check let through is checked again."""
RANDOM_OPS = (
    "Bernoulli",
    "BiasDropout",
    "BitmaskBiasDropout",
    "BitmaskDropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)
DEPENDING_OPS = ("If", "Loop", "NonZero", "Scan", "SequenceMap", "Unique")
"""Their work depends on the values that come in, so an engine may treat one image otherwise than the next."""
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ELEMENTS = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "int8": TensorProto.INT8}
"""Types of the weights of products, by precision that madx exports."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_LOCAL_PATH = re.compile(r"(?:^|[\s\"'=(,:])(?:[A-Za-z]:\\|~?/[\w.+-]+/)|\.py\b")


@dataclass(frozen=True)
class OnnxArtifact:
    """An ONNX file that passed `check_onnx`, with what was found in it."""

    payload: bytes
    """The ONNX file."""
    sha256: str
    input_shape: tuple[int, int, int]
    """(C, H, W) of one image."""
    classes: int
    opset: int
    precision: str
    """A key of `ELEMENTS`: the type of the weights of convolutions and matrix products."""
    facts: dict[str, Any]
    """JSON-ready: parameters (all and non-zero), initialisers and their bytes, nodes by operator, producer."""
    interface: Interface | None = None
    """How a file from outside is fed; None: as madx's own exports are."""
    others: tuple[Interface, ...] = ()
    """How else it might want to be fed, as far as it declares; tried if it does not run as `interface` says."""
    batches: tuple[int, ...] = ()
    """Batches that constants inside it speak of; tried where it does not take any."""
    form: Form | None = None
    """What the recipe says of its output."""
    data: Data = field(default_factory=dict)
    """Its external data, by location."""
    notes: tuple[str, ...] = ()
    """What is unusual and no reason to refuse it, one sentence each."""

    @property
    def whole(self) -> bytes:
        """The model with all weights inside, for builders that make another file of it."""
        if not self.data:
            return self.payload
        found: bytes = read_model(self.payload, self.data).SerializeToString(deterministic=True)
        return found


def check_onnx(
    payload: bytes,
    *,
    shape: tuple[int, int, int],
    classes: int | None = None,
    opset: int | None = None,
    precision: str = "fp32",
    float_layers: Collection[str] = (),
) -> OnnxArtifact:
    """Parse `payload` and hold it against the canonical layout.

    Args:
        payload: The bytes of an ONNX file.
        shape: (C, H, W) that the input must have.
        classes: K that the output must have; without it, K must only be fixed.
        opset: Operator set that the file must declare; without it, any.
        precision: the type that the weights must have, a key of `ELEMENTS`.
        float_layers: of an int8 file, names of weights that stay float32.

    Returns:
        The file with the facts found in it.

    Raises:
        ExportError: The bytes are no valid ONNX model, or break the layout; the message says where.
    """
    require_known(precision)
    model = read_model(payload)
    _check_self_contained(model)
    _check_valid(model)
    _check_input(model.graph, shape)
    found_classes = _check_output(model.graph, classes)
    found_opset = _check_opset(model, opset)
    _check_weights(model, precision, float_layers)
    _check_not_random(model)
    _check_no_local_paths(model)
    facts = describe_model(model, len(payload))
    return OnnxArtifact(payload, identity(payload), shape, found_classes, found_opset, precision, facts)


def require_known(precision: str) -> None:
    """ExportError for a precision that there is none of."""
    if precision not in ELEMENTS:
        raise ExportError(f"unknown precision {precision!r}; choose one of {', '.join(ELEMENTS)}")


def read_model(payload: bytes, data: Data = NONE) -> ModelProto:
    """Parse the bytes of an ONNX file, with its external data put inside; ExportError if they are none."""
    kind = kind_of(payload[:KIND_BYTES])
    told = f"; it is {kind}" if kind else "; export again, or copy the file again"
    try:
        model = onnx.load_model_from_string(payload)
    except DecodeError as error:
        raise ExportError(f"{len(payload)} bytes are no ONNX file, or not all of one{told}") from error
    if not model.graph.node:
        raise ExportError(f"{len(payload)} bytes hold no ONNX graph{told}")
    if data:
        put_inside(model, data)
    return model


def _check_self_contained(model: ModelProto) -> None:
    """Everything is in the file, and in operators that every runtime knows."""
    for name, tensor in tensors(model):
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            raise ExportError(f"the weight {name!r} lies outside the ONNX file; export without external data")
    for node in nodes(model):
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"the node {node.name!r} is {node.domain}::{node.op_type}, outside the standard ONNX domain; "
                "engines do not know it, so rewrite that part of the network with standard operators"
            )
    if model.functions:
        names = ", ".join(function.name for function in model.functions)
        raise ExportError(f"the ONNX file defines its own functions ({names}); they must be inlined")


def _check_valid(model: ModelProto) -> None:
    """The checker of the ONNX project, with shape inference."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ExportError(f"the ONNX checker refuses the file: {one_line(error)}") from error


def _check_input(graph: GraphProto, shape: tuple[int, int, int]) -> None:
    initialisers = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initialisers]
    if [value.name for value in inputs] != [INPUT]:
        given = [value.name for value in inputs]
        raise ExportError(f"the ONNX file has the inputs {given}; expected one, named {INPUT!r}")
    dims = _float_dims(inputs[0])
    if dims[1:] != list(shape):
        raise ExportError(f"the ONNX input is {dims}; expected [batch, {', '.join(map(str, shape))}]")
    _check_dynamic(INPUT, dims)


def _check_output(graph: GraphProto, classes: int | None) -> int:
    """The number of classes K of the output [batch, K]."""
    if [value.name for value in graph.output] != [OUTPUT]:
        given = [value.name for value in graph.output]
        raise ExportError(f"the ONNX file has the outputs {given}; expected one, named {OUTPUT!r}")
    dims = _float_dims(graph.output[0])
    if len(dims) != 2 or not isinstance(dims[1], int) or classes not in (None, dims[1]):
        raise ExportError(f"the ONNX output is {dims}; expected [batch, {classes or 'K, a fixed number'}]")
    _check_dynamic(OUTPUT, dims)
    return int(dims[1])


def _float_dims(value: ValueInfoProto) -> list[int | str]:
    """The dimensions of a float32 input or output: numbers where fixed, names (or '?') where dynamic."""
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT:
        given = TensorProto.DataType.Name(tensor.elem_type)
        raise ExportError(f"the ONNX {value.name!r} is {given}; expected float32, as in every precision")
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]


def _check_dynamic(name: str, dims: list[int | str]) -> None:
    if isinstance(dims[0], int):
        raise ExportError(f"the batch of {name!r} is fixed to {dims[0]}; export with a dynamic batch")


def _check_opset(model: ModelProto, opset: int | None) -> int:
    found = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if not found or (opset is not None and found[0] != opset):
        raise ExportError(f"the ONNX file has operator set {found or 'none'}; expected {opset or 'one'}")
    return int(found[0])


def _check_weights(model: ModelProto, precision: str, float_layers: Collection[str]) -> None:
    """Every constant is sound, and every convolution and matrix product has weights of `precision`."""
    if unsound := unsound_weights(model):
        raise ExportError(unsound[0])
    for scope, node in weighted(model):
        weight = constant_behind(input_of(node, 1), scope)
        if weight is None or weight.name in float_layers:
            continue
        if weight.data_type in set(_FLOATS) - {ELEMENTS[precision]}:
            given = TensorProto.DataType.Name(weight.data_type)
            raise ExportError(f"the weight {weight.name!r} of {node.name!r} is {given}; expected {precision}")


def unsound_weights(model: ModelProto) -> list[str]:
    """NaN anywhere; infinities only in the weights of products, as elsewhere (a mask) they mean no limit."""
    weights = {name for node in nodes(model) if node.op_type in WEIGHTED_OPS for name in node.input[1:]}
    found = []
    for name, tensor in tensors(model):
        array = values(tensor) if tensor.data_type in _FLOATS else None
        if array is None:
            continue
        wide = array.astype(np.float64)
        bad = np.count_nonzero(np.isnan(wide) if name not in weights else ~np.isfinite(wide))
        if bad:
            found.append(
                f"the weight {name!r} has {bad} values that are NaN or infinite: take an earlier checkpoint, or "
                "export again"
            )
    return found


def weighted(model: ModelProto) -> Iterator[tuple[Scope, NodeProto]]:
    """Convolutions and matrix products, each in the scope that its inputs' names mean something in."""
    for scope in scopes(model):
        yield from ((scope, node) for node in scope.nodes if node.op_type in WEIGHTED_OPS)


def _check_not_random(model: ModelProto) -> None:
    if problem := explain_random(model):
        raise ExportError(problem)


def explain_random(model: ModelProto) -> str:
    """What answers by chance answers otherwise each time, and seldom enough nobody sees it; nothing if none does."""
    if drawn := sorted({node.op_type for scope in scopes(model) for node in scope.nodes if _draws(node, scope)}):
        return (
            f"the ONNX file draws random numbers ({', '.join(drawn)}); an engine must give the same answer to the same "
            "image: export the network in evaluation mode"
        )
    return ""


def _draws(node: NodeProto, scope: Scope) -> bool:
    """Whether a node draws random numbers; Dropout does while it trains, or where that is not known."""
    if node.op_type != "Dropout":
        return node.op_type in RANDOM_OPS
    ratio = scope.constant(input_of(node, 1))
    if not (name := input_of(node, 2)) or (ratio is not None and not values(ratio).any()):
        return False  # outside of training, or of nothing
    mode = scope.constant(name)
    return mode is None or bool(values(mode).any())


def _check_no_local_paths(model: ModelProto) -> None:
    """Doc strings and metadata say nothing of the machine that exported."""
    if line := local_path(model):
        raise ExportError(f"the ONNX file carries a local path in its metadata ({line!r}); strip it")


def local_path(model: ModelProto) -> str:
    """The first doc string or metadata that names a path of some machine, cut short; nothing if none does."""
    found = next((text for text in texts(model) if _LOCAL_PATH.search(text)), "")
    return one_line(found)[:120]


def texts(model: ModelProto) -> Iterator[str]:
    """Every doc string and metadata value of the model."""
    for part in documented(model):
        yield part.doc_string
        yield from (entry.value for entry in part.metadata_props)


def documented(model: ModelProto) -> Iterator[Any]:
    """Every part of the model that may carry a doc string and metadata."""
    yield from (model, *model.functions)
    for graph in graphs(model.graph):
        yield from (graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info)


def describe_model(model: ModelProto, size: int) -> dict[str, Any]:
    """What is in a model, JSON-ready."""
    constants = [values(tensor) for _, tensor in tensors(model)]
    floats = [array for array in constants if np.issubdtype(array.dtype, np.floating)]
    return {
        "bytes": size,
        "initialisers": len(constants),
        "initialiser_bytes": sum(array.nbytes for array in constants),
        "parameters": sum(array.size for array in floats),
        "nonzero_parameters": int(sum(np.count_nonzero(array) for array in floats)),
        "nodes": dict(sorted(Counter(node.op_type for node in nodes(model)).items())),
        "depends_on_values": sorted({node.op_type for node in nodes(model) if node.op_type in DEPENDING_OPS}),
        "ir_version": int(model.ir_version),
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }


def one_line(text: object) -> str:
    """Without line breaks and repeated blanks."""
    return " ".join(str(text).split())
