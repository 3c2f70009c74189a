"""The train stage: training, adversarial or clean, or taking over the weights that the recipe gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madx.errors import EngineError, ModelError
from madx.models import Choice, find_state, state_digest
from madx.models.copies import copied
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.engines import as_classifier
from madx.pipeline.takeover import examine, measure_taken
from madx.plugins import USER_ERRORS, describe
from madx.prune import CRITERIA, Rule
from madx.recipe import LoopConfig, Recipe, require_network
from madx.train import TrainingJob, train_
from madx.verify import check_form

_PROBES = 16
"""Images that the network is tried with before hours are spent on it."""


def train(context: Context) -> list[str]:
    """Write the dense network and the log of its training."""
    recipe, weights = context.recipe, context.recipe.model.weights
    require_network(recipe)  # fresh weights are none that anybody meant
    module = context.new_model()
    taken = {} if weights is None else {"weights": _take_over(context, module, weights)}
    _check_it_returns_logits(context, module)
    check_it_runs_in_bf16(context, module)
    if recipe.train is not None and "prune" in context.stage.wanted:
        _check_something_can_go(context, module)
    module.to(context.device)
    if weights is not None:
        taken["fit"] = examine(context, module)
    log = []
    if recipe.train is not None:
        warn_of_clean_images(context, ["train.method"] if recipe.train.method == "clean" else [])
        checkpoint = context.checkpoint("training")
        training = replace(job(context, recipe.train, setting="train"), start_counts=weights is not None)
        log = train_(module, training, checkpoint=checkpoint, progress=context.progress, world=context.world)
    else:
        log = [measure_taken(context, module)]
    context.write_tensors(files.DENSE, module.state_dict())
    context.write_json(
        files.TRAINING,
        {"digest": state_digest(module), "evaluations": [asdict(entry) for entry in log], **taken},
    )
    return [files.DENSE, files.TRAINING]


def _take_over(context: Context, module: nn.Module, weights: Path) -> dict[str, Any]:
    """Give the network the weights of the user's file, and say what was taken of it."""
    choice = Choice(context.recipe.model.key, context.recipe.model.strip_prefix)
    found = context.world.share(lambda: find_state(module, weights, choice))
    module.load_state_dict(found.state)
    context.progress.say(": ".join(filter(None, (f"weights taken from {weights}", found.describe()))))
    return found.to_json()


def _check_it_returns_logits(context: Context, module: nn.Module) -> None:
    """What export would refuse after the training is refused before it.

    Raises:
        ModelError: it returns probabilities or NaN, or its logits change from call to call or with the batch.
    """
    images, _ = context.splits.selection.tensors(0, _PROBES)
    try:
        found = check_form(as_classifier(module, torch.device("cpu")), images.numpy())
    except EngineError as error:  # no engine yet: it is the network whose logits cannot be read
        found = [str(error).replace("the engine", "the network")]
    if found:
        raise ModelError(
            f"model: {context.recipe.model.name} does not behave like a classifier in eval mode: {'; '.join(found)}; "
            "its forward must return logits [B, K], the same for an image whatever else is in the batch"
        )


def _check_something_can_go(context: Context, module: nn.Module) -> None:
    """What pruning would refuse after the training is refused before it: it hangs on shapes, not on what was learned.

    Raises:
        ModelError: channels cannot be removed from this network.
        RecipeError: nothing can.
    """
    fresh = copied(module).cpu().eval()
    Rule(fresh, context.recipe.prune, example=torch.zeros(2, *context.splits.train.shape)).rehearse()


def check_it_runs_in_bf16(context: Context, module: nn.Module, *, trained: bool = False) -> None:
    """What training and learning would end with, hours later perhaps, is found on a few images.

    Args:
        context: of the run.
        module: the network, in any mode and on any device; it is not touched.
        trained: only the settings of pruning count, as `prune` asks when the training is done.

    Raises:
        ModelError: it does not run under autocast, and the recipe has something done in bfloat16.
    """
    settings = [name for name in _settings_in_bf16(context.recipe) if not (trained and name == "train.precision")]
    if not settings:
        return
    images, _ = context.splits.selection.tensors(0, _PROBES)
    network = copied(module).to(context.device).eval()
    try:
        with torch.no_grad(), torch.autocast(context.device.type, torch.bfloat16):
            network(images.to(context.device))
    except USER_ERRORS as problem:
        raise ModelError(
            f"model: {context.recipe.model.name} does not run under bfloat16 autocast: {describe(problem)}; "
            f"set {' and '.join(f'{setting}: fp32' for setting in settings)}"
        ) from problem


def _settings_in_bf16(recipe: Recipe) -> list[str]:
    """Where the recipe has the network run in bfloat16."""
    prune = recipe.prune
    learning = prune.learning if CRITERIA[prune.criterion].learner else None
    parts = {"train": recipe.train, "prune": prune, "prune.learning": learning, "prune.finetune": prune.finetune}
    return [f"{name}.precision" for name, part in parts.items() if part is not None and part.precision == "bf16"]


def warn_of_clean_images(context: Context, settings: Sequence[str]) -> None:
    """Say that nothing trains for robustness where `settings` are clean, and which gates will see what that cost."""
    if not settings:
        return
    gates = [gate.metric for gate in context.recipe.verify.gates if gate.on_robustness]
    judges = f"{' and '.join(gates)} will tell" if gates else "and no gate of the recipe looks at it"
    chosen = " and ".join(f"{setting}: clean" for setting in settings)
    context.progress.say(f"robustness is not trained for ({chosen}); {judges}")


def job(context: Context, config: LoopConfig, *, setting: str) -> TrainingJob:
    """The training of this run under `config`, which is the recipe's section `setting`, without masks."""
    recipe = context.recipe
    return TrainingJob(
        train=context.splits.train,
        selection=context.splits.selection,
        config=config,
        threat=recipe.threat,
        seed=recipe.seed,
        format=context.compute_format(config.precision, setting=f"{setting}.precision"),
    )
