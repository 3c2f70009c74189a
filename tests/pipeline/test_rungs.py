"""Rungs of a ladder: which there are, that their engines are what their names say, and that no gate hears of them."""

import copy
import json
from functools import cache
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.errors import EngineError, ExportError
from madx.models import build_model
from madx.pipeline import files, ladder, timing
from madx.progress import Silent
from madx.prune import Rule
from madx.prune.layers import scored_parameters
from madx.recipe import EngineConfig, ModelConfig, PruneConfig, Recipe

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SHAPE = (1, 8, 8)
D, C = "dense, ", "channels removed, "
C24, S24, U = "channels removed and 2:4, ", "2:4, ", "single weights removed, "
PLANS = {
    ("channels", "fp32"): (D + "fp32", C + "fp32"),
    ("channels", "fp16"): (D + "fp32", C + "fp32", C + "fp16"),
    ("2:4", "fp32"): (D + "fp32", S24 + "fp32"),
    ("2:4", "fp16"): (D + "fp32", D + "fp16", S24 + "fp16"),
    ("2:4", "int8"): (D + "fp32", D + "int8", S24 + "int8"),
    ("channels+2:4", "fp32"): (D + "fp32", C + "fp32", C24 + "fp32"),
    ("channels+2:4", "fp16"): (D + "fp32", C + "fp32", C + "fp16", C24 + "fp16"),
    ("unstructured", "fp32"): (D + "fp32", U + "fp32"),
    ("unstructured", "fp16"): (D + "fp32", D + "fp16", U + "fp16"),
}


@pytest.mark.parametrize(("structure", "precision"), PLANS)
def test_the_order_is_channels_then_precision_then_zeros(structure, precision):
    found = ladder.rungs(PruneConfig(structure=structure), precision)
    assert tuple(rung.name for rung in found) == PLANS[structure, precision]
    assert (found[0].network, found[-1].network) == ("dense", "pruned")
    assert (found[0].precision, found[-1].precision) == ("fp32", precision)


BUILT = [plan for plan, names in PLANS.items() if len(names) > 2 and "int8" not in plan]


@cache
def dense():
    config = ModelConfig(name="resnet8", args={"widths": [32, 32, 32], "stem_stride": 1})
    return build_model(config, shape=SHAPE, classes=10, seed=0).eval()


@cache
def pruned(structure):
    config = PruneConfig(structure=structure, sparsity=0.5, round_to=16)
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(value.shape, generator=generator) for name, value in scored_parameters(dense()).items()}
    return Rule(dense(), config, example=torch.zeros(2, *SHAPE)).remove(scores).module.eval()


EXPORTS = {}
"""By what is in the network: an export takes a second, and many rungs are the same."""


def export_once(module, precision):
    state = tuple((value.shape, float(value.double().abs().sum())) for value in module.state_dict().values())
    if (state, precision) not in EXPORTS:
        EXPORTS[state, precision] = export_onnx(module, SHAPE, opset=20, precision=precision)
    return EXPORTS[state, precision]


def exported(structure, role, precision):
    return export_once(dense() if role == "dense" else pruned(structure), precision).payload


@pytest.fixture
def quick_exports(monkeypatch):
    monkeypatch.setattr(ladder, "checked_onnx", lambda _, module, precision: export_once(module, precision))


def context(engines, structure, **latency):
    recipe = Recipe.model_validate(
        {
            "model": {"weights": "weights.pt"},
            "prune": {"structure": structure, "sparsity": 0.5},
            "export": {"engines": engines},
            "verify": {"latency": {"seconds": 0.01, "pairs": 30, "block_calls": 5, **latency}},
        }
    )
    record = {
        role: {engine.name: {"file": (structure, role, engine.precision_of(role))} for engine in recipe.export.engines}
        for role in ("dense", "pruned")
    }
    builds = {
        files.build(engine): {"built": True} | {role: record[role][engine.name] for role in record}
        for engine in recipe.export.engines
    }
    gate = SimpleNamespace(tensors=lambda _, stop: (torch.rand(stop, *SHAPE), None))
    return SimpleNamespace(
        recipe=recipe,
        progress=Silent(),
        read_json=builds.__getitem__,
        read_bytes=lambda key: exported(*key),
        splits=SimpleNamespace(gate=gate, train=SimpleNamespace(shape=SHAPE, classes=10)),
        dense_model=dense,
        pruned_model=lambda: copy.deepcopy(pruned(structure)),
    )


class Spy:
    """A backend whose engines are real, and what each was made from."""

    def __init__(self, monkeypatch, fault=None):
        self.loaded, self.built, self.closed, self.fault = [], [], 0, fault
        monkeypatch.setattr(ladder, "backend", self)

    def __call__(self, kind):
        runtime = backend(kind)

        def load(payload, config):
            engine = runtime.load(payload, config)
            self.loaded.append((payload, config.precision))
            close = engine.close
            engine.close = lambda: (close(), setattr(self, "closed", self.closed + 1))
            return engine

        def build(artifact, config, *, batch):
            self.built.append(config.precision)
            if self.fault:
                self.fault(config)
            return runtime.build(artifact, config, batch=batch)

        return SimpleNamespace(load=load, build=build)


def weights(payload):
    """{name: array} of everything with more than one dimension, in the order of the file."""
    tensors = onnx.load_from_string(payload).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in tensors if len(tensor.dims) > 1}


def looks(payload):
    """(number of weights, share of zeros among them, whether any is float16)."""
    found = weights(payload)
    count = sum(array.size for array in found.values())
    zeros = sum(int((array == 0).sum()) for array in found.values()) / count
    halves = any(t.data_type == TensorProto.FLOAT16 for t in onnx.load_from_string(payload).graph.initializer)
    return count, zeros, halves


@pytest.mark.usefixtures("quick_exports")
@pytest.mark.parametrize("kind", ["ort-cpu", "openvino-cpu"])
@pytest.mark.parametrize(
    ("structure", "precision"), [plan for plan, names in PLANS.items() if len(names) > 2 and "int8" not in plan]
)
def test_the_engines_of_the_rungs_differ_in_what_their_names_say(monkeypatch, kind, structure, precision):
    spy = Spy(monkeypatch)
    config = EngineConfig(kind=kind, precision=precision, threads=1)
    own = [{"kind": kind, "precision": precision, "threads": 1}]
    found = ladder.ladder(context(own, structure), config)
    names = PLANS[structure, precision]
    assert found.rungs == names
    assert not found.missing
    assert found.seconds.shape[2] == len(names)
    by_name = dict(zip((names[-1], *names[:-1]), spy.loaded, strict=False))  # the deployed one is loaded first
    whole = looks(exported(structure, "dense", "fp32"))[0]
    for name, (payload, given) in by_name.items():
        count, zeros, halves = looks(payload)
        assert given == name.rpartition(", ")[2]
        assert halves is (given == "fp16")
        assert (count < whole) is ("channels" in name), name
        assert (zeros > 0.3) is ("2:4" in name or "single" in name), name
    assert by_name[names[-1]][0] == exported(structure, "pruned", precision), "the last rung is the deployed engine"
    assert spy.closed == len(spy.loaded) == len(names)


@pytest.mark.usefixtures("quick_exports")
def test_what_the_recipe_lists_is_the_runs_own_and_the_rest_is_built(monkeypatch):
    engines = [{"threads": 1}, {"threads": 1, "precision": "fp16"}, {"kind": "openvino-cpu"}]
    spy = Spy(monkeypatch)
    ladder.ladder(context(engines, "channels"), EngineConfig(precision="fp16", threads=1))
    assert spy.built == []
    ladder.ladder(context(engines, "channels"), EngineConfig(precision="fp16", threads=2))
    assert sorted(spy.built) == ["fp16", "fp32", "fp32"], "with other threads it is another engine"


def test_a_rung_is_the_run_s_own_engine_in_its_own_precision_alone():
    """Beside int8 the run has its dense engine in float32: that is no rung of int8."""
    found = context([{"precision": "int8"}], "2:4")
    found.read_bytes = lambda key: key
    config = found.recipe.export.engines[0]
    own = {
        rung.name: ladder._own(found, config.model_copy(update={"precision": rung.precision}), rung)
        for rung in ladder.rungs(found.recipe.prune, "int8")
    }
    assert own == {D + "fp32": None, D + "int8": None, S24 + "int8": ("2:4", "pruned", "int8")}


@pytest.mark.parametrize("structure", ["channels", "2:4", "unstructured"])
def test_two_rungs_are_the_speed_up_itself(structure):
    assert ladder.ladder(context([{}], structure), EngineConfig()) is None


def test_the_recipe_may_want_none(monkeypatch):
    spy = Spy(monkeypatch)
    engines = [{}, {"precision": "fp16"}]
    assert ladder.ladder(context(engines, "channels", ladder=False), EngineConfig(precision="fp16")) is None
    assert spy.loaded == []


def refuse(error, precision):
    def fault(config):
        if config.precision == precision:
            raise error

    return fault


@pytest.mark.usefixtures("quick_exports")
def test_a_rung_that_cannot_be_built_is_named_and_the_others_are_timed(monkeypatch):
    Spy(monkeypatch, refuse(EngineError("no GPU here"), "fp32"))
    only = [{"precision": "fp16", "threads": 1}]
    config = EngineConfig(precision="fp16", threads=1)
    found = ladder.ladder(context(only, "channels+2:4"), config)
    assert found.rungs == (C + "fp16", C24 + "fp16")
    assert found.missing == {D + "fp32": "no GPU here", C + "fp32": "no GPU here"}


@pytest.mark.usefixtures("quick_exports")
def test_a_rung_that_cannot_be_timed_costs_no_verdict(monkeypatch):
    """Say, for want of memory on the GPU: the gates do not need it."""
    made = Spy(monkeypatch)(EngineConfig().kind).load

    def load(payload, config):
        engine = made(payload, config)
        if config.precision == "fp32":
            engine.timer = lambda *_: (_ for _ in ()).throw(EngineError("no memory"))
        return engine

    monkeypatch.setattr(ladder, "backend", lambda kind: SimpleNamespace(load=load, build=backend(kind).build))
    only = [{"precision": "fp16", "threads": 1}]
    found = ladder.ladder(context(only, "channels+2:4"), EngineConfig(precision="fp16", threads=1))
    assert found.rungs == (C + "fp16", C24 + "fp16")
    assert found.missing == {D + "fp32": "no memory", C + "fp32": "no memory"}


def test_one_rung_is_left_and_there_is_no_ladder(monkeypatch):
    only = [{"precision": "fp16", "threads": 1}]
    monkeypatch.setattr(ladder, "checked_onnx", lambda *_: (_ for _ in ()).throw(ExportError("too large for fp16")))
    assert ladder.ladder(context(only, "channels"), EngineConfig(precision="fp16", threads=1)) is None


@pytest.mark.usefixtures("quick_exports")
def test_a_rung_that_is_timed_differently_is_not_compared(monkeypatch):
    spy = Spy(monkeypatch)
    made = spy(EngineConfig().kind).load

    def load(payload, config):
        engine = made(payload, config)
        engine.timing = f"in {config.precision}"
        return engine

    monkeypatch.setattr(ladder, "backend", lambda kind: SimpleNamespace(load=load, build=backend(kind).build))
    only = [{"precision": "fp16", "threads": 1}]
    found = ladder.ladder(context(only, "channels+2:4"), EngineConfig(precision="fp16", threads=1))
    assert found.rungs == (C + "fp16", C24 + "fp16")
    assert found.missing[D + "fp32"] == "it is timed as 'in fp32', the engine as 'in fp16'"


def test_an_engine_that_does_not_work_is_an_error_not_a_missing_rung():
    made = context([{"precision": "fp16"}], "channels")
    made.read_bytes = lambda _: b"no ONNX file"
    with pytest.raises(EngineError, match="refuses the file"):
        ladder.ladder(made, EngineConfig(precision="fp16"))


@pytest.mark.slow
def test_a_run_has_the_ladder_and_no_trace_of_it_elsewhere(tiny_recipe, cli, monkeypatch):
    """The whole chain on digits: OpenVINO in fp16 after channels and 2:4, of which the recipe lists the last rung."""
    options = ["--set", "prune.structure=channels+2:4", "--set", "prune.round_to=16"]
    options += ["--set", "model.args={widths: [32, 32, 32], stem_stride: 1}", "--set", "train.epochs=0.5"]
    options += ["--set", "prune.finetune=null", "--set", "verify.images=50"]
    options += ["--set", "verify.gates=[{metric: p99_ratio, at_most: 1.5}, {metric: speedup, at_least: 1.1}]"]
    measure, tails = timing.measure_latency, []
    spied = lambda *timers, **how: (tails.append(how["tails"]), measure(*timers, **how))[1]  # noqa: E731
    monkeypatch.setattr(timing, "measure_latency", spied)
    options += ["--set", "export.engines=[{kind: openvino-cpu, precision: fp16, threads: 1}]"]
    run = tiny_recipe.parent / "run"
    answer = cli("run", tiny_recipe, "--run-dir", run, "--force", *options)
    assert answer.code in (0, 1, 3), answer.err
    assert tails == [True], "a gate on the p99 wants it measured"
    with np.load(run / "measurements/openvino-cpu-fp16.npz") as content:
        rest = json.loads(str(content["ladder.rest"]))
    assert tuple(rest["rungs"]) == PLANS["channels+2:4", "fp16"]
    assert rest["missing"] == {}
    engines = {path.name for path in (run / "engines").rglob("*") if path.is_file()}
    assert engines == {"dense.onnx", "pruned.onnx", "build.json"}
    verdict = json.loads((run / "verdict.json").read_text())
    assert set(verdict["provenance"]["engines"]) == {"openvino-cpu-fp16"}
    assert not any("rung" in json.dumps(gate) or "ladder" in json.dumps(gate) for gate in verdict["gates"])
    page = (run / "report.html").read_text()
    assert all(name in page for name in rest["rungs"])
