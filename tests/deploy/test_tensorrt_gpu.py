"""TensorRT on a real GPU: building, parity with torch, timing. Run with: pytest -m gpu tests/deploy."""

import numpy as np
import pytest
from deploy_cases import exported, images, logits_of, net

from madx.deploy.engine import backend
from madx.recipe import EngineConfig

pytestmark = pytest.mark.gpu
ROWS = {
    ("tensorrt", "fp32"): 1e-4,
    ("tensorrt", "fp16"): 1e-2,
    ("tensorrt-rtx", "fp32"): 1e-4,
    ("tensorrt-rtx", "fp16"): 1e-2,
}


@pytest.fixture(params=ROWS, ids="-".join)
def engine(request):
    kind, precision = request.param
    config = EngineConfig(kind=kind, precision=precision, max_batch=8)
    made = backend(kind)
    available = made.availability()
    if not available.can_run:
        pytest.skip(f"{kind}: {available.reason}")
    built = made.build(exported("residual", precision), config, batch=4)
    loaded = made.load(built.payload, config)
    yield loaded, ROWS[request.param]
    loaded.close()


@pytest.mark.parametrize("batch", [1, 7, 8, 21])
def test_logits_are_those_of_torch(engine, batch):
    loaded, tolerance = engine
    np.testing.assert_allclose(loaded(images(batch)), logits_of(net("residual"), images(batch)), rtol=0, atol=tolerance)


def test_timers_do_not_disturb_each_other(engine):
    loaded, _ = engine
    before = loaded(images(5))
    small, large = loaded.timer(images(1)), loaded.timer(images(8))
    seconds = [run() for _ in range(50) for run in (small, large)]
    assert min(seconds) > 0
    assert np.median(seconds) < 0.1
    np.testing.assert_allclose(loaded(images(5)), before, rtol=0, atol=1e-3)
    assert "CUDA events" in loaded.timing
