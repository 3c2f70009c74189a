"""The first part of the prune stage: the criterion's scores on adversarial batches of the training split."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from madx.attacks import Gradient, input_gradient, last_iterate
from madx.data import Ahead
from madx.errors import RecipeError
from madx.models.copies import copied
from madx.models.folding import folded
from madx.pipeline.context import Context
from madx.prune import (
    CRITERIA,
    Removal,
    Round,
    Rule,
    Saliency,
    Settling,
    average_scores,
    batches_needed,
    has_settled,
    removes_channels,
    summarise,
)
from madx.recipe import PruneConfig
from madx.seeds import derive_seed, torch_generator

Batch = Callable[[int], tuple[Tensor, Tensor]]
"""Images and labels of a batch by its number."""


def averaged(context: Context, rule: Rule) -> Saliency:
    """The criterion's average over the recipe's batches for the rule's network, taken up where a killed run was."""
    config = context.recipe.prune
    model = copied(rule.dense).to(context.device)
    checkpoint = context.checkpoint("saliency")
    state = checkpoint.load()
    start, total = state["batches"] if state else 0, most_batches(config)
    example = numbered_batch(context, 0)[0].to(context.device)
    attacked = input_gradient(folded(model, example, format=context.compute_format("fp32")))
    settling = _settling(context, rule) if CRITERIA[config.criterion].images else None
    with batches_ahead(context, range(start, total)) as batch:
        score = partial(_batch_scores, context, model, attacked, rule.unscored, batch)
        scores = context.world.map(score, range(start, total))
        scores = context.progress.track(scores, scoring_name(config), total=total, done=start)
        saliency = average_scores(model, scores, settling=settling, state=state, checkpoint=checkpoint)
    if saliency.curve:
        context.progress.say(_verdict(config, saliency.curve))
    return saliency


def summary(context: Context, dense: nn.Module, saliency: Saliency, removal: Removal) -> dict[str, Any]:
    """For saliency.json: on how many batches it rests, how they settled, and each layer's scores."""
    config = context.recipe.prune
    record = {
        "criterion": config.criterion,
        "precision": config.precision,
        "batches": saliency.batches if CRITERIA[config.criterion].images else 0,
        "learned_steps": saliency.learned_steps,
        "batch_size": context.batch_size(config),
        "passes": saliency.batches / (len(context.splits.train) // context.batch_size(config)),
        "settling": _settling_record(config, saliency) if saliency.curve else None,
    }
    # Learned scores are places in an order: what shows a layer's sensitivity is the average that they started from.
    return record | summarise(dense, saliency.start or saliency.scores, removal.masks).to_json()


def _settling_record(config: PruneConfig, saliency: Saliency) -> dict[str, Any]:
    return {
        "asked": config.batches,
        "enough": config.settled,
        "settled": has_settled(saliency.curve, config.settled),
        "curve": [asdict(point) for point in saliency.curve],
    }


def scoring_name(config: PruneConfig) -> str:
    """What the progress calls the averaging of scores."""
    return f"saliency ({config.criterion})"


def most_batches(config: PruneConfig) -> int:
    """How many batches the saliency may take."""
    if not CRITERIA[config.criterion].images:
        return 1
    return config.max_batches if config.batches == "auto" else config.batches


def _settling(context: Context, rule: Rule) -> Settling:
    """The halves are compared by the very rule that prunes; for a criterion that learns, where its learning starts."""
    config = context.recipe.prune
    # Scores of channels start in the order of the averages added up, by which the rule itself ranks.
    learner = None if removes_channels(config) else CRITERIA[config.criterion].learner
    return Settling(
        keep=lambda scores: rule.masks(learner.start(scores) if learner else scores),
        enough=config.settled,
        stops=config.batches == "auto",
        tell=lambda point: context.progress.say(f"saliency after {point.batches} batches: {_agreement(point)}"),
    )


def _agreement(point: Round) -> str:
    ranks = "" if point.correlation is None else f", their ranks correlate by {point.correlation:.3f}"
    return f"the kept sets of its two halves overlap by {point.overlap:.1%}{ranks}"


def _verdict(config: PruneConfig, curve: Sequence[Round]) -> str:
    """Whether the kept set has settled, and what would help if not."""
    last = curve[-1]
    wanted = f"prune.settled: {config.settled:g} at two looks in a row"
    found = f"after {last.batches} batches: its halves overlap by {last.overlap:.1%} ({wanted})"
    if has_settled(curve, config.settled):
        return f"the kept set has settled {found}"
    key = "max_batches" if config.batches == "auto" else "batches"
    needed = max(last.batches + 1, batches_needed(last, config.settled))
    return f"the kept set has NOT settled {found}; that would take at least about {needed:,} batches (prune.{key})"


def _batch_scores(
    context: Context, model: nn.Module, attacked: Gradient, unscored: Mapping[str, str], batch: Batch, number: int
) -> dict[str, Tensor]:
    """The criterion on one adversarial batch; on the CPU, where every process can take them up.

    Some criteria give numbers to layers that others cannot score; what is listed as unscored has none with any.
    """
    recipe, config = context.recipe, context.recipe.prune
    images, labels = batch(number)
    x, y = images.to(context.device), labels.to(context.device)
    generator = torch_generator(recipe.seed, "saliency", number)
    x_adv = last_iterate(attacked, x, y, threat=recipe.threat, attack=config.attack, generator=generator)
    with CRITERIA.blamed(config.criterion):
        scores = _criterion(context)(model, x_adv, y, generator)
    return {name: score.detach().cpu() for name, score in scores.items() if name.rpartition(".")[0] not in unscored}


def _criterion(context: Context) -> Callable[[nn.Module, Tensor, Tensor, torch.Generator], dict[str, Tensor]]:
    """The recipe's criterion, computed as its precision says if it has a choice."""
    name, precision = context.recipe.prune.criterion, context.recipe.prune.precision
    criterion = CRITERIA[name]
    if not criterion.formatted:
        if precision != "fp32":
            raise RecipeError(f"prune.precision: {precision} is for criteria with masks of their own, not for {name}")
        return criterion
    return partial(criterion, format=context.compute_format(precision, setting="prune.precision"))


def numbered_batch(context: Context, number: int) -> tuple[Tensor, Tensor]:
    """Images and labels of the prune stage's batch `number`; each pass over the training split has its own order."""
    split, batch_size = context.splits.train, context.batch_size(context.recipe.prune)
    turn, start = divmod(number, len(split) // batch_size)
    shuffle = derive_seed(context.recipe.seed, "prune", turn)
    return split.load(next(split.order(batch_size, shuffle=shuffle, drop_last=True, start=start)))


def batches_ahead(context: Context, numbers: range) -> Ahead[int, tuple[Tensor, Tensor]]:
    """`numbered_batch` of these numbers, of which each process takes its own, decoded one ahead."""
    return Ahead(partial(numbered_batch, context), context.world.own(numbers))
