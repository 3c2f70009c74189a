"""Adversarial examples beside those that the gates judge by: made on a torch model, or tried on an engine.

Images are float32 NCHW in [0, 1], labels int64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import Attack, Victim, input_gradient, run_suite, strongest_examples
from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest
from madx.recipe import AttackConfig, ThreatConfig
from madx.seeds import torch_generator
from madx.verify.arrays import Bools
from madx.verify.projection import project

BATCH = 250
"""Images attacked at a time, however many there are: what bounds the memory."""
LARGEST_GAP = 10.0
"""A softmax with a larger gap between the logits has no gradient to climb in float32: it is scaled down first."""


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
    """Adversarial examples made on a torch model, [B, C, H, W] on the CPU; `stream` names their random numbers.

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


@dataclass(frozen=True)
class Trial:
    """Images that attacks are tried on beside the verification's own, and within which threat."""

    threat: ThreatConfig
    seed: int
    images: Tensor
    """[M, C, H, W]"""
    labels: Tensor
    """[M]"""

    @property
    def widest(self) -> float:
        """The radius of a ball that holds every image, whatever its centre."""
        return 1.0 if self.threat.norm == "linf" else math.sqrt(self.images[0].numel())

    def within(self, eps: float) -> Trial:
        """The same with another radius."""
        return replace(self, threat=self.threat.model_copy(update={"eps": eps}))

    def of(self, rows: Bools) -> Trial:
        """Some of the images; `rows` is [M]."""
        chosen = torch.from_numpy(np.flatnonzero(rows))
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def withstood(self, engine: EngineUnderTest, attacks: Sequence[Attack], *, stream: tuple[str | int, ...]) -> Bools:
        """Which images the engine still gets right, [M], on what the attacks make of them, projected and asked again.

        Args:
            engine: attacked by the gradients of its torch model, or by queries where it has none.
            attacks: one after the other.
            stream: names their random numbers.
        """
        model = engine.torch_model
        victim = Victim.query_only(engine.logits) if model is None else Victim.of(model)
        generator = torch_generator(self.seed, *stream)
        right = np.zeros(len(self.labels), dtype=bool)
        for start in range(0, len(self.labels), BATCH):  # nothing at all where there is no image
            rows = slice(start, start + BATCH)
            x, y = self.images[rows], self.labels[rows]
            found = run_suite(victim, x, y, attacks=tuple(attacks), threat=self.threat, generator=generator)
            examples = project(found.points.float().cpu().numpy(), x.cpu().numpy(), self.threat).images
            right[rows] = engine.right(examples, y)
        return right
