"""The security curve of a verification: the survivors of one radius meet the next larger one, on each engine.

What an attack makes on an engine's twin is projected and scored on the engine, as everywhere. An image is attacked
until it falls, so the curve falls too, and its cost is bounded by what stands.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import Apgd, Victim, run_suite
from madx.pipeline.attacking import Side
from madx.pipeline.chunks import gate_images
from madx.pipeline.context import Context
from madx.recipe import ThreatConfig
from madx.seeds import torch_generator
from madx.verify.arrays import Bools, known
from madx.verify.contract import logits_of
from madx.verify.curve import Curve
from madx.verify.projection import project

_IMAGES = 500
_BATCH = 250
_ATTACK = Apgd(steps=10)
_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Radii in units of the threat's; those above 2 only as far as something still stands."""
_ALWAYS = 2.0
_FEW = 0.02
"""Share of the images: when no engine keeps more, the curve has come to its end."""


@dataclass(frozen=True)
class Climb:
    """What the radii are climbed with."""

    threat: ThreatConfig
    seed: int
    images: Tensor
    """[M, C, H, W], on the device of the twins."""
    labels: Tensor
    """[M]"""

    def radii(self) -> list[float]:
        """Rising from 0; none beyond what holds every image anyway."""
        most = 1.0 if self.threat.norm == "linf" else math.sqrt(self.images[0].numel())
        return list(dict.fromkeys(min(factor * self.threat.eps, most) for factor in _FACTORS))

    def survivors(self, side: Side, twin: nn.Module, standing: Bools, eps: float) -> Bools:
        """Which of the standing images the engine still gets right at this radius; all [M]."""
        left = standing.copy()
        if not standing.any():
            return left
        threat = self.threat.model_copy(update={"eps": eps})
        generator = torch_generator(self.seed, "curve", side.role, repr(eps))
        for rows in torch.split(torch.from_numpy(np.flatnonzero(standing)), _BATCH):
            x, y = self.images[rows], self.labels[rows]
            found = run_suite(Victim.of(twin), x, y, attacks=(_ATTACK,), threat=threat, generator=generator)
            examples = project(found.points.float().cpu().numpy(), x.cpu().numpy(), threat).images
            left[rows.numpy()] = logits_of(side.engine, examples).argmax(axis=1) == y.cpu().numpy()
        return left


def measure_curve(context: Context, reference: Side | None, candidate: Side) -> Curve | None:
    """The curve of the first gate images, for both engines; None unless there are two, each with its twin."""
    if reference is None or reference.twin is None or candidate.twin is None:
        return None
    count = min(_IMAGES, gate_images(context))
    images, labels = (part.to(context.device) for part in context.splits.gate.tensors(0, count))
    context.progress.say(f"security curve on {count} images")
    return climb_radii(Climb(context.recipe.threat, context.recipe.seed, images, labels), (reference, candidate))


def climb_radii(climb: Climb, sides: Sequence[Side]) -> Curve:
    """Radius after radius, until hardly anything stands; `sides` are the reference's and the candidate's."""
    radii, truth = climb.radii(), climb.labels.cpu().numpy()
    rows: list[list[Bools]] = [
        [logits_of(side.engine, climb.images.cpu().numpy()).argmax(axis=1) == truth] for side in sides
    ]
    for eps in radii[1:]:
        if eps > _ALWAYS * climb.threat.eps and all(row[-1].mean() <= _FEW for row in rows):
            break
        for side, row in zip(sides, rows, strict=True):
            row.append(climb.survivors(side, known(side.twin, "torch twin"), row[-1], eps))
    reference, candidate = (np.stack(row) for row in rows)
    return Curve(_ATTACK.name, np.array(radii[: len(reference)]), reference, candidate)
