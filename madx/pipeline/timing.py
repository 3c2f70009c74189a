"""The timed part of a verification, and `--only latency`: that part once more, beside what else was measured.

The ladder is timed with it: it is timing too, and the report shows both as of one machine at one time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from madx.deploy.engine import Engine, backend
from madx.deploy.outside import same_speed_of_numbers
from madx.errors import ArtifactError, EngineError, ExportError
from madx.pipeline.contenders import contenders
from madx.pipeline.context import Context
from madx.pipeline.exporting import checked_onnx
from madx.pipeline.keeping import kept_beside_timings
from madx.pipeline.ladder import ladder
from madx.pipeline.sides import Side, loaded_sides
from madx.pipeline.stages import begin, stage_named
from madx.pipeline.timed_images import Shown, timed_images
from madx.recipe import EngineConfig
from madx.sensors import Watch
from madx.verify import Measurements
from madx.verify.latency import Timed, measure_latency
from madx.verify.remedies import Doubt, Remedy
from madx.verify.sampling import Timer, median_seconds
from madx.verify.timings import Latency

_SLOWED = 1.03
"""Times as long as madx's own export that a reference may take before that is timed in its place."""

_OTHER_NUMBERS = (
    "The reference computes in {0} and the candidate in {1}, so how much of the speed-up is that this machine is slow "
    "in the reference's numbers is not known. "
)
_GIVE_TWIN = (
    "Give the reference's torch twin (--reference-twin, or a baseline with its weights): its own export is then timed "
    "too. Or give a reference that computes in fp32 alone."
)
_NO_EXPORT = (
    "Its torch twin was given, but could not be timed in {0}: {1}. Give a reference that computes in fp32 alone, or "
    "one whose twin can be exported."
)
_CONVERTED = (
    "Images were turned into what each file takes (type, layout, scaling) before the clock started: whoever does that "
    "for every call pays for it on top."
)


def time_engines(context: Context, engine: EngineConfig, reference: Side | None, candidate: Side) -> Latency | None:
    """Interleaved; without a reference nothing is timed, as only ratios mean anything.

    Raises:
        EngineError: the two are timed in different ways.
    """
    if reference is None:
        return None
    config = context.recipe.verify.latency
    timing, other = reference.engine.timing, candidate.engine.timing
    if timing != other:
        raise EngineError(f"the engines cannot be compared: one is timed as {timing!r}, the other as {other!r}")
    shown = timed_images(context, config.batch, candidate)
    timed = fastest_reference(context, engine, reference, candidate, shown)
    remarks = timed.remarks
    if any(side.interface is not None and not side.interface.plain for side in (reference, candidate)):
        remarks = [*remarks, _CONVERTED]
    context.progress.say(f"timing both engines at batch {config.batch}, up to {config.seconds:g} s")
    measured = measure_latency(
        partial(_loaded, timed.load, shown),
        partial(_loaded, _load_of(candidate), shown),
        config=config,
        seed=context.recipe.seed,
        timed=Timed(timing, shown.clean, len(shown.rows) - shown.clean),
        tails=any(gate.metric == "p99_ratio" for gate in context.recipe.verify.gates),
        watch=Watch.over_this_machine(gpu=engine.on_gpu),
    )
    facts = {"reference": timed.facts, "candidate": candidate.engine.facts, "remarks": remarks}
    facts |= {"doubts": {str(doubt): doubt.remedy.value for doubt in timed.doubts}}
    return replace(measured, facts={**measured.facts, **facts})


@dataclass(frozen=True)
class TimedReference:
    """The reference that is timed."""

    load: Callable[[], Engine]
    facts: dict[str, Any]
    remarks: list[str] = field(default_factory=list)
    """What to say of it."""
    doubts: list[Doubt] = field(default_factory=list)
    """Why the speed-up may not be the candidate's."""


def fastest_reference(
    context: Context, engine: EngineConfig, given: Side, candidate: Side, shown: Shown
) -> TimedReference:
    """The reference to time: one that was given, or madx's own export of its twin where that is faster.

    Nodes that compute nothing make a reference slow and a candidate look fast, and no runtime removes them all; so does
    a number type that the machine is slow in. Where the network itself was given too, it is exported and built once
    more: in the reference's precision, and, where its numbers may be what is slow, in float32 and the candidate's.
    """
    as_it_is = TimedReference(_load_of(given), given.engine.facts)
    if given.role == "dense":
        return as_it_is
    fair = same_speed_of_numbers(given.numbers, candidate.numbers)
    other = _OTHER_NUMBERS.format(given.numbers, candidate.numbers)
    if given.twin is None:
        return as_it_is if fair else replace(as_it_is, doubts=[Doubt(other + _GIVE_TWIN, Remedy.GIVE_TWIN)])
    needed = () if fair else ("fp32", candidate.precision)
    exported, failed = _own_exports(context, engine, given, (given.precision, *needed), shown)
    slow = {precision: ratio for precision, (_, ratio) in exported.items() if ratio > _SLOWED}
    remarks = [
        f"Whether the reference's graph is slower than its weights need in {precision} is not known: {problem}"
        for precision, problem in failed.items()
    ]
    doubts = [
        Doubt(other + _NO_EXPORT.format(precision, problem), Remedy.GIVE_REFERENCE)
        for precision, problem in failed.items()
        if precision in needed
    ]
    if not slow:
        return replace(as_it_is, remarks=remarks, doubts=doubts)
    precision = max(slow, key=lambda one: slow[one])
    sentence = (
        f"The reference as it was given takes {slow[precision]:.2f} times as long as madx's own export of its weights "
        f"in {precision}. The speed-up is against that export."
    )
    return replace(exported[precision][0], remarks=[sentence, *remarks], doubts=doubts)


def _own_exports(
    context: Context, engine: EngineConfig, given: Side, precisions: Iterable[str], shown: Shown
) -> tuple[dict[str, tuple[TimedReference, float]], dict[str, str]]:
    """`_beside_own_export` in each precision, and why not: one that cannot be had takes none of the others along."""
    exported, failed = {}, {}
    for precision in dict.fromkeys(precisions):
        try:
            exported[precision] = _beside_own_export(context, engine, given, precision, shown)
        except (EngineError, ExportError) as problem:
            failed[precision] = str(problem)
    return exported, failed


def _beside_own_export(
    context: Context, engine: EngineConfig, given: Side, precision: str, shown: Shown
) -> tuple[TimedReference, float]:
    """Madx's own export of a side's twin, and how many times as long as it the side's engine takes."""
    assert given.twin is not None  # asked by whoever calls
    runtime = backend(engine.kind)
    own_config = engine.of_precision(precision)
    artifact = checked_onnx(context, given.twin, precision)
    built = runtime.build(artifact, own_config, batch=context.recipe.verify.latency.batch)
    load = partial(runtime.load, built.payload, own_config)
    with closing(load()) as own:
        timers = [one.timer(shown.images, shown.rows) for one in (given.engine, own)]
        as_given, exported = median_seconds(timers, batches=len(shown.rows))
        return TimedReference(load, own.facts), as_given / exported


def _load_of(side: Side) -> Callable[[], Engine]:
    assert side.again is not None  # sides that are timed were loaded from bytes
    return side.again


@contextmanager
def _loaded(load: Callable[[], Engine], shown: Shown) -> Iterator[Timer]:
    """A fresh load of an engine, set up to be timed."""
    with closing(load()) as engine:
        yield engine.timer(shown.images, shown.rows)


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
