from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from model_cases import as_precision, network, refused, save
from torch import Tensor, nn

from madx.models import Normalise, Normalised, load_weights, state_digest

NORMALISE = {"mean": [0.3], "std": [0.4]}


# -- what is read --------------------------------------------------------------------------------------------

State = dict[str, Tensor]
WRAPPINGS: dict[str, Callable[[State], Any]] = {
    "plain": lambda state: state,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"lr": 0.1}},
    "model_state_dict": lambda state: {"model_state_dict": state},
    "net": lambda state: {"net": state, "acc": 91.2},
    "parallel": lambda state: {f"module.{key}": value for key, value in state.items()},
    "both": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "nested": lambda state: {"model": {"state_dict": state}},
}


@pytest.mark.parametrize("ending", [".pt", ".pth"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_checkpoints_and_their_wrappings_load(wrapping: str, ending: str, tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    path = save(WRAPPINGS[wrapping](source.state_dict()), tmp_path / f"weights{ending}")
    assert state_digest(source) != state_digest(target)
    load_weights(target, path)
    assert state_digest(source) == state_digest(target)


def test_safetensors_load(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    load_weights(target, save(source.state_dict(), tmp_path / "weights.safetensors"))
    assert state_digest(source) == state_digest(target)


def test_the_old_file_format_loads(tmp_path: Path) -> None:
    source, target = network(seed=1), network(seed=2)
    torch.save(source.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    load_weights(target, tmp_path / "old.pt")
    assert state_digest(source) == state_digest(target)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_other_precisions_are_cast_to_the_networks(dtype: torch.dtype, name: str, tmp_path: Path) -> None:
    given = as_precision(network(seed=1), dtype)
    target = network(seed=2)
    load_weights(target, save(given, tmp_path / name))
    for key, value in target.state_dict().items():
        assert value.dtype == (torch.float32 if value.is_floating_point() else torch.int64)
        assert torch.equal(value, given[key].to(value.dtype))


def test_a_loaded_network_stays_trainable_and_keeps_its_own_tensors(tmp_path: Path) -> None:
    path = save(network(seed=1).state_dict(), tmp_path / "weights.pt")
    target = network(seed=2)
    weight = target.conv1.weight
    load_weights(target, path)
    assert target.conv1.weight is weight
    assert weight.requires_grad


# -- normalisation and weights -------------------------------------------------------------------------------


def test_a_checkpoint_without_the_constants_keeps_the_recipes(tmp_path: Path) -> None:
    plain, target = network(seed=1), network(seed=2, normalise=NORMALISE)
    load_weights(target, save(plain.state_dict(), tmp_path / "weights.pt"))
    assert target.norm.mean.item() == pytest.approx(0.3)
    assert all(torch.equal(value, target.state_dict()[key]) for key, value in plain.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_networks_own_file_with_constants_loads(dtype: torch.dtype, tmp_path: Path) -> None:
    state = as_precision(network(seed=1, normalise=NORMALISE), dtype)
    target = network(seed=2, normalise=NORMALISE)
    load_weights(target, save(state, tmp_path / "weights.pt"))
    assert torch.equal(target.conv1.weight, state["conv1.weight"].float())


def test_constants_that_contradict_the_recipe_are_refused(tmp_path: Path) -> None:
    path = save(network(normalise={"mean": [0.5], "std": [0.4]}).state_dict(), tmp_path / "weights.pt")
    message = refused(network(normalise=NORMALISE), path)
    assert "norm.mean is [0.5]" in message
    assert "model.args.normalise" in message
    unknown = refused(network(), path)
    assert "norm.mean [1, 1, 1], norm.std [1, 1, 1]" in unknown
    assert "model.args.normalise: {mean: [0.5], std: [0.4]}" in unknown


@pytest.mark.parametrize("prefix", ["", "net.", "module."])
def test_a_checkpoint_of_a_bare_network_fits_the_normalised_one(prefix: str, tmp_path: Path) -> None:
    bare, inside = nn.Linear(3, 2), nn.Linear(3, 2)
    target = Normalised(Normalise([0.5], [0.5]), inside)
    state = {f"{prefix}{key}": value for key, value in bare.state_dict().items()}
    load_weights(target, save(state, tmp_path / "weights.pt"))
    assert state_digest(inside) == state_digest(bare)


def test_a_network_whose_part_is_called_module_loads_its_own_file(tmp_path: Path) -> None:
    source, target = (nn.Sequential(OrderedDict(module=nn.Linear(3, 2))) for _ in range(2))
    load_weights(target, save(source.state_dict(), tmp_path / "weights.pt"))
    assert state_digest(source) == state_digest(target)


def test_only_our_normalisation_may_be_missing(tmp_path: Path) -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))

    target = nn.Sequential(OrderedDict(norm=Norm(), last=nn.Linear(3, 2)))
    state = {key: value for key, value in target.state_dict().items() if not key.startswith("norm")}
    assert "missing: norm.mean" in refused(target, save(state, tmp_path / "weights.pt"))


# -- what does not fit ---------------------------------------------------------------------------------------


def drop(*names: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in names}


def put(**values: Any) -> Callable[[State], State]:
    return lambda state: {**state, **{key.replace("__", "."): value for key, value in values.items()}}


MISFITS = [
    pytest.param(put(bn1__num_batches_tracked=torch.tensor(1j)), ["given torch.complex64"], id="complex count"),
    pytest.param(drop("conv1.weight"), ["missing: conv1.weight."], id="missing"),
    pytest.param(put(extra=torch.zeros(1)), ["extra [1]", 'model.strip_prefix: "".'], id="unexpected"),
    pytest.param(put(linear__bias=torch.zeros(4)), ["linear.bias (given [4], expected [3])"], id="shape"),
    pytest.param(
        put(linear__bias=torch.zeros(3).long()), ["linear.bias (given torch.int64, expected torch.float32)"], id="type"
    ),
    pytest.param(put(linear__bias=torch.zeros(3).cfloat()), ["given torch.complex64"], id="complex"),
    pytest.param(lambda _: {}, ["it holds nothing at all"], id="empty"),
    pytest.param(
        lambda state: {f"{key}s": value for key, value in state.items()},
        [
            "missing: conv1.weight, bn1.weight, bn1.bias, ",
            "unexpected: bn1.biass, ",
            f"... ({len(network().state_dict())} in all)",
        ],
        id="all wrong, five shown",
    ),
    pytest.param(put(linear__bias=torch.tensor([0.0, float("nan"), 0.0])), ["not finite", "linear.bias"], id="nan"),
    pytest.param(put(bn1__running_var=torch.full((4,), float("inf"))), ["not finite", "bn1.running_var"], id="inf"),
    pytest.param(
        put(linear__bias=torch.full((3,), 1e300, dtype=torch.float64)), ["not finite", "precision"], id="too large"
    ),
]


@pytest.mark.parametrize(("change", "words"), MISFITS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_weights_that_do_not_fit_leave_the_network_alone(
    change: Callable[[State], State], words: list[str], name: str, tmp_path: Path
) -> None:
    message = refused(network(seed=2), save(change(network(seed=1).state_dict()), tmp_path / name))
    assert [word for word in words if word not in message] == []


def test_all_differences_are_told_at_once(tmp_path: Path) -> None:
    change = put(linear__bias=torch.zeros(4), extra=torch.zeros(1))
    state = change(drop("conv1.weight")(network().state_dict()))
    message = refused(network(), save(state, tmp_path / "weights.pt"))
    words = ("missing: conv1.weight", "unexpected: extra", "other shapes: linear.bias (given [4], expected [3])")
    assert [word for word in words if word not in message] == []


NOT_A_STATE = [
    pytest.param([1, 2], ["holds list"], id="list"),
    pytest.param(torch.zeros(3), ["holds Tensor"], id="tensor"),
    pytest.param(
        {"weights": {"a": torch.zeros(1)}, "epoch": 3}, ["missing: ", "unexpected: a"], id="another network's"
    ),
    pytest.param({"a": 1, "b": 0.5}, ["'a' (int), 'b' (float)"], id="numbers"),
    pytest.param({1: torch.zeros(1)}, ["1 (its name is no text)"], id="number as key"),
    pytest.param({"a": torch.eye(3).to_sparse()}, ["'a' (not dense)"], id="sparse"),
    pytest.param({"a": torch.zeros(3, device="meta")}, ["'a' (without its data)"], id="no data"),
]


@pytest.mark.parametrize(("content", "words"), NOT_A_STATE)
def test_files_that_hold_no_state_dict(content: Any, words: list[str], tmp_path: Path) -> None:
    message = refused(network(), save(content, tmp_path / "weights.pt"))
    assert [word for word in words if word not in message] == []
