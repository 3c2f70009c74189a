"""The training loop, adversarial or clean: from scratch, from a plain checkpoint, or after pruning with masks held.

Every step draws its images, augmentation and attack from streams named by the step, so a run that was killed and
resumed ends with the same weights as one that was not (same machine, same thread count). Several processes share every
batch: each takes its rows of the images, the augmentation and the attack that one process would see.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.attacks import input_gradient, last_iterate
from madx.distributed import SINGLE, World
from madx.errors import TrainingError
from madx.models import state_digest
from madx.models.copies import copied
from madx.progress import Progress, Silent
from madx.recipe import AttackConfig, LoopConfig
from madx.seeds import torch_draws, torch_generator
from madx.train.augment import augment
from madx.train.evaluation import Evaluation, evaluate
from madx.train.job import TrainingJob, batches, evaluation_steps
from madx.train.losses import LOSSES
from madx.train.objective import Objective
from madx.train.schedule import learning_rate
from madx.train.wholebatch import refuse_sync_batchnorm, whole_batch_statistics

_CHECKPOINT_SECONDS = 30.0
"""How much work a kill may cost; saving never changes what is computed."""

TRAINING = "training"
"""What the progress calls it."""

_FGSM = AttackConfig(steps=1, relative_step=1.25)
"""Fast FGSM training: one step of 1.25 eps from a random start (Wong, Rice, Kolter 2020, arXiv 2001.03994)."""

_AFTER_COLLAPSE = AttackConfig(steps=3, relative_step=2.5)
"""What FGSM training goes on with once it has overfitted to its own single step."""

_COLLAPSE = 0.5
"""Robust accuracy under this share of the best so far is taken for catastrophic overfitting."""


def train_(
    module: nn.Module,
    job: TrainingJob,
    *,
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
    world: World = SINGLE,
) -> list[Evaluation]:
    """Train `module` in place; it ends in eval mode with the weights of the best evaluation on the selection split.

    Best is the highest robust accuracy; for method clean, which trains for none, the highest clean accuracy.

    Args:
        module: on the device it shall be trained on.
        job: data, configuration, threat, seed and masks.
        checkpoint: where the state is kept while training; an earlier state is taken up.
        progress: shows steps and evaluations.
        world: the processes that share every batch; process 0's weights are where all start, and all end with the same.

    Returns:
        Every evaluation, in order.

    Raises:
        TrainingError: the loss is no longer finite, or the network cannot be shared by several processes.
        RecipeError: the training split has no whole batch, or the processes cannot share one evenly.
    """
    checkpoint, progress = checkpoint or NoCheckpoint(), progress or Silent()
    run = _Run(module, job, world)
    if state := checkpoint.load():
        run.load_state(state)
    elif job.start_counts:
        progress.say(_describe(run.evaluate(), job.steps))
    marks = evaluation_steps(job)
    compared = marks | {run.step + 1}  # layers with statistics of their own come apart in the first step
    saved = time.monotonic()
    left = itertools.takewhile(lambda _: not run.has_converged(), batches(job, run.step))
    for images, labels in progress.track(left, TRAINING, total=job.steps, done=run.step):
        run.advance(images, labels)
        if run.step in compared:
            run.check_alike()  # before anything is stored that a later run would go on from
        if run.step in marks:
            progress.say(_describe(run.evaluate(), job.steps))
        if run.step in marks or time.monotonic() - saved > _CHECKPOINT_SECONDS:
            checkpoint.save(run.state())
            saved = time.monotonic()
    if run.step < job.steps:
        progress.say(f"ended after {run.step} of {job.steps} steps: {job.config.patience} evaluations brought no gain")
    run.finish_()
    return run.log


def attack_of(config: LoopConfig) -> AttackConfig:
    """What makes the examples that a training begins with."""
    return _FGSM if config.method == "fgsm" else config.attack


class _Run:
    """The state of one training run: what a checkpoint holds."""

    def __init__(self, module: nn.Module, job: TrainingJob, world: World) -> None:
        self.module, self.job, self.world = module, job, world
        refuse_sync_batchnorm(module, world)
        self.rows = world.rows(job.batch_size)
        self.device = next(module.parameters()).device
        job.format.order_(module)
        module.train()
        self.objective = world.data_parallel(Objective(module, job.config, job.format))
        self.attack = attack_of(job.config)
        self.masks = {name: mask.to(self.device) for name, mask in (job.masks or {}).items()}
        self._hold_masks()  # before the copy: the average must not start from entries that are removed
        self.average = copied(module).eval()
        self.optimiser = _optimiser(module, job.config)
        self.step = 0
        self.loss = 0.0
        self.log: list[Evaluation] = []
        self.best: dict[str, Tensor] = {}

    def advance(self, images: Tensor, labels: Tensor) -> None:
        """One optimiser step on one whole batch of clean images, of which this process works on its rows."""
        config, job = self.job.config, self.job
        generator = torch_generator(job.seed, "step", self.step)
        x = job.format.ordered(augment(images, config.augment, generator).to(self.device))
        y = labels.to(self.device)
        inputs = x[self.rows] if config.method == "clean" else self._examples(x, y, generator)
        self.module.train()
        self.optimiser.zero_grad()
        draws = torch_draws(job.seed, "layers", self.step, self.world.rank, device=self.device)  # dropout
        with _one_graph():
            with whole_batch_statistics(self.world), draws:
                loss = self.objective(inputs, x[self.rows], y[self.rows])
            loss.backward()
        self._update(learning_rate(config, self.step, job.steps))
        self.loss = self._mean(loss.detach())
        if not math.isfinite(self.loss):
            raise TrainingError(
                f"the training loss is {self.loss} at step {self.step}; lower lr (given: {config.lr:g})"
            )
        self.step += 1
        self._follow()

    def _mean(self, loss: Tensor) -> float:
        """The loss of the whole batch."""
        self.world.sum_([loss])
        return float(loss) / self.world.size

    def _examples(self, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """Adversarial images of this process's rows, made in eval mode, so that the attack moves no BatchNorm.

        The attack draws for the whole batch, so that an image's random start does not depend on how many processes
        there are; it climbs on this process's rows alone.
        """
        rows = self.rows
        self.module.eval()
        targets = y[rows]
        if LOSSES[self.job.config.loss].climbs == "clean":
            with torch.no_grad():
                targets = self.module(x[rows]).float().softmax(1)
        climb = input_gradient(self.module, precision=self.job.format.precision)

        def gradient(points: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            logits, own = climb(points[rows], targets)
            slope = torch.zeros_like(points)
            slope[rows] = own
            return logits, slope

        examples = last_iterate(gradient, x, y, threat=self.job.threat, attack=self.attack, generator=generator)
        return examples[rows]

    def _update(self, lr: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        parameters = dict(self.module.named_parameters())
        for name, mask in self.masks.items():
            gradient = parameters[name].grad
            if gradient is not None:
                gradient.mul_(mask)
        self.optimiser.step()
        self._hold_masks()

    @torch.no_grad()
    def _hold_masks(self) -> None:
        parameters = dict(self.module.named_parameters())
        for name, mask in self.masks.items():
            parameters[name].mul_(mask)

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the weight average; its decay rises from 0.1, so that the first weights are soon forgotten."""
        decay = min(self.job.config.average, self.step / (self.step + 9))
        if self.job.config.average == 0:
            decay = 0.0
        for mean, value in zip(self.average.state_dict().values(), self.module.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def evaluate(self) -> Evaluation:
        """Measure the average on the selection split, keep it if it is the best, roll back if FGSM has collapsed."""
        job = self.job
        split = job.selection.take(job.config.selection_images)
        clean, robust = evaluate(
            self.average, split, job.config.selection_attack, job.threat, seed=job.seed, world=self.world
        )
        score = self._score(clean, robust)
        best = max((self._score(entry.clean, entry.robust) for entry in self.log), default=0.0)
        event = ""
        if score > best or not self.best:
            self.best = _copied(self.average.state_dict())
        if job.config.method == "fgsm" and self.attack == _FGSM and score < _COLLAPSE * best:
            event = f"catastrophic overfitting: back to the best weights, on with {_AFTER_COLLAPSE.steps}-step PGD"
            self.module.load_state_dict(self.best)
            self.average.load_state_dict(self.best)
            self.optimiser.state.clear()
            self.attack = _AFTER_COLLAPSE
        self.log.append(Evaluation(self.step, clean, robust, self.loss, event))
        return self.log[-1]

    def _score(self, clean: float, robust: float) -> float:
        """What the weights are kept by: chosen by robustness, clean training would hide some of what it takes away."""
        return clean if self.job.config.method == "clean" else robust

    def has_converged(self) -> bool:
        """Whether the last evaluations, as many as the recipe has patience for, brought nothing better."""
        scores = [self._score(entry.clean, entry.robust) for entry in self.log]
        patience = self.job.config.patience
        return patience is not None and bool(scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def check_alike(self) -> None:
        """Refuse to go on with processes that have come apart.

        Raises:
            TrainingError: they do not have the same weights and statistics.
        """
        if len(set(self.world.gather((state_digest(self.module), state_digest(self.average))))) > 1:
            raise TrainingError(
                f"the processes have different weights at step {self.step}: layers that keep statistics of their own "
                "cannot be shared by several processes (BatchNorm can); train with one process"
            )

    def finish_(self) -> None:
        """Leave the module with the best evaluated weights."""
        self.module.load_state_dict(self.best)
        self.module.eval()

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on."""
        return {
            "step": self.step,
            "loss": self.loss,
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "best": self.best,
            "log": [asdict(entry) for entry in self.log],
            "collapsed": self.attack == _AFTER_COLLAPSE,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.step, self.loss = state["step"], state["loss"]
        self.module.load_state_dict(state["module"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.best = {name: value.to(self.device) for name, value in state["best"].items()}
        self.log = [Evaluation(**entry) for entry in state["log"]]
        if state["collapsed"]:
            self.attack = _AFTER_COLLAPSE


@contextlib.contextmanager
def _one_graph() -> Iterator[None]:
    """Say what DistributedDataParallel means when a step does not use the parameters that the first one used."""
    try:
        yield
    except RuntimeError as error:
        if "static_graph" not in str(error) and "training graph has changed" not in str(error):
            raise
        raise TrainingError(
            "the network does not use the same layers in every step (it skips some at random, for example), which "
            "several processes cannot share; train with one process"
        ) from None


def _optimiser(module: nn.Module, config: LoopConfig) -> torch.optim.SGD:
    """SGD; biases and BatchNorm are not decayed."""
    decayed = [parameter for parameter in module.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in module.parameters() if parameter.dim() <= 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov)


def _copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


def _describe(entry: Evaluation, steps: int) -> str:
    accuracy = f"clean {entry.clean:.1%}, robust {entry.robust:.1%} (selection)"
    loss = f", loss {entry.loss:.3f}" if entry.step else ""  # none is known before the first step
    text = f"step {entry.step}/{steps}: {accuracy}{loss}"
    return f"{text}; {entry.event}" if entry.event else text
