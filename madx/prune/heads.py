"""Attention heads: modules that keep their number as an integer, and what it becomes when some are removed.

All that makes and reads one head goes together: softmax mixes the channels of queries and keys of a head, which the
probe sees. What cuts the channels into heads is mostly an integer that the module keeps (`num_heads`), so it has to
change with them. What it becomes follows from shapes alone, those of the network and those of the smaller weights, so
that a pruned network is rebuilt from its weights: the rows of the layer that makes queries are divided among the heads,
and a head has as many rows as before. (Weights from elsewhere whose heads were made narrower have the same shapes: what
is taken for fewer heads is said.) Nothing here knows whether the forward pass uses the number so: that shows when
the smaller network is compared with the whole one, as for every removal, and heads stay where it does not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from madx.prune.groups import ChannelGroup
from madx.prune.layers import parameter_name

COUNTS = (
    *("num_heads", "heads", "n_heads", "n_head", "nhead", "nheads", "num_head", "head_num"),
    *("num_attention_heads", "n_attention_heads", "attention_heads"),
)
"""What modules call their number of heads."""

_WIDTHS = (
    *("all_head_size", "inner_dim", "attn_dim", "attention_dim", "embed_dim", "dim", "hidden_size", "hidden_dim"),
    *("d_model",),
)
"""What modules call the channels of all heads together, if that is their number."""

_QUERIES = re.compile(r"(^|_|w|to)(q|qk|qkv|kv)(_|$|proj)|quer|in_proj|c_attn", re.IGNORECASE)
"""What the layer that makes queries is called, or what it is in."""


@dataclass(frozen=True)
class Heads:
    """A module that keeps the number of its heads, and the layer whose rows they are."""

    name: str
    """Of the module."""
    attributes: tuple[str, ...]
    """Those that hold the number."""
    count: int
    widths: tuple[str, ...]
    """Attributes that hold the channels of all heads together."""
    layer: str
    """The name of the layer."""
    rows: int

    def after(self, rows: int) -> int:
        """How many there are when the layer has so many rows; as before where that is no whole number of heads."""
        whole, rest = divmod(self.count * rows, self.rows)
        return self.count if rest or whole < 1 else whole

    @property
    def told(self) -> str:
        """The attribute's name in the network."""
        return parameter_name(self.name, self.attributes[0])


def all_heads(module: nn.Module) -> list[Heads]:
    """Every module that keeps its heads' number and has none in it that does; in the network's order."""
    keeping = {name: part for name, part in module.named_modules() if _counts(part)}
    found = []
    for name, part in keeping.items():
        inner = any(other != name and _is_in(other, name) for other in keeping)
        if not inner and (heads := _of_module(name, part)):
            found.append(heads)
    return found


def numbers_after(module: nn.Module, state: Mapping[str, Tensor]) -> list[tuple[str, str, int]]:
    """Names of modules, their attributes, and what these become when the network has the weights of `state`.

    A module around others that keep the number has theirs, if they agree.
    """
    changes: list[tuple[str, str, int]] = []
    after: dict[str, tuple[int, int]] = {}
    for heads in all_heads(module):
        weight = state.get(parameter_name(heads.layer, "weight"))
        now = heads.count if weight is None else heads.after(len(weight))
        after[heads.name] = heads.count, now
        if now != heads.count:
            part = module.get_submodule(heads.name)
            changes += [(heads.name, attribute, now) for attribute in heads.attributes]
            changes += [(heads.name, width, getattr(part, width) * now // heads.count) for width in heads.widths]
    for name, part in module.named_modules():
        own = _counts(part)
        if own and name not in after:
            first = getattr(part, own[0])
            inner = {now for other, (count, now) in after.items() if count == first and _is_in(other, name)}
            if len(inner) == 1 and inner != {first}:
                changes += [(name, attribute, *inner) for attribute in own]
    return changes


def describe_numbers(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    """The changes in words, or nothing."""
    numbers = (
        f"{parameter_name(name, attribute)} is {count}" for name, attribute, count in numbers_after(module, state)
    )
    return ", ".join(numbers)


def heads_of(group: ChannelGroup, known: Sequence[Heads]) -> Heads | None:
    """Whose heads a group's channels are, if they are any's."""
    return next((heads for heads in known if heads.layer in group.makers and heads.count == group.channels), None)


def in_step(groups: Sequence[ChannelGroup], known: Sequence[Heads]) -> list[ChannelGroup]:
    """The groups, of which those that are as wide as all heads together keep as many channels as these do.

    A forward pass that takes the width of its heads from what comes in (`C // self.num_heads`) needs both in step.
    """
    kept: dict[int, set[int]] = {}
    for group in groups:
        if width := _width(group, known):
            kept.setdefault(width, set()).add(width - _gone(group) * (width // group.channels))
    return [group if heads_of(group, known) else _keeping(group, kept.get(group.channels, set())) for group in groups]


def _keeping(group: ChannelGroup, counts: Set[int]) -> ChannelGroup:
    """The group with as many channels kept, where that is one number and all of them compete."""
    if len(group.parts) != 1 or len(counts) != 1:
        return group
    ((channels, _),) = group.parts
    return replace(group, parts=((channels, group.channels - next(iter(counts))),))


def tied_by_width(groups: Sequence[ChannelGroup], known: Sequence[Heads]) -> list[list[ChannelGroup]]:
    """Groups that may only go together: heads, and what is as wide as all heads together."""
    wanted = dict.fromkeys(width for group in groups if (width := _width(group, known)))
    return [[group for group in groups if (_width(group, known) or group.channels) == width] for width in wanted]


def why_heads_stay(group: ChannelGroup, known: Sequence[Heads]) -> str:
    """What to say of heads that cannot go, after what the trial said; nothing of other channels."""
    if heads := heads_of(group, known):
        return f"; its {group.channels} heads can only go whole, also with {heads.told} at {heads.count - _gone(group)}"
    rows = [place for place in group.places if not place.reads and len(place.index) > group.channels]
    if not rows or not any(_QUERIES.search(name.rpartition(".")[2]) for name in group.makers):
        return ""
    return (
        f"; its {group.channels} heads can only go whole, and no integer of the module tells their number "
        f"({', '.join(COUNTS[:3])}, ...)"
    )


def _width(group: ChannelGroup, known: Sequence[Heads]) -> int:
    """The channels of all heads together as the layer after them reads them; 0 of what is not heads."""
    return max(len(place.index) for place in group.places if place.reads) if heads_of(group, known) else 0


def _gone(group: ChannelGroup) -> int:
    return sum(count for _, count in group.parts)


def _counts(part: nn.Module) -> tuple[str, ...]:
    """The attributes that hold a number of heads, all with the value of the first."""
    held = {name: vars(part)[name] for name in COUNTS if type(vars(part).get(name)) is int}
    first = next(iter(held.values()), 0)
    return tuple(name for name, count in held.items() if count == first) if first > 1 else ()


def _of_module(name: str, part: nn.Module) -> Heads | None:
    """With its first layer called after queries, or its first at all if that makes three of what its last reads.

    Any other layer may make what the module does not cut into heads.
    """
    attributes = _counts(part)
    count = int(getattr(part, attributes[0]))
    layers = list(_layers(part))
    chosen = [(inner, shape) for inner, shape in layers if any(_QUERIES.search(piece) for piece in inner.split("."))]
    if not chosen and layers and layers[0][1][0] == 3 * layers[-1][1][1]:
        chosen = layers[:1]
    if not chosen or chosen[0][1][0] % count:
        return None
    inner, (rows, *_) = chosen[0]
    totals = {rows // parts for parts in (1, 2, 3) if rows % (parts * count) == 0}
    widths = tuple(width for width in _WIDTHS if type(vars(part).get(width)) is int and vars(part)[width] in totals)
    return Heads(name, attributes, count, widths, parameter_name(name, inner), rows)


def _layers(part: nn.Module) -> Iterator[tuple[str, torch.Size]]:
    """Linear layers and convolutions that mix channels, each with the shape of its weight."""
    for inner, layer in part.named_modules():
        mixes = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and getattr(layer, "groups", 1) == 1
        own = dict(layer.named_parameters(recurse=False)) if mixes and inner else {}
        if "weight" in own:  # and is not computed from other tensors
            yield inner, own["weight"].shape


def _is_in(name: str, outer: str) -> bool:
    return name.startswith(f"{outer}.") if outer else name != outer
