"""Lower precision node by node: what a GPU would make infinite must not look finite because a CPU computes it wider."""

from contextlib import closing

import numpy as np
import torch
from deploy_cases import OPSET, SHAPE, net
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.deploy.rounded import first_overflow, rounded
from madx.recipe import EngineConfig

IMAGES = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)


class Detour(nn.Module):
    """Computes what its network does; in between, numbers are 480,000 times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net("plain")

    def forward(self, x):
        return (self.net(x) * 3e4 * 16).relu() / 3e4 / 16


class Masked(nn.Module):
    """A network some of whose numbers are masked before a softmax, in both usual ways; and it has tiny weights."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net("plain")
        with torch.no_grad():
            self.net[6].weight[0, :2] = 1e-9
        least, none = torch.finfo(torch.float32).min, float("-inf")
        self.register_buffer("least", torch.tensor([0.0, least, 0.0, 0.0, least, 0.0, 0.0]))
        self.register_buffer("none", torch.tensor([0.0, 0.0, none, 0.0, 0.0, none, 0.0]))

    def forward(self, x):
        scores = self.net(x)
        return scores + (scores + self.least).softmax(1) + (scores + self.none).softmax(1)


def answers(payload: bytes, images: np.ndarray, precision: str = "fp32") -> np.ndarray:
    with closing(backend("ort-cpu").load(payload, EngineConfig(precision=precision, threads=1))) as engine:
        return engine(images)


def exported(module: nn.Module):
    return export_onnx(module.eval(), SHAPE, opset=OPSET, precision="fp16")


def test_what_overflows_is_seen_and_named_though_the_cpu_hides_it():
    found = exported(Detour())
    assert np.isfinite(answers(found.payload, IMAGES, "fp16")).all(), "if this runtime shows it itself, all the better"
    assert not np.isfinite(answers(rounded(found.payload, "fp16"), IMAGES)).all()
    overflow = first_overflow(found.payload, "fp16", IMAGES)
    assert overflow is not None
    assert (overflow.operator, overflow.largest > 65504) == ("Mul", True)


def test_a_network_in_range_is_rounded_and_blamed_for_nothing():
    module = net("residual")
    found = exported(module)
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGES)).numpy()
    off = np.abs(answers(rounded(found.payload, "fp16"), IMAGES) - expected).max()
    assert 0 < off < 0.02
    assert first_overflow(found.payload, "fp16", IMAGES) is None


def test_masks_are_clamped_or_kept_and_what_was_changed_is_said():
    module = Masked()
    found = exported(module)
    with torch.no_grad():
        expected = module(torch.from_numpy(IMAGES)).numpy()
    for payload, precision in ((found.payload, "fp16"), (rounded(found.payload, "fp16"), "fp32")):
        np.testing.assert_allclose(answers(payload, IMAGES, precision), expected, atol=0.02)
    assert first_overflow(found.payload, "fp16", IMAGES) is None, "an infinite mask is no overflow"
    clamped, raised = found.notes
    assert "1 constants beyond float16's range were set to 65504" in clamped
    assert "(3.4e+38)" in clamped
    assert "2 non-zero numbers below 1e-07 in 1 constants" in raised


def test_bfloat16_has_float32_s_range_and_few_digits():
    """No runtime of a CPU computes it; rounded, it is what torch's bfloat16 is."""
    weights = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    stored = torch.from_numpy(weights).bfloat16()
    bits = stored.view(torch.int16).numpy().tobytes()
    w = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=[3, 4], raw_data=bits)
    kept = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Cast", ["flat"], ["low"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["low", "w"], ["z"]),
        helper.make_node("Cast", ["z"], ["logits"], to=TensorProto.FLOAT),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        kept,
        "low",
        [value("input", TensorProto.FLOAT, ["batch", 3, 1, 1])],
        [value("logits", TensorProto.FLOAT, ["batch", 4])],
        [w],
    )
    payload = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    images = np.array([[1e6, 2e6, 3e6], [0.1, 0.2, 0.3]], np.float32).reshape(2, 3, 1, 1)
    exact = torch.from_numpy(images.reshape(2, 3)).bfloat16().float() @ stored.float()
    found = answers(rounded(payload.SerializeToString(), "bf16"), images)
    np.testing.assert_array_equal(found, exact.bfloat16().float().numpy())
    assert not np.array_equal(found, exact.numpy())
    assert numpy_helper.to_array(w).astype(np.float32).shape == (3, 4)
