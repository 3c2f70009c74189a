"""The timed part of a verification, and `--only latency`: that part once more, beside what else was measured.

The ladder is timed with it: it is timing too, and the report shows both as of one machine at one time.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from madx.errors import ArtifactError, EngineError
from madx.pipeline.contenders import contenders
from madx.pipeline.context import Context
from madx.pipeline.keeping import kept_beside_timings
from madx.pipeline.ladder import ladder
from madx.pipeline.sides import Side, loaded_sides
from madx.pipeline.stages import begin, stage_named
from madx.recipe import EngineConfig
from madx.sensors import Watch
from madx.verify import Measurements
from madx.verify.latency import measure_latency
from madx.verify.timings import Latency


def time_engines(context: Context, engine: EngineConfig, reference: Side | None, candidate: Side) -> Latency | None:
    """Interleaved; without a reference nothing is timed, as only ratios mean anything.

    Raises:
        EngineError: the two are timed in different ways.
    """
    if reference is None:
        return None
    config = context.recipe.verify.latency
    images = context.splits.gate.tensors(0, config.batch)[0].numpy()
    timing, other = reference.engine.timing, candidate.engine.timing
    if timing != other:
        raise EngineError(f"the engines cannot be compared: one is timed as {timing!r}, the other as {other!r}")
    context.progress.say(f"timing both engines at batch {config.batch}, up to {config.seconds:g} s")
    measured = measure_latency(
        reference.engine.timer(images),
        candidate.engine.timer(images),
        config=config,
        seed=context.recipe.seed,
        timing=timing,
        tails=any(gate.metric == "p99_ratio" for gate in context.recipe.verify.gates),
        watch=Watch.over_this_machine(gpu=engine.on_gpu),
    )
    facts = {"reference": reference.engine.facts, "candidate": candidate.engine.facts}
    return replace(measured, facts={**measured.facts, **facts})


def time_again(context: Context, config: EngineConfig, before: Measurements) -> Measurements:
    """The same measurements with other timings, of the very same engines.

    Raises:
        ArtifactError: the engines are no longer those that were measured.
        EngineError: an engine does not work; nothing is recorded.
    """
    context.progress.say(f"{config.name}: timing again; everything else stays as it was measured")
    reference, candidate = contenders(context, config)
    if (reference.subject if reference else None, candidate.subject) != (before.reference, before.candidate):
        raise ArtifactError(
            f"{config.name}: these are not the engines that were measured (their SHA-256 differ); verify without --only"
        )
    reference, candidate = reference and replace(reference, twin=None), replace(candidate, twin=None)  # no attacks
    with loaded_sides(context, config, reference, candidate) as sides:
        latency = context.world.share(partial(time_engines, context, config, *sides))
        steps = context.world.share(lambda: None if context.alone else ladder(context, config))
    return replace(before, latency=latency, ladder=steps)


def begin_timing_again(context: Context) -> None:
    """Refuse before anything is removed or measured where there is nothing to keep beside new timings.

    Raises:
        ArtifactError: as `kept_beside_timings`, or as `begin`.
    """
    context.world.share(lambda: _refuse_other_files(context))
    begin(context, stage_named("verify"), part="--only latency")
    context.world.share(lambda: kept_beside_timings(context))


def _refuse_other_files(context: Context) -> None:
    kept_beside_timings(context)  # before files from outside are taken over, which removes a verdict on others
    before: dict[str, Any] = (context.run.stage("take") or {"depends": {"given": {}}})["depends"]["given"]
    now = {role: source.digests() for role, source in context.sources.items()}
    if now != before:
        what = "not those" if now and before else "missing" if before else "new"
        raise ArtifactError(
            f"--only latency: the files from outside are {what} that the verdict of {context.run.root} speaks of (it "
            f"has: {', '.join(before) or 'none'}); give the same ones again (--baseline, --engine), or verify without "
            "--only"
        )
