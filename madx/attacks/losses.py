"""What an attack maximises: one value per image, a function of the logits alone.

Logits are float32 [B, K]. Targets are labels int64 [B]; for a targeted loss int64 [B, 2], the label and the class that
the image shall be taken for. Because a loss sees logits only, its value may come from an engine and its gradient from
the engine's torch twin.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from madx.errors import RecipeError

_TINY = 1e-12


class Loss(Protocol):
    """A value per image that rises as the image comes closer to being misclassified."""

    name: str
    """For the report."""

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Values [B] of logits [B, K]."""
        ...


class CrossEntropy:
    """The log-odds u of all wrong classes together; the cross-entropy is log(1 + e^u).

    An attack only compares values and follows the gradient's direction, and both are those of the cross-entropy. But
    where the cross-entropy of a confident network rounds to zero, u and its gradient are as good as anywhere: a network
    does not look robust because its logits are large.
    """

    name = "cross-entropy"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The value log sum_{i != y} exp(z_i) - z_y, [B]."""
        wrong = logits.scatter(1, targets[:, None], -torch.inf)
        return wrong.logsumexp(1) - _at(logits, targets)


class DLR:
    """Difference of logits ratio (Croce and Hein 2020, arXiv 2003.01690, equation 6); needs three classes.

    Multiplying the logits does not change it.
    """

    name = "DLR"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-(z_y - max_{i != y} z_i) / (z_1st - z_3rd), [B]."""
        top = _largest(logits, 3, self.name)
        rival = logits.scatter(1, targets[:, None], -torch.inf).amax(1)
        return (rival - _at(logits, targets)) / (top[:, 0] - top[:, 2] + _TINY)


class TargetedDLR:
    """DLR towards one class (the same paper, equation 7); needs four classes, see `TargetedMargin` for fewer."""

    name = "targeted DLR"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """-(z_y - z_t) / (z_1st - (z_3rd + z_4th) / 2), [B]; targets are [B, 2]."""
        top = _largest(logits, 4, self.name)
        gain = _at(logits, targets[:, 1]) - _at(logits, targets[:, 0])
        return gain / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + _TINY)


class TargetedMargin:
    """The margin towards one class: what the targeted DLR loss is without its denominator, for fewer than four classes.

    An attack that steps along the direction of the gradient does not depend on the scale of the logits here either.
    """

    name = "targeted margin"

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """z_t - z_y, [B]; targets are [B, 2]."""
        return _at(logits, targets[:, 1]) - _at(logits, targets[:, 0])


def targeted_loss(classes: int) -> Loss:
    """The targeted DLR loss where it is defined, the targeted margin for a network with fewer than four classes."""
    return TargetedDLR() if classes >= 4 else TargetedMargin()


def likeliest_wrong(logits: Tensor, labels: Tensor, count: int) -> Tensor:
    """The `count` wrong classes with the largest logits, largest first, int64 [B, count]; fewer if there are fewer."""
    wrong = logits.scatter(1, labels[:, None], -torch.inf)
    return wrong.topk(min(count, logits.shape[1] - 1), dim=1).indices


def _at(logits: Tensor, classes: Tensor) -> Tensor:
    """Each image's logit of its class, [B]."""
    return logits.gather(1, classes[:, None]).squeeze(1)


def _largest(logits: Tensor, count: int, loss: str) -> Tensor:
    """The `count` largest logits of each image, [B, count], largest first."""
    if logits.shape[1] < count:
        raise RecipeError(
            f"the {loss} loss needs {count} classes, and this network has {logits.shape[1]}; "
            "attack it with cross-entropy or the targeted margin instead"
        )
    return logits.topk(count, dim=1).values
