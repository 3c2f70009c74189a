"""A reference that was made slow on purpose is timed as madx exports its weights."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.errors import ExportError
from madx.models import build_model
from madx.pipeline import timing
from madx.pipeline.sides import Side
from madx.pipeline.timed_images import Shown
from madx.pipeline.timing import fastest_reference
from madx.recipe import EngineConfig, ModelConfig
from madx.verify.remedies import Remedy

SHAPE = (1, 8, 8)
CONFIG = EngineConfig(threads=1)
IMAGES = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")


@pytest.fixture(scope="module")
def network():
    config = ModelConfig(args={"widths": [8, 8, 8], "stem_stride": 1})
    return build_model(config, shape=SHAPE, classes=10, seed=0).eval()


@pytest.fixture(scope="module")
def artifacts(network):
    """Its exports by precision; each takes seconds."""
    return {one: export_onnx(network, SHAPE, opset=20, precision=one) for one in ("fp32", "fp16")}


@pytest.fixture
def exported_once(artifacts, monkeypatch):
    monkeypatch.setattr(timing, "checked_onnx", lambda _context, _module, precision: artifacts[precision])


@pytest.fixture(scope="module")
def honest(artifacts):
    return artifacts["fp32"].payload


@pytest.fixture(scope="module")
def half(artifacts):
    return artifacts["fp16"].payload


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


def chosen(
    network, payload, role="reference", *, precision="fp32", numbers="fp32", candidate="fp32", candidate_numbers=None
):
    context = SimpleNamespace(
        splits=SimpleNamespace(train=SimpleNamespace(shape=SHAPE, classes=10)),
        recipe=SimpleNamespace(
            export=SimpleNamespace(opset=20), verify=SimpleNamespace(latency=SimpleNamespace(batch=1))
        ),
    )
    config = CONFIG.of_precision(precision)
    load = partial(backend(CONFIG.kind).load, payload, config)
    given = Side(role, load(), network, load, precision=precision, numbers=numbers)
    other = replace(given, role="engine", precision=candidate, numbers=candidate_numbers or candidate)
    found = fastest_reference(context, CONFIG, given, other, Shown(IMAGES, np.arange(4)[:, None], 2))
    np.testing.assert_allclose(found.load()(IMAGES), load()(IMAGES), rtol=1e-3, atol=2e-2)
    return found, found.load is load


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


@pytest.mark.usefixtures("slow_in_fp16", "exported_once")
def test_a_slow_number_type_of_the_reference_buys_no_speed_up(network, half):
    """Its twin is timed in the candidate's precision too; where there is none, nobody knows, and nothing passes."""
    asked = {"precision": "fp16", "numbers": "fp16"}
    found, as_given = chosen(network, half, **asked)
    assert (as_given, found.doubts, found.load.args[1].precision) == (False, [], "fp32")
    assert "takes 3.00 times as long as madx's own export of its weights in fp32" in found.remarks[0]
    assert chosen(network, half, **asked, candidate="fp16")[1]

    found, as_given = chosen(None, half, **asked)
    assert (as_given, [doubt.remedy for doubt in found.doubts]) == (True, [Remedy.GIVE_TWIN])
    assert "computes in fp16 and the candidate in fp32" in found.doubts[0]
    assert "--reference-twin" in found.doubts[0]
    assert not chosen(None, half, **asked, candidate="fp16")[0].doubts


@pytest.mark.usefixtures("slow_in_fp16", "exported_once")
def test_float16_by_name_alone_is_held_against_float32(network, half):
    """Of a product that nobody knows the type of, the recipe's word is taken; the clock takes nobody's."""
    asked = {"precision": "fp16", "candidate": "fp16", "candidate_numbers": "unknown numbers"}
    for numbers in ("fp16", "fp16 and unknown numbers"):
        found, as_given = chosen(network, half, numbers=numbers, **asked)
        assert (as_given, found.doubts, found.load.args[1].precision) == (False, [], "fp32")


@pytest.mark.parametrize(
    ("reference", "candidate", "doubted"),
    [
        ("fp16 and fp32", "fp32", True),
        ("fp16 and fp32", "fp16 and fp32", True),
        ("int8 and fp32", "int8 and fp32", True),
        ("unknown numbers", "unknown numbers", True),
        ("fp64", "fp32", True),
        ("fp64", "fp64", False),
        ("fp32", "int8 and fp32", False),
        ("fp32", "unknown numbers", False),
        ("fp32", "fp16", False),
    ],
)
def test_without_a_twin_only_plain_numbers_are_believed(honest, reference, candidate, doubted):
    """A name of two files says nothing of shares; and float32 beside whatever is what a release asks."""
    found, as_given = chosen(None, honest, numbers=reference, candidate_numbers=candidate)
    assert (as_given, [doubt.remedy for doubt in found.doubts]) == (True, [Remedy.GIVE_TWIN] * doubted)


HALF_IS_FAST = {"fp32": 1.0, "fp16": 0.5}


@pytest.mark.usefixtures("slow_in_fp16", "exported_once")
def test_nobody_deployed_the_float16_of_a_float32_reference(network, honest, monkeypatch):
    """On a GPU it is twice as fast, and the candidate would be held against it."""
    monkeypatch.setattr("test_slow_reference.SECONDS", HALF_IS_FAST)
    found, as_given = chosen(network, honest, candidate="fp16")
    assert (as_given, found.remarks, found.doubts) == (True, [], [])


@pytest.fixture
def unconvertible(artifacts, monkeypatch):
    """A network that one precision refuses; call it with that precision."""

    def refuse(precision):
        def exported(_context, _module, wanted):
            if wanted == precision:
                raise ExportError(f"there is no {precision} of it")
            return artifacts[wanted]

        monkeypatch.setattr(timing, "checked_onnx", exported)

    return refuse


@pytest.mark.usefixtures("slow_in_fp16")
def test_an_export_that_fails_takes_no_other_along(network, half, unconvertible):
    unconvertible("fp16")
    found, as_given = chosen(network, half, precision="fp16", numbers="fp16")
    assert (as_given, found.doubts, found.load.args[1].precision) == (False, [], "fp32")
    assert "takes 3.00 times as long" in found.remarks[0]
    assert "in fp16 is not known: there is no fp16 of it" in found.remarks[1]


def test_an_export_that_was_needed_and_failed_is_a_doubt_of_its_own(network, honest, unconvertible):
    """Giving the twin once more would not help; float32 beside float32 needs none."""
    unconvertible("fp16")
    found, _ = chosen(network, honest, numbers="int8 and fp32", candidate="fp16")
    assert [doubt.remedy for doubt in found.doubts] == [Remedy.GIVE_REFERENCE]
    assert "there is no fp16 of it" in found.doubts[0]
    assert not chosen(network, honest, candidate="fp16")[0].doubts
    unconvertible("fp32")
    found, as_given = chosen(network, honest)
    assert (as_given, found.doubts, len(found.remarks)) == (True, [], 1)
