import itertools

import numpy as np
import onnx
import pytest
from deploy_cases import exported, single_product
from onnx import TensorProto, helper, numpy_helper

from madx.deploy.sparsity import count_2_4, sparsity_2_4
from madx.errors import ExportError


def pruned(shape, axis, seed=0):
    """A random weight with exactly two zeros in each aligned group of four along `axis`, one of six patterns each."""
    generator = np.random.default_rng(seed)
    weight = generator.uniform(0.5, 1, shape).astype(np.float32)
    moved = np.moveaxis(weight, axis, -1)
    patterns = list(itertools.combinations(range(4), 2))
    for index in np.ndindex(*moved.shape[:-1]):
        for start in range(0, moved.shape[-1], 4):
            for zero in patterns[generator.integers(6)]:
                moved[(*index, start + zero)] = 0
    return weight


def brute_force(weight, axis):
    moved = np.moveaxis(weight, axis, -1)
    groups = [
        moved[index][start : start + 4]
        for index in np.ndindex(*moved.shape[:-1])
        for start in range(0, moved.shape[-1] // 4 * 4, 4)
    ]
    return sum(np.count_nonzero(group) <= 2 for group in groups), len(groups)


def judged(op, weight, **given):
    return sparsity_2_4(single_product(op, weight, **given).SerializeToString())["product"]


RIGHT = {
    "conv": ("Conv", (8, 8, 3, 3), 1, {}),
    "conv 1x1": ("Conv", (4, 16, 1, 1), 1, {}),
    "gemm, B transposed": ("Gemm", (6, 8), 1, {"transB": 1}),
    "gemm": ("Gemm", (8, 6), 0, {}),
    "matmul": ("MatMul", (8, 6), 0, {}),
    "batched matmul": ("MatMul", (3, 8, 6), 1, {}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_the_right_axis_is_eligible_and_any_other_is_not(case):
    op, shape, axis, attributes = RIGHT[case]
    weight = pruned(shape, axis)
    layer = judged(op, weight, **attributes)
    assert layer.eligible, layer
    assert (layer.satisfied, layer.groups) == brute_force(weight, axis)
    assert layer.zeros == 0.5
    assert (layer.op, layer.weight, layer.shape) == (op, "w", shape)
    for other in (a for a in range(len(shape)) if a != axis and shape[a] % 4 == 0):
        assert not judged(op, pruned(shape, other), **attributes).eligible


def test_groups_along_memory_are_the_wrong_axis_for_a_convolution():
    """Groups of four over the flattened weight, as some tools cut them: half is zero, yet TensorRT takes no layer."""
    weight = pruned((8, 8 * 3 * 3), 1).reshape(8, 8, 3, 3)
    layer = judged("Conv", weight)
    assert layer.zeros == 0.5
    assert not layer.eligible
    assert (layer.satisfied, layer.groups) == brute_force(weight, 1)
    assert "more than 2 non-zeros" in layer.reason


def test_one_weight_too_many_is_found():
    weight = pruned((8, 8, 3, 3), 1)
    weight[5, 4:8, 2, 1] = [0.1, 0.1, 0.1, 0]
    layer = judged("Conv", weight)
    assert not layer.eligible
    assert layer.reason == "1 of 144 groups have more than 2 non-zeros"


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_brute_force(seed):
    generator = np.random.default_rng(seed)
    weight = generator.random((3, 4 + seed, 2)) * (generator.random((3, 4 + seed, 2)) < 0.5)
    assert count_2_4(np.moveaxis(weight, 1, -1)) == brute_force(weight, 1)


def _scale(zero_point):
    inputs = ["w", "scale"] + (["point"] if zero_point is not None else [])
    constants = {"scale": np.float32(0.1)} | ({} if zero_point is None else {"point": np.int8(zero_point)})
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(value), name))
        for name, value in constants.items()
    ]
    return [*nodes, helper.make_node("DequantizeLinear", inputs, ["b"])]


BEHIND = {
    "cast": (np.float16, [helper.make_node("Cast", ["w"], ["b"], to=TensorProto.FLOAT)], True),
    "two casts": (
        np.float16,
        [
            helper.make_node("Cast", ["w"], ["a"], to=TensorProto.DOUBLE),
            helper.make_node("Cast", ["a"], ["b"], to=TensorProto.FLOAT),
        ],
        True,
    ),
    "dequantised": (np.int8, _scale(None), True),
    "dequantised, zero point 0": (np.int8, _scale(0), True),
    "dequantised, zero point 3": (np.int8, _scale(3), False),
}


@pytest.mark.parametrize("case", BEHIND)
def test_the_constant_is_found_behind_casts_and_quantisation(case):
    dtype, before, eligible = BEHIND[case]
    weight = (pruned((4, 8), 1) * 10).astype(dtype)
    layer = judged("Gemm", weight, before=before, transB=1)
    assert (layer.eligible, layer.weight) == (eligible, "w")


NOT_ELIGIBLE = {
    "three input channels": ("Conv", pruned((8, 8, 3, 3), 1)[:, :3], {}, "3 entries, not a multiple of 4"),
    "group convolution": ("Conv", pruned((8, 4, 3, 3), 1), {"group": 2}, "group=2"),
    "computed weight": ("MatMul", pruned((8, 8), 0), {"before": [helper.make_node("Relu", ["w"], ["b"])]}, "computed"),
    "vector": ("MatMul", np.zeros(8, np.float32), {}, "1 dimensions"),
    "other operator": ("ConvTranspose", pruned((8, 8, 3, 3), 1), {}, "not defined for ConvTranspose"),
}


@pytest.mark.parametrize("case", NOT_ELIGIBLE)
def test_what_is_not_eligible_is_listed_with_the_reason(case):
    op, weight, given, reason = NOT_ELIGIBLE[case]
    layer = judged(op, weight, **given)
    assert not layer.eligible
    assert reason in layer.reason


def test_no_layer_is_left_out():
    for name in ("plain", "residual", "grouped"):
        nodes = exported(name).facts["nodes"]
        assert len(sparsity_2_4(exported(name).payload)) == sum(nodes.get(op, 0) for op in ("Conv", "Gemm", "MatMul"))


def test_junk_is_refused():
    with pytest.raises(ExportError):
        sparsity_2_4(b"junk")


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # its own, on float32 weights
@pytest.mark.parametrize("axis", [1, 0])
def test_verdicts_agree_with_polygraphy(axis):
    """Polygraphy's checker was written by someone else; it skips what is no candidate and lists what is sparse."""
    sparse = pytest.importorskip("polygraphy.tools.sparse")
    model = onnx.load_model_from_string(exported("residual").payload)
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "conv.weight")
    weight.CopyFrom(numpy_helper.from_array(pruned((8, 8, 3, 3), axis), "conv.weight"))
    checker = sparse.SparsityPruner(model)
    checker.check()
    ours = {layer.weight for layer in sparsity_2_4(model.SerializeToString()).values() if layer.eligible}
    assert ours == ({"conv.weight"} if axis == 1 else set())
    assert checker.sparse_tensors == ours
