"""The second part of the prune stage, for criteria that learn: masks under the budget, from the averaged scores on."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from madx.attacks import input_gradient, last_iterate
from madx.pipeline.context import Context
from madx.pipeline.scoring import learns_masks, numbered_batch
from madx.prune import LEARNERS, Saliency, Task, learn_scores, remove
from madx.seeds import torch_generator


def learned(context: Context, dense: nn.Module, saliency: Saliency) -> Saliency:
    """The saliency with learned scores, if the recipe's criterion learns them; otherwise as it is.

    Process 0 learns alone: a step depends on the one before, and there are few.
    """
    config = context.recipe.prune
    if not learns_masks(config):
        if config.criterion in LEARNERS:
            context.progress.say(f"{config.criterion} ranks whole channels without learning masks (docs/criteria.md)")
        return saliency
    scores = context.world.share(lambda: _learn(context, dense, saliency.scores))
    return replace(saliency, scores=scores, start=saliency.scores, learned_steps=config.learning.steps)


def _learn(context: Context, dense: nn.Module, start: dict[str, Tensor]) -> dict[str, Tensor]:
    config, threat = context.recipe.prune, context.recipe.threat
    example = torch.zeros(2, *context.splits.train.shape)

    def keep(scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        masks = remove(dense, scores, config, example=example).masks
        return {name: mask.to(context.device) for name, mask in masks.items()}

    def attack(network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        gradient = input_gradient(network, precision=config.learning.precision)
        return last_iterate(gradient, x, y, threat=threat, attack=config.learning.attack, generator=generator)

    return learn_scores(
        copy.deepcopy(dense).to(context.device),
        _batches(context),
        start,
        LEARNERS[config.criterion],
        Task(config.learning, keep, attack),
        checkpoint=context.checkpoint("learning"),
    )


def _batches(context: Context) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Clean training images of every step, each with a generator of its own."""
    config, total = context.recipe.prune, context.recipe.prune.learning.steps
    for number in context.progress.track(range(total), f"masks under the budget ({config.criterion})", total=total):
        images, labels = numbered_batch(context, config.batch_size, number)
        generator = torch_generator(context.recipe.seed, "learning", number)
        yield images.to(context.device), labels.to(context.device), generator
