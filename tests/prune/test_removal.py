"""Every structure of a recipe: what it leaves agrees with its masks, and the dense network stays as it is."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from small_networks import Lambda, plain
from torch import Tensor, nn

from madx.errors import ExitCode, ModelError, RecipeError
from madx.prune import Rule, two_four_masks, unstructured_masks
from madx.prune.layers import scored_parameters
from madx.recipe import PruneConfig
from madx.seeds import torch_generator

EXAMPLE = torch.zeros(2, 16, 6, 6)
STRUCTURES = get_args(PruneConfig.model_fields["structure"].annotation)


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(16, 64, 3),
            nn.ReLU(),
            nn.Conv2d(64, 32, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 5),
        ).eval()


def scores_of(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.rand(parameter.shape, generator=torch_generator(0, name))
        for name, parameter in scored_parameters(network).items()
    }


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_network_is_what_the_masks_say(structure: str, network: nn.Module) -> None:
    before = copy.deepcopy(network.state_dict())
    config = PruneConfig(structure=structure, round_to=16)
    removal = Rule(network, config, example=EXAMPLE).remove(scores_of(network))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    pruned = dict(removal.module.named_parameters())
    for name, parameter in network.named_parameters():
        survives = removal.masks.get(name, torch.ones_like(parameter, dtype=torch.bool))
        left = pruned[name][removal.held[name]] if name in removal.held else pruned[name].flatten()
        assert torch.equal(left.flatten(), parameter[survives])
    for name, mask in removal.held.items():
        assert (pruned[name][~mask] == 0).all()
    assert (removal.channels is not None) == ("channels" in structure)
    if removal.channels:
        assert removal.channels == (96, 48)


def test_the_rules_are_those_of_the_masks(network: nn.Module) -> None:
    scores = scores_of(network)
    plainly = Rule(network, PruneConfig(structure="unstructured", sparsity=0.7), example=EXAMPLE).remove(scores)
    expected = unstructured_masks(network, scores, 0.7)
    assert all(torch.equal(mask, expected[name]) for name, mask in plainly.masks.items())
    half = Rule(network, PruneConfig(structure="2:4"), example=EXAMPLE).remove(scores)
    masks, reasons = two_four_masks(network, scores)
    assert all(torch.equal(mask, masks[name]) for name, mask in half.masks.items())
    assert half.reasons == reasons == {"5": "5 output channels are not a multiple of 8"}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_layer_that_nothing_scores_stays_whole_and_is_listed(structure: str) -> None:
    network = Lambda(lambda parts, x: parts["body"](x), body=plain(), unused=nn.Linear(32, 32))
    scores = {name: score for name, score in scores_of(network).items() if "unused" not in name}
    config = PruneConfig(structure=structure, round_to=4)
    removal = Rule(network, config, example=torch.zeros(2, 2, 4, 4)).remove(scores)
    assert "does not use this layer" in removal.reasons["parts.unused"]
    mask = removal.masks.get("parts.unused.weight")
    assert mask is None or mask.all()


def test_scores_that_are_missing_are_an_error(network: nn.Module) -> None:
    scores = scores_of(network)
    del scores["2.weight"]
    with pytest.raises(ModelError, match=r"2\.weight"):
        Rule(network, PruneConfig(structure="unstructured"), example=EXAMPLE).remove(scores)


NOTHING_GOES = {
    "rounding keeps all channels": (
        {"structure": "channels", "round_to": 64},
        ["0: 64 channels, and what is kept is a multiple of 64", "2: 32 channels", "5: makes the network's outputs"],
    ),
    "less than a weight": (
        {"structure": "unstructured", "sparsity": 1e-7},
        ["0, 2, 5: 1e-07 of its weights is less than a whole one"],
    ),
    "less than a channel": (
        {"structure": "channels", "sparsity": 0.001, "round_to": 1},
        ["0: 64 channels", "2: 32 channels"],
    ),
}


@pytest.mark.parametrize("case", NOTHING_GOES)
def test_a_recipe_that_removes_nothing_is_refused_without_any_saliency(case: str, network: nn.Module) -> None:
    """With every layer and its reason; where only some stay whole, the rest is pruned."""
    settings, said = NOTHING_GOES[case]
    rule = Rule(network, PruneConfig(**settings), example=EXAMPLE)
    with pytest.raises(RecipeError, match="removes nothing of this network") as refused:
        rule.rehearse()
    assert refused.value.exit_code is ExitCode.USAGE
    assert [part for part in said if part not in str(refused.value)] == []
    with pytest.raises(RecipeError):
        rule.check(rule.remove(scores_of(network)))
    Rule(network, PruneConfig(structure="channels", round_to=32), example=EXAMPLE).rehearse()


def test_two_four_without_a_layer_for_it_is_refused() -> None:
    odd = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)).eval()
    with pytest.raises(RecipeError, match=r"prune.structure: 2:4 .* 3 input channels are not a multiple of 16"):
        Rule(odd, PruneConfig(structure="2:4"), example=torch.zeros(2, 3, 6, 6)).rehearse()


def test_the_same_removal_is_compared_once_and_another_again(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed is no agreement either: it fails again."""
    compared: list[str] = []

    def check(*_: object, **__: object) -> None:
        compared.append("once more")
        if len(compared) < 3:
            raise ModelError("not the same")

    rule = Rule(network, PruneConfig(structure="channels", round_to=16), example=EXAMPLE)
    scores = scores_of(network)
    monkeypatch.setattr("madx.prune.trials.check_same_function", check)
    for _ in range(2):
        with pytest.raises(ModelError, match="not the same"):
            rule.remove(scores)
    for scale, comparisons in ((1, 3), (2, 3), (-1, 4), (1, 4)):
        rule.remove({name: scale * score for name, score in scores.items()})
        assert len(compared) == comparisons
