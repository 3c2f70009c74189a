"""Stages, their keys, and the rule that only work that is not done yet is done.

A stage's key is a hash of what it depends on and of the files that the stages before it wrote. A stage whose recorded
key is the same and whose files still have their recorded hashes is not run again. Before and after the work, every
stage whose recorded inputs are no longer the files there are is forgotten, files and all: no verdict stands beside a
network it does not speak of.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from madx.artifacts import sha256_bytes
from madx.errors import ArtifactError, DistributedError
from madx.machine import describe_machine
from madx.pipeline import keys
from madx.pipeline.context import Context, RunningStage
from madx.pipeline.unfinished import remove_earlier, remove_own
from madx.pipeline.versions import tool_versions
from madx.recipe import canonical_json
from madx.rundir import CHECKPOINTS


@dataclass(frozen=True)
class Stage:
    """One step of the run: `function` is 'module:callable', Context -> names of the files written."""

    name: str
    after: tuple[str, ...]
    depends: Callable[[Context], dict[str, Any]]
    function: str
    only_shows: bool = False
    """It measures nothing, so the files before it need only be whole, not of this machine and these tools."""
    together: bool = False
    """All processes of a job work on it; the others are process 0's alone."""
    last_word: str = ""
    """'module:callable', Context -> why what is finished is not the last that was done, or nothing."""

    def work(self, context: Context) -> list[str]:
        """Do the stage's work; its module is imported only now."""
        outputs: list[str] = _found(self.function)(context)
        return outputs


def _found(function: str) -> Callable[[Context], Any]:
    module, _, name = function.partition(":")
    found: Callable[[Context], Any] = getattr(import_module(module), name)
    return found


@dataclass(frozen=True)
class StageReport:
    """What `run_stages` did with a stage."""

    name: str
    done: bool
    seconds: float


STAGES = (
    Stage("train", (), keys.train, "madx.pipeline.training:train", together=True),
    Stage("prune", ("train",), keys.prune, "madx.pipeline.pruning:prune", together=True),
    Stage("export", ("train", "prune"), keys.export, "madx.pipeline.exporting:export"),
    Stage(
        "verify",
        ("train", "prune", "export"),
        keys.verify,
        "madx.pipeline.verifying:verify",
        together=True,
        last_word="madx.pipeline.keeping:unjudged",
    ),
    Stage(
        "report", ("train", "prune", "export", "verify"), keys.report, "madx.pipeline.reporting:report", only_shows=True
    ),
)


@dataclass(frozen=True)
class _State:
    """What a stage depends on now, and why it has to be run (nothing: it is up to date)."""

    content: dict[str, Any]
    reason: str

    @property
    def key(self) -> str:
        """Equal content has equal keys."""
        return sha256_bytes(canonical_json(self.content).encode())


_TAKE = Stage("take", (), keys.take, "madx.pipeline.taking:take")


def walk(context: Context) -> tuple[Stage, ...]:
    """The stages of this run, in order: with files from outside, take comes before verify and report.

    An engine that no run made has nothing before that.
    """
    if not context.taken:
        return STAGES
    *before, verify, report = STAGES
    kept = [] if context.alone else before
    names = [*(stage.name for stage in kept), _TAKE.name]
    return (
        *kept,
        _TAKE,
        replace(verify, after=tuple(names)),
        replace(report, after=(*names, verify.name)),
    )


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def run_stages(
    context: Context,
    wanted: Sequence[Stage] = STAGES,
    *,
    again: Sequence[str] = (),
    current: bool = False,
    ended: Callable[[str], None] | None = None,
) -> list[StageReport]:
    """Bring the wanted stages up to date, in order; a stage before them that is not up to date is an error.

    Args:
        context: the run; every process of a job calls this with the same one.
        wanted: stages to bring up to date.
        again: names of stages that are run even if they are up to date.
        current: the stages before must be up to date even for stages that only show what they made.
        ended: is told the name of each stage once that is up to date.

    Raises:
        ArtifactError: an earlier stage is missing or its files were changed.
        DistributedError: the processes do not have the same recipe, data, code or tools.
        RecipeError: the processes cannot share a training batch evenly.
    """
    _check_alike(context, wanted)
    context, own = _prepared(context, wanted, current=current)
    reports = []
    for stage in own:
        reports.append(_bring_up_to_date(context, stage, again=stage.name in again))
        if ended is not None:
            ended(stage.name)
    return reports


def due(context: Context) -> dict[str, str]:
    """Why each stage of this run has to be done, in order; those that are up to date are left out, nothing is changed.

    A stage after one that is done again counts, although it may turn out to be given the same files.
    """
    stages = walk(context)
    return context.world.share(lambda: _due(context, stages))


def _due(context: Context, stages: Sequence[Stage]) -> dict[str, str]:
    found: dict[str, str] = {}
    for stage in stages:
        if before := [name for name in stage.after if name in found]:
            found[stage.name] = f"after {before[0]}"
        elif (state := _state(context, stage)).reason:
            begun = context.run.path(f"{CHECKPOINTS}/{stage.name}-{state.key[:16]}").exists()
            found[stage.name] = "begun, and not finished" if begun else state.reason
    return found


def begin(context: Context, wanted: Stage, *, part: str) -> tuple[Context, str]:
    """Check what comes before a stage, so that parts of its work can be done and read.

    Args:
        context: the run; every process of a job calls this with the same one.
        wanted: the stage; nothing is entered in the manifest for it.
        part: which part of its work is meant, as the command line names it; every process of a job must mean the same.

    Returns:
        The stage's own context, and why it has to be done: nothing if it is up to date.

    Raises:
        ArtifactError: as `run_stages`; or the run was compared with files that are not given now.
        DistributedError: as `run_stages`.
    """
    _check_alike(context, [wanted], part=part)
    context, [stage] = _prepared(context, [wanted], forgets=False)
    return _bound(context, stage)


def _refuse_to_forget(context: Context) -> None:
    """A verification with files from outside is forgotten for one without them, but not for parts of one."""
    if context.run.stage(_TAKE.name) is not None and not context.given.any:
        raise ArtifactError(
            f"{context.run.root} was verified with files from outside; give them again (--baseline, --engine), or take "
            "a copy of the run in which that was not done"
        )


def _prepared(
    context: Context, wanted: Sequence[Stage], *, current: bool = False, forgets: bool = True
) -> tuple[Context, list[Stage]]:
    """The context of the wanted stages, and these as they are in this run, when nothing stands in their way."""
    context.sources  # noqa: B018 - read where all processes wait for them
    taken = context.world.share(lambda: _settle(context, wanted, current=current, forgets=forgets))
    context = replace(context, stage=RunningStage(wanted=tuple(stage.name for stage in wanted), taken=taken))
    return context, _as_in_this_run(context, wanted)


def _settle(context: Context, wanted: Sequence[Stage], *, current: bool, forgets: bool) -> tuple[str, ...]:
    """Bring what comes before the stages in order; returns the roles of the engines from outside.

    Unless it `forgets`, a verification with files from outside is not given up for one without them.
    """
    if not forgets:
        _refuse_to_forget(context)
    _settle_origin(context, wanted)
    taken = context.taken
    context = replace(context, stage=RunningStage(taken=taken))
    _check_earlier(context, _as_in_this_run(context, wanted), current=current)
    context.accept()
    return taken


def _as_in_this_run(context: Context, wanted: Sequence[Stage]) -> list[Stage]:
    """The wanted stages, in order; they know what comes before them in this run."""
    names = [stage.name for stage in wanted]
    return [stage for stage in walk(context) if stage.name in names]


def _settle_origin(context: Context, wanted: Sequence[Stage]) -> None:
    """One run directory is of one kind, and a verification without files from outside needs no copies of them.

    Raises:
        ArtifactError: the directory holds a run of the other kind.
    """
    found, root = context.run.manifest()["stages"], context.run.root
    if context.given.alone and found.keys() - {_TAKE.name, "verify", "report"}:
        raise ArtifactError(
            f"{root} holds a run that trained or pruned; choose another --out for an engine from outside"
        )
    if context.given.any or all(stage.name != "verify" for stage in wanted):
        return
    if context.alone:
        raise ArtifactError(
            f"{root} judged an engine that was given with --engine; give it again, or another --run-dir"
        )
    context.run.forget_stage(_TAKE.name)


def _check_alike(context: Context, wanted: Sequence[Stage], *, part: str | None = None) -> None:
    """Processes that work on different things would end in nonsense, or wait for each other for ever."""
    if context.world.size == 1:
        return
    facts: dict[str, Any] = {"stages": [stage.name for stage in wanted], "tools": tool_versions()}
    facts["--shard or --merge"] = part
    together = [stage for stage in wanted if stage.together]
    facts |= {stage.name: keys.across_processes(stage.depends(context)) for stage in together}
    if together:
        splits = context.splits
        facts["images"] = {split.name: split.fingerprint for split in (splits.train, splits.selection, splits.gate)}
    first, *others = context.world.gather(facts)
    for rank, other in enumerate(others, start=1):
        if changes := keys.differences(first, other):
            raise DistributedError(
                f"processes 0 and {rank} do not agree on {', '.join(changes[:5])}; every machine of a job needs the "
                "same recipe, data, code, tools and hardware"
            )
    loops = {"train": context.recipe.train, "prune": context.recipe.prune.finetune}
    for stage in wanted:
        if (loop := loops.get(stage.name)) is not None:
            context.world.rows(context.batch_size(loop))


def _state(context: Context, stage: Stage) -> _State:
    content = {"stage": stage.name, "depends": stage.depends(context), "inputs": _inputs(context, stage)}
    if reason := _not_whole(context, stage):
        return _State(content, reason)
    record = context.run.stage(stage.name) or {}
    if record.get("key") == _State(content, "").key:
        return _State(content, "")
    before = {"stage": stage.name, "depends": record.get("depends"), "inputs": record.get("inputs")}
    changes = keys.differences(before, content) or ["its key"]
    return _State(content, "changed: " + ", ".join(changes[:3]) + (", ..." if len(changes) > 3 else ""))


def _not_whole(context: Context, stage: Stage) -> str:
    """Why what the stage wrote cannot be read, or nothing."""
    if context.run.stage(stage.name) is None:
        return "not done yet"
    changed = context.run.changed_outputs(stage.name)
    return f"{', '.join(changed)} changed since the stage wrote it" if changed else ""


def _check_earlier(context: Context, wanted: Sequence[Stage], *, current: bool) -> None:
    _forget_outdated(context)
    names = {stage.name for stage in wanted}
    needed = {name for stage in wanted for name in stage.after} - names
    only_shows = all(stage.only_shows for stage in wanted) and not current
    for stage in walk(context):
        if stage.name not in needed:
            continue
        as_it_is = only_shows or (stage.name == _TAKE.name and not context.given.any)
        reason = _not_whole(context, stage) if as_it_is else _state(context, stage).reason
        if not reason:
            continue
        if _only_copies(context, stage):
            _bring_up_to_date(context, stage)
            continue
        raise ArtifactError(
            f"{context.run.root}: the stage {stage.name} comes first and is not up to date ({reason}); "
            f"{_remedy(context, stage)}"
        )


def _only_copies(context: Context, stage: Stage) -> bool:
    """Taking over what was given is no work."""
    if stage.name == _TAKE.name:
        return context.given.any
    return stage.name == "train" and context.recipe.train is None


def _remedy(context: Context, stage: Stage) -> str:
    """The command that brings a stage up to date."""
    if context.alone or stage.name == _TAKE.name:
        return f"run {context.run.maker}"
    return f"run `madx {stage.name}` with this recipe, or `madx run`, which does what is missing"


def _bring_up_to_date(context: Context, stage: Stage, *, again: bool = False) -> StageReport:
    context, reason = _bound(context, stage, afresh=again)
    reason = reason or ("asked for again" if again else "")
    if not reason and stage.last_word:
        reason = context.world.share(lambda: _found(stage.last_word)(context))
    if not reason:
        context.progress.say(f"{stage.name}: up to date")
        context.world.share(lambda: remove_own(context))  # a kill right after the record leaves them
        return StageReport(stage.name, False, 0.0)
    word = "continuing where it stopped" if context.run.path(context.checkpoints).exists() else "running"
    context.progress.say(f"{stage.name}: {word} ({reason})")
    started = time.monotonic()
    outputs = stage.work(context) if stage.together else context.world.share(lambda: stage.work(context))
    seconds = time.monotonic() - started
    processes = context.world.size if stage.together else 1
    facts = {"processes": processes, "seconds": round(seconds, 3)}
    context.world.share(lambda: _record(context, stage, outputs, facts))
    return StageReport(stage.name, True, seconds)


def _bound(context: Context, stage: Stage, *, afresh: bool = False) -> tuple[Context, str]:
    """The stage's own context, and why it has to be done: nothing if it is up to date."""
    state = context.world.share(lambda: _state(context, stage))
    running = replace(context.stage, key=state.key, made_of=state.content, afresh=afresh)
    return replace(context, stage=running), state.reason


def _record(context: Context, stage: Stage, outputs: list[str], facts: dict[str, Any]) -> None:
    """Enter the finished stage in the manifest, with `facts` of how it went, and tidy up."""
    record = {
        "key": context.stage.key,
        "depends": context.stage.made_of["depends"],
        "inputs": context.stage.made_of["inputs"],
        "tools": tool_versions(),
        "machine": describe_machine(),
        **facts,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    context.run.record_stage(stage.name, record, outputs)
    _forget_outdated(context)
    remove_own(context)
    remove_earlier(context)


def _forget_outdated(context: Context) -> None:
    """Remove what was made of files that are no longer there, the last stage first; a kill in between does no harm."""
    for stage in reversed(walk(context)):
        record = context.run.stage(stage.name)
        if record is not None and record.get("inputs") != _inputs(context, stage):
            context.run.forget_stage(stage.name)


def _inputs(context: Context, stage: Stage) -> dict[str, str]:
    """SHA-256 of every file that the stages before this one wrote."""
    hashes: dict[str, str] = {}
    for name in stage.after:
        hashes |= context.run.hashes(name)
    return hashes
