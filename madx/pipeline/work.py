"""How much work each stage of a recipe is: images that go through a network, by part, before any of them does.

Counts come from the objects that the stages themselves use, and assume that every image withstands every attack, as no
one knows yet which ones will fall: they are upper bounds. A part has the name that the progress shows it under, if it
is shown at all. `madx.pipeline.pace` says how long an image takes here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from madx.attacks import Attack, Pgd, suite_of
from madx.attacks.victim import Passes
from madx.deploy.engine import availability
from madx.models.fitting import MOST_IMAGES
from madx.models.precision import PLAIN, ComputeFormat
from madx.pipeline import curve, doubling, exporting, soundness, timed_images
from madx.pipeline.attacking import ATTACKING
from madx.pipeline.chunks import gate_images
from madx.pipeline.context import Context
from madx.pipeline.engines import has_torch_model, roles
from madx.pipeline.given import CANDIDATE
from madx.pipeline.ladder import FEWEST, rungs
from madx.pipeline.learning import learning_name
from madx.pipeline.pruning import recalibrating_name, recalibration_rounds
from madx.pipeline.scoring import most_batches, scoring_name
from madx.pipeline.training import job
from madx.pipeline.verifying import PARITY_ATTACK
from madx.prune import CRITERIA
from madx.recipe import AttackConfig, EngineConfig, LoopConfig
from madx.train.job import evaluation_steps
from madx.train.loop import TRAINING, attack_of
from madx.train.losses import LOSSES
from madx.verify.parity import PARITY_IMAGES
from madx.verify.sampling import FEWEST_CALLS, FEWEST_PAIRS

Role = Literal["dense", "pruned"]
EXPORT_SECONDS = 4.0
"""About what one ONNX file takes on a small CPU, with reading it back and building its engine, however small the
network: torch traces and optimises it."""


class Pass(NamedTuple):
    """One way in which an image goes through a network."""

    role: Role
    """Which network; one from outside counts as the run's own in its place."""
    kind: Literal["forward", "gradient", "example", "update", "engine"]
    """forward: to logits; gradient: to the slope at the image, BatchNorm folded; example: the same on the network as it
    is; update: to the slopes of the weights, and a step; engine: through the deployed engine."""
    format: ComputeFormat = PLAIN
    """In which it is computed; what is told apart by it are gradients and updates."""

    def __str__(self) -> str:
        return f"{self.role} {self.kind} {self.format}"


_SETS = 5
"""Sets of images that an engine is compared on with its twin: clean, adversarial, both changed a little, in 8 bits."""
_ASKED = _SETS + 2 + 3 * 4
"""Times that an engine is asked about an image beside its twin: these, whether it knows images by heart, and three sets
at three batches that are served and at the usual one."""
_SERVED = 4
"""Times that an engine is asked about an image as it is served: clean and attacked, there and at the attacks' batch."""


@dataclass(frozen=True)
class Part:
    """A part of a stage."""

    name: str
    """As the progress shows it; in brackets where it does not."""
    passes: Counter[Pass] = field(default_factory=Counter)
    """Images by the way they go."""
    seconds: float = 0.0
    """Of time that is spent whatever the network: a budget of the recipe."""
    least_calls: Counter[Pass] = field(default_factory=Counter)
    """Single calls that are made even if they take longer than that budget, in images."""


def parts_of(context: Context, stage: str) -> list[Part]:
    """The parts of a stage, in order; none for one that takes no time worth telling."""
    count = {"train": _train, "prune": _prune, "export": _export, "verify": _verify}.get(stage)
    return count(context) if count else []


def _train(context: Context) -> list[Part]:
    recipe = context.recipe
    if recipe.train is None:  # weights that are taken over are measured
        seen = min(MOST_IMAGES, len(context.splits.selection))
        return [Part("(accuracy)", _evaluations(seen, "dense", recipe.prune.attack))]
    return [_loop(context, recipe.train, "dense", "train", start_counts=recipe.model.weights is not None)]


def _loop(context: Context, config: LoopConfig, role: Role, setting: str, *, start_counts: bool) -> Part:
    """Adversarial training, with its evaluations."""
    work = job(context, config, setting=setting)
    images = work.steps * work.batch_size
    loss = LOSSES[config.loss]
    passes = Counter(
        {
            Pass(role, "example", work.format): images * attack_of(config).steps * (config.method != "clean"),
            Pass(role, "update", work.format): images * (1 + loss.wants_clean),
            Pass(role, "forward"): images * (loss.climbs == "clean"),
        }
    )
    measured = min(config.selection_images, len(work.selection))
    times = len(evaluation_steps(work)) + start_counts
    return Part(TRAINING, passes + _evaluations(times * measured, role, config.selection_attack))


def _evaluations(images: int, role: Role, attack: AttackConfig) -> Counter[Pass]:
    """`madx.train.evaluate`: the clean images, the attack, and what it found once more."""
    most = Pgd(attack).most
    return Counter({Pass(role, "forward"): images * (2 + most.forward), Pass(role, "example"): images * most.gradient})


def _prune(context: Context) -> list[Part]:
    config, criterion = context.recipe.prune, CRITERIA[context.recipe.prune.criterion]
    seen = min(MOST_IMAGES, len(context.splits.selection))
    images = most_batches(config) * context.batch_size(config)
    format = context.compute_format(config.precision) if criterion.formatted else PLAIN
    passes = Counter(
        {
            Pass("dense", "gradient"): images * config.attack.steps,
            Pass("dense", "update", format): images * criterion.passes,
        }
    )
    parts = [Part(scoring_name(config), passes)]
    if criterion.learner is not None:
        learning = config.learning
        images = learning.steps * context.batch_size(config)
        format = context.compute_format(learning.precision)
        attacked, moved = Pass("dense", "example", format), Pass("dense", "update", format)
        parts.append(Part(learning_name(config), Counter({attacked: images * learning.attack.steps, moved: images})))
    parts.append(Part("(accuracy)", _evaluations(seen, "pruned", config.attack)))
    if rounds := recalibration_rounds(config):
        images = config.recalibration_batches * context.batch_size(config)
        climbed = images * config.attack.steps * (config.recalibration == "adversarial")
        passes = Counter({Pass("pruned", "example"): climbed, Pass("pruned", "forward"): images})
        parts += [Part(recalibrating_name(config), passes)] * rounds
        parts.append(Part("(accuracy)", _evaluations(seen, "pruned", config.attack)))
    if config.finetune is not None:
        parts.append(_loop(context, config.finetune, "pruned", "prune.finetune", start_counts=True))
    return parts


def _export(context: Context) -> list[Part]:
    export, selection = context.recipe.export, len(context.splits.selection)
    images, ranges = min(export.parity_images, selection), min(export.calibration.images, selection)
    most = Pgd(exporting.ATTACK).most
    passes: Counter[Pass] = Counter()
    files = {(role, engine.precision_of(role)) for role in _ROLES for engine in export.engines}
    for role, precision in files:
        attacked = images + round(export.calibration.adversarial * ranges) * (precision == "int8")
        passes[Pass(role, "example")] += attacked * most.gradient
        passes[Pass(role, "forward")] += attacked * most.forward + images * 4  # clean and attacked, twice each
        passes[Pass(role, "engine")] += 2 * images + ranges * (precision == "int8")
    return [Part("(ONNX and engines)", passes, seconds=len(files) * EXPORT_SECONDS)]


_ROLES: tuple[Role, ...] = ("dense", "pruned")


def _verify(context: Context) -> list[Part]:
    """Engines that cannot be measured here cost nothing."""
    configs = [config for config in context.recipe.export.engines if config.verify]
    return [
        part
        for config in configs
        if availability(config.kind).can_run
        for part in _of_engine(context, config, _planned(context))
    ]


@dataclass(frozen=True)
class _Planned:
    """One of the two engines before there is any file of it."""

    role: Role
    torch_model: bool
    """Whether there is one beside the engine."""


def _planned(context: Context) -> list[_Planned]:
    """The reference, if there is one, and the candidate."""
    reference, candidate = roles(context)
    found = [_Planned("dense", has_torch_model(context, reference))] if reference else []
    return [*found, _Planned("pruned", has_torch_model(context, candidate))]


def _of_engine(context: Context, engine: EngineConfig, sides: list[_Planned]) -> list[Part]:
    """In the order in which the stage does them."""
    recipe, images = context.recipe, gate_images(context)
    seen = min(soundness.IMAGES, len(context.splits.gate))
    rising = sum(1 < factor <= curve.ALWAYS for factor in curve.FACTORS)
    parts = [_timing(context), _timed_images(context, sides[-1])] if len(sides) > 1 else []
    parts += [
        Part("(parity)", _sum(_parity(side, min(PARITY_IMAGES, images)) for side in sides)),
        Part(
            soundness.CHECKING,
            _sum([*(_checks(context, side, seen) for side in sides), _elsewhere(context, sides[-1])]),
        ),
        Part(ATTACKING[len(sides) > 1], _attacked(context, sides, images)),
    ]
    suite, queries_count = suite_of(recipe.verify.attack), doubling.asks_queries_alone(recipe.verify.gates)
    again = min(doubling.most_survivors(images), images)
    twice = [
        _against(side, _of(suite.twin if side.torch_model else suite.query, longer=True), again)
        for side in sides
        if side.torch_model or queries_count
    ]
    if twice:
        parts.append(Part(doubling.DOUBLING, _sum(twice)))
    if all(side.torch_model for side in sides):
        few = min(curve.IMAGES, images)
        once = (_times(rising, _against(side, curve.ATTACK.most, few)) for side in sides)
        parts.append(Part("(security curve)", _sum([*once, *(Counter({_engine(side): few}) for side in sides)])))
    if recipe.verify.latency.ladder and CANDIDATE not in roles(context):
        steps = len(rungs(recipe.prune, engine.precision))
        if steps >= FEWEST:
            parts.append(Part("(ladder)", seconds=recipe.verify.latency.seconds + (steps - 2) * EXPORT_SECONDS))
    return parts


def _timing(context: Context) -> Part:
    """The budget of seconds; the least number of pairs is timed even where it costs more: eight blocks each."""
    latency = context.recipe.verify.latency
    blocks = (latency.pairs or FEWEST_PAIRS) * (latency.block_calls or FEWEST_CALLS) * latency.batch
    least = Counter({Pass("dense", "engine"): 6 * blocks, Pass("pruned", "engine"): 2 * blocks})
    return Part("(timing)", seconds=latency.seconds, least_calls=least)


def _timed_images(context: Context, side: _Planned) -> Part:
    """The perturbed ones of them are made on the candidate's torch network."""
    images, most = min(timed_images.IMAGES, len(context.splits.gate)), Pgd(timed_images.ATTACK).most
    made = {Pass(side.role, "gradient"): images * most.gradient, Pass(side.role, "forward"): images * most.forward}
    return Part("(images that are timed)", Counter(made if side.torch_model else {}))


def _parity(side: _Planned, images: int) -> Counter[Pass]:
    """Engine and torch network, on clean images and on examples made on the latter."""
    if not side.torch_model:
        return Counter()
    most = Pgd(PARITY_ATTACK).most
    return Counter(
        {
            Pass(side.role, "gradient"): images * most.gradient,
            Pass(side.role, "forward"): images * (most.forward + _SETS + 1),
            _engine(side): images * _ASKED,
        }
    )


def _checks(context: Context, side: _Planned, images: int) -> Counter[Pass]:
    """The suite, the attack without a bound, one gradient, and a step along it and one against it."""
    if not side.torch_model:
        return Counter()
    suite = suite_of(context.recipe.verify.attack)
    extra = Counter({Pass(side.role, "gradient"): 2 * images, Pass(side.role, "forward"): 4 * images})
    return _sum([_against(side, _of((*suite.twin, *soundness.UNBOUNDED)), images), extra])


def _elsewhere(context: Context, side: _Planned) -> Counter[Pass]:
    """The candidate on some of the selection images, clean and attacked."""
    suite = suite_of(context.recipe.verify.attack)
    images = min(soundness.ELSEWHERE, len(context.splits.selection))
    attacked = _against(side, _of(suite.twin if side.torch_model else suite.query), images)
    return _sum([attacked, Counter({_engine(side): images})])


def _attacked(context: Context, sides: list[_Planned], images: int) -> Counter[Pass]:
    """Clean, and on what every adversary makes; each attacks what still stands, here all of it."""
    suite, verify = suite_of(context.recipe.verify.attack), context.recipe.verify
    adversaries = 0
    found: list[Counter[Pass]] = []
    for side in sides:
        if side.torch_model and suite.twin:
            found.append(_on_network(side, _of(suite.twin), images))
            adversaries += 1
        if side.torch_model and suite.in_the_loop:
            most = _of(suite.in_the_loop)
            asked = images * (most.gradient + most.forward + 1)
            found.append(Counter({_engine(side): asked, Pass(side.role, "gradient"): images * most.gradient}))
            adversaries += 1
        if suite.query:
            found.append(Counter({_engine(side): images * (_of(suite.query).forward + 1)}))
            adversaries += 1
    looks = images * (1 + adversaries + verify.eight_bit + _SERVED)
    return _sum([*found, *(Counter({_engine(side): looks}) for side in sides)])


def _against(side: _Planned, most: Passes, images: int) -> Counter[Pass]:
    """Attacks by gradients, or by queries where there is none, and the engine's word on what they make."""
    if not side.torch_model:
        return Counter({_engine(side): images * (most.forward + 2)})
    return _sum([_on_network(side, most, images), Counter({_engine(side): images})])


def _on_network(side: _Planned, most: Passes, images: int) -> Counter[Pass]:
    """Attacks on the torch network, which is asked about the clean images first."""
    return Counter(
        {Pass(side.role, "gradient"): images * most.gradient, Pass(side.role, "forward"): images * (most.forward + 1)}
    )


def _engine(side: _Planned) -> Pass:
    return Pass(side.role, "engine")


def _of(attacks: tuple[Attack, ...], *, longer: bool = False) -> Passes:
    """What they cost an image that withstands everything."""
    return sum(((attack.longer() if longer else attack).most for attack in attacks), Passes())


def _times(count: int, passes: Counter[Pass]) -> Counter[Pass]:
    return Counter({way: count * images for way, images in passes.items()})


def _sum(counts: Iterable[Counter[Pass]]) -> Counter[Pass]:
    return sum(counts, Counter())
