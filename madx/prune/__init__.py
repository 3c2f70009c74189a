"""Pruning: adversarial curvature, saliency, masks, and the structures that hardware gains from.

Scores are float32, one for each entry of a parameter, keyed by the parameter's name; larger = more important. Masks are
bool with the parameter's shape, True = kept.
"""

from madx.prune.criteria import CRITERIA, IMAGE_FREE, Saliency, average_saliency
from madx.prune.masks import apply_masks_, two_four_masks, unstructured_masks
from madx.prune.resize import resize_to_
from madx.prune.saliency import mad_saliency, optimise_masks
from madx.prune.structure import (
    MAKES_OUTPUTS,
    Coverage,
    LayerCoverage,
    Survivors,
    coverage,
    remove_channels_,
    survivor_masks,
)

__all__ = [
    "CRITERIA",
    "IMAGE_FREE",
    "MAKES_OUTPUTS",
    "Coverage",
    "LayerCoverage",
    "Saliency",
    "Survivors",
    "apply_masks_",
    "average_saliency",
    "coverage",
    "mad_saliency",
    "optimise_masks",
    "remove_channels_",
    "resize_to_",
    "survivor_masks",
    "two_four_masks",
    "unstructured_masks",
]
