"""Stages, their keys, and the rule that only work that is not done yet is done.

A stage's key is a hash of the part of the recipe it depends on and of the files it reads. A stage whose recorded key is
the same and whose files still have their recorded hashes is not run again.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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


def stage_named(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def run_stages(context: Context, wanted: Sequence[Stage] = STAGES, *, again: bool = False) -> list[StageReport]:
    """Bring the wanted stages up to date, in order; a stage before them that is not up to date is an error.

    With `again` they are run even if they are up to date.

    Raises:
        ArtifactError: an earlier stage is missing or its files were changed.
    """
    _check_earlier(context, wanted)
    return [_bring_up_to_date(context, stage, again=again) for stage in STAGES if stage in wanted]


def stale(context: Context, stage: Stage) -> str:
    """Why the stage has to be run, or nothing if it is up to date."""
    record = context.run.stage(stage.name)
    if record is None:
        return "not done yet"
    if changed := context.run.changed_outputs(stage.name):
        return f"{', '.join(changed)} changed since the stage wrote it"
    if record["key"] != _key(context, stage):
        return "the recipe or an input changed"
    return ""


def _check_earlier(context: Context, wanted: Sequence[Stage]) -> None:
    needed = {name for stage in wanted for name in stage.after} - {stage.name for stage in wanted}
    for stage in STAGES:
        if stage.name not in needed or not (reason := stale(context, stage)):
            continue
        if stage.name == "train" and context.recipe.train is None:
            _bring_up_to_date(context, stage)  # taking over given weights is no work
            continue
        raise ArtifactError(
            f"{context.run.root}: the stage {stage.name} comes first and is not up to date ({reason}); "
            f"run `madx {stage.name}` with this recipe, or `madx run`, which does what is missing"
        )


def _bring_up_to_date(context: Context, stage: Stage, *, again: bool = False) -> StageReport:
    reason = stale(context, stage) or ("asked for again" if again else "")
    if not reason:
        context.progress.say(f"{stage.name}: up to date")
        return StageReport(stage.name, False, 0.0, "")
    context.progress.say(f"{stage.name}: running ({reason})")
    started = time.monotonic()
    key = _key(context, stage)
    running = replace(context, key=key)
    outputs = stage.work(running)
    seconds = time.monotonic() - started
    record = {
        "key": key,
        "depends": stage.depends(context),
        "inputs": _inputs(context, stage),
        "tools": tool_versions(),
        "machine": describe_machine(),
        "seconds": round(seconds, 3),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    context.run.record_stage(stage.name, record, outputs)
    shutil.rmtree(context.run.path("checkpoints"), ignore_errors=True)
    return StageReport(stage.name, True, seconds, reason)


def _key(context: Context, stage: Stage) -> str:
    content = {"stage": stage.name, "depends": stage.depends(context), "inputs": _inputs(context, stage)}
    return sha256_bytes(canonical_json(content).encode())


def _inputs(context: Context, stage: Stage) -> dict[str, str]:
    """SHA-256 of every file that the stages before this one wrote for it to read."""
    hashes: dict[str, str] = {}
    for name in stage.after:
        hashes |= context.run.hashes(name)
    return hashes
