"""Scores learned under the budget: which entries to keep is itself optimised on the adversarial loss.

The network always runs pruned: the pruning rule turns the scores into masks, the attack climbs the loss of the masked
network, and the masks pass the gradient on to the scores as if they were the scores themselves (straight-through:
Bengio et al. 2013, arXiv 1308.3432). Weights stay as they are. HYDRA (Sehwag et al. 2020, arXiv 2002.10509) does so
from the weights' magnitude; MAD's masks, which the paper optimises without a budget and afresh for each batch, become
one set of masks under the budget that starts where second-order damage points.

Scores are keyed by parameter name and shaped as their parameters, larger = more important; where whole channels go,
there is one for each channel (`madx.prune.channel_masks`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.errors import TrainingError
from madx.models.copies import copied
from madx.models.precision import PLAIN, ComputeFormat
from madx.prune.settling import Keep
from madx.recipe import LearningConfig

Scores = dict[str, Tensor]
Attack = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]
"""(network, images, labels, generator) -> adversarial images."""

_SAVE_EVERY = 25
"""Steps between checkpoints: some seconds of work."""


@dataclass(frozen=True)
class Learner:
    """Where the scores start, how they move, and what competes with what."""

    start: Callable[[Mapping[str, Tensor]], Scores]
    """Averaged scores of batches -> the learned scores before the first step."""
    optimiser: Callable[[list[Tensor]], torch.optim.Optimizer]
    """Its learning rate falls to zero along half a cosine."""
    ranked: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    """Learned scores -> scores as the pruning rule compares them."""


@dataclass(frozen=True)
class Task:
    """What the masks are learned for."""

    config: LearningConfig
    keep: Keep
    """The pruning rule at the recipe's sparsity and structure: the scores that are learned -> masks of entries."""
    attack: Attack
    """Makes the adversarial images."""
    collect: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda slopes: slopes
    """Slopes of the masks' entries -> slopes of the scores; the same where each entry has a score of its own."""
    format: ComputeFormat = PLAIN
    """How the passes are computed: what config.precision came to on this machine."""


def learn_scores(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, torch.Generator]],
    start: Mapping[str, Tensor],
    learner: Learner,
    task: Task,
    *,
    state: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Scores:
    """Learn scores from CLEAN batches; each is attacked on the network as it is pruned then.

    Args:
        model: the dense network, in eval mode and on its device; not changed.
        batches: (images, labels, generator) of the steps after those that `state` holds; of all steps without a state.
        start: averaged scores, of entries or of channels.
        learner: of a criterion.
        task: number of steps, precision, pruning rule and attack.
        state: what `checkpoint` held when the work was interrupted. The result is the same to the bit.
        checkpoint: takes scores, optimiser and BatchNorm statistics every few steps.

    Returns:
        Scores on the CPU, float32, as the pruning rule compares them.

    Raises:
        TrainingError: the loss or a slope is not finite.
    """
    checkpoint = checkpoint or NoCheckpoint()
    run = _Run(model, start, learner, task)
    if state:
        run.load_state(state)
    for images, labels, generator in batches:
        run.advance(task.attack(run.masked_network(), images, labels, generator), labels)
        if run.step % _SAVE_EVERY == 0:
            checkpoint.save(run.state())
    return {name: score.detach().cpu() for name, score in learner.ranked(run.scores).items()}


class _Run:
    """The scores, and a copy of the network that is always pruned by them."""

    def __init__(self, model: nn.Module, start: Mapping[str, Tensor], learner: Learner, task: Task) -> None:
        self.learner, self.task = learner, task
        self.masked = task.format.order_(copied(model)).requires_grad_()
        device = next(self.masked.parameters()).device
        self.scores = {name: score.to(device).requires_grad_() for name, score in learner.start(start).items()}
        masked = self._masks()
        self.parameters = {name: value for name, value in self.masked.named_parameters() if name in masked}
        self.weights = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.optimiser = learner.optimiser(list(self.scores.values()))
        self.rate = self.optimiser.param_groups[0]["lr"]
        self.step = 0

    def advance(self, x_adv: Tensor, labels: Tensor) -> None:
        """One step of the scores on one batch of adversarial images of the masked network."""
        loss, slopes = self._loss(x_adv, labels)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss of the masked network is {loss} at step {self.step} of learning its masks")
        products = {name: slope * self.weights[name] for name, slope in slopes.items()}
        for name, slope in self.task.collect(products).items():
            if not slope.isfinite().all():
                raise TrainingError(
                    f"the slopes of the masks of {name} are not finite at step {self.step} of learning them: the "
                    "network has no gradient where a masked layer gives zero (a root or a norm of it?); "
                    "prune.criterion: magnitude needs none"
                )
            self.scores[name].grad = slope
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * (1 + math.cos(math.pi * self.step / self.task.config.steps)) / 2
        self.optimiser.step()
        self.step += 1

    def masked_network(self) -> nn.Module:
        """The network as the scores prune it now; `advance` works on it."""
        masks = self._masks()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.weights[name] * masks[name])
        return self.masked

    def _masks(self) -> Mapping[str, Tensor]:
        return self.task.keep({name: score.detach() for name, score in self.learner.ranked(self.scores).items()})

    def _loss(self, x_adv: Tensor, labels: Tensor) -> tuple[float, dict[str, Tensor]]:
        """Mean cross-entropy and its gradient at the masked weights; BatchNorm sees the batch, as in training."""
        layers = [layer for layer in self.masked.modules() if isinstance(layer, _BatchNorm)]
        for layer in layers:
            layer.train()
        with torch.enable_grad():
            with self.task.format.autocast(x_adv.device):
                logits = self.masked(x_adv)
            loss = F.cross_entropy(logits.float(), labels)
            slopes = torch.autograd.grad(loss, list(self.parameters.values()), allow_unused=True)
        for layer in layers:
            layer.eval()
        found = {name: slope for name, slope in zip(self.parameters, slopes, strict=True) if slope is not None}
        return float(loss.detach()), found

    def state(self) -> dict[str, Any]:
        """Everything a later process needs to go on."""
        return {
            "step": self.step,
            "scores": {name: score.detach() for name, score in self.scores.items()},
            "optimiser": self.optimiser.state_dict(),
            "buffers": dict(self.masked.named_buffers()),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state()`."""
        self.step = state["step"]
        with torch.no_grad():
            for name, score in state["scores"].items():
                self.scores[name].copy_(score)
            for name, buffer in self.masked.named_buffers():
                buffer.copy_(state["buffers"][name])
        self.optimiser.load_state_dict(state["optimiser"])


def ranks_in_layer(scores: Mapping[str, Tensor]) -> Scores:
    """Each entry's rank within its parameter, over (0, 1]; compared over the network, layers keep equal shares."""
    return {name: _ranks(score.flatten()).view_as(score) for name, score in scores.items()}


def scaled_by_fan_in(scores: Mapping[str, Tensor]) -> Scores:
    """HYDRA's start: |w| over the layer's largest, times the width of Kaiming's uniform distribution."""
    return {
        name: score / score.max().clamp_min(torch.finfo(score.dtype).tiny) * math.sqrt(6 / max(1, score[0].numel()))
        for name, score in scores.items()
    }


def unchanged(scores: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The scores themselves: all entries compete as the pruning rule has it."""
    return scores


def adam(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """Adam, as MAD optimises its masks; an entry moves by up to half of all ranks in 100 steps.

    Twice that rate was seen to collapse (docs/criteria-tried.md).
    """
    return torch.optim.Adam(parameters, lr=0.01, betas=(0.9, 0.99))


def sgd(parameters: list[Tensor]) -> torch.optim.Optimizer:
    """SGD as HYDRA's authors use it."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def _ranks(values: Tensor) -> Tensor:
    order = values.argsort(stable=True)
    ranks = torch.empty(len(values), device=values.device)
    ranks[order] = torch.arange(1, len(values) + 1, device=values.device) / len(values)
    return ranks
