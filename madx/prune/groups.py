"""Groups of channels that compete with each other, and where in the parameters each channel lives.

What can only go together counts as one channel: four outputs that a pixel shuffle turns into one map, the two halves of
a gate that are multiplied. A group's scores and masks are [channels], in the order of the output channels of its root,
a layer that makes them; masks are True = kept. Scores of channels live in one dict with those of entries, under the
group's key: "channels/" and the root's name.

A convolution with groups has a matrix of its own for each of them: rows lie one group after the other, and column k of
a group's rows is another channel than column k of the next group's. So many channels go from each of its groups that
all lose the same number, and which ones is chosen in each by itself where the network allows that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from madx.errors import ModelError


@dataclass(frozen=True)
class Place:
    """Where channels of a group live in one parameter or buffer: slice `index[i]` of an axis is of `channel[i]`.

    In the weight of a convolution with groups, the slices of the second axis are counted on from group to group.
    """

    parameter: str
    axis: int
    channel: Tensor
    index: Tensor
    reads: bool
    """Whether these are inputs of a layer; otherwise they make the channels, or scale and shift them."""
    groups: int = 1
    """Of the convolution whose weight this is."""

    def sums(self, values: Tensor) -> Tensor:
        """Values of the parameter's entries added up for each slice, float64."""
        if self.groups == 1 or self.axis == 0:
            slices = values.movedim(self.axis, 0)
            return slices.reshape(len(slices), -1).double().sum(1)
        by_group = values.reshape(self.groups, len(values) // self.groups, values.shape[1], -1)
        return by_group.double().sum((1, 3)).flatten()

    def spread(self, slices: Tensor, shape: torch.Size) -> Tensor:
        """One value for each slice -> the same, as a factor of a parameter of this shape."""
        if self.groups == 1 or self.axis == 0:
            return slices.view([-1 if axis == self.axis else 1 for axis in range(len(shape))])
        rows = slices.view(self.groups, shape[1]).repeat_interleave(shape[0] // self.groups, 0)
        return rows.view(*rows.shape, *[1] * (len(shape) - 2))


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
            slices = place.sums(values[place.parameter])
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
    for place, stays in _staying(groups, scores, shapes):
        if place.reads or not reads_only:
            masks[place.parameter] &= place.spread(stays, shapes[place.parameter])
    return masks


@dataclass(frozen=True)
class Cut:
    """What goes of one parameter or buffer."""

    name: str
    shape: torch.Size
    axes: Mapping[int, tuple[Place, Tensor]]
    """By axis, which slices stay, bool."""

    def take(self, values: Tensor) -> Tensor:
        """What stays of values in the dense shape.

        Raises:
            ModelError: the groups of a convolution would not lose equally many channels.
        """
        groups = max(place.groups for place, _ in self.axes.values())
        if groups == 1:
            for axis, (_, stays) in self.axes.items():
                values = values.index_select(axis, stays.nonzero().flatten().to(values.device))
            return values
        smaller = list(self.shape)
        for axis, (_, stays) in self.axes.items():
            left = stays.view(groups, -1).sum(1)
            if not left.eq(left[0]).all():
                raise ModelError(
                    f"the {groups} groups of {self.name} would be left with {left.tolist()} channels, not the same"
                )
            smaller[axis] = int(left.sum()) // (groups if axis == 1 else 1)
        return values[self.mask().to(values.device)].view(smaller)

    def mask(self) -> Tensor:
        """What stays as a mask in the dense shape."""
        mask = torch.ones(self.shape, dtype=torch.bool)
        for place, stays in self.axes.values():
            mask &= place.spread(stays, self.shape)
        return mask


def cuts(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> dict[str, Cut]:
    """What goes of the parameters and buffers that anything goes of, when the channels of lowest score go."""
    axes: dict[str, dict[int, tuple[Place, Tensor]]] = {}
    for place, stays in _staying(groups, scores, shapes):
        own = axes.setdefault(place.parameter, {})
        own[place.axis] = (place, own[place.axis][1] & stays if place.axis in own else stays)
    return {name: Cut(name, shapes[name], own) for name, own in axes.items()}


def _staying(
    groups: Iterable[ChannelGroup], scores: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]
) -> Iterator[tuple[Place, Tensor]]:
    """Every place of every group in these parameters, and which of its slices stay, bool."""
    for group in groups:
        gone = torch.zeros(group.channels, dtype=torch.bool)
        gone[group.removed(scores)] = True
        for place in group.places:
            if (shape := shapes.get(place.parameter)) is not None:
                stays = torch.ones(shape[place.axis] * (place.groups if place.axis == 1 else 1), dtype=torch.bool)
                stays[place.index[gone[place.channel]]] = False
                yield place, stays


def _lowest(scores: Tensor, channels: Sequence[int], count: int) -> list[int]:
    """The `count` of `channels` with the lowest scores; ties go in order of position."""
    order = scores[list(channels)].argsort(stable=True)[:count].tolist()
    return [channels[place] for place in order]
