"""A classifier that nobody defended: what an attack that works must be able to break."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_RIDGE = 1e-3
"""Penalty on the weights, as a share of the images' mean squared length: enough to solve, too little to defend."""


def linear_classifier(images: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """Ridge regression from pixels to classes, in closed form; an nn.Module that maps images to logits.

    w = X^T (X X^T + r I)^-1 T with X the images around their mean, T one-hot: the dual form, so that the cost grows
    with the images and not with the pixels.

    Args:
        images: [N, ...] in [0, 1].
        labels: int64 [N].
        classes: K.
    """
    flat = images.flatten(1).double()
    mean = flat.mean(0)
    centred = flat - mean
    kernel = centred @ centred.T
    targets = F.one_hot(labels, classes).double()
    ridge = _RIDGE * kernel.diagonal().mean().clamp_min(torch.finfo(kernel.dtype).tiny) * torch.eye(len(flat)).double()
    weight = torch.linalg.solve(kernel + ridge, targets - targets.mean(0)).T @ centred
    layer = nn.Linear(flat.shape[1], classes)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(targets.mean(0) - weight @ mean)
    return nn.Sequential(nn.Flatten(), layer).eval()
