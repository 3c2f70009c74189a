"""From scores to the pruned network: one rule for each structure that a recipe can ask for.

The same rule decides what goes in the end and what would go by half of the batches, so that a saliency is called
settled by the decision that hangs on it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from madx.prune.layers import unscored_layers
from madx.prune.masks import apply_masks_, two_four_masks, unstructured_masks
from madx.prune.structure import MAKES_OUTPUTS, coverage, remove_channels_, survivor_masks
from madx.recipe import PruneConfig

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Removal:
    """What a rule left of the dense network."""

    module: nn.Module
    """The pruned network, on the CPU: smaller where channels went, with the removed entries at zero."""
    held: Masks
    """In the pruned network's shapes: what fine-tuning must keep at zero."""
    masks: Masks
    """In the dense network's shapes: all that is kept. A parameter without a mask is whole."""
    reasons: dict[str, str]
    """Why layers stayed whole, by name."""
    channels: tuple[int, int] | None = None
    """Output channels before and after, over the layers that do not make the network's outputs; None if none may go."""


def remove(dense: nn.Module, scores: Mapping[str, Tensor], config: PruneConfig, *, example: Tensor) -> Removal:
    """Apply the recipe's structure at its sparsity to a copy of the dense network.

    Args:
        dense: on the CPU; not changed.
        scores: float32 for every parameter that can be scored, on any device; other layers are listed and stay whole.
        config: structure, sparsity and round_to.
        example: images [B, C, H, W] to trace channels with.

    Raises:
        ModelError: channels cannot be removed from this network, or scores are missing.
    """
    module = copy.deepcopy(dense)
    unscored = unscored_layers(dense, shape=example.shape)
    reasons = dict(unscored)
    masks: Masks = {}
    held: Masks = {}
    channels = None
    if config.structure in ("channels", "channels+2:4"):
        scores = {name: score.cpu() for name, score in scores.items()}
        survivors, reasons = remove_channels_(
            module, scores, config.sparsity, round_to=config.round_to, example=example, unscored=unscored
        )
        masks = survivor_masks(survivors, dense)
        channels = _channel_counts(dense, module, reasons)
        scores = {name: score.flatten()[survivors[name]] for name, score in scores.items()}
    if config.structure == "unstructured":
        held = masks = unstructured_masks(module, scores, config.sparsity, unscored=unscored)
    elif config.structure in ("2:4", "channels+2:4"):
        held, dense_layers = two_four_masks(module, scores, unscored=unscored)
        reasons = reasons | dense_layers
        masks = _combined(masks, held) if masks else held
    apply_masks_(module, held)
    return Removal(module, held, masks, reasons, channels)


def _channel_counts(dense: nn.Module, pruned: nn.Module, reasons: Mapping[str, str]) -> tuple[int, int]:
    inner = [layer for layer in coverage(dense, pruned, {}, reasons).layers if layer.reason != MAKES_OUTPUTS]
    return sum(layer.shape_before[0] for layer in inner), sum(layer.shape_after[0] for layer in inner)


def _combined(channels: Masks, held: Masks) -> Masks:
    """Masks in the dense shapes: of the entries that `channels` keeps, in order, those that `held` keeps."""
    combined = dict(channels)
    for name, mask in held.items():
        whole = channels[name].clone()
        whole[channels[name]] = mask.flatten()
        combined[name] = whole
    return combined
