"""The release question: a candidate of one precision beside a reference of another, each held to its own rounding."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Answer, Cli
from onnx import helper, numpy_helper
from onnxconverter_common import float16
from sklearn.datasets import load_digits

from madx.closeness import ROUNDING
from madx.deploy.check import check_onnx
from madx.deploy.quantised import quantised
from madx.recipe import CalibrationConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

ENGINE, DENSE = "run/engines/ort-cpu-fp32/pruned.onnx", "run/engines/ort-cpu-fp32/dense.onnx"
TWINS = ("run/pruned/model.safetensors", "run/dense/model.safetensors")
GATES = "[{metric: clean_drop, at_most: 0.5}, {metric: clean_accuracy, at_least: 0.2}]"
QUICK = ("--set", "verify.attack=quick", "--set", "verify.images=40", "--set", f"verify.gates={GATES}")
INT8 = ("--set", "export.engines=[{kind: ort-cpu, precision: int8}]")
HALF = ("--set", "export.engines=[{kind: ort-cpu, precision: fp16}]")


@pytest.fixture
def workspace(released: Path, tmp_path: Path) -> Path:
    """A private copy of it, with float16 twins of its engines beside them."""
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    for name, file in (("pruned", ENGINE), ("dense", DENSE)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            half = float16.convert_float_to_float16(onnx.load(folder / file), keep_io_types=True)
        onnx.save(half, folder / f"{name}-half.onnx")
    return folder


def verify(cli: Cli, folder: Path, engine: str, *options: object, twins: bool = False, out: str = "out") -> Answer:
    own = ("--twin", folder / TWINS[0]) if twins else ()
    if twins and "--reference" in options:
        own += ("--reference-twin", folder / TWINS[1])
    return cli(
        "verify", folder / "tiny.yaml", "--out", folder / out, "--engine", folder / engine, *QUICK, *own, *options
    )


def verdict(folder: Path, out: str = "out") -> dict:
    return json.loads((folder / out / "verdict.json").read_text())


def outcomes(folder: Path) -> set[str]:
    return {gate["outcome"] for gate in verdict(folder)["gates"]}


def measured(folder: Path, name: str) -> dict:
    with np.load(folder / "out/measurements" / f"{name}.npz") as kept:
        return dict(kept)


def changed(folder: Path, change: Callable[[onnx.ModelProto], None], source: str = ENGINE) -> str:
    model = onnx.load(folder / source)
    del model.graph.value_info[:]
    change(model)
    onnx.save(model, folder / "other.onnx")
    return "other.onnx"


@pytest.mark.parametrize(
    ("engine", "reference", "options", "name", "precisions"),
    [
        ("pruned-half.onnx", DENSE, HALF, "ort-cpu-fp16", ("fp16", "fp32")),
        pytest.param(ENGINE, "dense-half.onnx", (), "ort-cpu-fp32", ("fp32", "fp16"), marks=pytest.mark.slow),
    ],
)
def test_each_engine_is_compared_by_its_own_precision(
    workspace: Path, cli: Cli, engine: str, reference: str, options: tuple, name: str, precisions: tuple
) -> None:
    answer = verify(cli, workspace, engine, "--reference", workspace / reference, *options, twins=True)
    assert (answer.code, outcomes(workspace)) == (0, {"PASS"}), answer.err
    found = measured(workspace, name)
    for side, precision in zip(("candidate", "reference"), precisions, strict=True):
        assert str(found[f"parity.{side}.precision"]) == precision
        assert found[f"parity.{side}.apart"].max() <= 1
    units = {
        key: found[f"parity.{key}.difference"] / found[f"parity.{key}.apart"] for key in ("candidate", "reference")
    }
    ratio = np.median(units["candidate"]) / np.median(units["reference"])
    expected = ROUNDING[precisions[0]] / ROUNDING[precisions[1]]
    assert 0.3 < ratio / expected < 3, "what rounding explains is a share of logits that are alike in size"
    assert any(f"the engine computes in {precisions[0]}" in one for one in verdict(workspace)["warnings"])


def test_a_recipe_that_calls_a_file_something_else_is_refused(workspace: Path, cli: Cli) -> None:
    """More room for rounding, or less, than the file has: what a gate was told is what it gets."""
    answer = verify(cli, workspace, "pruned-half.onnx", "--reference", workspace / DENSE)
    assert (answer.code, "computes in float16" in answer.err) == (2, True)
    answer = verify(cli, workspace, ENGINE, "--reference", workspace / DENSE, *HALF)
    assert (answer.code, "computes in float32" in answer.err) == (2, True)


@pytest.mark.slow
def test_a_fp16_candidate_does_not_lend_its_room_to_a_reference_of_fp32(workspace: Path, cli: Cli) -> None:
    """A reference that differs from its twin by less than float16 explains and more than float32: nothing passes."""

    def nudged(model: onnx.ModelProto) -> None:
        bias = next(one for one in model.graph.initializer if list(one.dims) == [10])
        values = numpy_helper.to_array(bias).copy()
        values[0] += 0.03
        bias.CopyFrom(numpy_helper.from_array(values, bias.name))

    reference = changed(workspace, nudged, DENSE)
    answer = verify(cli, workspace, "pruned-half.onnx", "--reference", workspace / reference, *HALF, twins=True)
    assert answer.code == 3, answer.err
    gates = {gate["metric"]: gate for gate in verdict(workspace)["gates"]}
    assert gates["clean_drop"]["outcome"] == "INCONCLUSIVE"
    assert "The reference engine's logits differ from its torch twin's" in " ".join(gates["clean_drop"]["evidence"])
    assert gates["clean_accuracy"]["outcome"] == "PASS"
    assert measured(workspace, "ort-cpu-fp16")["parity.reference.apart"].max() < ROUNDING["fp16"] / ROUNDING["fp32"]


@pytest.fixture
def int8(workspace: Path) -> onnx.ModelProto:
    """The pruned engine, quantised as madx quantises."""
    images = load_digits().images[:100, None].astype(np.float32) / 16
    artifact = check_onnx((workspace / ENGINE).read_bytes(), shape=(1, 8, 8))
    return onnx.load_model_from_string(quantised(artifact, images, CalibrationConfig(weight_bits=7)).payload)


@pytest.mark.slow
def test_an_int8_candidate_has_its_room_where_the_recipe_says_so(workspace: Path, cli: Cli, int8) -> None:
    onnx.save(int8, workspace / "int8.onnx")
    answer = verify(cli, workspace, "int8.onnx", "--reference", workspace / DENSE, *INT8, twins=True)
    assert (answer.code, outcomes(workspace)) == (0, {"PASS"}), answer.err
    assert str(measured(workspace, "ort-cpu-int8")["parity.candidate.precision"]) == "int8"
    assert any("the engine computes in int8" in one for one in verdict(workspace)["warnings"])
    answer = verify(cli, workspace, "int8.onnx", "--reference", workspace / DENSE, twins=True, out="strict")
    assert answer.code == 3, answer.err
    assert any("precision: int8}" in one for one in verdict(workspace, "strict")["warnings"])


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["first", "last"])
def test_an_int8_candidate_with_one_scale_halved_cannot_pass(workspace: Path, cli: Cli, int8, layer: str) -> None:
    known = {tensor.name: tensor for tensor in int8.graph.initializer}
    scales = [
        known[node.input[1]]
        for node in int8.graph.node
        if node.op_type == "DequantizeLinear" and len(known[node.input[0]].dims if node.input[0] in known else ()) > 1
    ]
    scale = scales[0 if layer == "first" else -1]
    scale.CopyFrom(numpy_helper.from_array(0.5 * numpy_helper.to_array(scale), scale.name))
    onnx.save(int8, workspace / "halved.onnx")
    answer = verify(cli, workspace, "halved.onnx", "--reference", workspace / DENSE, *INT8, twins=True)
    assert answer.code == 3, answer.err
    assert measured(workspace, "ort-cpu-int8")["parity.candidate.apart"].max() > 1


@pytest.mark.slow
def test_weights_that_are_only_stored_in_int8_make_no_int8_engine(workspace: Path, cli: Cli) -> None:
    def stored_in_int8(model: onnx.ModelProto) -> None:
        """Every convolution's weights in 8 bits, one scale each: the runtime computes in float32."""
        for node in list(model.graph.node):
            if node.op_type != "Conv":
                continue
            weight = next(one for one in model.graph.initializer if one.name == node.input[1])
            values, name = numpy_helper.to_array(weight), weight.name
            scale = np.float32(np.abs(values).max() / 127)
            stored = numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}/8")
            model.graph.initializer.remove(weight)
            model.graph.initializer.extend([stored, numpy_helper.from_array(scale, f"{name}/scale")])
            model.graph.node.insert(
                0, helper.make_node("DequantizeLinear", [f"{name}/8", f"{name}/scale"], [name], name=f"{name}/dq")
            )

    file = changed(workspace, stored_in_int8)
    answer = verify(cli, workspace, file, "--reference", workspace / DENSE, *INT8, twins=True)
    assert (answer.code, "products in int8" in answer.err) == (3, True), answer.err


@pytest.mark.slow
def test_a_release_of_another_precision_is_a_baseline(workspace: Path, cli: Cli) -> None:
    answer = verify(cli, workspace, "pruned-half.onnx", *HALF, "--baseline", workspace / "run", twins=True)
    assert (answer.code, outcomes(workspace)) == (0, {"PASS"}), answer.err
    found = measured(workspace, "ort-cpu-fp16")
    assert (str(found["parity.reference.precision"]), str(found["parity.candidate.precision"])) == ("fp32", "fp16")


# --- Engines on which an image has no one answer ---------------------------------------------------------------------


def last(kind: str, *more: str, tensors: tuple = (), **attributes: object) -> Callable[[onnx.ModelProto], None]:
    """One more node behind the logits."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.output[:] = ["scores" if name == "logits" else name for name in node.output]
        model.graph.initializer.extend(tensors)
        model.graph.node.append(helper.make_node(kind, ["scores", *more], ["logits"], **attributes))

    return change


def batch_mean(model: onnx.ModelProto) -> None:
    """What the images of a call have in common is taken away."""
    for node in model.graph.node:
        node.input[:] = ["inner" if name == "input" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Sub", ["input", "of the batch"], ["inner"]))
    axes = numpy_helper.from_array(np.array([0]), "axes")
    model.graph.initializer.append(axes)
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["input", "axes"], ["of the batch"], keepdims=1))


ONE = numpy_helper.from_array(np.float32(1e-6), "ratio"), numpy_helper.from_array(np.array(True), "mode")
SELDOM = last("Dropout", "ratio", "mode", tensors=ONE)
"""One logit of a million is lost: no two calls of a test show it."""


@pytest.mark.parametrize("bound", [0.05, 0.999])
@pytest.mark.parametrize(("change", "words"), [(batch_mean, "wrong batch axis"), (SELDOM, "random numbers (Dropout)")])
def test_an_image_with_many_answers_neither_passes_nor_fails(
    workspace: Path, cli: Cli, change: Callable, words: str, bound: float
) -> None:
    """Whatever the bound; the cause is named; and a count of bytes is a count of bytes."""
    file = changed(workspace, change)
    gates = f"[{{metric: clean_accuracy, at_least: {bound}}}, {{metric: robust_accuracy, at_least: {bound}}}]"
    answer = verify(cli, workspace, file, "--set", f"verify.gates={gates}", "--force")
    assert (answer.code, outcomes(workspace)) == (3, {"INCONCLUSIVE"}), answer.err
    for gate in verdict(workspace)["gates"]:
        assert words in " ".join(gate["evidence"])
        assert gate["remedy"] == "mend the engine"


def test_a_reference_with_many_answers_voids_what_compares_and_nothing_else(workspace: Path, cli: Cli) -> None:
    file = changed(workspace, batch_mean, DENSE)
    gates = "[{metric: clean_drop, at_most: 0.05}, {metric: clean_accuracy, at_least: 0.2}]"
    options = ("--reference", workspace / file, "--set", f"verify.gates={gates}", "--force")
    answer = verify(cli, workspace, ENGINE, *options)
    assert answer.code == 3, answer.err
    found = {gate["metric"]: gate["outcome"] for gate in verdict(workspace)["gates"]}
    assert found == {"clean_drop": "INCONCLUSIVE", "clean_accuracy": "PASS"}
