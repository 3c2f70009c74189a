from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from madx.errors import ModelError
from madx.models import Normalised, build_model, state_digest
from madx.recipe import ModelConfig

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, inputs=192, classes=3):
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.drop = nn.Dropout(0.5)
        self.last = nn.Linear(width, classes)

    def forward(self, x):
        return self.last(self.drop(torch.relu(self.first(x.flatten(1)))))

def net(**args):
    return Net(**args)

def half(**args):
    return Net(**args).train().half()

def forgot():
    Net()

def wrong_type():
    return "resnet"

def raises():
    raise RuntimeError("no such file: weights.bin")

def pair():
    class Pair(Net):
        def forward(self, x):
            return super().forward(x), x
    return Pair()

def labels():
    class Labels(Net):
        def forward(self, x):
            return super().forward(x).round().long()
    return Labels()

def loses_batch():
    class One(Net):
        def forward(self, x):
            return super().forward(x)[0]
    return One()

def extra():
    class Extra(Net):
        def get_extra_state(self):
            return {"version": 1}
        def set_extra_state(self, state):
            pass
    return Extra()

def compiled():
    return torch.compile(Net())

def compiled_in_place():
    net = Net()
    net.compile()
    return net

def parallel():
    return nn.DataParallel(Net())

def parallel_inside():
    net = nn.DataParallel(Net())
    return nn.Sequential(nn.Identity(), nn.DataParallel(nn.Sequential(net)))

def script():
    return torch.jit.script(Net())

def traced_inside():
    return nn.Sequential(torch.jit.trace(Net().eval(), torch.rand(2, 3, 8, 8)))

def in_place():
    class InPlace(Net):
        def forward(self, x):
            gate = torch.sigmoid(self.first(x.flatten(1)))
            return self.last(gate.mul_(gate.exp()))
    return InPlace()

def locked():
    import threading
    net = Net()
    net.lock = threading.Lock()
    return net

def exported():
    class Exported(Net):  # as torch.export's do
        def train(self, mode=True):
            raise NotImplementedError("Calling train() is not supported yet.")
    return Exported()

def complex_weight():
    net = Net()
    net.filter = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    return net

def two_images():
    class Two(Net):
        def forward(self, x, mask):
            return super().forward(x * mask)
    return Two()
"""
SHAPE = (3, 8, 8)


@pytest.fixture(autouse=True)
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "users_networks.py").write_text(SOURCE)
    yield
    sys.modules.pop("users_networks", None)


def build(name: str = "net", *, seed: int = 0, **args: Any) -> nn.Module:
    config = ModelConfig(name="factory", factory=f"users_networks:{name}", args=args)
    return build_model(config, shape=SHAPE, classes=3, seed=seed)


def test_arguments_reach_the_factory() -> None:
    network = build(width=7)
    assert type(network).__name__ == "Net"
    assert network.first.out_features == 7


def test_whatever_it_returns_is_float32_and_in_eval_mode() -> None:
    network = build("half")
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert not any(module.training for module in network.modules())


def test_weights_depend_on_the_seed_only_and_the_global_generator_is_left() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = state_digest(build(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert state_digest(build(seed=5)) == first
    assert state_digest(build(seed=6)) != first


def test_normalise_wraps_the_network_and_does_not_reach_the_factory() -> None:
    network = build(normalise={"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.2, 0.1]})
    assert isinstance(network, Normalised)
    assert [key for key in network.state_dict() if not key.startswith("net.")] == ["norm.mean", "norm.std"]
    x = torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.5, 0.2, 0.1])
    with torch.no_grad():
        expected = build()((x - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(network(x), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("wrapped", "prefix"), [("compiled", ""), ("compiled_in_place", ""), ("parallel", ""), ("parallel_inside", "1.0.")]
)
def test_wrappers_are_taken_off(wrapped: str, prefix: str) -> None:
    """The network inside keeps its own names, and gives what it gives without them."""
    network, bare = build(wrapped), build()
    assert list(network.state_dict()) == [prefix + key for key in bare.state_dict()]
    kinds = {type(module).__name__ for module in network.modules()}
    assert kinds <= {"Net", "Linear", "Dropout", "Sequential", "Identity"}
    assert all(module._compiled_call_impl is None for module in network.modules())
    x = torch.rand(2, *SHAPE)
    assert torch.equal(network(x), bare(x))


BAD = [
    pytest.param("nothing", {}, ["no 'nothing'", "users_networks.py"], id="no attribute"),
    pytest.param("net", {"depth": 3}, ["depth=3", "TypeError", "unexpected keyword argument 'depth'"], id="type error"),
    pytest.param("raises", {}, ["no arguments", "RuntimeError: no such file", "users_networks.py, line"], id="raises"),
    pytest.param("forgot", {}, ["returned NoneType", "torch.nn.Module"], id="returns nothing"),
    pytest.param("wrong_type", {}, ["returned str"], id="returns text"),
    pytest.param("net", {"inputs": 64}, ["failed on a float32 batch [2, 3, 8, 8]", "RuntimeError"], id="input size"),
    pytest.param("net", {"classes": 10}, ["gives float32 [2, 10]", "expected", "[2, 3]"], id="classes"),
    pytest.param("pair", {}, ["gives tuple", "[2, 3]", "gives the logits alone"], id="two outputs"),
    pytest.param("labels", {}, ["gives int64 [2, 3]"], id="labels"),
    pytest.param("loses_batch", {}, ["gives float32 [3]"], id="loses the batch"),
    pytest.param("script", {}, ["TorchScript", "Return the Python network"], id="script"),
    pytest.param("traced_inside", {}, ["TorchScript", "Return the Python network"], id="traced part"),
    pytest.param("in_place", {}, ["backward pass fails", "RuntimeError", "x = x * y"], id="in place"),
    pytest.param("locked", {}, ["cannot be copied", "lock", "Make locks"], id="what cannot be copied"),
    pytest.param("exported", {}, ["switched between training", "return the Python network"], id="exported"),
    pytest.param("complex_weight", {}, ["complex numbers (filter)", "view_as_real"], id="complex weight"),
    pytest.param("two_images", {}, ["missing 1 required", "its only argument"], id="two inputs"),
    pytest.param("extra", {}, ["_extra_state", "no tensor"], id="extra state"),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(("name", "args", "words"), BAD)
def test_a_bad_factory_is_one_clear_error(name: str, args: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, **args)
    message = str(caught.value)
    assert f"users_networks:{name}" in message
    assert [word for word in words if word not in message] == []


def test_a_missing_module_is_one_clear_error() -> None:
    config = ModelConfig(name="factory", factory="nowhere_to_be_found:net")
    with pytest.raises(ModelError, match="no module 'nowhere_to_be_found'"):
        build_model(config, shape=SHAPE, classes=3, seed=0)
