"""The torch networks beside their engines: callables for comparison, and where adversarial examples are made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.attacks import input_gradient, strongest_examples
from madx.pipeline.context import Context
from madx.recipe import AttackConfig, ThreatConfig
from madx.seeds import torch_generator

BATCH = 250
"""Images attacked at a time, however many there are: what bounds the memory."""
LARGEST_GAP = 10.0
"""A softmax with a larger gap between the logits has no gradient to climb in float32: it is scaled down first."""


def twin(module: nn.Module, device: torch.device) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network as an engine would be called: images [B, C, H, W] -> logits [B, K], float32."""
    module = module.eval().to(device)

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = module(torch.from_numpy(images).to(device)).float().cpu().numpy()
        return found

    return logits


def examples_on(
    context: Context,
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: AttackConfig,
    stream: tuple[str | int, ...],
    threat: ThreatConfig | None = None,
) -> Tensor:
    """Adversarial examples made on a twin, [B, C, H, W] on the CPU; `stream` names their random numbers.

    They are held to the recipe's threat, or to another one.
    """
    threat, device = threat or context.recipe.threat, context.device
    module = module.eval().to(device)
    generator = torch_generator(context.recipe.seed, *stream)
    gradient = input_gradient(module, largest_gap=LARGEST_GAP)
    parts = [
        strongest_examples(
            module, gradient, x.to(device), y.to(device), threat=threat, attack=attack, generator=generator
        ).cpu()
        for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    ]
    return torch.cat(parts)
