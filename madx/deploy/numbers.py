"""In which numbers an ONNX file computes: read from the products that its answer depends on, by type inference.

A coarser type buys more room for rounding (`madx.closeness`), so it is believed only where every product is certain to
have it: what nothing leads to does not count, what a declaration claims does not either, and what no rule tells the
type of stays unknown. This is no proof against whoever wants that room, as coarse numbers can be had for nothing; it
keeps finer ones from being taken for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.inliner import inline_local_functions

from madx.deploy.graphs import DAMAGE, graphs

UNKNOWN = int(TensorProto.UNDEFINED)
"""Of a product whose type nothing tells."""
_PRODUCTS = frozenset(
    {
        *("Attention", "Conv", "ConvTranspose", "DeformConv", "Einsum", "Gemm", "GRU", "LSTM", "MatMul", "RNN"),
        *("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"),
    }
)
_STANDARD = ("", "ai.onnx")
_VENDORS = ("com.microsoft", "com.microsoft.nchwc")
"""Domains whose operators compute in the type of their inputs; any other operator may do anything."""
_WIDE = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE})
_FLOATS = _WIDE | {TensorProto.FLOAT16, TensorProto.BFLOAT16}
NARROW = frozenset(
    kind
    for name, kind in TensorProto.DataType.items()
    if name in ("INT8", "UINT8") or name.endswith(("INT4", "INT2")) or name.startswith(("FLOAT8", "FLOAT4"))
)
"""Types of eight bits or fewer: weights in them were quantised."""
_FEW = 1024
"""Elements of a constant that is kept with its values; of a larger one its type and its shape say enough."""
_REFUSED = (
    *DAMAGE,
    DecodeError,
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
)


def reduced(model: ModelProto, outputs: Collection[str]) -> ModelProto | None:
    """The nodes that `outputs` depend on, in order, functions inlined, large constants without their values.

    Nothing that the file declares of its values stays: types are to be inferred. None where the file is not sound
    enough for that; then whoever asks knows nothing, and has the whole file to look at.
    """
    try:
        model = _inlined(_skeleton(model))
        live = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
        live.graph.CopyFrom(_living(model.graph, outputs))
    except _REFUSED:
        return None
    return live


def number_types(live: ModelProto | None) -> set[int]:
    """The types in which products compute, `UNKNOWN` among them where one is not certain.

    Args:
        live: as `reduced` made it.
    """
    if live is None:
        return {UNKNOWN}
    try:
        typed = onnx.shape_inference.infer_shapes(live)
    except _REFUSED:
        typed = live
    found: set[int] = set()
    for node, types in _typed_nodes(typed.graph, {}):
        found |= _of_product(node, types)
    return found


def has_wide_weights(live: ModelProto | None) -> bool:
    """Whether constants of float32 or more are larger than a row of channels.

    Products can be written without one, as sums over what was multiplied; that takes such weights.
    """
    return live is None or has_weights_of(live, _WIDE)


def has_weights_of(live: ModelProto, kinds: Collection[int]) -> bool:
    """The same of constants of these types, by whatever operator they are read."""
    return any(
        tensor.data_type in kinds and sum(side > 1 for side in tensor.dims) > 1
        for graph in graphs(live.graph)
        for tensor in _constants(graph)
    )


def _of_product(node: NodeProto, types: dict[str, int]) -> set[int]:
    """What a node computes in; nothing for one that is no product. Its inputs have one type, or no runtime takes it."""
    if node.domain in _STANDARD and node.op_type not in _PRODUCTS:
        return set()
    if node.domain not in (*_STANDARD, *_VENDORS):
        return {UNKNOWN}
    told = {types[name] for name in (*node.input, *node.output) if types.get(name, UNKNOWN) != UNKNOWN}
    return told & _FLOATS or told or {UNKNOWN}


def _typed_nodes(graph: GraphProto, around: dict[str, int]) -> Iterator[tuple[NodeProto, dict[str, int]]]:
    """Every node, with the types of the names that it sees."""
    own = dict.fromkeys((name for node in graph.node for name in node.output), UNKNOWN)
    values = (*graph.input, *graph.value_info, *graph.output)
    own |= {value.name: int(value.type.tensor_type.elem_type) for value in values}
    types = around | own | {tensor.name: int(tensor.data_type) for tensor in graph.initializer}
    for node in graph.node:
        yield node, types
        for inner in _inside(node):
            yield from _typed_nodes(inner, types)


def _constants(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def _inside(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else [])
        yield from attribute.graphs


# --- What is left of a file -----------------------------------------------------------------------------------------


def _skeleton(model: ModelProto) -> ModelProto:
    """Without the values of large weights, and without what it declares of values inside."""
    found = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    graph = found.graph
    graph.name = "skeleton"
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.initializer.extend(_stub(tensor) for tensor in model.graph.initializer)
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    graph.output.extend(ValueInfoProto(name=value.name) for value in model.graph.output)
    for function in found.functions:
        function.ClearField("value_info")
    return found


def _stub(tensor: TensorProto) -> TensorProto:
    count = 1
    for side in tensor.dims:
        count *= side
    return tensor if count <= _FEW else TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _inlined(model: ModelProto) -> ModelProto:
    """One of other operators than the model's stays as it is, and is then an operator that may do anything."""
    return inline_local_functions(model) if model.functions else model


def _living(graph: GraphProto, outputs: Collection[str]) -> GraphProto:
    """What the outputs depend on, each node after those that it reads from."""
    made = {name: number for number, node in enumerate(graph.node) for name in node.output if name}
    order: dict[int, None] = {}
    waiting = [(made[name], False) for name in outputs if name in made]
    entered: set[int] = set()
    while waiting:  # deep graphs would exceed a recursion
        number, done = waiting.pop()
        if done:
            order[number] = None
        elif number not in entered:
            entered.add(number)
            waiting.append((number, True))
            waiting += [(made[name], False) for name in _read_by(graph.node[number]) if name in made]
    found = GraphProto(name=graph.name, input=graph.input, output=[ValueInfoProto(name=name) for name in outputs])
    found.node.extend(_thinned(graph.node[number]) for number in order)
    used = {name for node in found.node for name in _read_by(node)} | set(outputs)
    found.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    found.sparse_initializer.extend(one for one in graph.sparse_initializer if one.values.name in used)
    return found


def _read_by(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those that graphs inside it take from around included."""
    yield from node.input
    for graph in _inside(node):
        for inner in graph.node:
            yield from _read_by(inner)
        yield from (value.name for value in graph.output)


def _thinned(node: NodeProto) -> NodeProto:
    """A copy; what nothing leads to inside its graphs is gone as well."""
    found = NodeProto()
    found.CopyFrom(node)
    for graph in _inside(found):
        declared: Sequence[ValueInfoProto] = list(graph.output)
        graph.CopyFrom(_living(graph, [value.name for value in declared]))
        del graph.output[:]
        graph.output.extend(declared)
    return found
