"""The gradient that an attack climbs, taken from a torch network without touching the network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.attacks.losses import Loss
from madx.errors import MadxError

Gradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(images [B, ...], targets) -> (logits [B, K], gradient of the summed loss at the images [B, ...])."""


def input_gradient(
    module: nn.Module,
    *,
    loss: Loss | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    largest_gap: float | None = None,
) -> Gradient:
    """Gradient of a loss of `module` at its input; the module's mode, parameters and their .grad stay as they are.

    Targets are what `loss` takes. Without a loss it is torch's cross-entropy, and targets are labels int64 [B], or
    probabilities [B, K]: against the network's own clean probabilities the gradient is that of KL(p || q), which is
    what TRADES climbs.

    A softmax that is saturated in float32 has a zero gradient, and an attack that climbs it stands still: multiplying a
    network's logits would make it look robust. With `largest_gap`, the logits of an image whose two largest differ by
    more are scaled down to that difference before the loss; what is returned are the network's own logits.
    """

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = module(images)
            logits = logits.float()
            # The sum, not the mean: an image's gradient must not depend on the batch it is attacked in.
            total = (loss or _cross_entropy)(_unsaturated(logits, largest_gap), targets).sum()
            # Asked for the input alone, autograd computes no weight gradients.
            (slope,) = torch.autograd.grad(total, images)
        return logits.detach(), slope

    return gradient


def through_twin(engine: Callable[[Tensor], Tensor], twin: nn.Module, *, loss: Loss) -> Gradient:
    """The gradient of a loss of an engine that gives none: forward through the engine, backward through its twin.

    This is BPDA (Athalye et al. 2018, arXiv 1802.00420): the slope of the loss is taken at the engine's logits and
    carried to the image by the twin's Jacobian at the same image. What is returned are the engine's logits.

    Raises:
        MadxError: when it is called, if engine and twin differ in the shape of their logits.
    """

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        images = images.detach()
        logits = engine(images).detach()
        with torch.enable_grad():
            answer, pixels = logits.clone().requires_grad_(), images.clone().requires_grad_()
            (at_logits,) = torch.autograd.grad(loss(answer, targets).sum(), answer)
            surrogate = twin(pixels).float()
            if surrogate.shape != logits.shape:
                raise MadxError(
                    f"the engine answers with logits {list(logits.shape)} and its torch twin with "
                    f"{list(surrogate.shape)}; give the twin that the engine was built from"
                )
            (slope,) = torch.autograd.grad(surrogate, pixels, at_logits)
        return logits, slope

    return gradient


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Torch's own, [B]: unlike `losses.CrossEntropy` it takes probabilities, and its gradient is to scale."""
    return F.cross_entropy(logits, targets, reduction="none")


def _unsaturated(logits: Tensor, largest_gap: float | None) -> Tensor:
    """Logits with at most `largest_gap` between the two largest of an image; the scale is a constant to autograd."""
    if largest_gap is None:
        return logits
    top = logits.detach().topk(2, dim=1).values
    scale = (largest_gap / (top[:, :1] - top[:, 1:]).clamp_min(largest_gap)).clamp_max(1)
    return logits * scale
