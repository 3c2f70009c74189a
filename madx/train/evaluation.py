"""Accuracy of a network on a split, clean and under attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madx.attacks import input_gradient, strongest_examples
from madx.data import Ahead, Split
from madx.distributed import SINGLE, World
from madx.models.modes import evaluating
from madx.recipe import AttackConfig, ThreatConfig
from madx.seeds import torch_generator

_CHUNK = 250
"""Images at a time."""


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on the selection split after `step` optimiser steps; shares, not percent."""

    step: int
    clean: float
    robust: float
    loss: float
    event: str = ""


def evaluate(
    module: nn.Module, split: Split, attack: AttackConfig, threat: ThreatConfig, *, seed: int, world: World = SINGLE
) -> tuple[float, float]:
    """Clean and robust accuracy of `module` on a split, float32, eval mode for the duration; two shares.

    The processes of `world` share the images; each image meets the same attack whoever has it.
    """
    device = next(module.parameters()).device
    gradient = input_gradient(module)
    numbers = range(-(-len(split) // _CHUNK))

    def load(number: int) -> tuple[Tensor, Tensor]:
        return split.tensors(number * _CHUNK, (number + 1) * _CHUNK)

    def right(number: int) -> tuple[int, int]:
        """How many images of a chunk are classified correctly, clean and attacked."""
        images, labels = chunk(number)
        x, y = images.to(device), labels.to(device)
        with torch.no_grad():
            standing = module(x).argmax(1) == y
            x, y = x[standing], y[standing]
        if len(x) == 0:
            return 0, 0
        generator = torch_generator(seed, "evaluate", number)
        worst = strongest_examples(module, gradient, x, y, threat=threat, attack=attack, generator=generator)
        with torch.no_grad():
            return len(x), int((module(worst).argmax(1) == y).sum())

    with evaluating(module), Ahead(load, world.own(numbers)) as chunk:
        counts = list(world.map(right, numbers))
    clean, robust = (sum(column) for column in zip(*counts, strict=True))
    return clean / len(split), robust / len(split)
