"""Groups of channels that compete with each other, and where in the parameters each channel lives.

What can only go together counts as one channel: four outputs that a pixel shuffle turns into one map, the two halves of
a gate that are multiplied. A group's scores and masks are [channels], in the order of the output channels of its root,
a layer that makes them; masks are True = kept. Scores of channels live in one dict with those of entries, under the
group's key: "channels/" and the root's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where channels of a group live in one parameter or buffer: slice `index[i]` of an axis is of `channel[i]`."""

    parameter: str
    axis: int
    channel: Tensor
    index: Tensor
    reads: bool
    """Whether these are inputs of a layer; otherwise they make the channels, or scale and shift them."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of coupled layers: each goes from all of them or from none."""

    root: str
    """Name of the first layer that makes them."""
    makers: tuple[str, ...]
    """Names of all layers that do."""
    channels: int
    parts: tuple[tuple[tuple[int, ...], int], ...]
    """Channels that compete with each other, and how many of those go."""
    places: tuple[Place, ...]

    @property
    def key(self) -> str:
        """What scores of its channels are called; no parameter has such a name."""
        return f"channels/{self.root}"

    def totals(self, values: Mapping[str, Tensor], *, reads_only: bool = False) -> Tensor:
        """Values of entries added up for each channel, float64 [channels], on their device.

        Args:
            values: shaped as parameters, by name; a parameter without any counts as zero.
            reads_only: only where channels are read, not where they are made.
        """
        places = [place for place in self.places if place.parameter in values and (place.reads or not reads_only)]
        device = values[places[0].parameter].device if places else None
        total = torch.zeros(self.channels, dtype=torch.float64, device=device)
        for place in places:
            slices = values[place.parameter].movedim(place.axis, 0)
            slices = slices.reshape(len(slices), -1).double().sum(1)
            total.index_add_(0, place.channel.to(device), slices[place.index.to(device)])
        return total

    def removed(self, scores: Mapping[str, Tensor]) -> list[int]:
        """The channels that go, in order: of each part those of lowest score, ties in order of position.

        A channel's score is the one under the group's key, or the sum of the scores of all its entries.
        """
        own = scores[self.key] if self.key in scores else self.totals(scores)
        return sorted(channel for part, count in self.parts for channel in _lowest(own.cpu(), part, count))


def masks_without(
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    *,
    reads_only: bool = False,
) -> dict[str, Tensor]:
    """Masks, in the dense shapes, of what stays when the channels of lowest score go.

    Args:
        groups: from `channel_groups`.
        scores: of entries or of channels.
        shapes: of the dense parameters that are wanted.
        reads_only: whether removed channels are only no longer read, and still made.
    """
    masks = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for place, gone in _gone(groups, scores):
        if place.parameter in masks and (place.reads or not reads_only):
            masks[place.parameter].movedim(place.axis, 0)[gone] = False
    return masks


def survivors_without(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """The flat positions of what stays, int64 and shaped as the smaller parameters and buffers, by name."""
    kept: dict[str, dict[int, Tensor]] = {}
    for place, gone in _gone(groups, scores):
        axes = kept.setdefault(place.parameter, {})
        stays = axes.setdefault(place.axis, torch.ones(shapes[place.parameter][place.axis], dtype=torch.bool))
        stays[gone] = False
    survivors = {}
    for name, shape in shapes.items():
        positions = torch.arange(shape.numel()).view(shape)
        for axis, stays in kept.get(name, {}).items():
            positions = positions.index_select(axis, stays.nonzero().flatten())
        survivors[name] = positions
    return survivors


def _gone(groups: Iterable[ChannelGroup], scores: Mapping[str, Tensor]) -> Iterable[tuple[Place, Tensor]]:
    """Every place of every group, and the slices that go there."""
    for group in groups:
        gone = torch.zeros(group.channels, dtype=torch.bool)
        gone[group.removed(scores)] = True
        yield from ((place, place.index[gone[place.channel]]) for place in group.places)


def _lowest(scores: Tensor, channels: Sequence[int], count: int) -> list[int]:
    """The `count` of `channels` with the lowest scores; ties go in order of position."""
    order = scores[list(channels)].argsort(stable=True)[:count].tolist()
    return [channels[place] for place in order]
