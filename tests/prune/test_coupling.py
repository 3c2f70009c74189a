"""Which channels can go, of networks that no list of operations foresees."""

from __future__ import annotations

import copy
import re

import coupled_networks
import pytest
import torch
import torch.nn.functional as F
from coupled_networks import IMAGES, Coupled
from torch import Tensor, nn

from madx.errors import RecipeError
from madx.prune import Rule
from madx.prune.layers import scored_layers, scored_parameters
from madx.recipe import PruneConfig

HALF = PruneConfig(structure="channels", sparsity=0.5, round_to=4)


def rule_of(case: Coupled) -> Rule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = case.build().eval()
    return Rule(network, HALF, example=torch.zeros(2, *IMAGES))


def outputs(network: nn.Module) -> dict[str, int]:
    """Output channels of every layer."""
    layers = network.named_modules()
    return {
        name: layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        for name, layer in layers
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    }


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", coupled_networks.NETWORKS)
def test_what_can_go_goes_and_the_rest_says_why(name: str) -> None:
    case = coupled_networks.NETWORKS[name]
    rule = rule_of(case)
    magnitudes = {name: value.detach().abs() for name, value in scored_parameters(rule.dense).items()}
    removal = rule.remove(magnitudes)
    before, after = outputs(rule.dense), outputs(removal.module)
    for layer in case.cut:
        assert after[layer] < before[layer], f"{layer}: {removal.reasons.get(layer)}"
        assert after[layer] % 4 == 0
    for layer, reason in case.kept.items():
        assert after[layer] == before[layer]
        assert re.search(reason, removal.reasons[layer])
    for layer in scored_layers(rule.dense):
        assert (layer in removal.reasons) == (after[layer] == before[layer]), "whole without a reason, or cut with one"
    assert removal.module(torch.rand(3, *IMAGES)).shape == (3, 5)
    rule.channel_masks(magnitudes)  # raises if what is learned would not act as what is removed


def test_nothing_is_cut_further_than_was_decided() -> None:
    """Outputs that share a column go together: half of the pairs, not nearly all of them."""
    case = coupled_networks.NETWORKS["cross-stage"]
    rule = rule_of(case)
    magnitudes = {name: value.detach().abs() for name, value in scored_parameters(rule.dense).items()}
    assert rule.remove(magnitudes).channels == (32, 16)


def test_channels_of_transposed_convolutions_are_counted_by_what_they_make() -> None:
    """12 of one that reads 8: they are not the first axis of its weight."""
    rule = rule_of(coupled_networks.NETWORKS["transposed"])
    magnitudes = {name: value.detach().abs() for name, value in scored_parameters(rule.dense).items()}
    assert rule.remove(magnitudes).channels == (8 + 12 + 8, 4 + 8 + 4)


def test_where_nothing_can_go_every_layer_is_named() -> None:
    case = Coupled(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), ())
    with pytest.raises(RecipeError, match=r"removes nothing of this network \(0: 4 channels.*; 3: makes the network's"):
        rule_of(case).rehearse()


class Remembers(nn.Module):
    """Counts its passes, keeps its features and draws, as few networks should and some do."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 5)
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.features: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.features = [self.one(x), F.dropout(torch.relu(self.one(x)), 0.5)]
        logits: Tensor = self.head(torch.relu(self.two(self.features[1])).mean((2, 3)))
        return logits


def test_the_network_and_the_generator_are_left_alone() -> None:
    network = Remembers()
    network(torch.rand(2, *IMAGES))
    before, features = copy.deepcopy(network.state_dict()), network.features
    state = torch.get_rng_state()
    rule = Rule(network, HALF, example=torch.zeros(2, *IMAGES))
    scores = {name: value.detach().abs() for name, value in scored_parameters(network).items()}
    removal = rule.remove(scores)
    rule.channel_masks(scores)
    assert outputs(removal.module) == {"one": 4, "two": 4, "head": 5}
    after = network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert features[0].grad_fn is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    assert all(value.requires_grad and value.grad is None for value in network.parameters())


def test_equal_networks_have_equal_groups() -> None:
    """Whatever the weights are, and whatever was drawn before."""
    case = coupled_networks.NETWORKS["shared activations"]
    one = rule_of(case)
    torch.rand(5)
    other = rule_of(case)
    for module in other.dense.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    for group, same in zip(one.groups[0], other.groups[0], strict=True):
        assert (group.root, group.makers, group.channels, group.parts) == (
            same.root,
            same.makers,
            same.channels,
            same.parts,
        )
        assert [place.parameter for place in group.places] == [place.parameter for place in same.places]


@pytest.mark.parametrize("structure", ["channels", "unstructured", "2:4", "channels+2:4"])
def test_layers_can_be_kept_by_name(structure: str) -> None:
    """What they make stays, and what they read may go; all others are pruned."""
    case = coupled_networks.NETWORKS["cross-stage"]
    network = case.build().eval()
    settings = {"structure": structure, "sparsity": 0.5, "round_to": 4}
    scores = {name: value.detach().abs() for name, value in scored_parameters(network).items()}
    for config in (
        PruneConfig(keep=("parts.inner",), **settings),
        PruneConfig(only=("parts.o*", "parts.head"), **settings),
    ):
        removal = Rule(network, config, example=torch.zeros(2, *IMAGES)).remove(scores)
        inner = removal.module.get_submodule("parts.inner.0")
        assert inner.weight.shape[0] == 8
        assert not (inner.weight == 0).any()
        expected = "prune.keep: parts.inner" if config.keep else "not among prune.only"
        assert expected in removal.reasons["parts.inner.0"]
        if structure != "2:4":  # whose kernels read more channels at a time than this layer has
            assert not removal.masks["parts.out.0.weight"].all()


def test_a_pattern_that_names_nothing_is_refused() -> None:
    network = coupled_networks.NETWORKS["cross-stage"].build()
    with pytest.raises(RecipeError, match=r"prune.keep: 'parts.outer' names no layer.*there are parts.into.0, parts"):
        Rule(network, PruneConfig(keep=("parts.outer",)), example=torch.zeros(2, *IMAGES))
