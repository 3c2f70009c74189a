"""Small networks and hand-made ONNX files for the tests of this room."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from madx.deploy.export import OnnxArtifact, export_onnx

SHAPE = (3, 8, 8)
OPSET = 20


class Normalise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.2, 0.3, 0.25]).reshape(1, 3, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Normalise()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.bn(self.stem(self.norm(x))))
        x = torch.relu(x + self.bn2(self.conv(x)))
        return self.head(x.mean((2, 3)))


def _plain() -> nn.Module:
    return nn.Sequential(
        Normalise(), nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 7)
    )


def _grouped() -> nn.Module:
    return nn.Sequential(
        nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, stride=2, groups=8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip


NETS = {"plain": _plain, "residual": Residual, "grouped": _grouped}


def net(name: str) -> nn.Module:
    """A network with random weights and BatchNorm statistics, the same each time, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(sorted(NETS).index(name))
        made = NETS[name]()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.3, 0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 1.5)
    return made.eval()


@cache
def exported(name: str, precision: str = "fp32") -> OnnxArtifact:
    return export_onnx(net(name), SHAPE, opset=OPSET, precision=precision)


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((batch, *SHAPE), dtype=np.float32)


def logits_of(module: nn.Module, batch: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(batch)).numpy()


def tiny_onnx(weight: np.ndarray | None = None, *, dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """input -> Conv(weight) -> GlobalAveragePool -> Flatten -> logits, by hand, in the canonical layout."""
    if weight is None:
        weight = np.full((4, 3, 1, 1), 0.5, np.float32)
    array = weight.astype(helper.tensor_dtype_to_np_dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "w"], ["conv_out"], name="conv"),
            helper.make_node("GlobalAveragePool", ["conv_out"], ["pool_out"], name="pool"),
            helper.make_node("Flatten", ["pool_out"], ["logits"], name="flatten"),
        ],
        "tiny",
        [helper.make_tensor_value_info("input", dtype, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", dtype, ["batch", len(weight)])],
        [numpy_helper.from_array(array, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def single_product(op: str, weight: np.ndarray, *, before: list[onnx.NodeProto] = (), **attributes) -> onnx.ModelProto:
    """One Conv, Gemm or MatMul whose weight input is 'b'; `before` are the nodes that make 'b' out of the constant 'w'.

    Only its structure is read, so shapes of inputs and outputs are left open.
    """
    name = "b" if before else "w"
    node = helper.make_node(op, ["input", name], ["logits"], name="product", **attributes)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)]
    graph = helper.make_graph([*before, node], "one", inputs, outputs, [numpy_helper.from_array(weight, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
