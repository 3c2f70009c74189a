"""A fresh network takes the weights of a pruned one, and refuses those of another."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import small_networks as nets
import torch
from prune_cases import NETWORKS, case, removed
from small_networks import SMALL
from torch import Tensor

from madx.errors import ModelError
from madx.prune import resize_to_


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_takes_the_pruned_weights(name: str) -> None:
    build, shape = NETWORKS[name]
    given = case(build, *shape)
    module, _, _ = removed(given)
    fresh = case(build, *shape, seed=1).network
    resize_to_(fresh, module.state_dict())
    assert torch.equal(fresh(given.images), module(given.images))
    whole = case(build, *shape, seed=1).network
    resize_to_(whole, given.network.state_dict())
    assert torch.equal(whole(given.images), given.network(given.images)), "nothing to resize"


def test_resizing_keeps_the_modules_precision() -> None:
    given = case(nets.plain, *SMALL)
    module, _, _ = removed(given)
    fresh = nets.plain().float()
    resize_to_(fresh, module.state_dict())
    assert {parameter.dtype for parameter in fresh.parameters()} == {torch.float32}
    assert fresh(given.images.float()).dtype == torch.float32


WRONG_STATES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda state: state.pop("0.0.bias"), r"0\.0\.bias differ"),
    "unknown": (lambda state: state.update(other=torch.zeros(1)), "other differ"),
    "larger": (lambda state: state.update({"0.0.weight": torch.zeros(9, 2, 3, 3)}), r"0\.0\.weight has shape \[9, 2"),
    "kernel": (lambda state: state.update({"0.0.weight": torch.zeros(8, 2, 2, 3)}), r"\[8, 2, 2, 3\]"),
    "dimensions": (
        lambda state: state.update({"4.weight": torch.zeros(5, 12, 1)}),
        r"4\.weight has shape \[5, 12, 1\]",
    ),
    "empty": (lambda state: state.update({"0.0.bias": torch.zeros(0)}), r"0\.0\.bias has shape \[0\]"),
}


@pytest.mark.parametrize("name", WRONG_STATES)
def test_weights_of_another_network(name: str) -> None:
    spoil, message = WRONG_STATES[name]
    network = nets.plain()
    before = copy.deepcopy(network.state_dict())
    state = dict(nets.plain().state_dict())
    spoil(state)
    with pytest.raises(ModelError, match=message):
        resize_to_(network, state)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
