"""Had the attacks of a verification finished? What withstood all of them meets them once more, each twice as long.

The images are the first of the gate's that an engine withstood, in their committed order, so that nothing is chosen by
how it went. What falls now was counted as robust for want of steps, or of one more random start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from madx.attacks import Attack, suite_of
from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest, Pair
from madx.pipeline.examples import Trial
from madx.recipe import EngineConfig, GateConfig
from madx.verify import Accuracy, Soundness
from madx.verify.arrays import Arrays, Bools

DOUBLING = "attacking what withstood, twice as long"
"""What the progress calls it."""
_LEAST, _MOST = 200, 500
"""Survivors that are attacked again, if there are as many ..."""
_SHARE = 8
"""... between these bounds, one for so many images: longer verifications can tell smaller shares."""


def with_doubled(
    context: Context, config: EngineConfig, sound: Soundness, accuracy: Accuracy, engines: Pair
) -> Soundness:
    """The checks of the attacks, and beside them what the same attacks turn when they take twice as long.

    Args:
        context: the running verify stage.
        config: the engine.
        sound: the checks so far.
        accuracy: what the suite left standing.
        engines: the reference, if there is one, and the candidate.
    """
    queries_count = asks_queries_alone(context.recipe.verify.gates)
    parts: dict[str, Callable[[], Arrays]] = {
        name: partial(_doubled, context, name, engine, accuracy)
        for name, engine in zip(("reference", "candidate"), engines, strict=True)
        if engine is not None and (engine.torch_model is not None or queries_count)
    }
    if not parts:
        return sound
    found = context.in_parts(f"doubled-{config.name}", DOUBLING, parts)
    return replace(sound, doubled_reference=found.get("reference"), doubled_candidate=found.get("candidate"))


def _doubled(context: Context, name: str, engine: EngineUnderTest, accuracy: Accuracy) -> Arrays:
    """[L] as in `Soundness`, under the engine's name."""
    recipe, robust = context.recipe, accuracy.robust_reference if name == "reference" else accuracy.robust_candidate
    rows = survivors(robust)
    looked_at = int(rows[-1]) + 1 if len(rows) < robust.sum() else len(robust)
    suite = suite_of(recipe.verify.attack)
    gate = context.splits.gate
    images, labels = gate.load(gate.index[rows])
    trial = Trial(recipe.threat, recipe.seed, images.to(context.device), labels.to(context.device))
    fell = np.zeros(looked_at, dtype=bool)
    fell[rows] = turned(trial, engine, suite.query if engine.torch_model is None else suite.twin)
    return {name: fell}


def asks_queries_alone(gates: Sequence[GateConfig]) -> bool:
    """Whether some gate may pass on queries alone, so that their search must have finished."""
    return any(gate.query_only for gate in gates)


def survivors(robust: Bools) -> NDArray[np.intp]:
    """Positions of the first of the images that stand: as many as a verification of this size can afford."""
    return np.flatnonzero(robust)[: most_survivors(len(robust))]


def most_survivors(images: int) -> int:
    """How many survivors of a verification of so many images are attacked again, if there are as many."""
    return min(max(images // _SHARE, _LEAST), _MOST)


def turned(trial: Trial, engine: EngineUnderTest, attacks: Sequence[Attack]) -> Bools:
    """Which of the trial's images the engine mistakes when each of these attacks takes twice as long, [M]."""
    return ~trial.withstood(engine, [attack.longer() for attack in attacks], stream=("doubled",))
