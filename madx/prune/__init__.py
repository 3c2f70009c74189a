"""Pruning: adversarial curvature, saliency, masks, and the structures that hardware gains from.

Scores are float32, one for each entry of a parameter, keyed by the parameter's name; larger = more important. Masks are
bool with the parameter's shape, True = kept.
"""

from madx.prune.averaging import Saliency, average_scores
from madx.prune.channel_masks import ChannelMasks
from madx.prune.coupling import MAKES_OUTPUTS
from madx.prune.criteria import CRITERIA, Criterion
from madx.prune.heads import all_heads, describe_numbers, heads_of
from madx.prune.layers import unscored_layers
from madx.prune.learned import Learner, Task, learn_scores
from madx.prune.masks import apply_masks_, fill_zeros_, two_four_masks, unstructured_masks
from madx.prune.removal import Removal, Rule, removes_channels
from madx.prune.resize import resize_to_
from madx.prune.saliency import mad_saliency, optimise_masks
from madx.prune.settling import Round, Settling, batches_needed, has_settled
from madx.prune.structure import (
    Coverage,
    LayerCoverage,
    Survivors,
    coverage,
    remove_channels_,
    survivor_masks,
)
from madx.prune.summary import SaliencySummary, summarise

__all__ = [
    "CRITERIA",
    "MAKES_OUTPUTS",
    "ChannelMasks",
    "Coverage",
    "Criterion",
    "LayerCoverage",
    "Learner",
    "Removal",
    "Round",
    "Rule",
    "Saliency",
    "SaliencySummary",
    "Settling",
    "Survivors",
    "Task",
    "all_heads",
    "apply_masks_",
    "average_scores",
    "batches_needed",
    "coverage",
    "describe_numbers",
    "fill_zeros_",
    "has_settled",
    "heads_of",
    "learn_scores",
    "mad_saliency",
    "optimise_masks",
    "remove_channels_",
    "removes_channels",
    "resize_to_",
    "summarise",
    "survivor_masks",
    "two_four_masks",
    "unscored_layers",
    "unstructured_masks",
]
