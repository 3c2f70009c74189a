"""Walking an ONNX file: its graphs, nodes and constants, and what a name means in the graph where it stands.

Graphs inside nodes see their own names first and then those of the graphs around them; a function sees its own alone.
So one name may mean several things in one file, and whoever follows it asks the `Scope` that it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from madx.errors import ExportError

DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What reading a file raises that has a node without its inputs, a weight of no known type, text that is none."""
_SEEN_THROUGH = ("Cast", "Identity", "DequantizeLinear")
_AGAIN = "export again, or copy the file again"


@contextmanager
def damage_told() -> Iterator[None]:
    """ExportError, in one sentence, for whatever goes wrong in the block because the file is not as the format says."""
    try:
        yield
    except DAMAGE as error:
        why = " ".join(str(error).split())[:200]
        raise ExportError(
            f"the ONNX file is damaged: something in it lacks what it must have ({type(error).__name__}: {why}); "
            f"{_AGAIN}"
        ) from error


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """`graph` and every graph inside its nodes' attributes, also one without a node, which may have weights."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            yield from _inside(attribute)


def _inside(attribute: AttributeProto) -> Iterator[GraphProto]:
    for inner in _graphs_of(attribute):
        yield from graphs(inner)


def _graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    """Those that stand in it, whatever it says that its type is."""
    return [*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs]


def bodies(model: ModelProto) -> Iterator[GraphProto]:
    """Every graph of the model: its own, those inside nodes, and those of its functions, which are graphs of nodes."""
    yield from graphs(model.graph)
    for function in model.functions:
        yield from graphs(GraphProto(node=function.node))
        for attribute in function.attribute_proto:  # what a caller may leave out
            yield from _inside(attribute)


def nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of the model, nested ones included."""
    for graph in bodies(model):
        yield from graph.node


def tensors(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every constant of the model with its name: initialisers and what stands in attributes, wherever."""
    for graph in bodies(model):
        yield from ((tensor.name, tensor) for tensor in graph.initializer)
        for sparse in graph.sparse_initializer:
            yield from ((sparse.values.name, part) for part in (sparse.values, sparse.indices))
        for node in graph.node:
            name = node.output[0] if node.output else node.name
            for attribute in node.attribute:
                yield from ((name, tensor) for tensor in _tensors_of(attribute))
    for function in model.functions:
        for attribute in function.attribute_proto:
            yield from ((attribute.name, tensor) for tensor in _tensors_of(attribute))


def _tensors_of(attribute: AttributeProto) -> Iterator[TensorProto]:
    """Those that stand in it, whatever it says that its type is."""
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    sparse = [*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()), *attribute.sparse_tensors]
    for one in sparse:
        yield from (one.values, one.indices)


def values(tensor: TensorProto) -> NDArray[Any]:
    """A constant as a numpy array.

    Raises:
        ExportError: its bytes are not what its type and its dimensions say, or lie elsewhere.
    """
    if tensor.data_location == TensorProto.EXTERNAL:  # numpy_helper would look for it in the current directory
        raise ExportError(f"the weight {tensor.name!r} lies outside the ONNX file, and was not read from there")
    try:
        array: NDArray[Any] = numpy_helper.to_array(tensor)
    except DAMAGE as error:
        why = " ".join(str(error).split())[:120]
        raise ExportError(
            f"the weight {tensor.name!r} cannot be read as {list(tensor.dims)} numbers of type {_type_name(tensor)} "
            f"({why}): {_AGAIN}"
        ) from error
    return array


def _type_name(tensor: TensorProto) -> str:
    known: Mapping[int, str] = {number: name for name, number in TensorProto.DataType.items()}
    return known.get(tensor.data_type, str(tensor.data_type))


# --- What a name means ----------------------------------------------------------------------------------------------

Value = TensorProto | NodeProto | None
"""A constant, the node that computes it, or what comes from outside and is not known."""


@dataclass(frozen=True, eq=False)
class Scope:
    """One graph, or one function, and what its names mean."""

    nodes: Sequence[NodeProto]
    own: Mapping[str, Value]
    around: Scope | None = None
    """The graph that has this one inside one of its nodes."""

    def find(self, name: str) -> tuple[Value, Scope]:
        """What a name means here, and the scope in which whatever made it stands."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name], scope
            scope = scope.around
        return None, self

    def constant(self, name: str) -> TensorProto | None:
        """The constant of that name; None for anything else."""
        found, _ = self.find(name)
        return found if isinstance(found, TensorProto) else None

    def trail(self, name: str) -> Iterator[tuple[Value, Scope]]:
        """What the name means, then what the first input of its node means, and so on; nothing comes up twice."""
        scope, seen = self, set()
        while True:
            found, scope = scope.find(name)
            if (id(scope), name) in seen:
                return
            seen.add((id(scope), name))
            yield found, scope
            if not isinstance(found, NodeProto) or not found.input:
                return
            name = found.input[0]


def scopes(model: ModelProto) -> Iterator[Scope]:
    """Of every graph of the model, and of every function."""
    yield from _scopes(model.graph, _names(model.graph), None)
    for function in model.functions:
        body = GraphProto(node=function.node)
        yield from _scopes(body, _names(body, function), None)
        for attribute in function.attribute_proto:
            for inner in _graphs_of(attribute):
                yield from _scopes(inner, _names(inner), None)


def _scopes(graph: GraphProto, own: Mapping[str, Value], around: Scope | None) -> Iterator[Scope]:
    scope = Scope(graph.node, own, around)
    yield scope
    for node in graph.node:
        for attribute in node.attribute:
            for inner in _graphs_of(attribute):
                yield from _scopes(inner, _names(inner), scope)


def _names(graph: GraphProto, function: FunctionProto | None = None) -> dict[str, Value]:
    given = [value.name for value in graph.input] if function is None else list(function.input)
    found: dict[str, Value] = dict.fromkeys(given)
    for node in graph.node:
        found |= dict.fromkeys(filter(None, node.output), _constant_of(node) or node)
    found |= {tensor.name: tensor for tensor in graph.initializer}
    return found | {sparse.values.name: sparse.values for sparse in graph.sparse_initializer}


def _constant_of(node: NodeProto) -> TensorProto | None:
    """What a Constant node holds; one that refers to an attribute of its function holds nothing of its own."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    held = (one.t for one in node.attribute if one.name == "value" and one.HasField("t") and not one.ref_attr_name)
    return next(held, None)


def constant_behind(name: str, scope: Scope) -> TensorProto | None:
    """The constant that `name` carries, seen through Cast, Identity and DequantizeLinear; None for a computed one."""
    for found, _ in scope.trail(name):
        if isinstance(found, TensorProto):
            return found
        if found is None or found.op_type not in _SEEN_THROUGH:
            break
    return None


def input_of(node: NodeProto, number: int) -> str:
    """The name of one of a node's inputs; empty where it has none, as for one that is left out."""
    return node.input[number] if len(node.input) > number else ""
