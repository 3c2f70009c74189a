"""A network that cannot lose channels is left as it was, and a check that trusts no analysis finds it."""

from __future__ import annotations

import copy

import pytest
import small_networks as nets
import torch
from prune_cases import case, random_scores
from small_networks import SMALL
from torch import Tensor

from madx.errors import ModelError
from madx.prune import remove_channels_
from madx.prune.agreement import check_same_function, disagreement


def test_a_width_that_is_known_by_heart_stays() -> None:
    given = case(nets.fixed_count, *SMALL)
    before = copy.deepcopy(given.network.state_dict())
    scores = random_scores(given.network)
    _, reasons = remove_channels_(given.network, scores, 0.5, round_to=4, example=given.images)
    assert "it does not run with fewer channels (RuntimeError" in reasons["parts.conv.0"]
    assert all(torch.equal(value, before[key]) for key, value in given.network.state_dict().items())
    given.network(given.images)


def test_what_another_channel_does_is_found() -> None:
    """The first channel is taken out of the weights, and the masks may say that it was another one."""
    given = case(nets.plain, *SMALL)
    state = given.network.state_dict()
    axes = {"0.0.weight": 0, "0.0.bias": 0, "1.0.weight": 1}
    axes |= {f"0.1.{name}": 0 for name in ("weight", "bias", "running_mean", "running_var")}
    for name, axis in axes.items():
        state[name] = state[name].narrow(axis, 1, 7)

    def masks_without(channel: int) -> dict[str, Tensor]:
        masks = {name: torch.ones_like(value, dtype=torch.bool) for name, value in given.network.named_parameters()}
        for name in axes.keys() & masks.keys():
            masks[name].select(axes[name], channel).zero_()
        return masks

    assert not disagreement(given.network, state, masks_without(0), shape=given.images.shape)
    for other in range(1, 8):
        with pytest.raises(ModelError, match="does not compute what the dense network computes"):
            check_same_function(given.network, state, masks_without(other), shape=given.images.shape)


def test_a_forward_pass_that_raises() -> None:
    given = case(nets.plain, *SMALL)
    with pytest.raises(ModelError, match=r"channels of this network cannot be followed .*RuntimeError.* use prune"):
        remove_channels_(given.network, random_scores(given.network), 0.5, round_to=4, example=torch.zeros(2, 7, 4, 4))
