"""Which channels can only go together, which compete with each other, and why others stay.

Channels that reach one input of a layer are summed, multiplied or otherwise mixed before it, so they go together; so do
the slices of a normalisation or of a learnt scale that they pass. A source all of whose channels reach all inputs alike
(an average over channels, a map that is stretched over all channels, tokens that are mixed) says nothing about single
channels there: whether they can go shows when the smaller network is compared with the whole one.

A convolution with groups keeps their number, and each of them loses as many channels: all that one such layer reads is
therefore tied. Which channels go is free in each group, or, for layers that are `aligned`, the same ones in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from madx.prune.groups import ChannelGroup, Place
from madx.prune.passes import OUTPUTS, Reader, Source
from madx.prune.probing import Reached
from madx.prune.shares import shares, uneven

MAKES_OUTPUTS = "makes the network's outputs"
"""The reason for a layer whose output channels are the network's own."""

_Item = tuple[str, int, int]
"""A slice of a parameter: its name, an axis and a place on it."""


class _Union:
    """Disjoint sets, joined two at a time (Tarjan, *JACM* 22:215, 1975)."""

    def __init__(self) -> None:
        self._parents: dict[Any, Any] = {}

    def find(self, item: Any) -> Any:
        """What stands for the item's set."""
        parents = self._parents
        while (parent := parents.setdefault(item, item)) != item:
            parents[item] = item = parents[parent]
        return item

    def join(self, one: Any, other: Any) -> None:
        """Make the sets of both one."""
        self._parents[self.find(one)] = self.find(other)


@dataclass
class _Unit:
    """What can only go together: channels of layers, slices of parameters, and the inputs that they reach."""

    sources: list[tuple[Source, int]] = field(default_factory=list)
    inputs: list[tuple[Reader, int]] = field(default_factory=list)

    @property
    def makers(self) -> frozenset[Source]:
        """The layers that make it."""
        return frozenset(source for source, _ in self.sources if source.layer)

    @property
    def passed(self) -> list[tuple[Source | Reader, int]]:
        """Its channels in sources and readers alike."""
        return [*self.sources, *self.inputs]

    @property
    def met(self) -> Counter[tuple[Source | Reader, int]]:
        """How many of its channels each source and reader that it passes has in each group of a convolution."""
        return Counter((of, number // (of.channels // of.groups)) for of, number in self.passed)

    @property
    def read(self) -> bool:
        """Whether a layer reads it and makes others from it."""
        return any(reader.layer and not reader.depthwise for reader, _ in self.inputs)


@dataclass(frozen=True)
class Coupled:
    """Layers whose channels are tied, directly or through others, in the network's order."""

    makers: tuple[Source, ...]
    units: tuple[_Unit, ...]

    @property
    def grouped(self) -> frozenset[Source | Reader]:
        """Convolutions with groups of several channels that make or read these."""
        met = dict.fromkeys(of for unit in self.units for of, _ in unit.passed)
        return frozenset(of for of in met if 1 < of.groups < of.channels)

    def group(self, sparsity: float, round_to: int, *, apart: bool = False) -> tuple[ChannelGroup, str]:
        """As channels to choose from: `sparsity` goes, and what is kept is a multiple of round_to; or why none can.

        Rounded `apart` as `shares` has it.
        """
        met = [unit.met for unit in self.units]
        parts = shares(met, sparsity, round_to, apart=apart)
        makers = tuple(map(layer_name, self.makers))
        group = ChannelGroup(makers[0], makers, len(self.units), parts, tuple(_places(self.units)))
        if of := uneven(met, parts):
            problem = f"the {of.groups} groups of {layer_name(of)} would not lose equally many channels"
            return group, problem
        if not any(count for _, count in parts):
            single = next((of for one in met for of, _ in one if 1 < of.groups == of.channels), None)
            if single:
                return (
                    group,
                    f"each of the {single.groups} groups of {layer_name(single)} has one channel, and keeps it",
                )
            return group, f"{group.channels} channels, and what is kept is a multiple of {round_to}"
        return group, ""


def coupled(found: Sequence[Reached], aligned: Set[Source | Reader] = frozenset()) -> list[Coupled]:
    """Every set of tied layers, from what `probe` found.

    Args:
        found: what every source reaches.
        aligned: convolutions all of whose groups lose the same channels, by their number in the group.
    """
    order = {reached.source: number for number, reached in enumerate(found)}
    units = _units(found, aligned)
    ties = _Union()
    for unit in units:
        first, *others = unit.makers
        for other in (*others, *(of for of, _ in unit.passed if of.groups > 1)):
            ties.join(first, other)
    sets: dict[Any, list[_Unit]] = {}
    for unit in units:
        sets.setdefault(ties.find(next(iter(unit.makers))), []).append(unit)
    entries = []
    for members in sets.values():
        members.sort(key=lambda unit: min((order[source], index) for source, index in unit.sources if source.layer))
        makers = sorted({maker for unit in members for maker in unit.makers}, key=order.__getitem__)
        entries.append(Coupled(tuple(makers), tuple(members)))
    return sorted(entries, key=lambda entry: order[entry.makers[0]])


def why_whole(
    entry: Coupled, found: Mapping[Source, Reached], unable: Mapping[str, str], kept: Mapping[str, str]
) -> dict[str, str]:
    """Why no channel of these layers can go, by layer; nothing if nothing speaks against it.

    Args:
        entry: tied layers.
        found: what every source reaches.
        unable: layers of which neither inputs nor outputs can go, and why.
        kept: layers of which no output may go, and why.
    """
    own = {layer_name(maker): _own_reason(found[maker], {**kept, **unable}) for maker in entry.makers}
    tied = next((f"tied to {name}: {reason}" for name, reason in own.items() if reason), "")
    reason = tied or _why_all_are_read(entry, unable) or _why_unknown(entry, found) or _why_ambiguous(entry)
    return {name: of_its_own or reason for name, of_its_own in own.items() if of_its_own or reason}


def layer_name(of: Source | Reader) -> str:
    """The layer that a weight belongs to, or the name of a parameter that belongs to none."""
    parameter, _ = of.places[0]
    return parameter.rpartition(".")[0] if of.layer else parameter


def _units(found: Sequence[Reached], aligned: Set[Source | Reader]) -> list[_Unit]:
    """What can only go together, wherever a layer makes it."""
    union = _Union()
    sources = [(reached.source, channel) for reached in found for channel in range(reached.source.channels)]
    inputs: dict[tuple[Reader, int], None] = {}
    for reached in found:
        for reader, matrix in _telling(reached):
            for channel, index in matrix.nonzero().tolist():
                union.join(_item(reached.source, channel), _item(reader, index))
                inputs[reader, index] = None
    items: list[tuple[Source | Reader, int]] = [*sources, *inputs]
    for of, number in items:
        for parameter, axis in of.places:  # slices of one thing, under whatever name they are met
            union.join(_item(of, number), (parameter, axis, number))
    for of in aligned:
        for number in range(of.channels):
            union.join(_item(of, number), _item(of, number % (of.channels // of.groups)))
    units: dict[Any, _Unit] = {}
    for source, channel in sources:
        units.setdefault(union.find(_item(source, channel)), _Unit()).sources.append((source, channel))
    for reader, index in inputs:
        units.setdefault(union.find(_item(reader, index)), _Unit()).inputs.append((reader, index))
    return [unit for unit in units.values() if unit.makers]


def _item(of: Source | Reader, number: int) -> _Item:
    parameter, axis = of.places[0]
    return parameter, axis, number


def _telling(reached: Reached) -> Iterator[tuple[Reader, Tensor]]:
    """The readers that tell a source's channels from each other; of a single one there is nothing to tell."""
    if reached.source.channels == 1:
        return
    for reader, matrix in reached.readers.items():
        if matrix is not None and reader != OUTPUTS and not _alike(reached.source, matrix):
            yield reader, matrix


def _alike(source: Source, matrix: Tensor) -> bool:
    """Whether all channels reach the same inputs, so that nothing is said of single ones.

    Slices of a learnt table or a mask say as little where they are positions, which reach many inputs or none: of those
    only a class token's may be read, and what a mask hides reaches an input more or less. Channels never share some.
    """
    if source.layer:
        return bool(matrix.eq(matrix[0]).all())
    different: Tensor = torch.unique(matrix[matrix.any(1)], dim=0)
    alone = len(different) == 1 and bool(different.sum() > 1)
    return alone or bool((different.sum(0) > 1).any())


def _own_reason(reached: Reached, whole: Mapping[str, str]) -> str:
    """Why a layer's output channels stay whatever is tied to them, or nothing."""
    source = reached.source
    if reason := whole.get(layer_name(source), ""):
        return reason
    return MAKES_OUTPUTS if OUTPUTS in reached.readers else ""


def _why_all_are_read(entry: Coupled, unable: Mapping[str, str]) -> str:
    """Why a layer that reads these channels needs them all, or nothing."""
    readers = dict.fromkeys(reader for unit in entry.units for reader, _ in unit.inputs if reader.layer)
    for reader in readers:
        if reason := unable.get(name := layer_name(reader), ""):
            return f"read by {name}: {reason}"
    return ""


def _why_unknown(entry: Coupled, found: Mapping[Source, Reached]) -> str:
    """Why single channels cannot be told apart where they are read, or nothing."""
    for maker in entry.makers:
        for reader, matrix in found[maker].readers.items():
            if matrix is None:
                return f"too many of its channels meet before {layer_name(reader)} reads them"
    alone = len(entry.units) == 1 and len(entry.units[0].sources) > 1
    unread = next((unit for unit in entry.units if alone or not unit.read), None)
    if unread is None:
        return ""
    readers = found[next(iter(unread.makers))].readers
    mixed = next((layer_name(reader) for reader in readers if reader.layer and not reader.depthwise), "")
    return (
        f"its channels are mixed before {mixed} reads them" if mixed else "what reads some of its channels is not known"
    )


def _why_ambiguous(entry: Coupled) -> str:
    """Why it is not known which slice of a weight a channel is, or nothing: a layer runs in different groups."""
    groups: dict[tuple[str, int], int] = {}
    for of in dict.fromkeys(of for unit in entry.units for of, _ in unit.passed if of.layer):
        if groups.setdefault(of.places[0], of.groups) != of.groups:
            return f"{layer_name(of)} is called with different numbers of groups"
    return ""


def _places(units: Sequence[_Unit]) -> Iterator[Place]:
    """Every slice of every parameter and buffer that goes with a unit."""
    found: dict[tuple[str, int, bool, int], set[tuple[int, int]]] = {}
    for number, unit in enumerate(units):
        slices: list[tuple[Source | Reader, int, bool]] = [(source, index, False) for source, index in unit.sources]
        slices += [(reader, index, reader.layer) for reader, index in unit.inputs if not reader.depthwise]
        for of, index, reads in slices:
            (weight, _), *_ = of.places
            for parameter, axis in of.places:
                groups = of.groups if parameter == weight else 1
                found.setdefault((parameter, axis, reads, groups), set()).add((number, index))
    for (parameter, axis, reads, groups), pairs in found.items():
        channel, index = torch.tensor(sorted(pairs)).T
        yield Place(parameter, axis, channel, index, reads, groups)
