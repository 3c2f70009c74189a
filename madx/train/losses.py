"""Losses of adversarial training, all on logits [B, K] and labels [B], averaged over the batch.

A loss takes the logits at the adversarial images and a function that gives the logits at the clean ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Formula = Callable[[Tensor, Callable[[], Tensor], Tensor, float], Tensor]
"""(adversarial logits, clean logits on demand, labels, beta) -> scalar."""


@dataclass(frozen=True)
class Loss:
    """What a training step minimises, and what it needs for it."""

    formula: Formula
    wants_clean: bool = True
    """Whether the clean images go through the network too."""
    climbs: Literal["labels", "clean"] = "labels"
    """What its examples are driven away from: the true labels, or the probabilities at the clean images."""

    def __call__(self, adversarial: Tensor, clean: Callable[[], Tensor], labels: Tensor, beta: float) -> Tensor:
        """The scalar of a batch."""
        return self.formula(adversarial, clean, labels, beta)


def cross_entropy(adversarial: Tensor, clean: Callable[[], Tensor], labels: Tensor, beta: float) -> Tensor:  # noqa: ARG001
    """Cross-entropy on the adversarial images (Madry et al. 2018)."""
    return F.cross_entropy(adversarial, labels)


def trades(adversarial: Tensor, clean: Callable[[], Tensor], labels: Tensor, beta: float) -> Tensor:
    """Clean cross-entropy + beta KL(p(x) || p(x')) (Zhang et al. 2019, arXiv 1901.08573)."""
    natural = clean()
    return F.cross_entropy(natural, labels) + beta * _kl(natural, adversarial).mean()


def mart(adversarial: Tensor, clean: Callable[[], Tensor], labels: Tensor, beta: float) -> Tensor:
    """Boosted cross-entropy + beta KL(p(x) || p(x')) (1 - p_y(x)) (Wang et al. 2020), as in the MAD paper."""
    natural = clean()
    doubt = 1 - natural.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return boosted_cross_entropy(adversarial, labels) + beta * (_kl(natural, adversarial) * doubt).mean()


def boosted_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy minus log(1 - the largest wrong class probability), computed from logits without cancellation."""
    top = logits.detach().topk(2, dim=1).indices
    rival = torch.where(top[:, 0] == labels, top[:, 1], top[:, 0])
    others = logits.scatter(1, rival[:, None], -torch.inf)
    log_not_rival = others.logsumexp(1) - logits.logsumexp(1)
    return F.cross_entropy(logits, labels) - log_not_rival.mean()


def _kl(reference: Tensor, other: Tensor) -> Tensor:
    """KL(softmax(reference) || softmax(other)) of each row, [B]."""
    return F.kl_div(other.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


LOSSES: dict[str, Loss] = {
    "ce": Loss(cross_entropy, wants_clean=False),
    "trades": Loss(trades, climbs="clean"),
    "mart": Loss(mart),
}
"""By the name that a recipe calls it."""
