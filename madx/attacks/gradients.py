"""The gradient that an attack climbs, taken from a torch network without touching the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images [B, ...], targets) -> (logits [B, K], gradient of the summed loss at the images [B, ...])."""


def input_gradient(module: nn.Module, *, precision: Literal["fp32", "bf16"] = "fp32") -> Gradient:
    """Cross-entropy gradient of `module` at its input; the module's mode, parameters and their .grad stay as they are.

    Targets are labels int64 [B], or probabilities [B, K]: against the network's own clean probabilities the gradient is
    that of KL(p || q), which is what TRADES climbs.
    """

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = module(images)
            logits = logits.float()
            # The sum, not the mean: an image's gradient must not depend on the batch it is attacked in.
            loss = F.cross_entropy(logits, targets, reduction="sum")
            # Asked for the input alone, autograd computes no weight gradients.
            (slope,) = torch.autograd.grad(loss, images)
        return logits.detach(), slope

    return gradient
