"""Removal of whole channels, coupled layers included, and the coverage that says what became of every layer.

`Survivors` maps a parameter or buffer name to the flat positions, int64 and shaped as the pruned tensor, that its
entries had in the dense one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madx.prune.layers import listed_layers, own_parameters, parameter_name, scored_parameters, unscored_layers
from madx.prune.resize import resize_to_
from madx.prune.trials import channel_groups, without_channels

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

    A channel's score is its own under the group's key, or the sum of the scores of all weights and biases that go with
    it: its row in the layers that make it, its column in the layers that read it. The network's own outputs stay.
    Before the module is touched, a smaller copy is compared with the dense network whose removed entries are zero.

    Args:
        module: on the CPU; resized in place, with the surviving values.
        scores: for every scored parameter, and for groups of channels that have scores of their own.
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
    unscored = unscored_layers(module) if unscored is None else unscored
    groups, reasons = channel_groups(module, sparsity, round_to, example=example, unscored=unscored)
    state, survivors = without_channels(module, groups, scores, shape=example.shape)
    resize_to_(module, state)
    return survivors, reasons


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


def _mask(index: Tensor, whole: Tensor) -> Tensor:
    """Bool mask shaped as `whole`, True at the flat positions `index`."""
    mask = torch.zeros(whole.numel(), dtype=torch.bool)
    mask[index.flatten()] = True
    return mask.view(whole.shape)
