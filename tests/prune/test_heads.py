"""Attention loses whole heads: their number follows from the weights, and what is left computes what it should."""

from __future__ import annotations

import re
from functools import cache
from operator import attrgetter

import pytest
import torch
from attention_networks import NETWORKS, Block, Fused, Named, Transformer, Wide
from coupled_networks import IMAGES
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.copies import copied
from madx.prune import Rule, resize_to_
from madx.prune.agreement import disagreement
from madx.prune.groups import masks_without
from madx.prune.heads import all_heads, describe_numbers, heads_of
from madx.prune.layers import scored_parameters
from madx.prune.scale_and_shift import WithoutStatistics
from madx.recipe import PruneConfig

HALF = PruneConfig(structure="channels", sparsity=0.5, round_to=4)


def built(name: str) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = NETWORKS[name].build().eval()
        for parameter in network.parameters():
            if parameter.dim() != 2:
                nn.init.uniform_(parameter, 0.5, 1.5)
    return network


@cache
def rule_of(name: str) -> Rule:
    """One for all tests: a network's channels are followed once."""
    return Rule(built(name), HALF, example=torch.zeros(2, *IMAGES))


def magnitudes(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().abs() for name, value in scored_parameters(network).items()}


def dense_masks(rule: Rule) -> dict[str, Tensor]:
    """What stays of every parameter, those without scores too."""
    shapes = {name: value.shape for name, value in rule.dense.named_parameters()}
    return masks_without(rule.groups[0], magnitudes(rule.dense), shapes)


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_go_whole_where_their_number_can_follow(name: str) -> None:
    case, rule = NETWORKS[name], rule_of(name)
    before = {attribute: attrgetter(attribute)(rule.dense) for attribute in case.heads}
    removal = rule.remove(magnitudes(rule.dense))
    left = {layer: tuple(removal.module.get_submodule(layer).weight.shape[:2]) for layer in case.left}
    assert left == dict(case.left), removal.reasons
    assert {attribute: attrgetter(attribute)(removal.module) for attribute in case.heads} == dict(case.heads)
    assert {attribute: attrgetter(attribute)(rule.dense) for attribute in case.heads} == before
    for layer, reason in case.whole.items():
        assert re.search(reason, removal.reasons[layer]), removal.reasons[layer]
    rule.channel_masks(magnitudes(rule.dense))  # raises if what is learned would not act as what is removed


@pytest.mark.parametrize("name", NETWORKS)
def test_the_smaller_network_is_the_dense_one_with_those_heads_at_zero(name: str) -> None:
    """In float64, by the masks in dense shapes, and without the check that removal makes."""
    rule = rule_of(name)
    small, dense = rule.remove(magnitudes(rule.dense)).module.double(), copied(rule.dense).double()
    masks = dense_masks(rule)
    with torch.no_grad(), WithoutStatistics():
        for key, parameter in dense.named_parameters():
            assert int(masks[key].sum()) == small.get_parameter(key).numel()
            parameter.mul_(masks[key])
        images = torch.rand(4, *IMAGES, dtype=torch.float64)
        torch.testing.assert_close(small(images), dense(images), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_network_takes_the_weights_alone(name: str) -> None:
    rule = rule_of(name)
    small = rule.remove(magnitudes(rule.dense)).module
    fresh = NETWORKS[name].build().eval()
    resize_to_(fresh, small.state_dict())
    images = torch.rand(3, *IMAGES)
    assert torch.equal(fresh(images), small(images))
    resize_to_(fresh, small.state_dict())  # once more: nothing changes
    assert torch.equal(fresh(images), small(images))
    for attribute, count in NETWORKS[name].heads.items():
        assert attrgetter(attribute)(fresh) == count


def test_what_a_head_is() -> None:
    """All its rows of queries, keys and values, and what reads it."""
    rule = rule_of("in step with what comes in")
    scores = magnitudes(rule.dense)
    masks = rule.masks(scores)
    rows = masks["blocks.0.attn.qkv.weight"].any(1).view(3, 4, 4)
    columns = masks["blocks.0.attn.proj.weight"].any(0).view(4, 4)
    assert rows.all(2).sum() == rows.any(2).sum() == 6
    assert all(torch.equal(rows[part], columns) for part in range(3))
    known = all_heads(rule.dense)
    groups = [group for group in rule.groups[0] if heads_of(group, known)]
    assert [(group.makers, group.channels) for group in groups] == [
        (("blocks.0.attn.qkv",), 4),
        (("blocks.1.attn.qkv",), 4),
    ]
    assert [heads.told for heads in known] == ["blocks.0.attn.num_heads", "blocks.1.attn.num_heads"]


def test_a_number_that_nobody_changed_is_noticed() -> None:
    """The weights of two heads cut out as four: the same shapes, and another function."""
    rule = rule_of("of a width of their own")
    state = rule.remove(magnitudes(rule.dense)).module.state_dict()
    masks = dense_masks(rule)
    assert not disagreement(rule.dense, state, masks, shape=torch.Size((2, *IMAGES)))
    hidden = copied(rule.dense)
    part = hidden.blocks[0].attn
    part.several = part.heads  # under a name that says nothing
    del part.heads
    type(part).heads = property(lambda self: self.several)  # type: ignore[attr-defined]
    try:
        assert "does not compute" in disagreement(hidden, state, masks, shape=torch.Size((2, *IMAGES)))
    finally:
        del type(part).heads  # type: ignore[attr-defined]


def test_numbers_are_left_alone_where_the_rows_are_no_whole_heads() -> None:
    fresh = Transformer(Wide())
    state = fresh.state_dict()
    state["blocks.0.attn.to_qkv.weight"] = state["blocks.0.attn.to_qkv.weight"][:90]
    resize_to_(fresh, state)
    assert fresh.blocks[0].attn.heads == 4


def test_modules_around_others_follow_them_only_together() -> None:
    """A block keeps its attention's number too; a network whose blocks differ keeps its own."""
    network = Transformer(Fused(), Fused())
    network.heads = 4
    rule = rule_of("in step with what comes in")
    resize_to_(network, rule.remove(magnitudes(rule.dense)).module.state_dict())
    assert (network.heads, network.blocks[0].num_heads, network.blocks[1].num_heads) == (2, 2, 2)
    mixed = Transformer(Fused(), Wide())
    mixed.heads = 4
    key = "blocks.1.attn.to_qkv.weight"
    out = "blocks.1.attn.to_out.weight"
    resize_to_(mixed, mixed.state_dict() | {key: mixed.state_dict()[key][:48], out: mixed.state_dict()[out][:, :16]})
    assert (mixed.heads, mixed.blocks[0].num_heads, mixed.blocks[1].num_heads) == (4, 4, 2)


def test_switches_and_computed_weights_are_no_heads() -> None:
    network = Transformer(Wide(), Named())
    network.blocks[0].attn.heads = True
    nn.utils.parametrizations.weight_norm(network.blocks[1].attn.query)
    assert [heads.layer for heads in all_heads(network)] == ["blocks.0.attn.to_qkv"]


def test_a_layer_of_another_name_counts_if_it_makes_three_of_what_the_last_reads() -> None:
    class Odd(nn.Module):
        def __init__(self, rows: int) -> None:
            super().__init__()
            self.heads, self.first, self.last = 4, nn.Linear(16, rows), nn.Linear(16, 16)

    assert [heads.layer for heads in all_heads(nn.Sequential(Odd(48), Odd(32)))] == ["0.first"]
    assert not all_heads(Odd(16))
    assert not all_heads(nn.Sequential(nn.MultiheadAttention(16, 4)))


def test_what_becomes_of_the_numbers_is_said() -> None:
    network = Transformer(Named())
    small = rule_of("three layers and a width")
    state = small.remove(magnitudes(small.dense)).module.state_dict()
    said = describe_numbers(network, state)
    attention = "blocks.0.attn"
    assert f"{attention}.num_attention_heads is 2, {attention}.all_head_size is 8" in said
    assert describe_numbers(network, network.state_dict()) == ""


def test_weights_of_another_network_leave_the_numbers() -> None:
    network = Transformer(Fused())
    state = network.state_dict()
    state["blocks.0.attn.qkv.weight"] = torch.zeros(24, 40)
    with pytest.raises(ModelError, match=r"blocks\.0\.attn\.qkv\.weight has shape"):
        resize_to_(network, state)
    assert network.blocks[0].attn.num_heads == 4
    assert isinstance(network.blocks[0], Block)
