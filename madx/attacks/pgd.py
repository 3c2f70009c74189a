"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083) from random starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from madx.attacks.gradients import Gradient
from madx.attacks.norms import norm_named
from madx.recipe import AttackConfig, ThreatConfig

_ROUNDING = 0.02
"""An engine's logits may differ from its twin's by this share of the largest (float16)."""


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

    Furthest is the largest margin: highest wrong logit minus true logit, positive when the image is turned. The largest
    margin, and not the first error, is kept so that an example survives the rounding of the engine it is going to be
    scored on. An image is not restarted once it is turned by more than that rounding.

    Args:
        forward: images -> logits of the network under attack.
        gradient: of the same network, or of a substitute for it.
        images: clean images in [0, 1].
        labels: int64 [B].
        threat: norm and eps.
        attack: steps, step size and restarts.
        generator: CPU generator of the random starts.
    """
    best = images.clone()
    largest = torch.full((len(images),), -torch.inf, device=images.device)
    settled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for _ in range(attack.restarts):
        chosen = (~settled).nonzero().squeeze(1)
        if len(chosen) == 0:
            break
        x, y = images[chosen], labels[chosen]

        def keep(point: Tensor, logits: Tensor, chosen: Tensor = chosen, y: Tensor = y) -> None:
            margin = wrong_margin(logits, y)
            larger = margin > largest[chosen]
            best[chosen[larger]] = point[larger]
            largest[chosen[larger]] = margin[larger]
            settled[chosen] |= margin > _ROUNDING * logits.abs().amax(1)

        end = x
        for point, (previous, logits) in _iterates(gradient, x, y, threat=threat, attack=attack, generator=generator):
            keep(previous, logits)
            end = point
        with torch.no_grad():
            keep(end, forward(end).float())
    return best


def wrong_margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Highest wrong logit minus true logit, [B]: positive where the image is misclassified.

    Infinite where it is not a number: a network that returns NaN has failed there, and must not count as robust.
    """
    true = logits.gather(1, labels[:, None])
    margin = (logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True) - true).squeeze(1)
    return margin.masked_fill(margin.isnan(), torch.inf)


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

    def inside(point: Tensor) -> Tensor:
        return (images + norm.project(point - images, threat.eps)).clamp(0, 1)

    point = inside(images + norm.start(images, threat.eps, generator))
    for _ in range(attack.steps):
        logits, slope = gradient(point, targets)
        previous, point = point, inside(point + step_size * norm.direction(slope))
        yield point, (previous, logits)
