"""The torch networks beside their engines: callables for comparison, and where adversarial examples are made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.attacks import input_gradient, strongest_examples
from madx.pipeline.context import Context
from madx.seeds import torch_generator

_BATCH = 250


def twin(module: nn.Module, device: torch.device) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The network as an engine would be called: images [B, C, H, W] -> logits [B, K], float32."""
    module = module.eval().to(device)

    def logits(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = module(torch.from_numpy(images).to(device)).float().cpu().numpy()
        return found

    return logits


def examples_on(
    context: Context, module: nn.Module, images: Tensor, labels: Tensor, *, number: int, purpose: str
) -> Tensor:
    """The verification's attack on a twin, [B, C, H, W] on the CPU; `purpose` and `number` name its random stream."""
    recipe, device = context.recipe, context.device
    module = module.eval().to(device)
    generator = torch_generator(recipe.seed, purpose, number)
    gradient = input_gradient(module)
    parts = [
        strongest_examples(
            module,
            gradient,
            x.to(device),
            y.to(device),
            threat=recipe.threat,
            attack=recipe.verify.attack,
            generator=generator,
        ).cpu()
        for x, y in zip(torch.split(images, _BATCH), torch.split(labels, _BATCH), strict=True)
    ]
    return torch.cat(parts)
