"""Which channels can go, of networks that no list of operations foresees."""

from __future__ import annotations

import re

import coupled_networks
import pytest
import torch
from coupled_networks import IMAGES, Coupled
from torch import nn

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
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", coupled_networks.NETWORKS)
def test_what_can_go_goes_and_the_rest_says_why(name: str) -> None:
    case = coupled_networks.NETWORKS[name]
    rule = rule_of(case)
    magnitudes = {name: value.detach().abs() for name, value in scored_parameters(rule.dense).items()}
    removal = rule.remove(magnitudes)
    before, after = (
        {
            name: layer.weight.shape[0]
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d | nn.Linear)
        }
        for module in (rule.dense, removal.module)
    )
    for layer in case.cut:
        assert after[layer] < before[layer], f"{layer}: {removal.reasons.get(layer)}"
        assert after[layer] % 4 == 0
    for layer, reason in case.kept.items():
        assert after[layer] == before[layer]
        assert re.search(reason, removal.reasons[layer])
    for layer in scored_layers(rule.dense):
        assert (layer in removal.reasons) == (after[layer] == before[layer]), "whole without a reason, or cut with one"
    rule.channel_masks(magnitudes)  # raises if what is learned would not act as what is removed


def test_nothing_is_cut_further_than_was_decided() -> None:
    """Outputs that share a column go together: half of the pairs, not nearly all of them."""
    case = coupled_networks.NETWORKS["cross-stage"]
    rule = rule_of(case)
    magnitudes = {name: value.detach().abs() for name, value in scored_parameters(rule.dense).items()}
    assert rule.remove(magnitudes).channels == (32, 16)


def test_where_nothing_can_go_every_layer_is_named() -> None:
    case = Coupled(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)), ())
    with pytest.raises(RecipeError, match=r"removes nothing of this network \(0: 4 channels.*; 3: makes the network's"):
        rule_of(case).rehearse()


def test_the_network_and_its_tensors_are_left_alone() -> None:
    case = coupled_networks.NETWORKS["transformer"]
    rule = rule_of(case)
    before = {name: value.clone() for name, value in rule.dense.state_dict().items()}
    rule.rehearse()
    assert all(torch.equal(value, before[name]) for name, value in rule.dense.state_dict().items())
    assert all(value.grad is None for value in rule.dense.parameters())


def test_equal_networks_have_equal_groups() -> None:
    """Whatever the weights are, and whatever was drawn before."""
    case = coupled_networks.NETWORKS["shared activations"]
    one = rule_of(case)
    torch.rand(5)
    other = rule_of(case)
    for module in other.dense.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.weight)
    for group, same in zip(one._groups, other._groups, strict=True):
        assert (group.root, group.makers, group.channels, group.parts) == (
            same.root,
            same.makers,
            same.channels,
            same.parts,
        )
        assert [place.parameter for place in group.places] == [place.parameter for place in same.places]
