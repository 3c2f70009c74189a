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
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from madx.errors import ModelError
from madx.prune.curvature import scored_layers, scored_parameters

Survivors = dict[str, Tensor]


@dataclass(frozen=True)
class LayerCoverage:
    """What became of one layer: weights kept of `weights`, shapes, and the reason if nothing was removed."""

    name: str
    kind: str
    shape_before: tuple[int, ...]
    shape_after: tuple[int, ...]
    weights: int
    kept: int
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """Every scored layer of the network, in its order; none is left out."""

    layers: tuple[LayerCoverage, ...]

    @property
    def kept_share(self) -> float:
        """Share of the scored weights and biases that is left."""
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
) -> tuple[Survivors, dict[str, str]]:
    """Remove the `sparsity` share of the channels of every group of coupled layers, lowest score first.

    A channel's score is the sum of the scores of all weights and biases that go with it: its row in the layers that
    make it, its column in the layers that read it. The network's own outputs stay.

    Args:
        module: on the CPU; resized in place, with the surviving values.
        scores: for every scored parameter.
        sparsity: share of each group's channels.
        round_to: what is kept of each group is a multiple of this, and at least one multiple.
        example: images [B, C, H, W] to trace with.

    Returns:
        The survivors of every parameter and float buffer, and the reason for each layer whose output channels all
        stayed.

    Raises:
        ModelError: the network cannot be traced, or the pruned one does not run.
    """
    positions = copy.deepcopy(module).double()
    graph = _dependency_graph(positions, example.double())
    with torch.no_grad():
        for _, tensor in _float_tensors(positions):
            tensor.copy_(torch.arange(tensor.numel(), dtype=tensor.dtype).view(tensor.shape))
    dense: dict[str, str] = {}
    decisions = list(_decisions(positions, graph, scores, sparsity, round_to, dense))
    for layer, prune, channels in decisions:
        graph.get_pruning_group(layer, prune, channels).prune()
    survivors = {name: tensor.detach().round().long() for name, tensor in _float_tensors(positions)}
    values = dict(_float_tensors(module))
    state = module.state_dict()
    state.update({name: values[name].detach().flatten()[index] for name, index in survivors.items() if name in state})
    resize_to_(module, state)
    _check_runs(module, example)
    return survivors, dense


def survivor_masks(survivors: Survivors, dense: nn.Module) -> dict[str, Tensor]:
    """The survivors of the scored parameters as masks in the DENSE network's shapes, True = kept."""
    masks = {}
    for name, parameter in scored_parameters(dense).items():
        mask = torch.zeros(parameter.numel(), dtype=torch.bool)
        mask[survivors[name].flatten()] = True
        masks[name] = mask.view(parameter.shape)
    return masks


def resize_to_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give every layer the shape of its entry in `state`, and load `state` (strict).

    Raises:
        ModelError: `state` does not belong to a channel-pruned version of this network.
    """
    own = module.state_dict()
    if own.keys() != state.keys():
        difference = sorted(own.keys() ^ state.keys())
        raise ModelError(f"the pruned weights do not belong to this network: {', '.join(difference[:5])} differ")
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        for kind, parameter in layer.named_parameters(recurse=False):
            value = state[prefix + kind].to(parameter.device)
            if value.shape != parameter.shape:
                setattr(layer, kind, nn.Parameter(value.clone(), requires_grad=parameter.requires_grad))
        for kind, buffer in layer.named_buffers(recurse=False):
            if prefix + kind in state and state[prefix + kind].shape != buffer.shape:
                setattr(layer, kind, state[prefix + kind].to(buffer.device).clone())
        _update_sizes_(layer)
    module.load_state_dict(dict(state))


def coverage(dense: nn.Module, pruned: nn.Module, masks: Mapping[str, Tensor], reasons: Mapping[str, str]) -> Coverage:
    """Compare the networks layer by layer.

    Args:
        dense: before pruning.
        pruned: the same layers, maybe smaller.
        masks: which entries of the DENSE parameters are kept; a parameter without a mask is whole.
        reasons: why layers stayed whole.
    """
    after = scored_layers(pruned)
    rows = []
    for name, layer in scored_layers(dense).items():
        weights = kept = 0
        for kind, parameter in layer.named_parameters(recurse=False):
            mask = masks.get(f"{name}.{kind}" if name else kind)
            weights += parameter.numel()
            kept += parameter.numel() if mask is None else int(mask.sum())
        before, now = tuple(layer.weight.shape), tuple(after[name].weight.shape)
        rows.append(LayerCoverage(name, type(layer).__name__, before, now, weights, kept, reasons.get(name, "")))
    return Coverage(tuple(rows))


def _dependency_graph(module: nn.Module, example: Tensor) -> tp.DependencyGraph:
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # torch-pruning follows autograd
    try:
        return tp.DependencyGraph().build_dependency(module, example_inputs=example, verbose=False)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise ModelError(
            f"torch-pruning cannot follow the channels of this network ({type(error).__name__}: {error}); "
            "use prune.structure: 2:4 or unstructured"
        ) from error


def _decisions(
    module: nn.Module,
    graph: tp.DependencyGraph,
    scores: Mapping[str, Tensor],
    sparsity: float,
    round_to: int,
    dense: dict[str, str],
) -> Iterator[tuple[nn.Module, Any, list[int]]]:
    """(root layer, its pruning function, channels to remove) of each group; reasons for the others go to `dense`."""
    names = {layer: name for name, layer in module.named_modules()}
    kept_whole = {layer: reason for layer in scored_layers(module).values() if (reason := _why_whole(graph, layer))}
    dense.update({names[layer]: reason for layer, reason in kept_whole.items()})
    for group in graph.get_all_groups():
        makers = [
            dep.target.module
            for dep, _ in group
            if graph.is_out_channel_pruning_fn(dep.handler) and isinstance(dep.target.module, (_ConvNd, nn.Linear))
        ]
        reason = next((f"tied to {names[m]}: {kept_whole[m]}" for m in makers if m in kept_whole), "")
        channels = len(group[0].idxs)
        count = channels - _kept_channels(channels, sparsity, round_to)
        if not reason and count == 0:
            reason = f"{channels} channels, and what is kept is a multiple of {round_to}"
        if reason:
            dense.update({names[maker]: reason for maker in makers if maker not in kept_whole})
            continue
        order = _channel_scores(group, graph, names, scores).argsort(stable=True)
        yield group[0].dep.target.module, group[0].dep.handler, sorted(order[:count].tolist())


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
        return "the forward pass does not use this layer"
    if isinstance(layer, _ConvNd) and layer.groups > 1 and layer.groups != layer.out_channels:
        return f"grouped convolution ({layer.groups} groups)"
    return "makes the network's outputs" if _reaches_output(graph.module2node[layer]) else ""


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


def _update_sizes_(layer: nn.Module) -> None:
    """Make a layer's attributes agree with the shapes of its tensors."""
    if isinstance(layer, _ConvNd):
        depthwise = layer.groups > 1 and layer.groups == layer.in_channels
        layer.out_channels = layer.weight.shape[0]
        layer.groups = layer.out_channels if depthwise and layer.weight.shape[1] == 1 else layer.groups
        layer.in_channels = layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _BatchNorm) and layer.weight is not None:
        layer.num_features = layer.weight.shape[0]
    elif isinstance(layer, nn.GroupNorm) and layer.weight is not None:
        layer.num_channels = layer.weight.shape[0]
    elif isinstance(layer, nn.LayerNorm) and layer.weight is not None:
        layer.normalized_shape = tuple(layer.weight.shape)


def _check_runs(module: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            module(example)
    except RuntimeError as error:
        raise ModelError(
            f"the network does not run with fewer channels ({error}); its forward pass may fix a channel count: "
            "use prune.structure: 2:4 or unstructured"
        ) from error
