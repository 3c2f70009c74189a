"""Whether the attacks of a verification could have found what there is: they are tried where the answer is known.

Whether they had finished is asked in `madx.pipeline.doubling`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from madx.pipeline.attacking import Side
from madx.pipeline.context import Context
from madx.pipeline.twins import LARGEST_GAP
from madx.recipe import EngineConfig, ThreatConfig
from madx.seeds import torch_generator
from madx.verify.arrays import Arrays, Bools, with_prefix
from madx.verify.soundness import SideSoundness, Soundness

_IMAGES = 200
_FITTED = 1000
"""Selection images that the undefended classifier is fitted to."""
_UNBOUNDED = (Apgd(steps=50),)
_SHORT = 1 / 8
"""Of eps: far enough for float32, too short for a sound network to turn downhill."""


@dataclass(frozen=True)
class Trial:
    """What the attacks are tried on, and how."""

    suite: Suite
    threat: ThreatConfig
    seed: int
    images: Tensor
    """[M, C, H, W], on the device of the twins."""
    labels: Tensor
    """[M]"""

    def attacked(
        self,
        network: Victim,
        attacks: Sequence[Attack],
        *,
        threat: ThreatConfig | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The worst examples, and where the network still stands on them when they are scored again.

        Args:
            network: its torch module in eval mode, or what answers queries.
            attacks: one after the other.
            threat: the trial's own without it.
        """
        x, y, generator = self.images, self.labels, torch_generator(self.seed, "soundness")
        outcome = run_suite(network, x, y, attacks=tuple(attacks), threat=threat or self.threat, generator=generator)
        return outcome.points, network.forward(outcome.points).argmax(1) == y


def measure_soundness(
    context: Context, config: EngineConfig, suite: Suite, reference: Side | None, candidate: Side
) -> Soundness:
    """Try the suite on the first gate images: as it is, without a bound, and on a network without a defence."""
    images, labels = (part.to(context.device) for part in context.splits.gate.tensors(0, _IMAGES))
    trial = Trial(suite, context.recipe.threat, context.recipe.seed, images, labels)
    fitted = context.splits.selection.tensors(0, _FITTED)
    undefended = linear_classifier(*fitted, classes=context.splits.train.classes).to(context.device)
    parts = trials(trial, reference, candidate, undefended)
    what = f"checking the attacks on {len(images)} images"
    return Soundness.from_arrays(context.in_parts(f"checks-{config.name}", what, parts))


def trials(
    trial: Trial, reference: Side | None, candidate: Side, undefended: nn.Module
) -> dict[str, Callable[[], Arrays]]:
    """What the attacks achieve where it is known what they must, part by part: together the arrays of a `Soundness`.

    Without a twin queries alone are tried, and nothing can be said of gradients.
    """
    attacks = trial.suite.query if candidate.twin is None else trial.suite.twin
    parts: dict[str, Callable[[], Arrays]] = {"undefended": partial(_undefended, trial, undefended, attacks)}
    for name, side in (("reference", reference), ("candidate", candidate)):
        if side is not None and side.twin is not None:
            parts[name] = partial(_side, trial, name, side, side.twin)
    return parts


def _undefended(trial: Trial, undefended: nn.Module, attacks: Sequence[Attack]) -> Arrays:
    network = Victim.of(undefended)
    answers = network.forward(trial.images).argmax(1)
    _, standing = replace(trial, labels=answers).attacked(network, attacks)
    return {"undefended_clean": _bools(answers == trial.labels), "undefended": _bools(standing)}


def _side(trial: Trial, name: str, side: Side, twin: nn.Module) -> Arrays:
    network = Victim.of(twin)
    points, standing = trial.attacked(network, trial.suite.twin)
    _, unbounded = trial.attacked(network, _UNBOUNDED, threat=_anything(trial))
    found = SideSoundness(
        blind=_bools(_blind(twin, trial.images, trial.labels)),
        misled=_bools(_misled(trial, network)),
        twin_right=_bools(standing),
        engine_right=_bools(side.logits(points).argmax(1) == trial.labels),
        unbounded=_bools(unbounded),
    )
    return with_prefix(name, found.to_arrays())


def _anything(trial: Trial) -> ThreatConfig:
    """A ball that holds every image."""
    eps = 1.0 if trial.threat.norm == "linf" else math.sqrt(trial.images[0].numel())
    return trial.threat.model_copy(update={"eps": eps})


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
