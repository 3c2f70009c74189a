"""What a run will do and what it will take: stages, seconds, memory, disk, and whether each gate can be decided."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from madx.errors import ModelError
from madx.pipeline.context import Context
from madx.pipeline.feasibility import judged_gates, samples
from madx.pipeline.formats import describe_choice
from madx.pipeline.pace import Pace, measure_pace
from madx.pipeline.stages import due, walk
from madx.pipeline.work import Part, Pass, parts_of
from madx.plugins import USER_ERRORS
from madx.plugins import describe as describe_problem
from madx.precisions import PRECISIONS
from madx.progress import Progress
from madx.recipe import Recipe
from madx.rundir import RunDirectory
from madx.verify.feasible import Feasibility, feasible

_TRAINED_COPIES = 4
"""Weights, gradients, momentum and average."""
_BACKWARD = 2
"""Activations and their gradients."""
_PER_IMAGE = 100
"""Bytes of one engine's measurements for each attacked image, about."""


@dataclass(frozen=True)
class PartPlan:
    """A part of a stage and how long it takes here, at most."""

    name: str
    seconds: float


@dataclass(frozen=True)
class StagePlan:
    """A stage that has to be done, or has not."""

    name: str
    what: str
    reason: str
    """Why it has to be done; nothing if it is up to date."""
    parts: tuple[PartPlan, ...]

    @property
    def seconds(self) -> float:
        """About how long it takes here, at most."""
        return sum(part.seconds for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        parts = [{"name": part.name, "seconds": round(part.seconds, 2)} for part in self.parts]
        facts = {"name": self.name, "what": self.what, "up_to_date": not self.reason, "reason": self.reason}
        return facts | {"seconds": round(self.seconds, 2), "parts": parts}


@dataclass(frozen=True)
class Plan:
    """All of a run."""

    stages: tuple[StagePlan, ...]
    gates: tuple[Feasibility, ...]
    memory: int | None
    """Bytes, about: this process now, with the data, and what the largest batch needs; None where nothing is due."""
    disk: int | None
    """Bytes that the run directory grows to, about."""
    pace: Pace
    precision: str
    """What `precision: auto` is here, in words; nothing where it was not asked for."""

    @property
    def seconds(self) -> float:
        """About how long what is due takes here, at most."""
        return sum(stage.seconds for stage in self.stages)

    @property
    def decidable(self) -> bool:
        """Whether every gate can pass."""
        return all(gate.answer != "no" for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        passes = {str(way): seconds for way, seconds in self.pace.seconds.items()}
        return {
            "stages": [stage.to_json() for stage in self.stages],
            "seconds": round(self.seconds, 2),
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "seconds_an_image": passes,
            "precision": self.precision,
            "pruned_network_is_an_example": self.pace.example,
            "gates": [gate.to_json() for gate in self.gates],
            "decidable": self.decidable,
        }


class _LookedAt(RunDirectory):
    """A run directory that a plan leaves as it is."""

    def keep_probe(self, subject: str, record: Mapping[str, Any]) -> None:
        """The run itself keeps it."""


def plan(context: Context, *, progress: Progress | None = None) -> Plan:
    """Time a few passes, count the work of what is due, and ask every gate whether it can pass; nothing is written.

    Args:
        context: of the run; data that it has read are not read again.
        progress: for what is said meanwhile, instead of the run's.

    Raises:
        MadxError: the recipe's network, data or files are not fit for the run.
    """
    # What it measures and says is its own: the run keeps its own measurements, in its manifest, and says them itself.
    context = replace(
        context,
        run=_LookedAt(context.run.root),
        progress=progress or context.progress,
        once=context.once.branch(),
    )
    have = samples(context)
    gates = tuple(feasible(gate, have) for gate in judged_gates(context))
    reasons = due(context)
    work = {stage.name: parts_of(context, stage.name) if stage.name in reasons else [] for stage in walk(context)}
    wanted = {way for parts in work.values() for part in parts for way in (*part.passes, *part.least_calls)}
    pace = _pace(context, wanted)
    stages = tuple(
        StagePlan(name, describe(context.recipe, name), reasons.get(name, ""), tuple(_timed(p, pace) for p in parts))
        for name, parts in work.items()
    )
    if not wanted:
        return Plan(stages, gates, None, None, pace, "")
    return Plan(stages, gates, _memory(pace), _disk(context, pace), pace, describe_choice(context.probe))


def _pace(context: Context, wanted: Collection[Pass]) -> Pace:
    """Timed passes; a network that cannot be timed could not be trained or attacked either."""
    try:
        return measure_pace(context, wanted)
    except USER_ERRORS as problem:
        raise ModelError(
            f"model: passes of {context.recipe.model.name} cannot be timed: {describe_problem(problem)}; mend its "
            "forward, which training, pruning and attacks differentiate"
        ) from problem


def _timed(part: Part, pace: Pace) -> PartPlan:
    """A budget is spent whole, or more where the least number of calls takes longer."""
    passes, least = (
        sum(images * pace.seconds[way] for way, images in counts.items()) for counts in (part.passes, part.least_calls)
    )
    return PartPlan(part.name, passes + max(part.seconds, least))


def describe(recipe: Recipe, stage: str) -> str:
    """What a stage does under this recipe, in a few words."""
    return _WORDS[stage](recipe)


def _train(recipe: Recipe) -> str:
    if recipe.train is None:
        return "take the weights that the recipe gives"
    return f"adversarial training, {recipe.train.epochs:g} epochs"


def _prune(recipe: Recipe) -> str:
    config = recipe.prune
    tuned = f", fine-tuning for {config.finetune.epochs:g} epochs" if config.finetune else ""
    return f"saliency by {config.criterion}, {config.structure} at {config.sparsity:.0%}{tuned}"


def _export(recipe: Recipe) -> str:
    return f"ONNX files and engines: {', '.join(engine.name for engine in recipe.export.engines)}"


def _verify(recipe: Recipe) -> str:
    attack = recipe.verify.attack
    named = attack if isinstance(attack, str) else f"PGD, {attack.steps} steps"
    return f"attack both engines ({named}), time them, judge {len(recipe.verify.gates)} gates"


_WORDS: dict[str, Callable[[Recipe], str]] = {
    "train": _train,
    "prune": _prune,
    "export": _export,
    "take": lambda _: "take over the files from outside",
    "verify": _verify,
    "report": lambda _: "write the reports",
}


def _memory(pace: Pace) -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return now + _BACKWARD * pace.activations + _TRAINED_COPIES * max(pace.parameters.values(), default=0)


def _disk(context: Context, pace: Pace) -> int:
    """Networks, ONNX files and engines, scores and masks, and the measurements."""
    recipe, dense = context.recipe, pace.parameters.get("dense", 0)
    pruned = pace.parameters.get("pruned", dense)
    share = {name: row.weight_bytes / PRECISIONS["fp32"].weight_bytes for name, row in PRECISIONS.items()}
    parameters = {"dense": dense, "pruned": pruned}
    built = sum(
        2 * size * share[engine.precision_of(role)]  # the ONNX file and the engine
        for role, size in parameters.items()
        for engine in recipe.export.engines
    )
    scores = dense + dense // 4
    images = min(recipe.verify.images or len(context.splits.gate), len(context.splits.gate))
    pictures = 4 * 2 * 16 * int(np.prod(context.splits.gate.shape))
    measured = len(recipe.export.engines) * (images * _PER_IMAGE + pictures)
    return round(dense + pruned + built + scores + _TRAINED_COPIES * dense + measured)
