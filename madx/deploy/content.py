"""What an ONNX file computes, as one hash: its nodes, attributes and constants, whatever they are called.

Doc strings, metadata, names and the producer change the bytes of a file and nothing else. Whoever counts how often an
engine was tried counts the engine, not the spelling of its file.
"""

from __future__ import annotations

import hashlib
from typing import Any

from onnx import AttributeProto, GraphProto, TensorProto

from madx.artifacts import sha256_bytes
from madx.deploy.check import read_model
from madx.deploy.external import NONE, Data
from madx.deploy.graphs import values
from madx.errors import ExportError


def content_sha256(payload: bytes, data: Data = NONE) -> str:
    """SHA-256 of what an ONNX file with its external data computes; of any other file, of its bytes."""
    try:
        model = read_model(payload, data)
    except ExportError:
        return sha256_bytes(payload)
    digest = hashlib.sha256()
    opsets = sorted((str(entry.domain), entry.version) for entry in model.opset_import)  # damaged text is bytes
    digest.update(repr(opsets).encode())
    _add_graph(digest, model.graph, {})
    for function in model.functions:
        digest.update(repr((function.domain, function.name, list(function.input), list(function.output))).encode())
        _add_graph(digest, GraphProto(node=function.node), {})
    return digest.hexdigest()


def _add_graph(digest: Any, graph: GraphProto, known: dict[str, str]) -> None:
    """Nodes in their order; a value goes by the place where it comes up first, a constant by its content."""
    names = dict(known)
    names |= {tensor.name: _tensor(tensor) for tensor in graph.initializer}

    def called(name: str) -> str:
        return names.setdefault(name, f"value {len(names)}") if name else ""

    for value in graph.input:
        digest.update(f"in {called(value.name)}".encode())
        digest.update(value.type.SerializeToString(deterministic=True))
    for node in graph.node:
        inputs, outputs = [called(name) for name in node.input], [called(name) for name in node.output]
        digest.update(repr((node.domain, node.op_type, inputs, outputs)).encode())
        for attribute in sorted(node.attribute, key=lambda one: one.name):
            _add_attribute(digest, attribute, names)
    digest.update(repr([called(value.name) for value in graph.output]).encode())


def _add_attribute(digest: Any, attribute: AttributeProto, names: dict[str, str]) -> None:
    digest.update(f"{attribute.name} {attribute.type}".encode())
    inner = [attribute.g] if attribute.type == AttributeProto.GRAPH else list(attribute.graphs)
    for graph in inner:
        _add_graph(digest, graph, names)
    if attribute.type == AttributeProto.TENSOR and not attribute.ref_attr_name:
        digest.update(_tensor(attribute.t).encode())
    elif not inner:
        bare = AttributeProto()
        bare.CopyFrom(attribute)
        bare.doc_string = ""
        digest.update(bare.SerializeToString(deterministic=True))


def _tensor(tensor: TensorProto) -> str:
    """A constant's type, shape and values."""
    array = values(tensor)
    return f"{tensor.data_type} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
