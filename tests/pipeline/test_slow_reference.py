"""A reference that was made slow on purpose is timed as madx exports its weights."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.models import build_model
from madx.pipeline import timing
from madx.pipeline.engines import EngineUnderTest
from madx.pipeline.timed_images import Shown
from madx.pipeline.timing import fastest_reference
from madx.recipe import EngineConfig, ModelConfig

SHAPE = (1, 8, 8)
CONFIG = EngineConfig(threads=1)
IMAGES = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(args={"widths": [8, 8, 8], "stem_stride": 1})
    return build_model(config, shape=SHAPE, classes=10, seed=0).eval()


@pytest.fixture(scope="module")
def honest(network):
    return export_onnx(network, SHAPE, opset=20).payload


def slowed(payload, nodes=150):
    """The same network behind so many nodes that reverse the rows, which no runtime takes away."""
    model = onnx.load_from_string(payload)
    graph, name = model.graph, "input"
    graph.initializer.append(numpy_helper.from_array(np.arange(SHAPE[1])[::-1].copy(), "rows"))
    for number in range(nodes):
        graph.node.insert(number, helper.make_node("Gather", [name, "rows"], [f"turned{number}"], f"t{number}", axis=2))
        name = f"turned{number}"
    for node in graph.node[nodes:]:
        node.input[:] = [name if one == "input" else one for one in node.input]
    return model.SerializeToString()


def chosen(network, payload, role="reference", *, precision="fp32", numbers="fp32", candidate="fp32"):
    context = SimpleNamespace(
        splits=SimpleNamespace(train=SimpleNamespace(shape=SHAPE, classes=10)),
        recipe=SimpleNamespace(
            export=SimpleNamespace(opset=20), verify=SimpleNamespace(latency=SimpleNamespace(batch=1))
        ),
    )
    config = CONFIG.of_precision(precision)
    given = EngineUnderTest(role, network, config, payload, facts={"numbers": numbers})
    given = replace(given, loaded=given.load())
    other = replace(given, role="engine", config=CONFIG.of_precision(candidate), facts={"numbers": candidate})
    found = fastest_reference(context, CONFIG, given, other, Shown(IMAGES, np.arange(4)[:, None], 2))
    np.testing.assert_allclose(found.load()(IMAGES), given.load()(IMAGES), rtol=1e-3, atol=2e-2)
    return found, found.load == given.load


def compared(network, payload, role="reference"):
    found, as_given = chosen(network, payload, role)
    assert not found.doubts
    return as_given, found.remarks


def test_useless_nodes_buy_no_speed_up(network, honest):
    as_given, remarks = compared(network, slowed(honest))
    assert not as_given
    assert "The speed-up is against that export." in remarks[0]


def test_a_run_compares_with_its_own_export_anyway(network, honest):
    assert compared(network, slowed(honest), role="dense") == (True, [])


def test_without_a_twin_there_is_nothing_to_export(honest):
    assert compared(None, slowed(honest)) == (True, [])


SECONDS = {"fp32": 1.0, "fp16": 3.0}
"""A machine that runs float16 through casts."""


@pytest.fixture
def slow_in_fp16(monkeypatch):
    """Times by what a backend was told to load, as a machine's own would be of no test."""
    built = backend(CONFIG.kind)
    load, told = type(built).load, {}

    def loaded(runtime, payload, config, **fed):
        engine = load(runtime, payload, config, **fed)
        timer = engine.timer

        def named(*given):
            one = timer(*given)
            told[one] = SECONDS[config.precision]
            return one

        engine.timer = named
        return engine

    monkeypatch.setattr(type(built), "load", loaded)
    monkeypatch.setattr(timing, "median_seconds", lambda timers, **_: [told[one] for one in timers])


@pytest.mark.usefixtures("slow_in_fp16")
def test_a_slow_number_type_of_the_reference_buys_no_speed_up(network):
    """Its twin is timed in the candidate's precision too; where there is none, nobody knows, and nothing passes."""
    half = export_onnx(network, SHAPE, opset=20, precision="fp16").payload
    asked = {"precision": "fp16", "numbers": "fp16"}
    found, as_given = chosen(network, half, **asked)
    assert (as_given, found.doubts, found.load.args[1].precision) == (False, [], "fp32")
    assert "takes 3.00 times as long as madx's own export of its weights in fp32" in found.remarks[0]
    assert chosen(network, half, **asked, candidate="fp16")[1]

    found, as_given = chosen(None, half, **asked)
    assert (as_given, len(found.doubts)) == (True, 1)
    assert "computes in fp16 and the candidate in fp32" in found.doubts[0]
    assert "--reference-twin" in found.doubts[0]
    assert not chosen(None, half, **asked, candidate="fp16")[0].doubts


def test_a_slow_number_type_in_parts_is_another_too(honest):
    assert chosen(None, honest, numbers="fp16 and fp32")[0].doubts
