"""`madx verify --engine` with files of other tools: how they are fed is found or said, and stands in the verdict."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import yaml
from conftest import Answer, Cli
from onnx import TensorProto, helper, numpy_helper

from madx.artifacts import sha256_file
from madx.deploy.interface import Interface
from madx.deploy.signature import Expected, read_input
from madx.models.fitting import Better, Fit
from madx.pipeline import takeover
from madx.pipeline.sides import Side
from madx.recipe import InputConfig, OutputConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

ENGINE, DENSE = "run/engines/ort-cpu-fp32/pruned.onnx", "run/engines/ort-cpu-fp32/dense.onnx"
TWIN, DENSE_TWIN = "run/pruned/model.safetensors", "run/dense/model.safetensors"
GATE = "verify.gates=[{metric: clean_accuracy, at_least: 0.2}]"
GRAPH = helper.make_graph([], "colour", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 5, 5])], [])
QUICK = ("--set", "verify.attack=quick", "--set", "verify.images=40", "--set", GATE)


@pytest.fixture
def workspace(released: Path, tmp_path: Path) -> Path:
    """A private copy of it."""
    return Path(shutil.copytree(released, tmp_path / "copy"))


def verify(cli: Cli, folder: Path, file: str, *options: object) -> Answer:
    return cli("verify", folder / "tiny.yaml", "--out", folder / "out", "--engine", folder / file, *QUICK, *options)


def said(answer: Answer) -> str:
    return " ".join(answer.err.split())


def verdict(folder: Path) -> dict:
    return json.loads((folder / "out/verdict.json").read_text())


def wrapped(folder: Path, change: Callable[[onnx.ModelProto], None], source: str = ENGINE) -> str:
    """The run's engine, changed; the name of the file."""
    model = onnx.load(folder / source)
    del model.graph.value_info[:]
    change(model)
    onnx.save(model, folder / "other.onnx")
    return "other.onnx"


def in_front(kind: str, number: float, dtype: int = TensorProto.FLOAT) -> Callable[[onnx.ModelProto], None]:
    """One more node between the input and the network, so that another input is wanted."""

    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["inner" if name == "input" else name for name in node.input]
        model.graph.initializer.append(numpy_helper.from_array(np.float32(number), "number"))
        cast = helper.make_node("Cast", ["input"], ["as float"], to=TensorProto.FLOAT)
        for made in (helper.make_node(kind, ["as float", "number"], ["inner"]), cast):
            model.graph.node.insert(0, made)
        model.graph.input[0].type.tensor_type.elem_type = dtype

    return change


def with_softmax(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        node.output[:] = ["scores" if name == "logits" else name for name in node.output]
    model.graph.node.append(helper.make_node("Softmax", ["scores"], ["logits"], axis=1))


def with_batch(size: int) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = size

    return change


def looks_at_its_batch(model: onnx.ModelProto) -> None:
    """As dynamic quantisation does: the scale of one image is that of all."""
    for node in model.graph.node:
        node.input[:] = ["inner" if name == "input" else name for name in node.input]
    for made in (
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["inner"]),
        helper.make_node("DynamicQuantizeLinear", ["shifted"], ["q", "s", "z"]),
        helper.make_node("Sub", ["input", "middle"], ["shifted"]),
        helper.make_node("ReduceMean", ["input"], ["middle"], keepdims=1),
    ):
        model.graph.node.insert(0, made)


def test_a_scaling_that_was_not_said_is_found_and_one_that_was_is_judged(workspace: Path, cli: Cli) -> None:
    file = wrapped(workspace, in_front("Div", 255.0))
    answer = verify(cli, workspace, file)
    assert answer.code == 2
    assert "add this to the recipe: verify: {input: {scale: 255}}" in said(answer)
    assert not (workspace / "out/verdict.json").exists()
    answer = verify(cli, workspace, file, "--set", "verify.input={scale: 255}")
    assert answer.code == 0, answer.err
    found = verdict(workspace)
    assert found["provenance"]["engines"]["ort-cpu-fp32"]["engine"] == sha256_file(workspace / file)
    assert any("times 255" in warning for warning in found["warnings"])
    assert found["provenance"]["recipe"]["verify"]["input"]["scale"] == 255
    assert "times 255" in (workspace / "out/report.html").read_text()
    answer = verify(cli, workspace, file, "--set", "verify.input={scale: 200}")  # another verdict: it is done again
    assert "take: running (changed: fed.input.scale)" in said(answer)


def test_what_the_recipe_says_wrongly_is_found_too(workspace: Path, cli: Cli) -> None:
    answer = verify(cli, workspace, ENGINE, "--set", "verify.input={scale: 255}")
    assert answer.code == 2
    assert "verify: {input: {scale: 1, mean: 0, std: 1}}" in said(answer)


def test_integers_are_judged_as_their_rounded_twin_is(workspace: Path, cli: Cli) -> None:
    """Parity asks whether it is the same network, not whether rounding changes anything."""
    file = wrapped(workspace, in_front("Div", 255.0, TensorProto.UINT8))
    answer = verify(cli, workspace, file, "--twin", workspace / TWIN)
    assert answer.code == 0, answer.err
    assert "rounded to whole numbers" in said(answer)
    with np.load(workspace / "out/measurements/ort-cpu-fp32.npz") as kept:
        assert kept["parity.candidate.apart"].max() <= 1
        assert not kept["parity.candidate.violations"].size


def test_probabilities_are_judged_by_their_logarithm_and_named_so(workspace: Path, cli: Cli) -> None:
    answer = verify(cli, workspace, wrapped(workspace, with_softmax), "--twin", workspace / TWIN)
    assert (answer.code, "probabilities (a softmax)" in said(answer)) == (0, True), answer.err
    assert any("probabilities of 10 classes" in warning for warning in verdict(workspace)["warnings"])


def test_a_file_of_one_batch_is_measured_and_timed_at_that_batch_alone(workspace: Path, cli: Cli) -> None:
    file = wrapped(workspace, with_batch(4))
    answer = verify(cli, workspace, file)
    assert (answer.code, "takes 4 images a call" in said(answer)) == (0, True), answer.err
    assert any("measured at batch 4 alone" in warning for warning in verdict(workspace)["warnings"])
    beside = ("--reference", workspace / DENSE)
    answer = verify(cli, workspace, file, *beside)
    assert (answer.code, "verify.latency.batch is 1: set it to 4" in said(answer)) == (2, True)
    assert verify(cli, workspace, file, *beside, "--set", "verify.latency.batch=4").code == 0
    answer = verify(cli, workspace, file, "--set", "verify.batches=[1, 4]")
    assert (answer.code, "verify.batches is [1, 4]: leave it out" in said(answer)) == (2, True)


def test_dynamic_quantisation_is_named_as_the_cause(workspace: Path, cli: Cli) -> None:
    answer = verify(cli, workspace, wrapped(workspace, looks_at_its_batch))
    assert answer.code == 3, answer.err
    evidence = " ".join(verdict(workspace)["gates"][0]["evidence"])
    assert "dynamic quantisation (DynamicQuantizeLinear)" in evidence


def test_weights_beside_the_file_go_with_it(workspace: Path, cli: Cli) -> None:
    model = onnx.load(workspace / ENGINE)
    onnx.save(model, workspace / "other.onnx", save_as_external_data=True, location="w.data", size_threshold=100)
    assert verify(cli, workspace, "other.onnx").code == 0
    given = verdict(workspace)["provenance"]["given"]["engine"]
    assert given == {
        "ort-cpu-fp32": sha256_file(workspace / "other.onnx"),
        "ort-cpu-fp32: w.data": sha256_file(workspace / "w.data"),
    }
    assert (workspace / "out/taken/ort-cpu-fp32/engine.data/w.data").is_file()
    assert "nothing to do" in verify(cli, workspace, "other.onnx").out
    assert_is_a_baseline(workspace, cli)
    (workspace / "w.data").write_bytes(bytes(4))
    answer = verify(cli, workspace, "other.onnx")
    assert (answer.code, "w.data ends after 4 bytes" in said(answer)) == (2, True)
    (workspace / "w.data").unlink()
    answer = verify(cli, workspace, "other.onnx")
    assert (answer.code, "w.data cannot be read" in said(answer)) == (2, True)


def assert_is_a_baseline(folder: Path, cli: Cli, *options: object) -> None:
    """The run in `out` is one as any, and as accurate there as in its own verdict, whatever another file is fed."""
    answer = cli("verify", folder / "tiny.yaml", "--run-dir", folder / "run", "--baseline", folder / "out", *QUICK)
    assert (answer.code, "one engine has a torch twin" in said(answer)) == (2, True)  # the run's own has one
    command = ("verify", folder / "tiny.yaml", "--out", folder / "next", "--baseline", folder / "out", *QUICK)
    answer = cli(*command, "--engine", folder / ENGINE, *options)
    assert answer.code == 0, answer.err
    first, then = (measured(folder / name) for name in ("out", "next"))
    np.testing.assert_array_equal(then["accuracy.clean_reference"], first["accuracy.clean_candidate"])
    assert "nothing to do" in cli(*command, "--engine", folder / ENGINE, *options).out


def measured(folder: Path) -> dict:
    with np.load(folder / "measurements/ort-cpu-fp32.npz") as kept:
        return dict(kept)


def test_a_baseline_is_fed_as_its_own_run_fed_it(workspace: Path, cli: Cli) -> None:
    """What another file wants is nothing to it; and its own feeding is a part of what was released."""
    file = wrapped(workspace, in_front("Div", 255.0))
    assert verify(cli, workspace, file, "--set", "verify.input={scale: 255}").code == 0
    assert_is_a_baseline(workspace, cli)
    shutil.rmtree(workspace / "out")
    shutil.rmtree(workspace / "next")
    command = ("verify", workspace / "tiny.yaml", "--out", workspace / "out", "--baseline", workspace / "run", *QUICK)
    twin = ("--twin", workspace / TWIN, "--set", "verify.input={scale: 255}")
    answer = cli(*command, "--engine", workspace / file, *twin)
    assert answer.code == 0, answer.err
    found = measured(workspace / "out")
    np.testing.assert_array_equal(found["accuracy.clean_reference"], found["accuracy.clean_candidate"])
    answer = cli(*command, "--engine", workspace / file, *twin, "--set", "verify.reference_input={scale: 255}")
    assert (answer.code, "the baseline engine" in said(answer)) == (2, True)  # the recipe's own word goes before


def test_each_file_is_fed_as_the_recipe_says_of_it(workspace: Path, cli: Cli) -> None:
    """The engine from 0 to 255, the reference in [0, 1]."""
    file = wrapped(workspace, in_front("Div", 255.0))
    options = ("--reference", workspace / DENSE, "--set", "verify.input={scale: 255}")
    assert verify(cli, workspace, file, *options).code == 2  # without a word of its own, as the engine
    answer = verify(cli, workspace, file, *options, "--set", "verify.reference_input={}")
    assert answer.code == 0, answer.err
    evidence = json.dumps(verdict(workspace))
    assert "the engine's ONNX file is not fed images as they are" in evidence
    assert "the reference's ONNX file is not fed" not in evidence


def test_a_runtime_s_refusal_is_exit_code_2_in_words_and_its_own_with_v(workspace: Path, cli: Cli) -> None:
    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[-1].domain, model.graph.node[-1].op_type = "acme", "Sharpen"
        model.opset_import.append(helper.make_opsetid("acme", 1))

    file = wrapped(workspace, unknown)
    answer = verify(cli, workspace, file)
    assert (answer.code, "no operator acme::Sharpen" in said(answer)) == (2, True)
    assert "ONNXRuntimeError" not in answer.err
    assert "ONNXRuntimeError" in verify(cli, workspace, file, "-v").err


@pytest.mark.parametrize(
    "said_already",
    [
        {},
        {"scale": 255},
        {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]},
        {"scale": 255, "mean": [104, 117, 123], "channel_order": "bgr"},
        {"mean": 0.5, "std": 0.5, "channel_order": "bgr"},
    ],
)
def test_what_is_advised_does_what_was_tried(said_already: dict) -> None:
    """Whatever the recipe says already: the line that is to be added must make the file see what fitted it."""
    images = torch.rand((4, 3, 5, 5), generator=torch.Generator().manual_seed(0))

    def interface(keys: dict) -> Interface:
        wanted = Expected((3, 5, 5), 10, "fp32", InputConfig.model_validate(keys), OutputConfig())
        fed, problems = read_input(GRAPH, wanted)
        assert fed is not None
        assert not problems
        return Interface(shape=(3, 5, 5), classes=10, **fed)

    given = interface(said_already)
    rows = takeover._rows_for(Side("engine", None, None, interface=given), images)  # type: ignore[arg-type]
    advised = [row for row in rows if row.advice.startswith("add this")]
    assert len(advised) > 6
    for row in advised:
        keys = yaml.safe_load(row.advice.partition("recipe: ")[2])["verify"]["input"]
        tried = given.fed(row.change(images).numpy())
        told = interface(said_already | keys).fed(images.numpy())
        assert np.abs(told - tried).max() < 5e-3 * max(1, np.abs(tried).max()), (row.name, keys)


@pytest.mark.parametrize(("given", "other"), [("NCHW", "NHWC"), ("NHWC", "NCHW")])
def test_colours_all_in_a_row_are_tried_in_the_other_layout(given: str, other: str) -> None:
    images = torch.rand((4, 3, 5, 6), generator=torch.Generator().manual_seed(0))
    row = Interface(shape=(3, 5, 6), classes=10, image=(90,), layout=given)  # type: ignore[arg-type]
    rows = takeover._rows_for(Side("engine", None, None, interface=row), images)  # type: ignore[arg-type]
    found = next(one for one in rows if "layout" in one.advice)
    assert found.advice == f"add this to the recipe: verify: {{input: {{layout: {other}}}}}"
    told = replace(row, layout=other)  # type: ignore[arg-type]
    np.testing.assert_array_equal(row.fed(found.change(images).numpy()), told.fed(images.numpy()))


BETTER = Better("0 to 255", "add this to the recipe: x", None, 50, clean=0.92, as_given=0.78, gain=0.02, alike=())
LIKES = Fit(100, 0.78, (0.7, 0.85), 0.1, "above chance", 0, (), BETTER, linear=None, linear_gain=0.0)


@pytest.mark.parametrize(
    ("role", "fit", "doubted"),
    [
        ("reference", LIKES, True),
        ("baseline", LIKES, True),
        ("engine", LIKES, False),  # a candidate that is fed wrongly only looks worse
        ("reference", replace(LIKES, better=None), False),
        ("reference", replace(LIKES, better=None, linear=0.9, linear_gain=0.1), True),
        ("reference", replace(LIKES, better=None, standing="near chance"), True),
    ],
)
def test_doubts_about_a_reference_are_kept_for_its_gates(
    role: str, fit: Fit, doubted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(takeover, "find_fit", lambda *_, **__: fit)
    images, lines = torch.rand(8, 1, 4, 4), []
    selection = SimpleNamespace(tensors=lambda *_: (images, torch.arange(8)))
    context = SimpleNamespace(
        splits=SimpleNamespace(selection=selection), taken=[role], progress=SimpleNamespace(say=lines.append)
    )
    found = takeover.examine_given(context, [Side(role, None, None)])  # type: ignore[arg-type]
    assert bool(found.reference) is doubted
    assert set(found.reference) <= set(found.told) == set(lines)
