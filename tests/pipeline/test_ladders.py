"""Which engines of a run become the rungs of a ladder; the engines themselves are stand-ins that take a known time."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from madx.pipeline import files, ladders
from madx.progress import Silent
from madx.recipe import EngineConfig, Recipe

SECONDS = {("fp32", "dense"): 4e-3, ("fp32", "pruned"): 2e-3, ("fp16", "dense"): 3e-3, ("fp16", "pruned"): 1e-3}


class StandIn:
    """An engine whose timer says a time without taking any."""

    closed: list[str] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, payload, config):
        role = payload.decode()
        self.name, self.seconds = f"{role}-{config.precision}", SECONDS[config.precision, role]
        self.timing = f"timed as {config.precision}" if config.threads == 7 else "host call"

    def timer(self, images):
        assert images.shape == (1, 1, 2, 2)
        return lambda: self.seconds

    def close(self):
        self.closed.append(self.name)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    StandIn.closed.clear()
    monkeypatch.setattr(ladders, "backend", lambda _: SimpleNamespace(load=StandIn))


def context(engines, *, structure="channels", built=True):
    recipe = Recipe.model_validate(
        {
            "model": {"weights": "weights.pt"},
            "prune": {"structure": structure, "sparsity": 0.5},
            "export": {"engines": engines},
            "verify": {"latency": {"seconds": 0.01, "pairs": 30, "block_calls": 5}},
        }
    )
    record = {"built": built, "dense": {"file": "dense"}, "pruned": {"file": "pruned"}}
    builds = {files.build(engine): record for engine in recipe.export.engines}
    return SimpleNamespace(
        recipe=recipe,
        progress=Silent(),
        read_json=builds.__getitem__,
        read_bytes=str.encode,
        splits=SimpleNamespace(gate=SimpleNamespace(tensors=lambda _, stop: (torch.zeros(stop, 1, 2, 2), None))),
    )


BOTH = [{"kind": "ort-cpu"}, {"kind": "ort-cpu", "precision": "fp16"}]


@pytest.mark.parametrize(
    ("structure", "removed"),
    [
        ("channels", "channels removed"),
        ("2:4", "2:4"),
        ("channels+2:4", "channels removed and 2:4"),
        ("unstructured", "single weights removed"),
    ],
)
def test_a_lower_precision_is_led_up_to(structure, removed):
    found = ladders.ladder(context(BOTH, structure=structure), EngineConfig(precision="fp16"))
    assert found.rungs == ("dense, fp32", f"{removed}, fp32", f"{removed}, fp16")
    assert [step.estimate for step in found.steps()] == pytest.approx([2, 2])
    np.testing.assert_allclose(found.seconds[0, 0, :, 0], [4e-3, 2e-3, 1e-3])
    assert sorted(StandIn.closed) == ["dense-fp32", "pruned-fp16", "pruned-fp32"]


@pytest.mark.parametrize(
    ("engines", "config", "built"),
    [
        (BOTH, EngineConfig(), True),  # dense and pruned in fp32 are what the latency compares anyway
        (BOTH[1:], EngineConfig(precision="fp16"), True),  # no fp32 engine to start from
        ([{"kind": "openvino-cpu"}, BOTH[1]], EngineConfig(precision="fp16"), True),  # another runtime's
        (BOTH, EngineConfig(precision="fp16"), False),  # it could not be built
        ([BOTH[0], BOTH[1] | {"threads": 7}], EngineConfig(precision="fp16", threads=7), True),  # timed differently
    ],
)
def test_there_is_no_ladder_without_a_rung_below(engines, config, built):
    assert ladders.ladder(context(engines, built=built), config) is None
