"""Which channels can only go together, which compete with each other, and why others stay.

Channels that reach one input of a layer are summed, multiplied or otherwise mixed before it, so they go together; so do
the slices of a normalisation or of a learnt scale that they pass. A source all of whose channels reach all inputs alike
(an average over channels, a map that is stretched over all channels, tokens that are mixed) says nothing about single
channels there: whether they can go shows when the smaller network is compared with the whole one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from madx.prune.groups import ChannelGroup, Place
from madx.prune.passes import OUTPUTS, Reader, Source
from madx.prune.probing import Reached

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
    def met(self) -> frozenset[Source | Reader]:
        """All that it passes: channels that differ in this serve different purposes, and each kind gives its share."""
        return frozenset([*(source for source, _ in self.sources), *(reader for reader, _ in self.inputs)])

    @property
    def read(self) -> bool:
        """Whether a layer reads it and makes others from it."""
        return any(reader.layer and not reader.depthwise for reader, _ in self.inputs)


@dataclass(frozen=True)
class Coupled:
    """Layers whose channels are tied, directly or through others, in the network's order."""

    makers: tuple[Source, ...]
    units: tuple[_Unit, ...]

    def group(self, sparsity: float, round_to: int) -> ChannelGroup:
        """As channels to choose from: of each part `sparsity` goes, and what is kept is a multiple of round_to."""
        parts: dict[frozenset[Source | Reader], list[int]] = {}
        for number, unit in enumerate(self.units):
            parts.setdefault(unit.met, []).append(number)
        shares = [(tuple(part), len(part) - _kept(len(part), sparsity, round_to)) for part in parts.values()]
        makers = tuple(map(layer_name, self.makers))
        return ChannelGroup(makers[0], makers, len(self.units), tuple(shares), tuple(_places(self.units)))


def coupled(found: Sequence[Reached]) -> list[Coupled]:
    """Every set of tied layers, from what `probe` found."""
    order = {reached.source: number for number, reached in enumerate(found)}
    units = _units(found)
    ties = _Union()
    for unit in units:
        first, *others = unit.makers
        for other in others:
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
    reason = tied or _why_all_are_read(entry, unable) or _why_unknown(entry, found)
    return {name: of_its_own or reason for name, of_its_own in own.items() if of_its_own or reason}


def layer_name(of: Source | Reader) -> str:
    """The layer that a weight belongs to, or the name of a parameter that belongs to none."""
    parameter, _ = of.places[0]
    return parameter.rpartition(".")[0] if of.layer else parameter


def _units(found: Sequence[Reached]) -> list[_Unit]:
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
        if matrix is not None and reader != OUTPUTS and not _alike(matrix):
            yield reader, matrix


def _alike(matrix: Tensor) -> bool:
    """Whether all channels reach the same inputs."""
    return bool(matrix.eq(matrix[0]).all())


def _own_reason(reached: Reached, whole: Mapping[str, str]) -> str:
    """Why a layer's output channels stay whatever is tied to them, or nothing."""
    source = reached.source
    if reason := whole.get(layer_name(source), "") or _grouped(source.groups):
        return reason
    return MAKES_OUTPUTS if OUTPUTS in reached.readers else ""


def _why_all_are_read(entry: Coupled, unable: Mapping[str, str]) -> str:
    """Why a layer that reads these channels needs them all, or nothing."""
    readers = dict.fromkeys(reader for unit in entry.units for reader, _ in unit.inputs if reader.layer)
    for reader in readers:
        name = layer_name(reader)
        if reason := _grouped(reader.groups) or unable.get(name, ""):
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


def _grouped(groups: int) -> str:
    """Why single channels of a convolution with groups cannot go, or nothing; those of a depthwise one can."""
    return f"grouped convolution ({groups} groups)" if groups > 1 else ""


def _places(units: Sequence[_Unit]) -> Iterator[Place]:
    """Every slice of every parameter and buffer that goes with a unit."""
    found: dict[tuple[str, int, bool], set[tuple[int, int]]] = {}
    for number, unit in enumerate(units):
        slices: list[tuple[Source | Reader, int, bool]] = [(source, index, False) for source, index in unit.sources]
        slices += [(reader, index, reader.layer) for reader, index in unit.inputs if not reader.depthwise]
        for of, index, reads in slices:
            for parameter, axis in of.places:
                found.setdefault((parameter, axis, reads), set()).add((number, index))
    for (parameter, axis, reads), pairs in found.items():
        channel, index = torch.tensor(sorted(pairs)).T
        yield Place(parameter, axis, channel, index, reads)


def _kept(channels: int, sparsity: float, round_to: int) -> int:
    """How many of `channels` stay: the nearest multiple of round_to (half goes up), at least one, at most all."""
    multiples = max(1, int((1 - sparsity) * channels / round_to + 0.5))
    return min(channels, multiples * round_to)
