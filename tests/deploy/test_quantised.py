"""int8 files: what is written is int8, the ranges are those of the images, and what stays float32 is named."""

import os

import numpy as np
import onnx
import pytest
import torch
from deploy_cases import NETS, OPSET, SHAPE
from onnx import numpy_helper

from madx.deploy import quantised as room
from madx.deploy.check import check_onnx
from madx.deploy.engine import BuiltEngine, backend
from madx.deploy.export import export_onnx
from madx.deploy.int8 import HIGH, LOW, require_int8
from madx.deploy.quantised import quantised
from madx.errors import EngineError, ExportError
from madx.precisions import EXPORTED, PRECISIONS
from madx.recipe import CalibrationConfig, EngineConfig
from madx.recipe.models import INT8_KINDS

IMAGES = np.random.default_rng(5).random((60, *SHAPE), dtype=np.float32)
BITS = CalibrationConfig(weight_bits=8)


@pytest.fixture(scope="module")
def exported():
    return export_onnx(NETS["residual"](), SHAPE, opset=OPSET)


def whole_numbers(payload):
    """Weights in int8, by name, of a file."""
    model = onnx.load_model_from_string(payload)
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    }


def first_range(payload):
    """Width of what goes into the first convolution, by its scale."""
    model = onnx.load_model_from_string(payload)
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first = next(node for node in model.graph.node if node.op_type == "QuantizeLinear")
    return 255 * float(known[first.input[1]])


def test_every_product_has_weights_of_int8(exported):
    found = quantised(exported, IMAGES, BITS)
    assert found.precision == "int8"
    assert sorted(name.removesuffix("_quantized") for name in whole_numbers(found.payload)) == [
        "conv.weight",
        "head.weight",
        "stem.weight",
    ]
    assert found.facts["bytes"] == len(found.payload)


def test_the_same_file_every_time(exported):
    assert quantised(exported, IMAGES, BITS).payload == quantised(exported, IMAGES, BITS).payload


def test_a_layer_that_the_recipe_keeps_stays_float_and_is_named(exported):
    found = quantised(exported, IMAGES, CalibrationConfig(weight_bits=8, keep=("head.*",)))
    assert len(whole_numbers(found.payload)) == 2
    assert any("head.weight" in note for note in found.notes)


@pytest.mark.parametrize(("keep", "why"), [(("tail.*",), "fits no weight"), (("*",), "every layer in float32")])
def test_patterns_that_fit_nothing_or_everything_are_refused(exported, keep, why):
    with pytest.raises(ExportError, match=why):
        quantised(exported, IMAGES, CalibrationConfig(keep=keep))


def test_a_float_weight_that_nobody_keeps_is_no_int8_file(exported):
    found = quantised(exported, IMAGES, CalibrationConfig(weight_bits=8, keep=("head.*",)))
    with pytest.raises(ExportError, match=r"head\.weight.*FLOAT; expected int8"):
        check_onnx(found.payload, shape=SHAPE, precision="int8")
    with pytest.raises(ExportError, match="expected int8"):
        check_onnx(exported.payload, shape=SHAPE, precision="int8")


def test_ranges_are_those_of_the_images(exported):
    norm = NETS["residual"]().norm
    for images in (IMAGES, 0.1 * IMAGES):
        fed = norm(torch.from_numpy(images[:50])).numpy()
        expected = max(fed.max(), 0) - min(fed.min(), 0)
        assert first_range(quantised(exported, images, BITS).payload) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_other_methods_give_files_that_are_int8_too_and_print_nothing(exported, capfd, method):
    """A few images in which hardly a value is rare: no method takes a wider range than all of it."""
    found = quantised(exported, IMAGES, CalibrationConfig(weight_bits=8, method=method))
    assert len(whole_numbers(found.payload)) == 3
    assert first_range(found.payload) <= 1.001 * first_range(quantised(exported, IMAGES, BITS).payload)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("asked", "largest"), [("auto", 64), (7, 64), (8, 127)])
def test_where_sums_saturate_weights_get_seven_bits_or_it_is_said(exported, monkeypatch, asked, largest):
    """Whatever CPU runs this test, its kernels are made to differ from precise ones at 8 bits."""

    def answers_of(payload, images, *, precise):
        large = any(np.abs(weight.astype(int)).max() > 64 for weight in whole_numbers(payload).values())
        logits = np.tile(np.arange(10, dtype=np.float32), (len(images), 1))
        return logits + (large and not precise) * np.eye(10, dtype=np.float32)[3]

    monkeypatch.setattr(room, "answers_of", answers_of)
    found = quantised(exported, IMAGES, CalibrationConfig(weight_bits=asked))
    assert max(np.abs(weight.astype(int)).max() for weight in whole_numbers(found.payload).values()) <= largest
    assert any("saturate in 16 bits" in note for note in found.notes) is (asked != 7)
    assert any("weight_bits: 7" in note for note in found.notes) is (asked == 8)


@pytest.mark.parametrize("kind", INT8_KINDS)
def test_the_record_says_which_kernels_the_runtime_chose(exported, kind):
    if not (available := backend(kind).availability()).can_run:
        promised = kind in os.environ.get("MADX_PROMISED_ENGINES", "").split(",")
        (pytest.fail if promised else pytest.skip)(available.reason)
    artifact = quantised(exported, IMAGES, CalibrationConfig(weight_bits=7))
    built = backend(kind).build(artifact, EngineConfig(kind=kind, precision="int8", threads=1), batch=1)
    assert built.facts["int8_layers"] == 3
    assert built.facts["float_layers"] == 0
    half = quantised(exported, IMAGES, CalibrationConfig(weight_bits=7, keep=("head.*",)))
    built = backend(kind).build(half, EngineConfig(kind=kind, precision="int8", threads=1), batch=1)
    assert (built.facts["int8_layers"], built.facts["float_layers"]) == (2, 1)


@pytest.mark.parametrize(("low", "high", "told"), [(0, 3, "none of the file's 3"), (1, 2, "1 of the file's 3")])
def test_an_engine_of_float32_for_the_most_part_is_no_int8_engine(low, high, told):
    """One int8 layer would give int8's room for rounding to all the others."""
    built = BuiltEngine.of(b"", ".onnx", {LOW: low, HIGH: high})
    with pytest.raises(EngineError, match=f"{told} products in int8"):
        require_int8(built, EngineConfig(precision="int8"))
    require_int8(built, EngineConfig())
    require_int8(BuiltEngine.of(b"", ".onnx", {LOW: 2, HIGH: 1}), EngineConfig(precision="int8"))


def test_nearly_all_images_are_looked_at_however_many_there_are():
    for images in (3, 50, 51, 99, 120):
        batches, count = room._Batches(IMAGES[np.arange(images) % len(IMAGES)]), 0
        sizes = set()
        while (part := batches.get_next()) is not None:
            count += len(part["input"])
            sizes.add(len(part["input"]))
        assert len(sizes) == 1
        assert max(sizes) <= 50
        assert images - count < images / 25


@pytest.mark.parametrize("wrong", [{"dense_precision": "fp16"}, {"precision": "fp16", "dense_precision": "int8"}])
def test_a_dense_engine_that_nobody_serves_is_no_reference(wrong):
    with pytest.raises(ValueError, match="nobody serves"):
        EngineConfig(**wrong)


def test_a_recipe_may_name_what_can_be_exported_and_nothing_else():
    schema = EngineConfig.model_json_schema()["properties"]["precision"]
    assert tuple(schema["enum"]) == EXPORTED
    assert "bf16" in PRECISIONS
    assert "bf16" not in EXPORTED


def test_beside_int8_the_dense_engine_is_fp32_unless_the_recipe_says_otherwise():
    engine = EngineConfig(precision="int8")
    assert (engine.precision_of("pruned"), engine.precision_of("dense")) == ("int8", "fp32")
    assert EngineConfig(precision="int8", dense_precision="int8").precision_of("dense") == "int8"
    assert EngineConfig(precision="fp16").precision_of("dense") == "fp16"
