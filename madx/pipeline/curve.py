"""The security curve of a verification: the survivors of one radius meet the next larger one, on each engine.

At the threat's own radius the gates' verification has the word, with its whole suite: what withstood that is not
attacked at smaller radii, where it is allowed less. What an attack makes on an engine's twin is projected and scored on
the engine, as everywhere. An image is attacked until it falls, so the curve falls too, and its cost is bounded by what
stands. Random streams are named by engine and radius, so a curve that is taken up after a kill is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.attacks import Apgd
from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest, Pair
from madx.pipeline.examples import Trial
from madx.recipe import EngineConfig
from madx.verify import Accuracy
from madx.verify.arrays import Bools
from madx.verify.curve import Curve

IMAGES = 500
"""Gate images, at most."""
ATTACK = Apgd(steps=10)
"""What an image meets at every radius but the threat's."""
FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Radii in units of the threat's; those above 2 only as far as something still stands."""
ALWAYS = 2.0
"""Radii up to this are measured whatever stands."""
_FEW = 0.02
"""Share of the images: when no engine keeps more, the curve has come to its end."""


def measure_curve(context: Context, config: EngineConfig, accuracy: Accuracy, engines: Pair) -> Curve | None:
    """The curve of the first gate images; None unless every engine there is has its torch model.

    What a killed run measured of it is taken up.

    Args:
        context: the running verify stage.
        config: the engine.
        accuracy: what the gates' suite left standing.
        engines: the reference, if there is one, and the candidate.
    """
    there = [engine for engine in engines if engine is not None]
    if any(engine.torch_model is None for engine in there):
        return None
    count = min(IMAGES, accuracy.images)
    images, labels = (part.to(context.device) for part in context.splits.gate.tensors(0, count))
    context.progress.say(f"security curve on {count} images")
    trial = Trial(context.recipe.threat, context.recipe.seed, images, labels)
    known = [accuracy.robust_reference, accuracy.robust_candidate] if len(there) > 1 else [accuracy.robust_candidate]
    return climb_radii(
        trial,
        there,
        withstood=[robust[:count] for robust in known],
        checkpoint=context.checkpoint(f"curve-{config.name}"),
    )


def climb_radii(
    trial: Trial,
    engines: Sequence[EngineUnderTest],
    *,
    withstood: Sequence[Bools],
    checkpoint: Checkpoint | None = None,
) -> Curve:
    """Radius after radius, until hardly anything stands.

    Args:
        trial: images, threat and seed.
        engines: the reference and the candidate, or the candidate alone; each with its torch model.
        withstood: of each engine the images [M] that the gates' suite could not turn within the threat's radius.
        checkpoint: keeps what stood at every radius so far.
    """
    checkpoint = checkpoint or NoCheckpoint()
    kept = checkpoint.load() or {}
    rows: list[list[Bools]] = [list(kept[str(place)].numpy()) if kept else [] for place in range(len(engines))]
    wanted = radii(trial)
    for step, eps in enumerate(wanted):
        if eps > ALWAYS * trial.threat.eps and all(row[step - 1].mean() <= _FEW for row in rows):
            wanted = wanted[:step]
            break
        if any(len(row) <= step for row in rows):
            for engine, row, robust in zip(engines, rows, withstood, strict=True):
                row.append(_standing(trial, engine, row, eps, robust))
            checkpoint.save({str(place): torch.from_numpy(np.stack(row)) for place, row in enumerate(rows)})
    *reference, candidate = (np.stack(row) for row in rows)
    return Curve(ATTACK.name, np.array(wanted), reference[0] if reference else None, candidate)


def radii(trial: Trial) -> list[float]:
    """Rising from 0; none beyond what holds every image anyway."""
    return list(dict.fromkeys(min(factor * trial.threat.eps, trial.widest) for factor in FACTORS))


def _standing(trial: Trial, engine: EngineUnderTest, before: Sequence[Bools], eps: float, robust: Bools) -> Bools:
    """Which images the engine gets right at this radius; `before` are those at the radii below. All [M]."""
    if not before:
        return engine.right(trial.images.cpu().numpy(), trial.labels)
    if eps == trial.threat.eps:
        return before[-1] & robust
    left = before[-1].copy()
    attacked = left & ~robust if eps < trial.threat.eps else left.copy()
    stream = ("curve", engine.role, repr(eps))
    left[attacked] = trial.of(attacked).within(eps).withstood(engine, (ATTACK,), stream=stream)
    return left
