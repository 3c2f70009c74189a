"""Removal of channels. The oracle: the dense network with the removed channels silenced gives the same logits."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping

import pytest
import small_networks as nets
import torch
from prune_cases import NETWORKS, case, removed
from small_networks import SMALL
from torch import nn

from madx.prune import Survivors, coverage, survivor_masks
from madx.prune.layers import scored_layers, scored_parameters

BRANCHES = {"parts.add": 2}
"""Of concatenated_residual: its channels are tied to two branches, and each of them gives its own share."""

GROUPS = {
    "grouped": {"0.0": 4, "1.0": 4},
    "depth_multiplier": {"1.0": 8},
    "groups_as_outputs": {"0.0": 8},
}
"""Of the convolution that makes or reads a layer's channels: each of them gives its share."""


def silenced(dense: nn.Module, survivors: Survivors) -> nn.Module:
    """The dense network with every output row that no entry survived of at zero: scale and shift of norms as well.

    What READS the removed channels keeps its weights, so a layer that was pruned out of step shows.
    """
    dense = copy.deepcopy(dense)
    for name, parameter in dense.named_parameters():
        survived = torch.isin(torch.arange(parameter.numel()), survivors[name]).view(parameter.shape)
        axis = 0 if len(parameter) > 1 else parameter.shape.index(max(parameter.shape))
        gone = ~survived.movedim(axis, 0).flatten(1).any(1) if parameter.dim() > 1 else ~survived
        parameter.data.movedim(axis, 0)[gone] = 0
    return dense


@pytest.mark.parametrize(("sparsity", "round_to"), [(0.5, 4), (0.3, 1), (0.9, 2)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_pruned_network_is_the_dense_one_silenced(name: str, sparsity: float, round_to: int) -> None:
    build, shape = NETWORKS[name]
    given = case(build, *shape)
    module, survivors, reasons = removed(given, sparsity, round_to)
    logits = module(given.images)
    torch.testing.assert_close(logits, silenced(given.network, survivors)(given.images), rtol=0, atol=1e-9)
    assert logits.shape == given.network(given.images).shape, "outputs are never pruned"
    assert (logits - given.network(given.images)).abs().max() > 1e-6, "nothing was removed"
    _check_survivors(given.network, module, survivors)
    _check_counts(name, (given.network, module), reasons, sparsity, round_to)


def _check_survivors(dense: nn.Module, pruned: nn.Module, survivors: Survivors) -> None:
    """Survivors point at the entries they came from, in order and once."""
    before = dict([*dense.named_parameters(), *dense.named_buffers()])
    for name, tensor in (*pruned.named_parameters(), *pruned.named_buffers()):
        if not tensor.is_floating_point():
            continue
        index = survivors[name]
        assert index.dtype == torch.int64
        assert index.shape == tensor.shape
        assert torch.equal(before[name].flatten()[index], tensor)
        assert (index.flatten().diff() > 0).all()


def _check_counts(
    case_name: str,
    networks: tuple[nn.Module, nn.Module],
    reasons: Mapping[str, str],
    sparsity: float,
    round_to: int,
) -> None:
    """Each layer either gave the same share of its outputs, or says why not; attributes follow the tensors."""
    dense, pruned = networks
    after = scored_layers(pruned)
    for name, layer in scored_layers(dense).items():
        channels, kept = layer.weight.shape[0], after[name].weight.shape[0]
        if name in reasons:
            assert kept == channels, name
            continue
        assert kept < channels, f"{name} lost nothing and has no reason"
        assert kept % round_to == 0
        groups = GROUPS.get(case_name, {}).get(name, 1)
        shares, step = BRANCHES.get(name, 1) * groups, round_to // math.gcd(round_to, groups)
        assert kept == shares * max(1, int((1 - sparsity) * channels / shares / step + 0.5)) * step
        for attribute in ("out_channels", "out_features"):
            assert getattr(after[name], attribute, kept) == kept
    for module in pruned.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_features == len(module.weight) == len(module.running_mean)


REASONS = {
    "plain": {"4": "makes the network's outputs"},
    "mlp": {"5": "makes the network's outputs"},
    "two_heads": dict.fromkeys(("parts.direct", "parts.head"), "makes the network's outputs"),
    "conv_logits": {"1": "makes the network's outputs"},
    "depthwise_logits": {"1": "tied to 2: makes the network's outputs", "2": "makes the network's outputs"},
    "unused_layer": {
        "parts.spare": "the forward pass does not use this layer",
        "parts.head": "makes the network's outputs",
    },
    "grouped": {"6": "makes the network's outputs"},
    "depth_multiplier": {
        "0.0": "each of the 8 groups of 1.0 has one channel, and keeps it",
        "5": "makes the network's outputs",
    },
    "groups_as_outputs": {
        "1.0": "each of the 8 groups of 1.0 has one channel, and keeps it",
        "5": "makes the network's outputs",
    },
}


@pytest.mark.parametrize("name", REASONS)
def test_layers_that_stay_whole_say_why(name: str) -> None:
    build, shape = NETWORKS[name]
    assert removed(case(build, *shape))[2] == REASONS[name]


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (nets.multiplied_halves, {"parts.wide": 16, "parts.depth": 16, "parts.last.0": 4}),
        (nets.linear_as_map, {"parts.linear": 32, "parts.up": 8, "parts.stem.0": 4}),
        (nets.attention, {"parts.qkv": 24, "parts.proj": 4, "parts.last": 8}),
        (nets.split_channels, {"parts.conv.0": 8, "parts.left.0": 4, "parts.right.0": 4}),
        (nets.flattened_concatenation, {"parts.conv.0": 4, "parts.fc": 8}),
    ],
)
def test_channels_that_meet_go_together(build: Callable[[], nn.Module], channels: dict[str, int]) -> None:
    """Chosen one by one, nearly all of them would go: each takes its place along, which is another one's place too."""
    given = case(build, *SMALL)
    module, survivors, reasons = removed(given, 0.5, 4)
    torch.testing.assert_close(
        module(given.images), silenced(given.network, survivors)(given.images), rtol=0, atol=1e-9
    )
    before, after = scored_layers(given.network), scored_layers(module)
    assert {name: after[name].weight.shape[0] for name in channels} == channels
    for name in channels:
        assert (name in reasons) == (
            before[name].weight.shape == after[name].weight.shape[:1] + before[name].weight.shape[1:]
        )


def test_too_few_channels_to_round() -> None:
    given = case(nets.plain, *SMALL)
    module, survivors, reasons = removed(given, 0.5, 16)
    assert reasons["0.0"] == "8 channels, and what is kept is a multiple of 16"
    assert reasons["1.0"] == "12 channels, and what is kept is a multiple of 16"
    assert torch.equal(module(given.images), given.network(given.images))
    assert all(mask.all() for mask in survivor_masks(survivors, given.network).values())


def test_the_lowest_channels_go() -> None:
    """Rows that make a channel and columns that read it count; what BatchNorm holds does not."""
    given = case(nets.plain, *SMALL)
    scores = {name: torch.ones_like(p) for name, p in scored_parameters(given.network).items()}
    scores["0.0.weight"][3] = -5  # by its row
    scores["1.0.weight"][:, 6] = -5  # by its column
    scores["0.0.bias"][5] = -500  # by its bias
    scores["0.0.weight"][0] = -5
    scores["1.0.weight"][:, 0] = 50  # the low row is outweighed by its column
    _, survivors, _ = removed(given, 0.375, 1, scores)
    assert survivors["0.0.bias"].tolist() == [0, 1, 2, 4, 7]
    assert survivors["0.1.running_var"].tolist() == [0, 1, 2, 4, 7]


def test_ties_go_by_position() -> None:
    given = case(nets.plain, *SMALL)
    scores = {name: torch.ones_like(p) for name, p in scored_parameters(given.network).items()}
    _, survivors, _ = removed(given, 0.5, 2, scores)
    assert survivors["0.0.bias"].tolist() == [4, 5, 6, 7]


def test_a_residual_sum_adds_up_the_scores_of_its_branches() -> None:
    given = case(NETWORKS["resnet8"][0], 1, 8, 8)
    scores = {name: torch.zeros_like(p) for name, p in scored_parameters(given.network).items()}
    scores["conv1.weight"][:4] = 1  # stem and block share their channels: here the first are worth more,
    scores["layer1.conv2.weight"][4:] = 10  # here the last, and by more
    _, survivors, _ = removed(given, 0.5, 4, scores)
    for name in ("bn1.weight", "layer1.bn2.weight"):
        assert survivors[name].tolist() == [4, 5, 6, 7]


def test_each_branch_of_a_concatenation_gives_its_share() -> None:
    """All of the left branch scores lower; half of each goes all the same, also where a sum ties them."""
    given = case(nets.concatenated_residual, *SMALL)
    scores = {name: torch.ones_like(p) for name, p in scored_parameters(given.network).items()}
    scores["parts.left.0.weight"] -= 9
    module, survivors, _ = removed(given, 0.5, 4, scores)
    for branch in ("left", "right"):
        assert module.parts[branch][0].out_channels == 4
    assert survivors["parts.add.bias"].tolist() == [4, 5, 6, 7, 12, 13, 14, 15]


def test_survivor_masks_are_the_survivors_in_dense_shapes() -> None:
    given = case(nets.depthwise, *SMALL)
    module, survivors, _ = removed(given)
    masks = survivor_masks(survivors, given.network)
    pruned = scored_parameters(module)
    for name, parameter in scored_parameters(given.network).items():
        assert masks[name].shape == parameter.shape
        assert masks[name].dtype == torch.bool
        assert torch.equal(parameter[masks[name]], pruned[name].flatten())


@pytest.mark.parametrize("name", ["resnet8", "depthwise", "grouped", "unused_layer"])
def test_coverage_lists_every_layer_once(name: str) -> None:
    build, shape = NETWORKS[name]
    given = case(build, *shape)
    module, survivors, reasons = removed(given)
    covered = coverage(given.network, module, survivor_masks(survivors, given.network), reasons)
    assert [layer.name for layer in covered.layers] == list(scored_layers(given.network))
    before, after = scored_parameters(given.network), scored_parameters(module)
    for layer in covered.layers:
        names = [key for key in before if key.rpartition(".")[0] == layer.name]
        assert layer.weights == sum(before[key].numel() for key in names)
        assert layer.kept == sum(after[key].numel() for key in names)
        assert layer.shape_before == tuple(before[f"{layer.name}.weight"].shape)
        assert layer.shape_after == tuple(after[f"{layer.name}.weight"].shape)
        assert layer.reason == reasons.get(layer.name, "")
        assert bool(layer.reason) == (layer.shape_before[0] == layer.shape_after[0])
    totals = [sum(p.numel() for p in parameters.values()) for parameters in (after, before)]
    assert covered.kept_share == totals[0] / totals[1]
    assert covered.to_json()["layers"][0]["name"] == covered.layers[0].name


def test_coverage_without_masks_is_whole() -> None:
    network = nets.plain()
    covered = coverage(network, network, {}, {})
    assert covered.kept_share == 1


@pytest.mark.parametrize("training", [False, True])
def test_flags_and_statistics_stay(training: bool) -> None:
    """The module is never run in its own mode, so BatchNorm's statistics are the dense network's."""
    given = case(nets.plain, *SMALL)
    given.network.train(training)
    given.network[0][0].weight.requires_grad_(False)
    module, survivors, _ = removed(given)
    assert all(layer.training == training for layer in module.modules())
    assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["0.0.weight"]
    statistics = dict(given.network.named_buffers())["0.1.running_mean"]
    assert torch.equal(dict(module.named_buffers())["0.1.running_mean"], statistics[survivors["0.1.running_mean"]])
    assert not any(layer._forward_hooks for layer in module.modules())


@pytest.mark.parametrize("build", [nets.group_norm, nets.layer_norm])
def test_normalisations_over_channels_get_smaller(build: Callable[[], nn.Module]) -> None:
    """Their sums change, so the logits do; shapes, attributes and values follow."""
    given = case(build, *SMALL)
    module, survivors, _ = removed(given)
    assert module(given.images).shape == (3, nets.CLASSES)
    _check_survivors(given.network, module, survivors)
    sizes = {
        "num_channels": nn.GroupNorm,
        "num_features": nn.InstanceNorm2d,
        "normalized_shape": nn.LayerNorm,
    }
    for attribute, kind in sizes.items():
        for layer in module.modules():
            if isinstance(layer, kind):
                assert getattr(layer, attribute) in (len(layer.weight), tuple(layer.weight.shape))
