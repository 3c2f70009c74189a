"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) from random starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from madx.attacks.gradients import Gradient
from madx.attacks.losses import CrossEntropy
from madx.attacks.norms import inside, norm_named
from madx.attacks.victim import Passes, Victim
from madx.attacks.worst import Worst
from madx.recipe import AttackConfig, ThreatConfig


def last_iterate(
    gradient: Gradient,
    images: Tensor,
    targets: Tensor,
    *,
    threat: ThreatConfig,
    attack: AttackConfig,
    generator: torch.Generator,
) -> Tensor:
    """The point where one run of PGD ends, [B, ...]: what adversarial training and saliency use.

    Args:
        gradient: of the network under attack.
        images: clean images in [0, 1].
        targets: labels [B] or probabilities [B, K].
        threat: norm and eps; the examples obey both, and stay in [0, 1].
        attack: steps and step size; its restarts play no part here.
        generator: CPU generator of the random start.
    """
    point = images
    for point, _ in _iterates(gradient, images, targets, threat=threat, attack=attack, generator=generator):  # noqa: B007
        pass
    return point


def strongest_examples(
    forward: Callable[[Tensor], Tensor],
    gradient: Gradient,
    images: Tensor,
    labels: Tensor,
    *,
    threat: ThreatConfig,
    attack: AttackConfig,
    generator: torch.Generator,
) -> Tensor:
    """For each image the point that is furthest on the wrong side, over all steps of all restarts, [B, ...].

    Furthest is the largest margin: highest wrong logit minus true logit, positive when the image is turned. An image is
    not restarted once it has fallen for sure (see `Worst`).

    Args:
        forward: images -> logits of the network under attack.
        gradient: of the same network, or of a substitute for it.
        images: clean images in [0, 1].
        labels: int64 [B].
        threat: norm and eps.
        attack: steps, step size and restarts.
        generator: CPU generator of the random starts.
    """
    worst = Worst(images, labels)
    _descend(forward, gradient, worst, threat=threat, attack=attack, generator=generator)
    return worst.points


@dataclass(frozen=True)
class Pgd:
    """PGD on the cross-entropy as a member of a suite."""

    config: AttackConfig

    @property
    def name(self) -> str:
        """For example 'pgd cross-entropy, 1 x 20 steps'."""
        return f"pgd cross-entropy, {self.config.restarts} x {self.config.steps} steps"

    @property
    def most(self) -> Passes:
        """Every step's gradient, and a look at where each restart ends."""
        return Passes(forward=self.config.restarts, gradient=self.config.restarts * self.config.steps)

    def longer(self) -> Pgd:
        """Twice the steps of the same size."""
        steps, reach = 2 * self.config.steps, 2 * self.config.relative_step
        return Pgd(self.config.model_copy(update={"steps": steps, "relative_step": reach}))

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """All restarts."""
        gradient = victim.gradient(CrossEntropy())
        _descend(victim.forward, gradient, worst, threat=threat, attack=self.config, generator=generator)


def _descend(
    forward: Callable[[Tensor], Tensor],
    gradient: Gradient,
    worst: Worst,
    *,
    threat: ThreatConfig,
    attack: AttackConfig,
    generator: torch.Generator,
) -> None:
    """All restarts on the images of `worst` that still stand; `worst` sees every point."""
    for _ in range(attack.restarts):
        rows = worst.standing()
        if len(rows) == 0:
            return
        x, y = worst.images[rows], worst.labels[rows]
        end = x
        for point, (previous, logits) in _iterates(gradient, x, y, threat=threat, attack=attack, generator=generator):
            worst.see(rows, previous, logits)
            end = point
        with torch.no_grad():
            worst.see(rows, end, forward(end).float())


def _iterates(
    gradient: Gradient,
    images: Tensor,
    targets: Tensor,
    *,
    threat: ThreatConfig,
    attack: AttackConfig,
    generator: torch.Generator,
) -> Iterator[tuple[Tensor, tuple[Tensor, Tensor]]]:
    """Yield each step's new point, with the point before it and that point's logits."""
    norm = norm_named(threat.norm)
    step_size = attack.relative_step * threat.eps / attack.steps
    point = inside(norm, images + norm.start(images, threat.eps, generator), images, threat.eps)
    for _ in range(attack.steps):
        logits, slope = gradient(point, targets)
        previous, point = (
            point,
            inside(norm, point + step_size * norm.direction(slope.nan_to_num(nan=0.0)), images, threat.eps),
        )
        yield point, (previous, logits)
