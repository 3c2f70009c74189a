"""A reference that was made slow on purpose is timed as madx exports its weights."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.models import build_model
from madx.pipeline.sides import Side
from madx.pipeline.timed_images import Shown
from madx.pipeline.timing import fastest_reference
from madx.recipe import EngineConfig, ModelConfig

SHAPE = (1, 8, 8)
CONFIG = EngineConfig(threads=1)

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


def compared(network, payload, role="reference"):
    context = SimpleNamespace(
        splits=SimpleNamespace(train=SimpleNamespace(shape=SHAPE, classes=10)),
        recipe=SimpleNamespace(
            export=SimpleNamespace(opset=20), verify=SimpleNamespace(latency=SimpleNamespace(batch=1))
        ),
    )
    images = np.random.default_rng(0).random((4, *SHAPE), dtype=np.float32)
    load = partial(backend(CONFIG.kind).load, payload, CONFIG)
    given = Side(role, load(), network, load)
    chosen, _, remarks = fastest_reference(context, CONFIG, given, Shown(images, np.arange(4)[:, None], 2))
    np.testing.assert_allclose(chosen()(images), load()(images), rtol=1e-3, atol=1e-3)
    return chosen is load, remarks


def test_useless_nodes_buy_no_speed_up(network, honest):
    as_given, remarks = compared(network, slowed(honest))
    assert not as_given
    assert "The speed-up is against that export." in remarks[0]


def test_a_run_compares_with_its_own_export_anyway(network, honest):
    assert compared(network, slowed(honest), role="dense") == (True, [])


def test_without_a_twin_there_is_nothing_to_export(honest):
    assert compared(None, slowed(honest)) == (True, [])
