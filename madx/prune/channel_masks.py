"""Masks of channels that are being learned: removed channels are no longer read, and still made.

What nothing reads takes no part in the logits, so the dense network without the columns that read a channel computes
what the network without the channel computes. But the channel is still there, and the gradient at the columns tells
what reading it again would be worth: a removed channel can come back. (Where its rows were zero as well, the gradient
would vanish on both sides.) Only where a normalisation takes sums over channels do the removed ones still count in
them while it is learned. Scores and slopes are float32 [channels] under the groups' keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from madx.models.copies import copied
from madx.prune.agreement import check_same_function
from madx.prune.groups import ChannelGroup, masks_without


class ChannelMasks:
    """The masks of a network's groups of channels; values are taken from and given to the device they come from."""

    def __init__(self, dense: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self.groups = tuple(groups)
        read = {place.parameter for group in groups for place in group.places if place.reads}
        self._shapes = {name: value.shape for name, value in dense.named_parameters() if name in read}

    def start(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The scores of all entries that go with a channel, those that make it among them, added up."""
        return {group.key: group.totals(scores).float() for group in self.groups}

    def masks(self, scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Masks of the weights that read channels, in the dense shapes and on the scores' device."""
        device = next((score.device for score in scores.values()), None)
        masks = masks_without(self.groups, scores, self._shapes, reads_only=True)
        return {name: mask.to(device) for name, mask in masks.items()}

    def slopes(self, slopes: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Slopes of the masks' entries -> slopes of the channels' scores: one stands for all that reads the channel."""
        return {group.key: group.totals(slopes, reads_only=True).float() for group in self.groups}

    def check(self, dense: nn.Module, pruned: nn.Module, scores: Mapping[str, Tensor], *, shape: torch.Size) -> None:
        """Compare the masked dense network with the network whose channels are gone by the same scores.

        Raises:
            ModelError: their logits differ on noise of `shape`; something else than a masked weight reads channels.
        """
        whole = {name: torch.ones_like(value, dtype=torch.bool) for name, value in dense.named_parameters()}
        masks = whole | masks_without(self.groups, scores, self._shapes, reads_only=True)
        check_same_function(copied(dense), pruned.state_dict(), masks, shape=shape)
