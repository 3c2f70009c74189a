"""Random crops and flips of a batch [B, C, H, W]; each image draws its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, kind: str, generator: torch.Generator) -> Tensor:
    """Apply `none`, `crop` (zero-pad by an eighth, crop back) or `flip-crop` (that, and mirror half of the images).

    Args:
        images: float32 [B, C, H, W] on the CPU; returned with the same shape.
        kind: as in the recipe's `augment`.
        generator: CPU generator.
    """
    if kind == "none":
        return images
    if kind == "flip-crop":
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    return _random_crop(images, generator)


def _random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    batch, _, height, width = images.shape
    pad = max(height, width) // 8
    if pad == 0:
        return images
    padded = F.pad(images, (pad, pad, pad, pad))
    top = torch.randint(0, 2 * pad + 1, (batch,), generator=generator)
    left = torch.randint(0, 2 * pad + 1, (batch,), generator=generator)
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    return padded[torch.arange(batch)[:, None, None, None], channels, rows, columns]
