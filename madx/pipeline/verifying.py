"""The verify stage: measurements on the deployed engines, and the gates' verdict on them."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madx.attacks import suite_of
from madx.data import describe
from madx.data.near import MOST_COPIES, near_copies
from madx.deploy.engine import availability
from madx.machine import describe_machine
from madx.pipeline import files
from madx.pipeline.attacking import budget, measure_accuracy
from madx.pipeline.attempts import counted
from madx.pipeline.chunks import gate_images, merged
from madx.pipeline.context import Context
from madx.pipeline.curve import measure_curve
from madx.pipeline.doubling import with_doubled
from madx.pipeline.engines import (
    EngineUnderTest,
    Pair,
    build_record,
    compared,
    content_of,
    how_fed,
    how_precise,
    loaded_engines,
    roles,
)
from madx.pipeline.examples import examples_on
from madx.pipeline.keeping import Kept, copy_kept, keep_until_judged, timings_said, what_is_kept
from madx.pipeline.ladder import ladder
from madx.pipeline.soundness import measure_soundness
from madx.pipeline.takeover import examine_given
from madx.pipeline.timing import time_again, time_engines
from madx.pipeline.versions import tool_versions
from madx.recipe import METRICS, AttackConfig, EngineConfig, InputConfig
from madx.verify import Measurements, Sizes, judge
from madx.verify.contract import DYNAMIC, SERVED_ALONE, USUAL_CAUSE
from madx.verify.parity import (
    GREY_LEVEL,
    JITTER,
    PARITY_IMAGES,
    Contract,
    EngineParity,
    Parity,
    contract_alone,
    measure_parity,
)

PARITY_ATTACK = AttackConfig(steps=20, relative_step=2.5)
"""Makes the adversarial ones of them."""


def verify(context: Context) -> list[str]:
    """Write the measurements of every engine, and the verdict."""
    start = context.world.share(lambda: _decide(context))
    kept = start.kept
    if not context.alone and context.recipe.verify.input != InputConfig():
        context.progress.say(
            "verify.input speaks of a file that is given with --engine; this run's own needs none of it"
        )
    if kept.untouched:
        context.progress.say(f"{kept.why}, and nothing is measured")
    measured: list[Measurements] = []
    hashes: dict[str, dict[str, str]] = {}
    fit: dict[str, Sequence[str]] = {}
    for config in context.recipe.export.engines:
        if config.name in start.missing:
            context.progress.say(f"{config.name}: missing: {start.missing[config.name]}")
            hashes[config.name] = start.recorded[config.name]
            continue
        if (before := kept.measurements.get(config.name)) is not None:
            measured.append(time_again(context, config, before) if kept.timed_again else before)
            hashes[config.name] = _hashes_of(before)
            fit[config.name] = kept.provenance.get("fit", {}).get(config.name, [])
            continue
        values, hashes[config.name], fit[config.name] = _measured(context, config)
        if values is not None:
            measured.append(replace(values, image_doubts=start.image_doubts))
    told = {"merged": start.merged, "fit": fit}
    return context.world.share(lambda: _judged(context, measured, start.missing, hashes, kept=kept, told=told))


@dataclass(frozen=True)
class _Start:
    """What is known and decided before anything is measured."""

    kept: Kept
    merged: list[str]
    """Files of the chunks that other run directories measured."""
    image_doubts: tuple[str, ...]
    """As in `Measurements`; asked for only where something is measured."""
    missing: dict[str, str]
    """Why engines of the recipe cannot be had here, by name."""
    recorded: dict[str, dict[str, str]]
    """SHA-256 of the files that there are of those, by name and role."""


def _decide(context: Context) -> _Start:
    kept, missing = what_is_kept(context), missing_engines(context)
    engines = context.recipe.export.engines
    return _Start(
        kept=kept,
        merged=kept.provenance.get("merged", []) if kept.measurements else merged(context),
        image_doubts=image_doubts(context) if any(one.name not in kept.measurements for one in engines) else (),
        missing=missing,
        recorded={one.name: _recorded_hashes(context, one) for one in engines if one.name in missing},
    )


def _judged(
    context: Context,
    measured: Sequence[Measurements],
    missing: Mapping[str, str],
    hashes: Mapping[str, dict[str, str]],
    *,
    kept: Kept,
    told: Mapping[str, Any],
) -> list[str]:
    """Count, keep what is new, judge, and write; nobody can read what was measured before it is counted.

    A package's own metric may fail while it judges: what was measured is kept by then, and counted, and is judged once
    the package is mended. `told` goes into the provenance as it is; its `fit` has, by engine, doubts whether it was
    made for these images.
    """
    settings = context.recipe.verify
    gates = [gate.model_dump(mode="json") for gate in settings.gates]
    asked = [gate | METRICS.code(gate["metric"]) for gate in gates]  # other code is another gate, whatever its name
    judged = {values.engine: hashes[values.engine] for values in measured}
    copy_kept(context, kept)
    attempts = counted(context, _contents(context, judged), asked, kept=kept.untouched, timed=kept.retimed)
    names = {config.name: files.measurements(config) for config in context.recipe.export.engines}
    earlier, measured_at = kept.earlier_timings(), kept.measured_at(judged)
    new = [values for values in measured if kept.pending or values.engine not in kept.untouched]
    keep_until_judged(context, new, {**told, "measured_at": measured_at, "earlier_timings": earlier})
    verdict = judge(measured, settings.gates, missing=missing, sequential=settings.sequential)
    for values in new:
        context.write_arrays(names[values.engine], values.to_arrays())
    fed = [
        sentence
        for config in context.recipe.export.engines
        for sentence in (*how_precise(context, config), *how_fed(context, config))
    ]
    doubts = [f"{name}: {sentence}" for name, sentences in told["fit"].items() for sentence in sentences]
    warnings = (*verdict.warnings, *fed, *doubts, *attempts.warnings(timings_said(earlier)))
    verdict = replace(verdict, warnings=warnings)
    attacked = max((values.accuracy.images for values in measured), default=0)
    provenance = _provenance(context, attacked) | attempts.to_json()
    provenance |= {
        "typed": context.typed.portable().to_json(),
        "engines": hashes,
        "gates": gates,
        **told,
        "measured_at": measured_at,
        "earlier_timings": earlier,
        "attempts": context.run.attempts(),
    }
    context.write_json(files.VERDICT, verdict.to_json() | {"provenance": provenance})
    return [*(names[values.engine] for values in measured), files.VERDICT]


def _hashes_of(measured: Measurements) -> dict[str, str]:
    """SHA-256 of the engines that were measured, by role."""
    subjects = (measured.reference, measured.candidate)
    return {one.role: one.sha256 for one in subjects if one is not None and one.sha256 is not None}


def _contents(context: Context, names: Container[str]) -> dict[str, dict[str, str]]:
    """What the engines of these names compute, by role: a file that was only spelt otherwise is the same attempt."""
    found = {}
    for config in context.recipe.export.engines:
        if config.name in names:
            record = build_record(context, config)
            contents = {role: content_of(context, record, role) for role in roles(context) if role is not None}
            found[config.name] = {role: content for role, content in contents.items() if content is not None}
    return found


def _recorded_hashes(context: Context, config: EngineConfig) -> dict[str, str]:
    """The same of an engine that cannot be measured here: of those files of it that there are."""
    record = build_record(context, config)
    found = {role: files.recorded(record, role, "sha256") for role in roles(context) if role is not None}
    return {role: digest for role, digest in found.items() if digest is not None}


def missing_engines(context: Context) -> dict[str, str]:
    """Why engines of the recipe cannot be had here, by name."""
    reasons = {config.name: why_missing(context, config) for config in context.recipe.export.engines}
    return {name: reason for name, reason in reasons.items() if reason}


def why_missing(context: Context, config: EngineConfig) -> str:
    """Every engine of the recipe is promised: why this one cannot be had here, or nothing."""
    record = build_record(context, config)
    if not record["built"]:
        return f"it could not be built: {record['reason']}"
    available = availability(config.kind)
    return "" if available.can_run or not config.verify else f"it cannot run here: {available.explanation}"


def _measured(context: Context, config: EngineConfig) -> tuple[Measurements | None, dict[str, str], Sequence[str]]:
    """All of one engine (nothing with verify: false), the SHA-256 of the bytes that were loaded, and whether it fits.

    Raises:
        EngineError: the engine does not work; nothing is recorded, and the next call tries again.
    """
    reference, candidate = compared(context, config)
    hashes = {one.role: str(one.subject.sha256) for one in (reference, candidate) if one}
    if not config.verify:
        return None, hashes, ()
    context.progress.say(f"{config.name}: measuring {gate_images(context)} images{' and latency' if reference else ''}")
    suite = suite_of(context.recipe.verify.attack)
    with loaded_engines(context, reference, candidate) as engines:
        # By process 0 while the others wait idle: another process at work would be timed too.
        doubted, latency, parity, sound = context.world.share(
            lambda: (
                examine_given(context, engines),
                time_engines(context, config, engines),
                _parity(context, config, engines),
                measure_soundness(context, config, suite, engines),
            )
        )
        accuracy = measure_accuracy(context, config, engines)
        sound, curve, steps = context.world.share(
            lambda: (
                with_doubled(context, config, sound, accuracy, engines),
                measure_curve(context, config, accuracy, engines),
                None if context.alone else ladder(context, config),
            )
        )
        measurements = Measurements(
            engine=config.name,
            latency=latency,
            parity=parity,
            soundness=sound,
            accuracy=accuracy,
            curve=curve,
            sizes=Sizes(reference=reference.size if reference else None, candidate=candidate.size),
            reference=reference.subject if reference else None,
            candidate=candidate.subject,
            ladder=steps,
            reference_doubts=doubted.reference,
        )
    return measurements, hashes, doubted.told


def _parity(context: Context, config: EngineConfig, engines: Pair) -> Parity:
    reference, candidate = engines
    return Parity(
        reference=_beside_torch(context, config, reference) if reference else None,
        candidate=_beside_torch(context, config, candidate),
    )


def _beside_torch(context: Context, config: EngineConfig, engine: EngineUnderTest) -> EngineParity:
    """The engine beside its own torch model, on the first gate images and on examples made from them on that model."""
    images, labels = context.splits.gate.tensors(0, min(PARITY_IMAGES, gate_images(context)))
    contract = _contract_of(context, config, engine)
    if engine.torch_model is None:
        return contract_alone(engine.session, clean=images.numpy(), contract=contract)
    stream = ("verify-parity",)
    adversarial = examples_on(context, engine.torch_model, images, labels, attack=PARITY_ATTACK, stream=stream)
    return measure_parity(
        engine.session,
        engine.torch_classifier(context.device),
        clean=images.numpy(),
        adversarial=adversarial.numpy(),
        contract=contract,
    )


def _contract_of(context: Context, config: EngineConfig, engine: EngineUnderTest) -> Contract:
    """What this engine is held to, which is no more than its file can take."""
    batches = served_batches(context, config, engine.batch)
    return Contract(
        engine.rounding,
        engine.between_batches,
        batches,
        only=engine.batch,
        cause=_cause(engine.facts),
        jitter=GREY_LEVEL if engine.rounds else JITTER,
        precision=engine.computes_in,
        random=engine.facts.get("random", ""),
    )


def _cause(facts: Mapping[str, Any]) -> str:
    """What explains it if the engine's answers depend on the batch, as far as its file tells."""
    if facts.get("batch_wide"):
        return DYNAMIC
    if depending := facts.get("depends_on_values"):
        return f"{USUAL_CAUSE} (the file has {depending}, which may decide for a whole batch at once). {SERVED_ALONE}"
    return USUAL_CAUSE


def image_doubts(context: Context) -> tuple[str, ...]:
    """Why limits over the gate's images say less than they seem to: these are no independent images, or known ones."""
    splits = context.splits
    if splits.large:
        return ()  # too much to decode for that; the verdict says so
    gate = splits.gate.take(gate_images(context))
    near, found = near_copies(gate, splits.train), []
    repeated, few = near.images - near.different, MOST_COPIES * near.images
    if repeated > few:
        found.append(
            f"The gate's {near.images} images are {near.different} different ones: {repeated} are copies of others but "
            "for a grey level or two, and limits count independent images. Leave the copies out."
        )
    if near.trained > few:
        found.append(
            f"{near.trained} of the gate's {near.images} images are training images of this recipe, or differ from one "
            "by a grey level or two: accuracy on what a network was trained on says little of other images."
        )
    return tuple(found)


def served_batches(context: Context, config: EngineConfig, only: int | None = None) -> tuple[int, ...]:
    """Images a call at which the engine must answer as it does under attack: those that the recipe serves.

    A file that takes `only` that many is served so and not otherwise.
    """
    if only is not None:
        return (only,)
    asked = context.recipe.verify.batches
    return tuple(sorted(set(asked or (1, context.recipe.verify.latency.batch, config.max_batch))))


def _provenance(context: Context, attacked: int) -> dict[str, Any]:
    """What the verdict speaks of: this whole recipe, the first `attacked` of the gate's images, this machine."""
    gate, suite = context.splits.gate, suite_of(context.recipe.verify.attack)
    with_twins = all(source.twin for source in context.sources.values())
    return {
        "recipe": context.recipe_to_show(),
        "seed": context.recipe.seed,
        "threat": context.recipe.threat.model_dump(mode="json"),
        "attack": {
            "suite": suite.name,
            "budget": list(budget(suite, with_twins=with_twins)),
            "eight_bit": context.recipe.verify.eight_bit,
            "query_only": not with_twins,
        },
        "given": {role: source.digests() for role, source in context.sources.items()},
        "gate_images": {"images": attacked, "split": len(gate), "sha256": gate.fingerprint},
        "classes": list(gate.source.names),
        "data": describe(replace(context.splits, gate=gate.take(attacked or len(gate)))),
        "machine": describe_machine(),
        "tools": tool_versions(),
    }
