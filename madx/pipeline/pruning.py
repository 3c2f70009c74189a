"""The prune stage: saliency on adversarial batches, structure, recalibration, fine-tuning with masks held."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial

import torch
from torch import Tensor, nn

from madx.attacks import input_gradient, last_iterate
from madx.errors import TrainingError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.learning import learned
from madx.pipeline.scoring import Batch, averaged, batches_ahead, summary
from madx.pipeline.takeover import measure
from madx.pipeline.training import check_it_runs_in_bf16, job, warn_of_clean_images
from madx.prune import Removal, Rule, Saliency, all_heads, coverage, heads_of
from madx.recipe import PruneConfig
from madx.seeds import torch_generator
from madx.train import recalibrate_, train_

_SPARSITY_SLACK = 0.02


def prune(context: Context) -> list[str]:
    """Write the saliency, the masks (in dense shapes), the coverage and the pruned, fine-tuned network."""
    dense = context.dense_model()
    check_it_runs_in_bf16(context, dense, trained=True)  # the recipe may ask for bfloat16 only now
    rule = Rule(dense, context.recipe.prune, example=torch.zeros(2, *context.splits.train.shape))
    rule.rehearse()  # before hours are spent on a saliency that would be for nothing
    warn_of_clean_images(context, _clean_settings(context.recipe.prune))
    saliency = learned(context, rule, averaged(context, rule))
    removal = _removed(context, rule, saliency)
    module = removal.module.to(context.device)
    log = {"one_shot": _measured(context, module, "pruned, one shot")}
    if _recalibrate(context, module):
        log["recalibrated"] = _measured(context, module, "BatchNorm recalibrated")
    entries = _finetuned(context, module, removal.held)
    _check_held(module, removal.held)
    context.write_tensors(files.SALIENCY, saliency.scores)
    context.write_json(files.SALIENCY_SUMMARY, summary(context, dense, saliency, removal))
    context.write_tensors(files.MASKS, removal.masks)
    context.write_tensors(files.PRUNED, module.state_dict())
    covered = coverage(dense, module, removal.masks, removal.reasons)
    context.write_json(files.COVERAGE, covered.to_json())
    context.write_json(files.FINETUNING, log | {"evaluations": entries})
    return [
        *(files.SALIENCY, files.SALIENCY_SUMMARY, files.MASKS),
        *(files.PRUNED, files.COVERAGE, files.FINETUNING),
    ]


def _clean_settings(config: PruneConfig) -> list[str]:
    """Where the recipe has clean images in the place of adversarial ones."""
    recalibrated = config.recalibration_batches > 0 and config.recalibration == "clean"
    finetuned = config.finetune is not None and config.finetune.method == "clean"
    return ["prune.recalibration"] * recalibrated + ["prune.finetune.method"] * finetuned


def _removed(context: Context, rule: Rule, saliency: Saliency) -> Removal:
    """What the recipe's structure leaves; what the sparsity does not tell of it is said."""
    config, removal = rule.config, rule.remove(saliency.scores)
    rule.check(removal)
    before, after = removal.channels or (0, 0)
    if before and abs(1 - after / before - config.sparsity) > _SPARSITY_SLACK:
        context.progress.say(
            f"asked to remove {config.sparsity:.0%} of the channels, removed {1 - after / before:.0%}: what is kept of "
            f"each layer is a multiple of {config.round_to} (prune.round_to){_whole_heads(rule)}"
        )
    emptied = [name for name, mask in removal.masks.items() if mask.dim() > 1 and not mask.any()]
    if emptied:
        context.progress.say(f"nothing is left of {', '.join(emptied)}: no image gets through there (prune.sparsity)")
    return removal


def _whole_heads(rule: Rule) -> str:
    """What else the shares of attention depend on, if there is any that loses some."""
    known = all_heads(rule.dense)
    return ", and attention loses whole heads" if any(heads_of(group, known) for group in rule.groups[0]) else ""


def recalibrating_name(config: PruneConfig) -> str:
    """What the progress calls it, once a round."""
    return f"{config.recalibration} BatchNorm"


def recalibration_rounds(config: PruneConfig) -> int:
    """How often the recalibration batches are gone through."""
    if config.recalibration_batches == 0:
        return 0
    return config.recalibration_rounds if config.recalibration == "adversarial" else 1


def _recalibrate(context: Context, module: nn.Module) -> bool:
    """BatchNorm statistics on adversarial images made on the pruned network itself, in rounds; or once on clean ones.

    Clean images do not depend on the network, so that a second round would compute the same statistics again.
    """
    config = context.recipe.prune
    if config.recalibration_batches == 0:
        return False
    count, total = 0, config.recalibration_batches
    for turn in range(recalibration_rounds(config)):
        numbers = context.progress.track(range(total), recalibrating_name(config), total=total)
        with batches_ahead(context, range(total)) as batch:
            images = partial(_recalibration_images, context, module, turn, batch)
            count = recalibrate_(module, numbers, images=images, world=context.world)
    return count > 0


def _recalibration_images(context: Context, module: nn.Module, turn: int, batch: Batch, number: int) -> Tensor:
    recipe, config = context.recipe, context.recipe.prune
    images, labels = batch(number)
    x, y = images.to(context.device), labels.to(context.device)
    if config.recalibration == "clean":
        return x
    generator = torch_generator(recipe.seed, "recalibrate", turn, number)
    gradient = input_gradient(module)
    return last_iterate(gradient, x, y, threat=recipe.threat, attack=config.attack, generator=generator)


def _finetuned(context: Context, module: nn.Module, held: dict[str, Tensor]) -> list[dict[str, object]]:
    config = context.recipe.prune.finetune
    if config is None:
        return []
    finetuning = replace(job(context, config, setting="prune.finetune"), masks=held, start_counts=True)
    checkpoint = context.checkpoint("finetuning")
    entries = train_(module, finetuning, checkpoint=checkpoint, progress=context.progress, world=context.world)
    return [asdict(entry) for entry in entries]


def _measured(context: Context, module: nn.Module, what: str) -> dict[str, float]:
    """Accuracies on some of the selection split, for the record of what each step of pruning did."""
    found = measure(context, module)
    context.progress.say(f"{what}: clean {found['clean']:.1%}, robust {found['robust']:.1%} (selection)")
    return found


def _check_held(module: nn.Module, held: dict[str, Tensor]) -> None:
    """Whoever trains does not check: every removed entry must still be zero."""
    parameters = dict(module.named_parameters())
    for name, mask in held.items():
        escaped = int((parameters[name].detach().cpu()[~mask] != 0).sum())
        if escaped:
            raise TrainingError(f"{escaped} removed entries of {name} are not zero after fine-tuning: a bug in madx")
