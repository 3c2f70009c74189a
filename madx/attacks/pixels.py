"""Points on the grid of 8-bit pixels: what a network can really be sent.

Points and images are float32 [B, ...] in [0, 1]; the grid is k / 255 for k = 0 .. 255.
"""

from __future__ import annotations

import torch
from torch import Tensor

from madx.recipe import ThreatConfig

_LEVELS = 255
_ROUNDING = 1e-7
"""What float32 adds to a distance: images and eps are themselves rounded."""


def rounded(points: Tensor, images: Tensor, threat: ThreatConfig) -> Tensor:
    """The points on the 8-bit grid, near the given ones, that stay inside the threat; float32 [B, ...].

    Every pixel goes to its nearest level. Where that leaves the ball, pixels go to the next level towards the clean
    image instead: in L-inf each that is outside, in L2 those that lie nearest to the middle of two levels, no more than
    it takes. If there is no level between a point and its clean image (which is then not on the grid itself), the pixel
    becomes the clean image's.

    Args:
        points: inside the threat.
        images: clean images in [0, 1].
        threat: norm and eps.
    """
    x, given = images.double(), points.double()
    nearest, towards = (given * _LEVELS).round() / _LEVELS, _towards(given, x)
    if threat.norm == "linf":
        back = (nearest - x).abs() > threat.eps + _ROUNDING
    else:
        back = _fewest_back(given, x, nearest, towards, threat.eps)
    return torch.where(back, towards, nearest).float()


def _towards(points: Tensor, images: Tensor) -> Tensor:
    """Each pixel's next level between the point and the clean image; the clean value where there is none."""
    # A pixel that is on a level is its own next one, although float32 has rounded it.
    slack = _ROUNDING * _LEVELS
    scaled = points * _LEVELS
    up, down = (scaled - slack).ceil() / _LEVELS, (scaled + slack).floor() / _LEVELS
    level = torch.where(points < images, up, down)
    passed = torch.where(points < images, level > images + _ROUNDING, level < images - _ROUNDING)
    return torch.where(passed, images, level)


def _fewest_back(points: Tensor, images: Tensor, nearest: Tensor, towards: Tensor, eps: float) -> Tensor:
    """Which pixels go towards the clean image so that the rest can go to their nearest level, bool [B, ...].

    Those whose point is nearest to the middle of two levels come first: there the detour is shortest.
    """
    outwards, inwards = (nearest - images).square(), (towards - images).square()
    saved = (outwards - inwards).clamp_min(0).flatten(1)
    detour = ((towards - points).abs() - (nearest - points).abs()).flatten(1)
    order = detour.masked_fill(saved == 0, torch.inf).argsort(1)
    excess = outwards.flatten(1).sum(1, keepdim=True) - (eps + _ROUNDING) ** 2
    before = saved.gather(1, order).cumsum(1) - saved.gather(1, order)
    back = (before < excess) & (saved.gather(1, order) > 0)
    return torch.zeros_like(back).scatter(1, order, back).view(points.shape)
