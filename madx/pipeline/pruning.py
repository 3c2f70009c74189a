"""The prune stage: saliency on adversarial batches, structure, recalibration, fine-tuning with masks held."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace

import torch
from torch import Tensor, nn

from madx.artifacts import write_json
from madx.attacks import input_gradient, last_iterate
from madx.errors import TrainingError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.training import job
from madx.prune import (
    CRITERIA,
    IMAGE_FREE,
    MAKES_OUTPUTS,
    Coverage,
    Saliency,
    apply_masks_,
    average_saliency,
    coverage,
    remove_channels_,
    survivor_masks,
    two_four_masks,
    unstructured_masks,
)
from madx.seeds import derive_seed, torch_generator
from madx.train import evaluate, recalibrate_, train_

Masks = dict[str, Tensor]

_SPARSITY_SLACK = 0.02


def prune(context: Context) -> list[str]:
    """Write the saliency, the masks (in dense shapes), the coverage and the pruned, fine-tuned network."""
    dense = context.dense_model()
    saliency = _saliency(context, dense)
    module, held, covered, masks = _structured(context, dense, saliency)
    module.to(context.device)
    log = {"one_shot": _measured(context, module, "pruned, one shot")}
    if _recalibrate(context, module):
        log["recalibrated"] = _measured(context, module, "BatchNorm recalibrated")
    entries = _finetuned(context, module, held)
    _check_held(module, held)
    context.write_tensors(files.SALIENCY, saliency.scores)
    context.write_tensors(files.MASKS, masks)
    context.write_tensors(files.PRUNED, module.state_dict())
    write_json(context.run.path(files.COVERAGE), covered.to_json())
    write_json(context.run.path(files.FINETUNING), log | {"evaluations": entries})
    return [files.SALIENCY, files.MASKS, files.PRUNED, files.COVERAGE, files.FINETUNING]


def _saliency(context: Context, dense: nn.Module) -> Saliency:
    """The criterion's average over the recipe's number of batches, taken up where a killed run was."""
    config = context.recipe.prune
    total = 1 if config.criterion in IMAGE_FREE else config.batches
    model = copy.deepcopy(dense).to(context.device)
    checkpoint = context.checkpoint("saliency")
    state = checkpoint.load()
    start = state["batches"] if state else 0
    batches = context.progress.track(
        _saliency_batches(context, model, start, total), f"saliency ({config.criterion})", total=total, done=start
    )
    return average_saliency(model, batches, CRITERIA[config.criterion], start=start, state=state, checkpoint=checkpoint)


def _saliency_batches(
    context: Context, model: nn.Module, start: int, total: int
) -> Iterator[tuple[Tensor, Tensor, torch.Generator]]:
    """Adversarial batches `start` to `total` of the training split; several passes if it is small."""
    recipe, config = context.recipe, context.recipe.prune
    gradient = input_gradient(model)
    for number, (images, labels) in _numbered_batches(context, config.batch_size, start, total):
        generator = torch_generator(recipe.seed, "saliency", number)
        x, y = images.to(context.device), labels.to(context.device)
        x_adv = last_iterate(gradient, x, y, threat=recipe.threat, attack=config.attack, generator=generator)
        yield x_adv, y, generator


def _numbered_batches(
    context: Context, batch_size: int, start: int, total: int
) -> Iterator[tuple[int, tuple[Tensor, Tensor]]]:
    split = context.splits.train
    per_pass = len(split) // batch_size
    number = start
    while number < total:
        shuffle = derive_seed(context.recipe.seed, "prune", number // per_pass)
        passes = split.batches(batch_size, shuffle=shuffle, drop_last=True, start=number % per_pass)
        for batch in passes:
            yield number, batch
            number += 1
            if number == total:
                return


def _structured(context: Context, dense: nn.Module, saliency: Saliency) -> tuple[nn.Module, Masks, Coverage, Masks]:
    """(pruned network, masks to hold in its shapes, coverage, masks in the dense shapes)."""
    config = context.recipe.prune
    module = copy.deepcopy(dense)
    scores = saliency.scores
    reasons: dict[str, str] = {}
    masks: Masks = {}
    held: Masks = {}
    if config.structure in ("channels", "channels+2:4"):
        example = torch.zeros(2, *context.splits.train.shape)
        survivors, reasons = remove_channels_(
            module, scores, config.sparsity, round_to=config.round_to, example=example
        )
        masks = survivor_masks(survivors, dense)
        scores = {name: score.flatten()[survivors[name]] for name, score in scores.items()}
        _say_what_was_reached(context, dense, module, reasons)
    if config.structure == "unstructured":
        held = masks = unstructured_masks(module, scores, config.sparsity)
    elif config.structure in ("2:4", "channels+2:4"):
        held, dense_layers = two_four_masks(module, scores)
        reasons = reasons | dense_layers
        masks = _combined(masks, held) if masks else held
    apply_masks_(module, held)
    return module, held, coverage(dense, module, masks, reasons), masks


def _say_what_was_reached(context: Context, dense: nn.Module, pruned: nn.Module, reasons: Mapping[str, str]) -> None:
    """Rounding decides how many channels go: what was asked for and what was reached may differ."""
    config = context.recipe.prune
    layers = [layer for layer in coverage(dense, pruned, {}, reasons).layers if layer.reason != MAKES_OUTPUTS]
    before, after = sum(layer.shape_before[0] for layer in layers), sum(layer.shape_after[0] for layer in layers)
    if before and abs(1 - after / before - config.sparsity) > _SPARSITY_SLACK:
        context.progress.say(
            f"asked to remove {config.sparsity:.0%} of the channels, removed {1 - after / before:.0%}: what is kept of "
            f"each layer is a multiple of {config.round_to} (prune.round_to)"
        )


def _combined(channels: Masks, held: Masks) -> Masks:
    """Masks in the dense shapes: of the entries that `channels` keeps, in order, those that `held` keeps."""
    combined = dict(channels)
    for name, mask in held.items():
        whole = channels[name].clone()
        whole[channels[name]] = mask.flatten()
        combined[name] = whole
    return combined


def _recalibrate(context: Context, module: nn.Module) -> bool:
    """BatchNorm statistics on adversarial images made on the pruned network itself, in rounds."""
    config = context.recipe.prune
    if config.recalibration_batches == 0:
        return False
    count = 0
    for number in range(config.recalibration_rounds):
        count = recalibrate_(module, _recalibration_images(context, module, number))
    return count > 0


def _recalibration_images(context: Context, module: nn.Module, turn: int) -> Iterator[Tensor]:
    recipe, config = context.recipe, context.recipe.prune
    gradient = input_gradient(module)
    total = config.recalibration_batches
    batches = _numbered_batches(context, config.batch_size, 0, total)
    for number, (images, labels) in context.progress.track(batches, "adversarial BatchNorm", total=total):
        x, y = images.to(context.device), labels.to(context.device)
        generator = torch_generator(recipe.seed, "recalibrate", turn, number)
        yield last_iterate(gradient, x, y, threat=recipe.threat, attack=config.attack, generator=generator)


def _finetuned(context: Context, module: nn.Module, held: Masks) -> list[dict[str, object]]:
    config = context.recipe.prune.finetune
    if config is None:
        return []
    finetuning = replace(job(context, config), masks=held, start_counts=True)
    entries = train_(module, finetuning, checkpoint=context.checkpoint("finetuning"), progress=context.progress)
    return [asdict(entry) for entry in entries]


def _measured(context: Context, module: nn.Module, what: str) -> dict[str, float]:
    """Accuracies on some of the selection split, for the record of what each step of pruning did."""
    recipe = context.recipe
    split = context.splits.selection.take(500)
    clean, robust = evaluate(module, split, recipe.prune.attack, recipe.threat, seed=recipe.seed)
    context.progress.say(f"{what}: clean {clean:.1%}, robust {robust:.1%} (selection)")
    return {"clean": clean, "robust": robust, "images": len(split)}


def _check_held(module: nn.Module, held: Masks) -> None:
    """Whoever trains does not check: every removed entry must still be zero."""
    parameters = dict(module.named_parameters())
    for name, mask in held.items():
        escaped = int((parameters[name].detach().cpu()[~mask] != 0).sum())
        if escaped:
            raise TrainingError(f"{escaped} removed entries of {name} are not zero after fine-tuning: a bug in madx")
