"""Whether the attacks of a verification could have found what there is: they are tried where the answer is known.

Whether they had finished is asked in `madx.pipeline.doubling`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from madx.attacks import (
    Apgd,
    Attack,
    CrossEntropy,
    Suite,
    Victim,
    input_gradient,
    linear_classifier,
    norm_named,
    run_suite,
)
from madx.attacks.norms import inside
from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest, Pair
from madx.pipeline.examples import LARGEST_GAP, Trial
from madx.recipe import EngineConfig
from madx.seeds import torch_generator
from madx.verify.arrays import Arrays, Bools, with_prefix
from madx.verify.soundness import SideSoundness, Soundness

CHECKING = "checking the attacks"
"""What the progress calls it."""
IMAGES = 200
"""Gate images, at most."""
ELSEWHERE = 150
"""Selection images on which the candidate is tried beside the gate's."""
_FITTED = 1000
"""Selection images that the undefended classifier is fitted to."""
UNBOUNDED = (Apgd(steps=50),)
"""What must turn every image when it may change them at will."""
_SHORT = 1 / 8
"""Of eps: far enough for float32, too short for a sound network to turn downhill."""


def measure_soundness(context: Context, config: EngineConfig, suite: Suite, engines: Pair) -> Soundness:
    """Try the suite on the first gate images: as it is, without a bound, and on a network without a defence."""
    images, labels = (part.to(context.device) for part in context.splits.gate.tensors(0, IMAGES))
    trial = Trial(context.recipe.threat, context.recipe.seed, images, labels)
    fitted = context.splits.selection.tensors(0, _FITTED)
    undefended = linear_classifier(*fitted, classes=context.splits.train.classes).to(context.device)
    parts = trials(trial, suite, engines, undefended)
    parts["elsewhere"] = partial(_elsewhere, context, suite, engines[-1])
    return Soundness.from_arrays(context.in_parts(f"checks-{config.name}", CHECKING, parts))


def _elsewhere(context: Context, suite: Suite, candidate: EngineUnderTest) -> Arrays:
    """How the candidate does on selection images: one that knows the gate's by heart is worse there."""
    images, labels = (part.to(context.device) for part in context.splits.selection.tensors(0, ELSEWHERE))
    trial = Trial(context.recipe.threat, context.recipe.seed, images, labels)
    attacks = suite.query if candidate.torch_model is None else suite.twin
    clean = candidate.right(images.cpu().numpy(), labels)
    robust = clean & trial.withstood(candidate, attacks, stream=("elsewhere",))
    return with_prefix("elsewhere", {"clean": clean, "robust": robust})


def trials(trial: Trial, suite: Suite, engines: Pair, undefended: nn.Module) -> dict[str, Callable[[], Arrays]]:
    """What the attacks achieve where it is known what they must, part by part: together the arrays of a `Soundness`.

    Without a torch model queries alone are tried, and nothing can be said of gradients.
    """
    attacks = suite.query if engines[-1].torch_model is None else suite.twin
    parts: dict[str, Callable[[], Arrays]] = {"undefended": partial(_undefended, trial, undefended, attacks)}
    for name, engine in zip(("reference", "candidate"), engines, strict=True):
        if engine is not None and engine.torch_model is not None:
            parts[name] = partial(_engine, trial, suite, name, engine, engine.torch_model)
    return parts


def _undefended(trial: Trial, undefended: nn.Module, attacks: Sequence[Attack]) -> Arrays:
    network = Victim.of(undefended)
    answers = network.forward(trial.images).argmax(1)
    _, standing = _attacked(replace(trial, labels=answers), network, attacks)
    return {"undefended_clean": _bools(answers == trial.labels), "undefended": _bools(standing)}


def _engine(trial: Trial, suite: Suite, name: str, engine: EngineUnderTest, model: nn.Module) -> Arrays:
    network = Victim.of(model)
    points, standing = _attacked(trial, network, suite.twin)
    _, unbounded = _attacked(trial.within(trial.widest), network, UNBOUNDED)
    found = SideSoundness(
        blind=_bools(_blind(model, trial.images, trial.labels)),
        misled=_bools(_misled(trial, network)),
        twin_right=_bools(standing),
        engine_right=engine.right(points.cpu().numpy(), trial.labels),
        unbounded=_bools(unbounded),
    )
    return with_prefix(name, found.to_arrays())


def _attacked(trial: Trial, network: Victim, attacks: Sequence[Attack]) -> tuple[Tensor, Tensor]:
    """The worst examples, and where the network still stands on them when they are scored again."""
    x, y, generator = trial.images, trial.labels, torch_generator(trial.seed, "soundness")
    outcome = run_suite(network, x, y, attacks=tuple(attacks), threat=trial.threat, generator=generator)
    return outcome.points, network.forward(outcome.points).argmax(1) == y


def _bools(rows: Tensor) -> Bools:
    found: Bools = rows.cpu().numpy()
    return found


def _blind(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Where an attack sees nothing: the loss's gradient at the image is exactly zero, or not a number."""
    _, slope = input_gradient(network, largest_gap=LARGEST_GAP)(x, y)
    return ~(slope.flatten(1).abs().amax(1) > 0)


def _misled(trial: Trial, network: Victim) -> Tensor:
    """Where a short step along the gradient leads no higher than one against it: noise, or another way, is no guide.

    The two are compared with each other, because any step may raise a loss at a point that is far from the border.
    """
    loss, x, y, threat = CrossEntropy(), trial.images, trial.labels, trial.threat
    norm = norm_named(threat.norm)
    _, slope = network.gradient(loss)(x, y)
    step = _SHORT * threat.eps * norm.direction(slope.nan_to_num(nan=0.0))
    along, against = (loss(network.forward(inside(norm, x + move, x, threat.eps)), y) for move in (step, -step))
    return ~(along > against)
