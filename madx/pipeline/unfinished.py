"""Work that stages began and did not finish: where it lies, whose it is, and when it goes.

A stage keeps it in `.madx/checkpoints/<stage>-<start of its key>/` and takes it up there under the same key. When a
stage is finished, its unfinished work goes, under whatever key: a run directory holds one state of each stage, and what
was begun for another recipe goes as what was finished for it does. Only shards stay, because another run directory is
still to merge them.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madx.artifacts import read_json
from madx.errors import ArtifactError
from madx.pipeline import keys
from madx.pipeline.context import Context
from madx.rundir import CHECKPOINTS, RunDirectory

RECORD = "verification.json"
"""Lies beside a verification's chunks: its key, what that was made from, and which shards and merges they are of."""

PENDING = "measured"
"""In a verification's folder: all that it measured and counted, until gates were judged on it."""


@dataclass(frozen=True)
class Unfinished:
    """What a stage keeps under one key."""

    stage: str
    key: str
    """Its start."""
    folder: Path

    @property
    def record(self) -> dict[str, Any] | None:
        """What a verification notes beside its chunks; None if there is nothing, or another stage.

        Raises:
            ArtifactError: the file is damaged.
        """
        path = self.folder / RECORD
        return read_record(path) if path.is_file() else None

    @property
    def last_written(self) -> str:
        """When, as the manifest writes times; whoever is at work there now may remove files, or all, meanwhile."""
        times = []
        for path in (self.folder, *self.folder.glob("*")):
            with contextlib.suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(max(times, default=time.time())))


def unfinished(run: RunDirectory) -> list[Unfinished]:
    """All that a run directory holds, by stage and key."""
    folders = [path for path in sorted(run.path(CHECKPOINTS).glob("*-*")) if path.is_dir()]
    named = [(*path.name.rpartition("-")[::2], path) for path in folders]
    return [Unfinished(stage, key, path) for stage, key, path in named]


def read_record(path: Path) -> dict[str, Any]:
    """The key of a verification, what it was made of, and which of its chunks belong to shards or were merged.

    Raises:
        ArtifactError: the file is damaged.
    """
    content = read_json(path)
    kinds = {"key": str, "made_of": dict, "merged": list, "shards": list}
    if not isinstance(content, dict) or any(not isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise ArtifactError(
            f"{path} does not say which verification it belongs to; delete it and measure that shard again, which "
            "keeps the images that it has"
        )
    return content


def described(one: Unfinished, finished: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a reader should know of it, JSON-ready; `finished` is the manifest's record of that stage, if any."""
    try:
        record, problem = one.record, ""
    except ArtifactError as error:
        record, problem = None, str(error)
    same = finished is not None and str(finished.get("key")).startswith(one.key)
    differs: list[str] | None = [] if same else None
    if finished is not None and record is not None and not same:
        made_of = {"stage": one.stage} | {name: finished.get(name) for name in ("depends", "inputs")}
        differs = keys.differences(made_of, record["made_of"])
    return {
        "stage": one.stage,
        "key": one.key,
        "last_written": one.last_written,
        "later": None if finished is None else one.last_written > str(finished.get("finished")),
        "differs_in": differs,
        "chunks": None if record is None else len(list(one.folder.glob("*.npz"))),
        "shards": [] if record is None else record["shards"],
        "problem": problem or None,
    }


def remove_own(context: Context) -> None:
    """What the running stage had kept; the folder of all goes with its last one."""
    _remove(context, [context.run.path(context.checkpoints)])


def remove_earlier(context: Context) -> None:
    """What the stage that was just recorded had kept under other keys, unless it may still be merged elsewhere."""
    stage = context.made_of["stage"]
    others = [one for one in unfinished(context.run) if one.stage == stage and not context.key.startswith(one.key)]
    gone = [one.folder for one in others if not _may_be_merged(one)]
    judged = [one.folder / PENDING for one in others if one.folder not in gone]  # a later verdict stands for it
    if gone:
        context.progress.say(f"{stage}: finished, so what it had begun for another recipe or other files is removed")
    _remove(context, [*gone, *judged])


def _may_be_merged(one: Unfinished) -> bool:
    """Whether shards lie there; of a damaged record nobody knows."""
    try:
        return bool((one.record or {"shards": []})["shards"])
    except ArtifactError:
        return True


def _remove(context: Context, folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        context.run.path(CHECKPOINTS).rmdir()
