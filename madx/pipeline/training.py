"""The train stage: adversarial training, or taking over the weights that the recipe gives."""

from __future__ import annotations

from dataclasses import asdict, replace

from madx.artifacts import write_json
from madx.models import load_weights, state_digest
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.recipe import LoopConfig
from madx.train import TrainingJob, train_


def train(context: Context) -> list[str]:
    """Write the dense network and the log of its training."""
    recipe = context.recipe
    module = context.new_model()
    if recipe.model.weights is not None:
        load_weights(module, recipe.model.weights)
        context.progress.say(f"weights taken from {recipe.model.weights}")
    log = []
    if recipe.train is not None:
        module.to(context.device)
        checkpoint = context.checkpoint("training")
        training = replace(job(context, recipe.train), start_counts=recipe.model.weights is not None)
        log = train_(module, training, checkpoint=checkpoint, progress=context.progress)
    context.write_tensors(files.DENSE, module.state_dict())
    write_json(
        context.run.path(files.TRAINING),
        {
            "digest": state_digest(module),
            "evaluations": [asdict(entry) for entry in log],
        },
    )
    return [files.DENSE, files.TRAINING]


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
