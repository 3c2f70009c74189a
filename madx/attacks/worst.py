"""What an attack has found: for each image of a batch the point that is furthest on the wrong side.

Points are float32 [B, ...] in [0, 1], margins float32 [B]; `rows` are int64 positions in that batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from madx.closeness import ROUNDING, reach_of_sorted

_ROUNDING = ROUNDING["fp16"]
"""Of the coarsest engine that the examples may be scored on."""


class Worst:
    """For each image the point with the largest margin seen so far, and whether the image has fallen for sure.

    The largest margin, and not the first error, is kept so that an example survives the rounding of the engine it is
    going to be scored on. Fallen for sure means turned by more than that rounding: nobody needs to attack it further.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.points = images.clone()
        self.margins = torch.full((len(images),), -torch.inf, device=images.device)
        self.reach = torch.zeros(len(images), device=images.device)
        """Largest `madx.closeness` reach of an image's logits so far: what rounding is measured by."""
        self.fallen = torch.zeros(len(images), dtype=torch.bool, device=images.device)
        self.resting = torch.zeros_like(self.fallen)
        """Images that whoever runs the attack does not want attacked for now."""

    def see(self, rows: Tensor, points: Tensor, logits: Tensor) -> None:
        """Take note of one point of each of the images `rows` [b], with the network's logits [b, K] there."""
        logits = logits.float()  # callables answer in a precision of their own
        margins = wrong_margin(logits, self.labels[rows])
        larger = margins > self.margins[rows]
        self.points[rows[larger]] = points[larger]
        self.margins[rows[larger]] = margins[larger]
        self.reach[rows] = self.reach[rows].maximum(reach_of_sorted(logits.sort(1).values).nan_to_num(nan=0.0))
        self.fallen[rows] |= surely_wrong(margins, self.reach[rows])

    def standing(self) -> Tensor:
        """Positions of the images that are to be attacked, int64: those not resting that have not fallen for sure."""
        return (~(self.fallen | self.resting)).nonzero().squeeze(1)


def wrong_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Highest wrong logit minus true logit, [B]: positive where the image is misclassified.

    Infinite where it is not a number: a network that returns NaN has failed there, and must not count as robust.
    """
    true = logits.gather(1, labels[:, None])
    margin = (logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True) - true).squeeze(1)
    return margin.masked_fill(margin.isnan(), torch.inf)


def surely_wrong(margins: Tensor, reach: Tensor) -> Tensor:
    """Where the margin is larger than an engine's rounding of logits with such a reach could undo, bool [B]."""
    return (margins > _ROUNDING * reach) | margins.isposinf()
