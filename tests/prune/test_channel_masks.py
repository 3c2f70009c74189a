"""Masks of channels: they act as removal does, their slopes are those of the channels, and they find what counts."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import small_networks as nets
import torch
from prune_cases import NETWORKS, Case, case, random_scores
from small_networks import SMALL
from torch import Tensor, nn

from madx.errors import ModelError
from madx.prune import CRITERIA, ChannelMasks, Rule, Task, apply_masks_, learn_scores
from madx.recipe import LearningConfig, PruneConfig
from madx.seeds import torch_generator

HALF = PruneConfig(structure="channels", sparsity=0.5, round_to=4)

LEARNED = [name for name, criterion in CRITERIA.items() if criterion.learner]


def masked(given: Case, config: PruneConfig = HALF) -> tuple[Rule, ChannelMasks, dict[str, Tensor]]:
    """The rule, its masks of channels, and random scores of channels."""
    rule = Rule(given.network, config, example=given.images)
    channels = rule.channel_masks(random_scores(given.network))
    generator = torch_generator(0, "channels")
    scores = {group.key: torch.rand(group.channels, generator=generator) for group in channels.groups}
    return rule, channels, scores


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_masked_network_is_the_pruned_one(name: str, training: bool) -> None:
    """Logits agree with BatchNorm's running and with its batch statistics, though removed channels are still made."""
    build, shape = NETWORKS[name]
    given = case(build, *shape)
    rule, channels, scores = masked(given)
    pruned = rule.remove(random_scores(given.network) | scores).module.train(training)
    behind = copy.deepcopy(given.network).train(training)
    apply_masks_(behind, channels.masks(scores))
    images = torch.rand(8, *shape, dtype=torch.float64, generator=torch_generator(0, "masked"))
    torch.testing.assert_close(behind(images), pruned(images), rtol=0, atol=1e-9)
    assert channels.groups
    assert (behind.eval()(images) - given.network(images)).abs().max() > 1e-6, "nothing was masked"


@pytest.mark.parametrize("own", [False, True], ids=["entries", "channels"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_prepared_rule_keeps_what_removal_keeps(name: str, own: bool) -> None:
    build, shape = NETWORKS[name]
    given = case(build, *shape)
    rule, _, scores = masked(given)
    scores = random_scores(given.network, seed=3) | (scores if own else {})
    masks, removed = rule.masks(scores), rule.remove(scores).masks
    assert list(masks) == list(removed)
    assert all(torch.equal(mask, removed[key]) for key, mask in masks.items())
    assert not all(mask.all() for mask in masks.values())


def slopes_by_hooks(given: Case, masks: Mapping[str, Tensor], layer: str, weights: Tensor) -> Tensor:
    """Slope of the loss at a factor of each channel that `layer` gives, by autograd: an oracle without any graph."""
    network = copy.deepcopy(given.network)
    apply_masks_(network, masks)
    factor = torch.ones(weights.shape[1], dtype=torch.float64, requires_grad=True)
    network.get_submodule(layer).register_forward_hook(
        lambda _, __, output: output * factor.view(-1, *[1] * (output.dim() - 2))
    )
    (slope,) = torch.autograd.grad((network(given.images) * weights[:, :1]).sum(), factor)
    return slope


@pytest.mark.parametrize(
    ("build", "layer", "root", "width"),
    [
        (nets.plain, "0", "0.0", 8),
        (nets.flattened, "0", "0.0", 8),
        (nets.mlp, "2", "1", 24),
        (nets.depthwise, "parts.depth", "parts.wide.0", 16),
        (nets.squeeze_excite, "parts.down", "parts.down", 8),
    ],
)
def test_slopes_are_those_of_a_factor_on_the_channel(
    build: Callable[[], nn.Module], layer: str, root: str, width: int
) -> None:
    """With nothing removed, where a factor on the channel and one on what reads it are the same."""
    given = case(build, *SMALL)
    _, channels, _ = masked(given)
    weights = torch.rand(3, width, dtype=torch.float64, generator=torch_generator(0, "weights"))
    network = copy.deepcopy(given.network)
    (network(given.images) * weights[:, :1]).sum().backward()
    products = {name: value.grad * value for name, value in network.named_parameters() if value.grad is not None}
    expected = slopes_by_hooks(given, {}, layer, weights)
    found = channels.slopes(products)
    made = {place.parameter: group.key for group in channels.groups for place in group.places if not place.reads}
    torch.testing.assert_close(found[made[f"{root}.weight"]].double(), expected, rtol=1e-5, atol=1e-6)


def test_a_removed_channel_has_a_slope() -> None:
    given = case(nets.plain, *SMALL)
    _, channels, scores = masked(given)
    network = copy.deepcopy(given.network)
    with torch.no_grad():
        for shift in ("0.1.bias", "1.1.bias"):
            network.get_parameter(shift).fill_(30.0)  # no channel is silent by its ReLU
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    masks = channels.masks(scores)
    apply_masks_(network, masks)
    network(given.images).square().sum().backward()
    parameters = dict(network.named_parameters())
    slopes = channels.slopes({name: parameters[name].grad * weights[name] for name in masks})
    for group in channels.groups:
        gone = group.removed(scores)
        assert len(gone) >= 4
        assert (slopes[group.key][gone] != 0).all()


def test_transposed_convolutions_read_and_make_channels() -> None:
    """Their inputs stand on the first axis of the weight."""
    given = case(
        lambda: nn.Sequential(
            nets.conv_bn(2, 8), nn.ConvTranspose2d(8, 12, 2), nets.conv_bn(12, 8), nn.Flatten(), nets.head(200)
        ),
        *SMALL,
    )
    rule, channels, scores = masked(given)
    pruned = rule.remove(random_scores(given.network) | scores).module
    behind = copy.deepcopy(given.network)
    masks = channels.masks(scores)
    apply_masks_(behind, masks)
    torch.testing.assert_close(behind(given.images), pruned(given.images), rtol=0, atol=1e-9)
    assert not masks["1.weight"].all()
    assert masks["1.weight"].flatten(1).all(1).logical_not().sum() == 4, "whole inputs"


@pytest.mark.parametrize("build", [nets.group_norm, nets.layer_norm])
def test_normalisations_over_channels_do_not_count_as_readers(build: Callable[[], nn.Module]) -> None:
    """Their sums hold the removed channels until those are gone."""
    given = case(build, *SMALL)
    _, channels, scores = masked(given)
    assert set(channels.masks(scores)) == {
        place.parameter for group in channels.groups for place in group.places if place.reads
    }


def test_masks_that_miss_a_reader_are_found() -> None:
    given = case(nets.two_heads, *SMALL)
    rule, channels, _ = masked(given)
    scores = random_scores(given.network)
    pruned = rule.remove(scores).module
    channels.check(given.network, pruned, scores, shape=given.images.shape)
    groups = [
        replace(group, places=tuple(place for place in group.places if place.parameter != "parts.direct.weight"))
        for group in channels.groups
    ]
    assert sum(len(group.places) for group in groups) == sum(len(group.places) for group in channels.groups) - 1
    short = ChannelMasks(given.network, groups)
    with pytest.raises(ModelError, match="does not compute what the dense network computes"):
        short.check(given.network, pruned, scores, shape=given.images.shape)


def misleading() -> tuple[nn.Module, list[tuple[Tensor, Tensor, torch.Generator]]]:
    """Of four channels, two decide the class; the two with the largest weights are noise."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2, bias=False)).eval()
    network[0].weight.data = torch.diag(torch.tensor([1.0, 1.0, 3.0, 3.0]))
    network[0].bias.data.zero_()
    network[1].weight.data = torch.tensor([[1.0, 1.0, 3.0, -3.0], [-1.0, -1.0, -3.0, 3.0]])
    made = []
    for number in range(100):
        generator = torch_generator(0, "misleading", number)
        x = torch.randn(64, 4, generator=generator)
        made.append((x, (x[:, 0] + x[:, 1] < 0).long(), generator))
    return network, made


@pytest.mark.parametrize("name", LEARNED)
def test_learning_brings_removed_channels_back(name: str) -> None:
    network, batches = misleading()
    start = CRITERIA["magnitude"](network, *batches[0])
    rule = Rule(network, PruneConfig(structure="channels", sparsity=0.5, round_to=1), example=torch.zeros(2, 4))
    channels = rule.channel_masks(start)
    task = Task(LearningConfig(steps=100, precision="fp32"), channels.masks, lambda _, x, *__: x, channels.slopes)
    scores = start | learn_scores(network, batches, channels.start(start), CRITERIA[name].learner, task)
    before, after = rule.masks(start)["1.weight"], rule.masks(scores)["1.weight"]
    assert before.tolist() == [[False, False, True, True]] * 2
    assert after.tolist() == [[True, True, False, False]] * 2
    x, y, _ = batches[0]
    losses = [nn.functional.cross_entropy(rule.remove(found).module(x), y).detach() for found in (start, scores)]
    assert losses[1] < losses[0] / 2


def test_channels_start_from_all_that_goes_with_them() -> None:
    given = case(nets.plain, *SMALL)
    _, channels, _ = masked(given)
    scores = random_scores(given.network)
    start = channels.start(scores)
    first = scores["0.0.weight"].sum((1, 2, 3)) + scores["0.0.bias"] + scores["1.0.weight"].sum((0, 2, 3))
    torch.testing.assert_close(start["channels/0.0"], first)
    last = scores["1.0.weight"].sum((1, 2, 3)) + scores["1.0.bias"] + scores["4.weight"].sum(0)
    torch.testing.assert_close(start["channels/1.0"], last)
    assert set(start) == {"channels/0.0", "channels/1.0"}
