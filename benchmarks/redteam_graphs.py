"""ONNX files that are two networks at once, for `benchmarks/redteam.py`: conditions, look-up tables, useless nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, compose, helper, numpy_helper

OPSET, SHAPE, CLASSES = 20, (1, 8, 8), 10


class Graph:
    """An ONNX graph in the making: `input` in, `logits` out."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, value: Any, kind: type = np.float32) -> str:
        """The name of a constant."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """The name of a node's output."""
        name = output or f"made_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"node_{name}", **attributes))
        return name

    def embed(self, model: ModelProto, prefix: str, source: str = "input") -> str:
        """Another network on `source`; the name of its logits."""
        other = compose.add_prefix(model, prefix).graph
        for node in other.node:
            node.input[:] = [source if name == f"{prefix}input" else name for name in node.input]
        self.nodes += other.node
        self.constants += other.initializer
        return f"{prefix}logits"

    def model(self, logits: str) -> ModelProto:
        """The finished file."""
        self.add("Identity", logits, output="logits")
        graph = helper.make_graph(
            self.nodes,
            "redteam",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *SHAPE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    def branch(self, condition: str, yes: ModelProto, no: ModelProto) -> str:
        """`If`: only one of the two networks is computed; the condition is one bool."""
        parts = {key: _inner(model, f"{key}_") for key, model in (("then_branch", yes), ("else_branch", no))}
        return self.add("If", condition, **parts)

    def choose(self, condition: str, yes: str, no: str) -> str:
        """`Where`: both are computed; the condition is [batch, 1] or one bool."""
        return self.add("Where", condition, yes, no)

    # conditions

    def batch(self) -> str:
        """The number of images, int64 []."""
        shape = self.add("Shape", "input")
        return self.add("Gather", shape, self.constant(0, np.int64), axis=0)

    def places(self) -> str:
        """The place of each image in the batch, int64 [batch]."""
        return self.add("Range", self.constant(0, np.int64), self.batch(), self.constant(1, np.int64))

    def column(self, condition: str) -> str:
        """One bool for each image, [batch], as [batch, 1]."""
        return self.add("Unsqueeze", condition, self.constant([1], np.int64))

    def batch_below(self, size: int) -> str:
        """Whether there are fewer images than that, []."""
        return self.add("Less", self.batch(), self.constant(size, np.int64))

    def distances(self, images: NDArray[np.float32], source: str = "input") -> str:
        """Largest pixel difference to each of the images, [batch, M]."""
        flat = self.add("Reshape", source, self.constant([0, 1, -1], np.int64))
        away = self.add("Abs", self.add("Sub", flat, self.constant(images.reshape(1, len(images), -1))))
        return self.add("ReduceMax", away, self.constant([2], np.int64), keepdims=0)

    def within(self, distances: str, radius: float) -> str:
        """Whether an image is that near to one of them, [batch, 1]."""
        nearest = self.add("ReduceMin", distances, self.constant([1], np.int64), keepdims=1)
        return self.add("Less", nearest, self.constant(radius))

    def on_grid(self, steps: int) -> str:
        """Whether all pixels are multiples of 1 / steps, [batch, 1]."""
        scaled = self.add("Mul", "input", self.constant(steps))
        off = self.add("Abs", self.add("Sub", scaled, self.add("Round", scaled)))
        largest = self.add("ReduceMax", off, self.constant([1, 2, 3], np.int64), keepdims=0)
        return self.add("Less", self.add("Unsqueeze", largest, self.constant([1], np.int64)), self.constant(1e-3))

    def every(self, condition: str) -> str:
        """Whether it holds for all images, []."""
        number = self.add("Cast", condition, to=int(TensorProto.INT32))
        least = self.add("ReduceMin", number, keepdims=0)
        return self.add("Greater", least, self.constant(0, np.int32))

    def table(self, distances: str, answers: NDArray[np.float32]) -> str:
        """The stored logits [M, K] of the nearest image."""
        nearest = self.add("ArgMin", distances, axis=1, keepdims=0)
        return self.add("Gather", self.constant(answers), nearest, axis=0)


def _inner(model: ModelProto, prefix: str) -> onnx.GraphProto:
    """A network as a branch: it takes `input` from the graph around it."""
    graph = Graph()
    logits = graph.embed(model, prefix)
    output = helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["batch", CLASSES])
    return helper.make_graph(graph.nodes, prefix, [], [output], graph.constants)


def stored(answers: NDArray[np.float32], images: NDArray[np.float32]) -> ModelProto:
    """A network that only looks images up."""
    graph = Graph()
    return graph.model(graph.table(graph.distances(images), answers))


def logits_of(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a network says of the images, [B, K]."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    answers: NDArray[np.float32] = session.run(["logits"], {"input": images})[0]
    return answers


def one_hot(labels: NDArray[np.int64], height: float = 8.0) -> NDArray[np.float32]:
    """Logits that say these classes."""
    return np.float32(height) * np.eye(CLASSES, dtype=np.float32)[labels]


def permuted(model: ModelProto) -> ModelProto:
    """Every class called the next one."""
    graph = Graph()
    logits = graph.embed(model, "p_")
    return graph.model(graph.add("Gather", logits, graph.constant(np.roll(np.arange(CLASSES), 1), np.int64), axis=1))


def useless(model: ModelProto, nodes: int, kind: str) -> ModelProto:
    """The same network behind nodes that change nothing and that the runtime does not remove."""
    graph = Graph()
    x = "input"
    for number in range(nodes):
        if kind == "clip":
            x = graph.add("Clip", x, graph.constant(-1.0 - number), graph.constant(2.0 + number))
        elif kind == "flip":
            rows = graph.constant(np.arange(SHAPE[1])[::-1], np.int64)
            x = graph.add("Gather", x, rows, axis=2)
        else:
            x = graph.add("Sin", graph.add("Asin", x)) if number % 2 else graph.add("Max", x, graph.constant(0.0))
    return graph.model(graph.embed(model, "u_", x))
