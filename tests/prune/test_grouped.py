"""Convolutions in groups: as many channels go from each, and what is left computes what it should."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import grouped_networks
import pytest
import torch
import torch.nn.functional as F
from coupled_networks import IMAGES
from grouped_networks import NETWORKS
from small_networks import Lambda, conv_bn
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.copies import copied
from madx.prune import Rule
from madx.prune.groups import ChannelGroup, Place, cuts, masks_without
from madx.prune.layers import scored_parameters
from madx.prune.passes import Reader, Source
from madx.prune.shares import Met, Part, shares, uneven
from madx.prune.trials import without_channels
from madx.recipe import PruneConfig

HALF = PruneConfig(structure="channels", sparsity=0.5, round_to=4)


def rule_of(build: Callable[[], nn.Module], config: PruneConfig = HALF) -> Rule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build().eval()
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.uniform_(layer.bias, -0.5, 0.5)
    return Rule(network, config, example=torch.zeros(2, *IMAGES))


def magnitudes(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().abs() for name, value in scored_parameters(network).items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_group_loses_as_many_and_the_rest_says_why(name: str) -> None:
    case = NETWORKS[name]
    rule = rule_of(case.build)
    removal = rule.remove(magnitudes(rule.dense))
    left = {layer: tuple(removal.module.get_submodule(layer).weight.shape[:2]) for layer in case.left}
    assert left == dict(case.left), removal.reasons
    for layer, reason in case.whole.items():
        assert re.search(reason, removal.reasons[layer])
    for layer, module in rule.dense.named_modules():
        if isinstance(module, nn.Conv2d) and module.groups not in (1, module.in_channels):
            assert removal.module.get_submodule(layer).groups == module.groups
    rule.channel_masks(magnitudes(rule.dense))  # raises if what is learned would not act as what is removed


@pytest.mark.parametrize("name", ["bottleneck", "shuffled", "a layer across two groups", "transposed"])
def test_the_smaller_network_is_the_dense_one_with_those_entries_at_zero(name: str) -> None:
    """In float64, by the masks in dense shapes, and without the check that removal makes."""
    rule = rule_of(NETWORKS[name].build)
    scores = magnitudes(rule.dense)
    small, dense = rule.remove(scores).module.double(), copied(rule.dense).double()
    parameters = dict(dense.named_parameters())
    masks = masks_without(rule.groups[0], scores, {name: value.shape for name, value in parameters.items()})
    with torch.no_grad():
        for key, parameter in parameters.items():
            assert int(masks[key].sum()) == small.get_parameter(key).numel()
            parameter.mul_(masks[key])
        images = torch.rand(4, *IMAGES, dtype=torch.float64)
        torch.testing.assert_close(small(images), dense(images), rtol=1e-9, atol=1e-12)


def test_each_group_chooses_its_own() -> None:
    """Where nothing ties the groups, the same channels need not go from all."""
    rule = rule_of(NETWORKS["bottleneck"].build)
    into = magnitudes(rule.dense)
    for name, score in into.items():
        score.fill_(1.0)
        if name in ("parts.into.0.weight", "parts.into.0.bias"):
            score[[0, 1, 5, 6, 8, 11, 14, 15]] = 2.0  # two of each four
    masks = rule.masks(into)
    rows = masks["parts.into.0.weight"].flatten(1).any(1)
    assert rows.nonzero().flatten().tolist() == [0, 1, 5, 6, 8, 11, 14, 15]
    columns = masks["parts.mid.0.weight"].view(4, 8, 4, 9).any(3).any(1)
    assert columns.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]]


def test_a_shuffle_ties_the_groups() -> None:
    """The n-th channels of both groups stay beside each other, so that the shuffle still brings them together."""
    rule = rule_of(NETWORKS["shuffled"].build)
    rows = rule.masks(magnitudes(rule.dense))["1.weight"].flatten(1).any(1).view(2, 8)
    assert torch.equal(rows[0], rows[1])
    assert rows.sum() == 8


def test_what_one_group_may_not_lose_no_other_loses() -> None:
    """A layer that the user keeps holds what else the same groups read; and the reason names it."""
    config = HALF.model_copy(update={"keep": ("parts.one",)})
    removal = (rule := rule_of(NETWORKS["two layers beside each other"].build, config)).remove(magnitudes(rule.dense))
    assert removal.module.parts["two"][0].out_channels == 8
    assert "tied to parts.one.0: kept by prune.keep" in removal.reasons["parts.two.0"]
    assert removal.module.parts["mix"].weight.shape[:2] == (8, 8)


def tampered(rule: Rule, change: Callable[[Place], Place]) -> list[ChannelGroup]:
    """Groups in which the columns of the convolution in groups are not those that are read."""
    return [
        replace(
            group,
            places=tuple(
                change(place) if place.parameter == "parts.mid.0.weight" and place.reads else place
                for place in group.places
            ),
        )
        for group in rule.groups[0]
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: replace(place, index=place.index.flip(0)), "inputs of parts.mid.0 differ"),
        (lambda place: replace(place, index=(place.index + 4) % 16), "inputs of parts.mid.0 differ"),
        (lambda place: replace(place, index=place.index.clamp(max=11)), "would be left with"),
    ],
)
def test_another_groups_columns_are_noticed(change: Callable[[Place], Place], message: str) -> None:
    rule = rule_of(NETWORKS["bottleneck"].build)
    scores = magnitudes(rule.dense)
    scores["parts.into.0.weight"][:] = (
        100 * torch.tensor([1, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 1, 0, 0, 1, 1])[:, None, None, None]
    )
    with pytest.raises(ModelError, match=message):
        without_channels(rule.dense, tampered(rule, change), scores, shape=torch.Size((2, *IMAGES)))


def test_equal_parts_of_a_share_are_equal() -> None:
    """By brute force over random meetings: whatever is chosen, every group loses as many, or it is said."""
    generator = torch.Generator().manual_seed(3)
    outcomes = set()
    for _ in range(300):
        groups, each = (int(n) for n in torch.randint(2, 5, (2,), generator=generator))
        reader = Reader((("w", 1),), groups * each, True, groups)
        makers = [Source(((f"m{n}", 0),), groups * each, True) for n in range(2)]
        owner = (torch.rand(groups * each, generator=generator) < 0.15).long().tolist()
        units = [{(makers[owner[n]], 0): 1, (reader, n // each): 1} for n in range(groups * each)]
        parts = shares(units, 0.5, 1)
        gone = [unit for part, count in parts for unit in part[:count]]
        by_group = torch.tensor([n // each for n in gone], dtype=torch.long).bincount(minlength=groups)
        fair = bool((by_group == by_group[0]).all())
        assert (uneven(units, parts) is None) == fair
        outcomes.add(fair)
    assert outcomes == {True, False}


def growing(widths: list[int]) -> list[Met]:
    """Units of a shortcut that grows by these widths: later layers have what earlier ones had, and more."""
    layers = [Reader(((f"layer{n}", 1),), sum(widths[: n + 1]), True) for n in range(len(widths))]
    return [{(layer, 0): 1 for layer in layers[n:]} for n, width in enumerate(widths) for _ in range(width)]


def kept_by_layer(units: Sequence[Met], parts: Iterable[Part]) -> dict[Source | Reader, int]:
    kept = Counter(of for met in units for of, _ in met)
    for part, count in parts:
        kept.subtract(of for unit in part[:count] for of, _ in units[unit])
    return dict(kept)


def test_what_one_purpose_was_rounded_up_the_next_is_rounded_down() -> None:
    """ShuffleNet's shortcut at a quarter of its width, of which 3, 18, 36 and 72 are half."""
    units = growing([6, 30, 36, 72])
    joint, apart = (shares(units, 0.5, 4, apart=apart) for apart in (False, True))
    assert [count for _, count in joint] == [2, 14, 20, 36]
    assert [*kept_by_layer(units, joint).values()] == [4, 20, 36, 72]
    assert [count for _, count in apart] == [2, 14, 16, 36]
    assert [*kept_by_layer(units, apart).values()] == [4, 20, 40, 76]


def test_rounding_does_not_add_up() -> None:
    """Whatever the widths: a layer keeps a multiple, and no more than two multiples from its share."""
    generator = torch.Generator().manual_seed(5)
    worst = {False: 0.0, True: 0.0}
    for _ in range(200):
        widths = torch.randint(8, 40, (6,), generator=generator).tolist()
        sparsity = 0.2 + 0.5 * float(torch.rand((), generator=generator))
        units = growing(widths)
        for apart in worst:
            for of, kept in kept_by_layer(units, shares(units, sparsity, 4, apart=apart)).items():
                assert kept % 4 == 0
                worst[apart] = max(worst[apart], abs(kept - (1 - sparsity) * of.channels))
    assert worst[False] <= 4 < 8 < worst[True]


def test_a_pad_of_fixed_width_is_rounded_by_itself() -> None:
    """The shortcut's 8 zeros cannot become 4, as its 14 channels, of which 12 stay, would have them."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x)
        h = F.pad(h, (0, 0, 0, 0, 0, 8)) + m["one"](h)
        return m["head"]((h + m["two"](h)).mean((2, 3)))

    parts = {"stem": conv_bn(3, 14), "one": conv_bn(14, 22), "two": conv_bn(22, 22), "head": nn.Linear(22, 5)}
    rule = rule_of(lambda: Lambda(forward, **parts), HALF.model_copy(update={"sparsity": 0.25}))
    removal = rule.remove(magnitudes(rule.dense))
    left = {name: removal.module.parts[name][0].out_channels for name in ("stem", "one", "two")}
    assert left == {"stem": 12, "one": 20, "two": 20}, removal.reasons


def test_survivors_of_unequal_groups_are_refused() -> None:
    place = Place("w", 1, torch.arange(8), torch.arange(8), reads=True, groups=2)
    group = ChannelGroup("one", ("one",), 8, ((tuple(range(8)), 3),), (place,))
    with pytest.raises(ModelError, match=r"2 groups of w would be left with \[1, 4\] channels"):
        cuts([group], {"channels/one": torch.arange(8.0)}, {"w": torch.Size((4, 4, 1, 1))})["w"].take(
            torch.ones(4, 4, 1, 1)
        )


def test_totals_are_those_of_each_groups_own_columns() -> None:
    values = torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(0))
    place = Place("w", 1, torch.arange(8), torch.arange(8), reads=True, groups=2)
    expected = [values[rows, column].double().sum() for rows in (slice(3), slice(3, 6)) for column in range(4)]
    torch.testing.assert_close(place.sums(values), torch.stack(expected))
    assert torch.equal(
        place.spread(torch.arange(8), values.shape).squeeze()[[0, 2, 3, 5]],
        torch.tensor([[0, 1, 2, 3]] * 2 + [[4, 5, 6, 7]] * 2),
    )


def test_the_table_has_no_network_without_groups() -> None:
    for name, case in grouped_networks.NETWORKS.items():
        assert any(getattr(layer, "groups", 1) > 1 for layer in case.build().modules()), name
