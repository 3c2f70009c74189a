"""Which channels can only go together, how many of them go, and where in the parameters each of them lives.

torch-pruning's dependency graph finds what is coupled (a residual sum ties its branches). A group's scores and masks
are [channels], in the order of the output channels of its root, a layer that makes them; masks are True = kept.
Scores of channels live in one dict with those of entries, under the group's key: "channels/" and the root's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from madx.errors import ModelError
from madx.plugins import USER_ERRORS, describe
from madx.prune.layers import NOT_USED, SCORED_LAYERS, listed_layers, parameter_name, scored_layers
from madx.prune.resize import is_depthwise

MAKES_OUTPUTS = "makes the network's outputs"
"""The reason for a layer whose output channels are the network's own."""


@dataclass(frozen=True)
class Place:
    """Where channels of a group live in one parameter: slice `index[i]` along `axis` is of channel `channel[i]`."""

    parameter: str
    axis: int
    channel: Tensor
    index: Tensor
    reads: bool
    """Whether these are inputs of the layer; otherwise they make the channels."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of coupled layers: each goes from all of them or from none."""

    root: str
    """Name of the first layer that makes them."""
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
    for group in groups:
        gone = torch.zeros(group.channels, dtype=torch.bool)
        gone[group.removed(scores)] = True
        for place in group.places:
            if place.parameter in masks and (place.reads or not reads_only):
                masks[place.parameter].movedim(place.axis, 0)[place.index[gone[place.channel]]] = False
    return masks


def dependency_graph(module: nn.Module, example: Tensor) -> tp.DependencyGraph:
    """What torch-pruning finds by following autograd from the logits of `example`; all parameters get gradients.

    Raises:
        ModelError: the network cannot be traced.
    """
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # torch-pruning follows autograd
    try:
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=example, verbose=False)
    except USER_ERRORS as error:
        raise untraceable(describe(error)) from error
    if not any(layer in graph.module2node for layer in scored_layers(module).values()):
        raise untraceable("no gradient leads from the logits to any layer")
    return graph


def untraceable(problem: str) -> ModelError:
    """The error for a network whose channels torch-pruning cannot follow."""
    return ModelError(
        f"torch-pruning cannot follow the channels of this network ({problem}); "
        "use prune.structure: 2:4 or unstructured"
    )


def channel_groups(
    module: nn.Module, graph: tp.DependencyGraph, sparsity: float, *, round_to: int, unscored: Mapping[str, str]
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Every group of which channels go.

    Args:
        module: the dense network that `graph` was made of.
        graph: from `dependency_graph`.
        sparsity: share of the channels of each group.
        round_to: what is kept of each group is a multiple of this, and at least one multiple.
        unscored: layers without scores and why; what is tied to such a convolution or linear layer stays whole.

    Returns:
        The groups, and why layers stay whole, those of `unscored` among them.

    Raises:
        ModelError: the graph does not agree with the layers.
    """
    names = {layer: name for name, layer in module.named_modules()}
    layers = {name: layer for name, layer in listed_layers(module).items() if isinstance(layer, SCORED_LAYERS)}
    unable: dict[nn.Module, str] = {layer: unscored[name] for name, layer in layers.items() if name in unscored}
    kept_whole = unable | {
        layer: reason for layer in layers.values() if layer not in unable and (reason := _why_whole(graph, layer))
    }
    reasons = dict(unscored) | {names[layer]: reason for layer, reason in kept_whole.items()}
    found: list[ChannelGroup] = []
    for group in graph.get_all_groups():
        root, channels = group[0].dep.target.module, len(group[0].idxs)
        if channels != graph.get_out_channels(root):
            raise untraceable(f"it sees {channels} channels in {names[root]}, {type(root).__name__}")
        makers = _makers(group, graph)
        parts = [(tuple(part), len(part) - _kept_channels(len(part), sparsity, round_to)) for part in _parts(makers)]
        places = tuple(_places(group, graph, names))
        reason = _why_group_whole(group, makers, kept_whole, names) or _why_columns_stay(group, unable, names)
        reason = reason or _why_not_singly(places, channels)
        if not reason and not any(count for _, count in parts):
            reason = f"{channels} channels, and what is kept is a multiple of {round_to}"
        if reason:
            reasons |= {names[maker]: reason for maker in makers if maker not in kept_whole}
            continue
        found.append(ChannelGroup(names[root], channels, tuple(parts), places))
    return found, reasons


def _places(group: Any, graph: tp.DependencyGraph, names: Mapping[nn.Module, str]) -> Iterator[Place]:
    """Rows and biases of the convolutions and linear layers that make a group's channels, columns of those that read.

    A depthwise convolution makes what it reads: its row is the channel's.
    """
    for item in group:
        layer = item.dep.target.module
        if not isinstance(layer, (_ConvNd, nn.Linear)):
            continue
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)
        flipped = isinstance(layer, _ConvTransposeNd) and not is_depthwise(layer)
        channel, index = torch.tensor(item.root_idxs), torch.tensor(item.idxs)
        axis = int(makes == flipped)
        yield Place(parameter_name(names[layer], "weight"), axis, channel, index, reads=not makes)
        if makes and layer.bias is not None:
            yield Place(parameter_name(names[layer], "bias"), 0, channel, index, reads=False)


def _makers(group: Any, graph: tp.DependencyGraph) -> dict[nn.Module, list[int]]:
    """The layers that make a group's channels, and which of the root's channels each one makes."""
    return {
        item.dep.target.module: item.root_idxs
        for item in group
        if graph.is_out_channel_pruning_fn(item.dep.handler)
        and isinstance(item.dep.target.module, (_ConvNd, nn.Linear))
    }


def _parts(makers: Mapping[nn.Module, list[int]]) -> list[list[int]]:
    """A group's channels, cut where other layers make them (a sum over a concatenation); each part gives its share."""
    owners: dict[int, set[nn.Module]] = {}
    for maker, channels in makers.items():
        for channel in channels:
            owners.setdefault(channel, set()).add(maker)
    parts: dict[frozenset[nn.Module], list[int]] = {}
    for channel in sorted(owners):
        parts.setdefault(frozenset(owners[channel]), []).append(channel)
    return list(parts.values())


def _why_group_whole(
    group: Any,
    makers: Mapping[nn.Module, list[int]],
    kept_whole: Mapping[nn.Module, str],
    names: Mapping[nn.Module, str],
) -> str:
    """Why no channel of a group can go, or nothing."""
    for maker in makers:
        if maker in kept_whole:
            return f"tied to {names[maker]}: {kept_whole[maker]}"
    layers = [item.dep.target.module for item in group]
    return next((f"read by {names[layer]}: {_grouped(layer)}" for layer in layers if _grouped(layer)), "")


def _why_columns_stay(group: Any, unscored: Mapping[nn.Module, str], names: Mapping[nn.Module, str]) -> str:
    """Why the layers that read a group's channels need them all, or nothing."""
    layers = [item.dep.target.module for item in group]
    return next((f"read by {names[layer]}: {unscored[layer]}" for layer in layers if layer in unscored), "")


def _why_not_singly(places: Sequence[Place], channels: int) -> str:
    """Why channels of a group cannot be chosen one by one, or nothing.

    After a split whose halves are multiplied, or a view as a map, several channels live at one place of the layer that
    reads them; torch-pruning names them all, or one of them and no reader of the others. If any of them goes the place
    goes, and with it what the others have there: far more would be removed than was decided.
    """
    reads = [place for place in places if place.reads]
    if not reads:
        return ""
    shared = [place for place in reads if len({*place.index.tolist()}) < len({*place.channel.tolist()})]
    if shared:
        return f"several of its channels share one place in {shared[0].parameter} (a split or a view lies between)"
    if len({channel for place in reads for channel in place.channel.tolist()}) < channels:
        return f"what reads some of its channels is not known, beside {reads[0].parameter} (a split lies between)"
    return ""


def _lowest(scores: Tensor, channels: Sequence[int], count: int) -> list[int]:
    """The `count` of `channels` with the lowest scores; ties go in order of position."""
    order = scores[list(channels)].argsort(stable=True)[:count].tolist()
    return [channels[place] for place in order]


def _why_whole(graph: tp.DependencyGraph, layer: nn.Module) -> str:
    """Why a layer's output channels must stay, or nothing."""
    if layer not in graph.module2node:
        return NOT_USED
    outputs = MAKES_OUTPUTS if _reaches_output(graph.module2node[layer]) else ""
    return _grouped(layer) or outputs


def _grouped(layer: nn.Module) -> str:
    """Why single channels of a convolution with groups cannot go, or nothing; those of a depthwise one can."""
    if isinstance(layer, _ConvNd) and layer.groups > 1 and not is_depthwise(layer):
        return f"grouped convolution ({layer.groups} groups)"
    return ""


def _reaches_output(node: Any) -> bool:
    """Whether the node's channels arrive at the network's output without another layer reading them."""
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if not current.outputs:
            return True
        for follower in current.outputs:
            if not isinstance(follower.module, (_ConvNd, nn.Linear)) and id(follower) not in seen:
                seen.add(id(follower))
                pending.append(follower)
    return False


def _kept_channels(channels: int, sparsity: float, round_to: int) -> int:
    """How many of `channels` stay: the nearest multiple of round_to (half goes up), at least one, at most all."""
    multiples = max(1, int((1 - sparsity) * channels / round_to + 0.5))
    return min(channels, multiples * round_to)
