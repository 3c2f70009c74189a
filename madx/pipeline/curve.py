"""The security curve of a verification: the survivors of one radius meet the next larger one, on each engine.

What an attack makes on an engine's twin is projected and scored on the engine, as everywhere. An image is attacked
until it falls, so the curve falls too, and its cost is bounded by what stands. Random streams are named by engine and
radius, so a curve that is taken up after a kill is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.attacks import Apgd, Victim, run_suite
from madx.pipeline.attacking import Side
from madx.pipeline.chunks import gate_images
from madx.pipeline.context import Context
from madx.recipe import EngineConfig, ThreatConfig
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

    def standing(self, side: Side, before: Sequence[Bools], eps: float) -> Bools:
        """Which images the engine gets right at this radius; `before` are those at the radii below. All [M]."""
        if not before:
            clean: Bools = logits_of(side.engine, self.images.cpu().numpy()).argmax(axis=1) == self.labels.cpu().numpy()
            return clean
        return self.survivors(side, known(side.twin, "torch twin"), before[-1], eps)

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


def measure_curve(context: Context, config: EngineConfig, reference: Side | None, candidate: Side) -> Curve | None:
    """The curve of the first gate images; None unless every engine there is has its twin.

    What a killed run measured of it is taken up.
    """
    sides = (candidate,) if reference is None else (reference, candidate)
    if any(side.twin is None for side in sides):
        return None
    count = min(_IMAGES, gate_images(context))
    images, labels = (part.to(context.device) for part in context.splits.gate.tensors(0, count))
    context.progress.say(f"security curve on {count} images")
    climb = Climb(context.recipe.threat, context.recipe.seed, images, labels)
    return climb_radii(climb, sides, checkpoint=context.checkpoint(f"curve-{config.name}"))


def climb_radii(climb: Climb, sides: Sequence[Side], *, checkpoint: Checkpoint | None = None) -> Curve:
    """Radius after radius, until hardly anything stands.

    Args:
        climb: images, threat and seed.
        sides: the reference and the candidate, or the candidate alone; each with its twin.
        checkpoint: keeps what stood at every radius so far.
    """
    checkpoint = checkpoint or NoCheckpoint()
    kept = checkpoint.load() or {}
    rows: list[list[Bools]] = [list(kept[str(place)].numpy()) if kept else [] for place in range(len(sides))]
    radii = climb.radii()
    for step, eps in enumerate(radii):
        if eps > _ALWAYS * climb.threat.eps and all(row[step - 1].mean() <= _FEW for row in rows):
            radii = radii[:step]
            break
        if any(len(row) <= step for row in rows):
            for side, row in zip(sides, rows, strict=True):
                row.append(climb.standing(side, row, eps))
            checkpoint.save({str(place): torch.from_numpy(np.stack(row)) for place, row in enumerate(rows)})
    *reference, candidate = (np.stack(row) for row in rows)
    return Curve(_ATTACK.name, np.array(radii), reference[0] if reference else None, candidate)
