"""Removal of whole channels, coupled layers included, and the coverage that says what became of every layer.

torch-pruning's dependency graph finds which channels must go together (a residual sum ties its branches). It prunes a
copy whose parameters hold their own positions, so that what survives is known entry by entry: `Survivors` maps a
parameter or buffer name to the flat positions, int64 and shaped as the pruned tensor, that its entries had in the dense
one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from madx.errors import ModelError
from madx.plugins import USER_ERRORS, describe
from madx.prune.agreement import check_same_function
from madx.prune.layers import (
    NOT_USED,
    SCORED_LAYERS,
    listed_layers,
    own_parameters,
    parameter_name,
    scored_layers,
    scored_parameters,
    unscored_layers,
)
from madx.prune.resize import is_depthwise, resize_to_

MAKES_OUTPUTS = "makes the network's outputs"
"""The reason for a layer whose output channels are the network's own."""

Survivors = dict[str, Tensor]


@dataclass(frozen=True)
class LayerCoverage:
    """What became of one layer: weights kept of `weights`, shapes, and why its output channels or groups stayed."""

    name: str
    kind: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    weights: int
    kept: int
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """Every layer of the network that holds weights, scored or not, in its order; none is left out."""

    layers: tuple[LayerCoverage, ...]

    @property
    def kept_share(self) -> float:
        """Share of these layers' weights and biases that is left."""
        return sum(layer.kept for layer in self.layers) / sum(layer.weights for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """For coverage.json."""
        return {"kept_share": self.kept_share, "layers": [asdict(layer) for layer in self.layers]}


def remove_channels_(
    module: nn.Module,
    scores: Mapping[str, Tensor],
    sparsity: float,
    *,
    round_to: int,
    example: Tensor,
    unscored: Mapping[str, str] | None = None,
) -> tuple[Survivors, dict[str, str]]:
    """Remove the `sparsity` share of the channels of every group of coupled layers, lowest score first.

    A channel's score is the sum of the scores of all weights and biases that go with it: its row in the layers that
    make it, its column in the layers that read it. The network's own outputs stay. Before the module is touched, a
    smaller copy is compared with the dense network whose removed entries are zero.

    Args:
        module: on the CPU; resized in place, with the surviving values.
        scores: for every scored parameter.
        sparsity: share of each group's channels.
        round_to: what is kept of each group is a multiple of this, and at least one multiple.
        example: images [B, C, H, W] to trace with.
        unscored: layers without scores and why, from `unscored_layers`; what is tied to such a convolution or linear
            layer stays whole. Without it, those that the structure tells.

    Returns:
        The survivors of every parameter and float buffer, and the reason for each layer whose output channels all
        stayed.

    Raises:
        ModelError: the network cannot be traced, or the smaller one does not run or computes something else; the module
            is as it was.
    """
    positions = copy.deepcopy(module).double()
    graph = _dependency_graph(positions, example.double())
    with torch.no_grad():
        for _, tensor in _float_tensors(positions):
            tensor.copy_(torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape))
    dense = dict(unscored_layers(module) if unscored is None else unscored)
    _prune_(graph, list(_decisions(positions, graph, scores, sparsity, round_to, dense)))
    survivors = {name: tensor.detach().round().long() for name, tensor in _float_tensors(positions)}
    values = dict(_float_tensors(module))
    state = module.state_dict()
    state.update({name: values[name].detach().flatten()[index] for name, index in survivors.items() if name in state})
    masks = {name: _mask(survivors[name], parameter) for name, parameter in module.named_parameters()}
    check_same_function(module, state, masks, shape=example.shape)
    resize_to_(module, state)
    return survivors, dense


def survivor_masks(survivors: Survivors, dense: nn.Module) -> dict[str, Tensor]:
    """The survivors of the scored parameters as masks in the DENSE network's shapes, True = kept."""
    return {name: _mask(survivors[name], parameter) for name, parameter in scored_parameters(dense).items()}


def coverage(dense: nn.Module, pruned: nn.Module, masks: Mapping[str, Tensor], reasons: Mapping[str, str]) -> Coverage:
    """Compare the networks layer by layer.

    Args:
        dense: before pruning.
        pruned: the same layers, maybe smaller.
        masks: which entries of the DENSE parameters are kept; a parameter without a mask is as large as it is in
            `pruned`.
        reasons: why layers stayed whole; what the structure tells need not be among them.
    """
    reasons = {**unscored_layers(dense), **reasons}
    after = listed_layers(pruned)
    rows = []
    for name, layer in listed_layers(dense).items():
        own, left = own_parameters(layer), own_parameters(after[name])
        kept = 0
        for kind in own:
            mask = masks.get(parameter_name(name, kind))
            kept += left[kind].numel() if mask is None else int(mask.sum())
        weights = sum(parameter.numel() for parameter in own.values())
        largest = max(own, key=lambda kind: (own[kind].dim() > 1, own[kind].numel()))
        before, now = tuple(own[largest].shape), tuple(left[largest].shape)
        rows.append(LayerCoverage(name, type(layer).__name__, before, now, weights, kept, reasons.get(name, "")))
    return Coverage(tuple(rows))


def _dependency_graph(module: nn.Module, example: Tensor) -> tp.DependencyGraph:
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # torch-pruning follows autograd
    try:
        graph = tp.DependencyGraph().build_dependency(module, example_inputs=example, verbose=False)
    except USER_ERRORS as error:
        raise _untraceable(describe(error)) from error
    if not any(layer in graph.module2node for layer in scored_layers(module).values()):
        raise _untraceable("no gradient leads from the logits to any layer")
    return graph


def _prune_(graph: tp.DependencyGraph, decisions: list[tuple[nn.Module, Any, list[int]]]) -> None:
    try:
        for layer, prune, channels in decisions:
            graph.get_pruning_group(layer, prune, channels).prune()
    except USER_ERRORS as error:
        raise _untraceable(describe(error)) from error


def _untraceable(problem: str) -> ModelError:
    return ModelError(
        f"torch-pruning cannot follow the channels of this network ({problem}); "
        "use prune.structure: 2:4 or unstructured"
    )


def _decisions(
    module: nn.Module,
    graph: tp.DependencyGraph,
    scores: Mapping[str, Tensor],
    sparsity: float,
    round_to: int,
    dense: dict[str, str],
) -> Iterator[tuple[nn.Module, Any, list[int]]]:
    """(root layer, its pruning function, channels to remove) of each group; reasons for the others go to `dense`.

    `dense` comes with the layers that have no scores.
    """
    names = {layer: name for name, layer in module.named_modules()}
    layers = {name: layer for name, layer in listed_layers(module).items() if isinstance(layer, SCORED_LAYERS)}
    unscored: dict[nn.Module, str] = {layer: dense[name] for name, layer in layers.items() if name in dense}
    kept_whole = unscored | {
        layer: reason for layer in layers.values() if layer not in unscored and (reason := _why_whole(graph, layer))
    }
    dense.update({names[layer]: reason for layer, reason in kept_whole.items()})
    for group in graph.get_all_groups():
        root, channels = group[0].dep.target.module, len(group[0].idxs)
        if channels != graph.get_out_channels(root):
            raise _untraceable(f"it sees {channels} channels in {names[root]}, {type(root).__name__}")
        makers = _makers(group, graph)
        parts = [(part, len(part) - _kept_channels(len(part), sparsity, round_to)) for part in _parts(makers)]
        reason = _why_group_whole(group, makers, kept_whole, names) or _why_columns_stay(group, unscored, names)
        if not reason and not any(count for _, count in parts):
            reason = f"{channels} channels, and what is kept is a multiple of {round_to}"
        if reason:
            dense.update({names[maker]: reason for maker in makers if maker not in kept_whole})
            continue
        totals = _channel_scores(group, graph, names, scores)
        removed = [index for part, count in parts for index in _lowest(totals, part, count)]
        yield root, group[0].dep.handler, sorted(removed)


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


def _lowest(scores: Tensor, channels: list[int], count: int) -> list[int]:
    """The `count` of `channels` with the lowest scores; ties go in order of position."""
    order = scores[channels].argsort(stable=True)[:count].tolist()
    return [channels[place] for place in order]


def _channel_scores(
    group: Any, graph: tp.DependencyGraph, names: Mapping[nn.Module, str], scores: Mapping[str, Tensor]
) -> Tensor:
    """Score of each channel of the group, [channels], in the order of the root's channels."""
    total = torch.zeros(len(group[0].idxs), dtype=torch.float64)
    for item in group:
        layer = item.dep.target.module
        prefix = names.get(layer, "")
        weight = scores.get(f"{prefix}.weight" if prefix else "weight")
        if weight is None or not isinstance(layer, (_ConvNd, nn.Linear)):
            continue
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)
        per_channel = (weight if makes else weight.transpose(0, 1)).flatten(1).double().sum(1)
        bias = scores.get(f"{prefix}.bias" if prefix else "bias")
        if makes and bias is not None:
            per_channel = per_channel + bias.double()
        total.index_add_(0, torch.tensor(item.root_idxs), per_channel[torch.tensor(item.idxs)])
    return total


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


def _float_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and floating-point buffers by name."""
    yield from module.named_parameters()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if buffer.is_floating_point())


def _mask(index: Tensor, whole: Tensor) -> Tensor:
    """Bool mask shaped as `whole`, True at the flat positions `index`."""
    mask = torch.zeros(whole.numel(), dtype=torch.bool)
    mask[index.flatten()] = True
    return mask.view(whole.shape)
