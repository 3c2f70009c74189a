"""A network that cannot lose channels is left as it was, and a check that trusts no analysis finds it."""

from __future__ import annotations

import copy

import pytest
import small_networks as nets
import torch
from prune_cases import case, random_scores
from small_networks import SMALL
from torch import Tensor, nn

from madx.errors import ModelError
from madx.prune import remove_channels_
from madx.prune.agreement import Comparison, check_same_function, disagreement


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


class Wears(nn.Module):
    """Writes into its own weights, and counts how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head, self.passes = nn.Linear(6, 8), nn.Linear(8, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        with torch.no_grad():
            self.head.bias.clamp_(-0.01, 0.01)
            self.one.weight.clamp_(-0.2, 0.2)
        logits: Tensor = self.head(torch.relu(self.one(x))) / self.passes
        return logits


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_one_comparison_after_another_is_of_the_network_as_it_was(precision: torch.dtype) -> None:
    """What a pass writes into its weights is in its copy alone, and what is masked is whole in the next comparison."""
    module = Wears().to(precision).eval()
    before = copy.deepcopy(module.state_dict())
    comparison = Comparison(module, torch.Size((2, 6)))
    for gone in (0, 3):
        stays = torch.arange(8) != gone
        masks = {"one.weight": stays[:, None].expand(8, 6), "one.bias": stays, "head.weight": stays.expand(5, 8)}
        state = module.state_dict()
        state |= {"one.weight": state["one.weight"][stays], "one.bias": state["one.bias"][stays]}
        state["head.weight"] = state["head.weight"][:, stays]
        problem = comparison.disagreement(state, masks)
        assert "the logits differ" in problem  # of the second pass of one, and the first of the other
        assert problem == Comparison(module, torch.Size((2, 6))).disagreement(state, masks)
    kept = {name: value.double() for name, value in before.items()}
    assert all(torch.equal(value, kept[name]) for name, value in comparison._exact.items())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.passes == 0
