"""Stages, their keys, and the rule that only work that is not done yet is done.

A stage's key is a hash of what it depends on and of the files it reads. A stage whose recorded key is the same and
whose files still have their recorded hashes is not run again. When a stage writes other files than before, what later
stages once made of the old ones is removed, so that no verdict stands beside a network it does not speak of.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from madx.artifacts import sha256_bytes
from madx.errors import ArtifactError
from madx.machine import describe_machine
from madx.pipeline import keys
from madx.pipeline.context import Context
from madx.pipeline.versions import tool_versions
from madx.recipe import canonical_json


@dataclass(frozen=True)
class Stage:
    """One step of the run: `function` is 'module:callable', Context -> names of the files written."""

    name: str
    after: tuple[str, ...]
    depends: Callable[[Context], dict[str, Any]]
    function: str

    def work(self, context: Context) -> list[str]:
        """Do the stage's work; its module is imported only now."""
        module, _, name = self.function.partition(":")
        outputs: list[str] = getattr(import_module(module), name)(context)
        return outputs


@dataclass(frozen=True)
class StageReport:
    """What `run_stages` did with a stage."""

    name: str
    done: bool
    seconds: float
    reason: str


STAGES = (
    Stage("train", (), keys.train, "madx.pipeline.training:train"),
    Stage("prune", ("train",), keys.prune, "madx.pipeline.pruning:prune"),
    Stage("export", ("train", "prune"), keys.export, "madx.pipeline.exporting:export"),
    Stage("verify", ("train", "prune", "export"), keys.verify, "madx.pipeline.verifying:verify"),
    Stage("report", ("train", "prune", "export", "verify"), keys.report, "madx.pipeline.reporting:report"),
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


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def run_stages(context: Context, wanted: Sequence[Stage] = STAGES, *, again: Sequence[str] = ()) -> list[StageReport]:
    """Bring the wanted stages up to date, in order; a stage before them that is not up to date is an error.

    Stages named in `again` are run even if they are up to date.

    Raises:
        ArtifactError: an earlier stage is missing or its files were changed.
    """
    _check_earlier(context, wanted)
    return [_bring_up_to_date(context, stage, again=stage.name in again) for stage in STAGES if stage in wanted]


def _state(context: Context, stage: Stage) -> _State:
    content = {"stage": stage.name, "depends": stage.depends(context), "inputs": _inputs(context, stage)}
    record = context.run.stage(stage.name)
    if record is None:
        return _State(content, "not done yet")
    if changed := context.run.changed_outputs(stage.name):
        return _State(content, f"{', '.join(changed)} changed since the stage wrote it")
    before = {"stage": stage.name, "depends": record.get("depends"), "inputs": record.get("inputs")}
    if changes := _differences(before, content):
        shown = ", ".join(changes[:3]) + (", ..." if len(changes) > 3 else "")
        return _State(content, f"changed: {shown}")
    return _State(content, "")


def _differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Dotted names of what is not the same in two pieces of JSON."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in sorted(before.keys() | now.keys())
            for difference in _differences(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [name.removeprefix("depends.").removeprefix("inputs.")]


def _check_earlier(context: Context, wanted: Sequence[Stage]) -> None:
    needed = {name for stage in wanted for name in stage.after} - {stage.name for stage in wanted}
    for stage in STAGES:
        if stage.name not in needed or not (reason := _state(context, stage).reason):
            continue
        if stage.name == "train" and context.recipe.train is None:
            _bring_up_to_date(context, stage)  # taking over given weights is no work
            continue
        raise ArtifactError(
            f"{context.run.root}: the stage {stage.name} comes first and is not up to date ({reason}); "
            f"run `madx {stage.name}` with this recipe, or `madx run`, which does what is missing"
        )


def _bring_up_to_date(context: Context, stage: Stage, *, again: bool = False) -> StageReport:
    state = _state(context, stage)
    reason = state.reason or ("asked for again" if again else "")
    if not reason:
        context.progress.say(f"{stage.name}: up to date")
        return StageReport(stage.name, False, 0.0, "")
    context.progress.say(f"{stage.name}: running ({reason})")
    started = time.monotonic()
    context.key = state.key
    before = context.run.hashes(stage.name)
    outputs = stage.work(context)
    seconds = time.monotonic() - started
    record = {
        "key": state.key,
        "depends": state.content["depends"],
        "inputs": state.content["inputs"],
        "tools": tool_versions(),
        "machine": describe_machine(),
        "seconds": round(seconds, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    context.run.record_stage(stage.name, record, outputs)
    shutil.rmtree(context.checkpoint_folder, ignore_errors=True)
    if before and before != context.run.hashes(stage.name):
        _forget_later(context, stage)
    return StageReport(stage.name, True, seconds, reason)


def _forget_later(context: Context, stage: Stage) -> None:
    """Remove what later stages made of files that are no longer there; the last stage first."""
    for later in reversed(STAGES):
        if stage.name in later.after:
            context.run.forget_stage(later.name)


def _inputs(context: Context, stage: Stage) -> dict[str, str]:
    """SHA-256 of every file that the stages before this one wrote for it to read."""
    hashes: dict[str, str] = {}
    for name in stage.after:
        hashes |= context.run.hashes(name)
    return hashes
