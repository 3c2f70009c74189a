"""The second part of the prune stage, for criteria that learn: masks under the budget, from the averaged scores on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from madx.attacks import input_gradient, last_iterate
from madx.data import ahead
from madx.models.copies import copied
from madx.models.precision import ComputeFormat
from madx.pipeline.context import Context
from madx.pipeline.scoring import numbered_batch
from madx.prune import CRITERIA, Learner, Rule, Saliency, Task, learn_scores, removes_channels
from madx.recipe import PruneConfig
from madx.seeds import torch_generator


def learning_name(config: PruneConfig) -> str:
    """What the progress calls it."""
    return f"masks under the budget ({config.criterion})"


def learned(context: Context, rule: Rule, saliency: Saliency) -> Saliency:
    """The saliency with scores learned under the rule, if the recipe's criterion learns them; otherwise as it is.

    Process 0 learns alone: a step depends on the one before, and there are few.
    """
    if (learner := CRITERIA[context.recipe.prune.criterion].learner) is None:
        return saliency
    scores, steps = context.world.share(lambda: _learn(context, rule, learner, saliency.scores))
    return replace(saliency, scores=scores, start=saliency.scores, learned_steps=steps) if steps else saliency


def _learn(
    context: Context, rule: Rule, learner: Learner, averages: dict[str, Tensor]
) -> tuple[dict[str, Tensor], int]:
    """Scores of entries, or of channels beside the averages of entries: those decide what 2:4 leaves of them.

    And how many steps that took.
    """
    config = context.recipe.prune
    format = context.compute_format(config.learning.precision, setting="prune.learning.precision")
    attack = partial(_attack, context, format)
    if not removes_channels(config):
        task = Task(config.learning, rule.masks, attack, format=format)
        return _run(context, rule.dense, learner, averages, task), config.learning.steps
    channels = rule.channel_masks(averages)
    if not channels.groups:
        context.progress.say("no channel can go, so that there is no mask to learn")
        return averages, 0
    task = Task(config.learning, channels.masks, attack, channels.slopes, format)
    return averages | _run(context, rule.dense, learner, channels.start(averages), task), config.learning.steps


def _run(
    context: Context, dense: nn.Module, learner: Learner, start: dict[str, Tensor], task: Task
) -> dict[str, Tensor]:
    checkpoint = context.checkpoint("learning")
    state = checkpoint.load()
    return learn_scores(
        copied(dense).to(context.device),
        _batches(context, state["step"] if state else 0),
        start,
        learner,
        task,
        state=state,
        checkpoint=checkpoint,
    )


def _attack(
    context: Context, format: ComputeFormat, network: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator
) -> Tensor:
    """Examples that climb the loss of the network as it is pruned now."""
    config = context.recipe.prune.learning
    gradient = input_gradient(network, precision=format.precision)
    return last_iterate(
        gradient, format.ordered(x), y, threat=context.recipe.threat, attack=config.attack, generator=generator
    )


def _batches(context: Context, done: int) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Clean training images of every step after the first `done`, each with a generator of its own."""
    config, total = context.recipe.prune, context.recipe.prune.learning.steps
    batches = ahead(partial(numbered_batch, context), range(done, total))
    tracked = context.progress.track(batches, learning_name(config), total=total, done=done)
    for number, (images, labels) in enumerate(tracked, done):
        generator = torch_generator(context.recipe.seed, "learning", number)
        yield images.to(context.device), labels.to(context.device), generator
