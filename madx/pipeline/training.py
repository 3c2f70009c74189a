"""The train stage: adversarial training, or taking over the weights that the recipe gives."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor, nn

from madx.models import load_weights, state_digest
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.recipe import LoopConfig
from madx.train import TrainingJob, train_


def train(context: Context) -> list[str]:
    """Write the dense network and the log of its training."""
    recipe, weights = context.recipe, context.recipe.model.weights
    module = context.new_model()
    if weights is not None:
        module.load_state_dict(context.world.share(lambda: _given(module, weights)))
        context.progress.say(f"weights taken from {weights}")
    log = []
    if recipe.train is not None:
        module.to(context.device)
        checkpoint = context.checkpoint("training")
        training = replace(job(context, recipe.train), start_counts=weights is not None)
        log = train_(module, training, checkpoint=checkpoint, progress=context.progress, world=context.world)
    context.write_tensors(files.DENSE, module.state_dict())
    context.write_json(
        files.TRAINING,
        {
            "digest": state_digest(module),
            "evaluations": [asdict(entry) for entry in log],
        },
    )
    return [files.DENSE, files.TRAINING]


def _given(module: nn.Module, weights: Path) -> dict[str, Tensor]:
    """The state that the user's file holds."""
    load_weights(module, weights)
    return module.state_dict()


def job(context: Context, config: LoopConfig) -> TrainingJob:
    """The training of this run under `config`, without masks."""
    recipe = context.recipe
    return TrainingJob(
        train=context.splits.train,
        selection=context.splits.selection,
        config=config,
        threat=recipe.threat,
        seed=recipe.seed,
    )
