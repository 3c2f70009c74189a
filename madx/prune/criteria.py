"""Criteria behind one signature: (model, adversarial images, labels, generator) -> scores of one batch.

Scores are averaged over batches; for a criterion with a `learner` the average is where learning starts. All
second-order ones weigh the removal of the WHOLE weight with a diagonal of the Fisher matrix of the adversarial loss at
the full network; `mad-paper` weighs what its masks take away, at the masked network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.models.modes import evaluating
from madx.models.precision import PLAIN, ComputeFormat
from madx.prune.diagonal import diagonal_curvature
from madx.prune.layers import scored_parameters
from madx.prune.learned import Learner, adam, ranks_in_layer, scaled_by_fan_in, sgd, unchanged
from madx.prune.saliency import MASK_STEPS, mad_saliency, optimise_masks
from madx.tables import Table

# ruff: noqa: ARG001 - criteria share one signature, and not each needs all of it


class Score(Protocol):
    """Scores of one batch of adversarial images, one for each entry of a parameter."""

    def __call__(self, model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Images [B, ...] and labels [B]; keys are the parameters' names."""
        ...


class FormattedScore(Protocol):
    """The same, and it takes a compute format too."""

    def __call__(
        self, model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator, *, format: ComputeFormat
    ) -> dict[str, Tensor]:
        """Scores of one batch."""
        ...


_PART = 16
"""Images whose gradients are averaged before they are squared."""


def mad_damage(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Where the repaired MAD starts: 1/2 F w^2, the second-order damage of removing the whole weight.

    F stands for the diagonal of the empirical Fisher matrix WITHOUT a Kronecker factorisation: the mean squared
    gradient of mini-batches of about 16 images, which is a 16th of the Fisher diagonal plus the squared mean gradient.
    Learning from the factorised diagonal, G_ii A_jj, was measured to be a gamble (docs/criteria-tried.md).
    """
    parameters = scored_parameters(model)
    count = math.ceil(len(y) / _PART)
    # Of equal size, give or take an image: the squared mean of a few images would drown those of the others.
    parts = list(zip(torch.tensor_split(x_adv, count), torch.tensor_split(y, count), strict=True))
    fisher: dict[str, Tensor] = {}
    for images, labels in parts:
        for name, slope in _slopes(model, parameters, images, labels).items():
            fisher[name] = fisher.get(name, 0) + slope.square() / len(parts)
    return {name: 0.5 * parameters[name].detach().square() * value for name, value in fisher.items()}


def mad_paper(
    model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator, *, format: ComputeFormat = PLAIN
) -> dict[str, Tensor]:
    """MAD as its authors' implementation computes it; masks start afresh for every batch.

    They are optimised with BatchNorm folded, which is the same mathematics in less time. In bfloat16 they take half of
    that again, and at 90 % removed 99.6 % of what goes is the same on the reference network (docs/saliency.md).
    """
    return mad_saliency(model, x_adv, y, optimise_masks(model, x_adv, y, format=format, fold=True))


def mad_reversed(
    model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator, *, format: ComputeFormat = PLAIN
) -> dict[str, Tensor]:
    """The control: MAD as published, with the most important entries removed first."""
    return {name: -score for name, score in mad_paper(model, x_adv, y, generator, format=format).items()}


def adversarial_taylor(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """First-order damage (w dL/dw)^2 of the batch (Molchanov et al. 2019, arXiv 1906.10771, on adversarial images)."""
    parameters = scored_parameters(model)
    slopes = _slopes(model, parameters, x_adv, y)
    return {name: (parameters[name].detach() * slope).square() for name, slope in slopes.items()}


def adversarial_obd(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Optimal Brain Damage (LeCun et al. 1989) on adversarial images: 1/2 G_ii A_jj w_ij^2, the K-FAC diagonal."""
    weights = scored_parameters(model)
    curvature = diagonal_curvature(model, x_adv, y)
    return {name: 0.5 * weights[name].detach().square() * value for name, value in curvature.items()}


def magnitude(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The weight's absolute value; the images play no part."""
    return {name: parameter.detach().abs() for name, parameter in scored_parameters(model).items()}


def random(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Uniform noise: what any criterion has to beat."""
    return {
        name: torch.rand(parameter.shape, generator=generator).to(parameter.device)
        for name, parameter in scored_parameters(model).items()
    }


def _slopes(model: nn.Module, parameters: dict[str, nn.Parameter], x_adv: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy at the parameters that the loss depends on."""
    leaves = {name: parameter.detach().requires_grad_() for name, parameter in parameters.items()}
    with evaluating(model), torch.enable_grad():
        loss = F.cross_entropy(functional_call(model, leaves, (x_adv,)), y)
        slopes = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return {name: slope for name, slope in zip(leaves, slopes, strict=True) if slope is not None}


@dataclass(frozen=True)
class Criterion:
    """How weights are scored, and all that stages need to know of it."""

    score: Score | FormattedScore
    passes: int
    """How often the images of one batch go through the network and back, as in a training step, beside their attack."""
    images: bool = True
    """Whether the scores depend on images at all; without any, one batch says everything."""
    formatted: bool = False
    """Whether its masks can be optimised in another format; bfloat16 ranks a little differently."""
    learner: Learner | None = None
    """For a criterion whose averaged scores are only the start."""

    def __call__(
        self, model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator, **format: ComputeFormat
    ) -> dict[str, Tensor]:
        """Scores of one batch; only a `formatted` one takes a `format`."""
        return self.score(model, x_adv, y, generator, **format)


CRITERIA: Table[Criterion] = Table(
    "madx.criteria",
    Criterion,
    {
        "mad": Criterion(mad_damage, passes=1, learner=Learner(ranks_in_layer, adam, unchanged)),
        "mad-paper": Criterion(mad_paper, passes=MASK_STEPS + 2, formatted=True),
        "mad-reversed": Criterion(mad_reversed, passes=MASK_STEPS + 2, formatted=True),
        "taylor": Criterion(adversarial_taylor, passes=1),
        "obd": Criterion(adversarial_obd, passes=2),
        "hydra": Criterion(magnitude, passes=0, images=False, learner=Learner(scaled_by_fan_in, sgd, ranks_in_layer)),
        "magnitude": Criterion(magnitude, passes=0, images=False),
        "random": Criterion(random, passes=0, images=False),
    },
)
"""By the name that a recipe calls it."""
