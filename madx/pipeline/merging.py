"""Chunks of attacked images from other run directories, taken over into this one's unfinished verification.

Taken are only chunks of the same verification: the same recipe, data, engine bytes, tools and kind of machine, told by
its key. Everything is read and compared before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from madx.errors import ArtifactError
from madx.pipeline import keys
from madx.pipeline.chunks import begin_record, chunks_in_all, file_name, note_merged, read_chunk
from madx.pipeline.context import Context
from madx.pipeline.stages import begin, stage_named
from madx.pipeline.unfinished import unfinished
from madx.pipeline.verifying import why_missing
from madx.rundir import MANIFEST, RunDirectory
from madx.verify import Accuracy

_NAMED = 5
"""As many differences and numbers as a message names."""


@dataclass(frozen=True)
class _Found:
    """A chunk, and the run directory that it lies in."""

    root: Path
    value: Accuracy


def merge(context: Context, roots: Sequence[Path], *, again: bool = False) -> None:
    """Take over the chunks of other run directories; the verification then continues as a killed one does.

    Args:
        context: the run that is to have the verdict; every process of a job calls this with the same one.
        roots: run directories of shards, or of verifications that were killed.
        again: the run is verified although it has its verdict.

    Raises:
        ArtifactError: one is no run directory, measured something else, or disagrees with another one.
    """
    context, reason = begin(context, stage_named("verify"), part=f"--merge of {len(roots)}")
    if not reason and not again:
        context.progress.say(f"{context.run.root} has its verdict for this recipe already: nothing is merged into it")
        return
    context.world.share(lambda: _merge(context, roots))


def _merge(context: Context, roots: Sequence[Path]) -> None:
    found: dict[str, _Found] = {}
    damaged: list[Path] = []
    for root in (None, *roots):  # what this run has itself comes first
        folder = context.run.path(context.checkpoints) if root is None else _shard_folder(context, root)
        for path, value in _chunks_in(context, folder):
            if value is None:
                damaged.append(path)
                continue
            first = found.setdefault(path.name, _Found(root or context.run.root, value))
            _check_same(path.name, first, _Found(root or context.run.root, value))
    taken = {name: chunk.root for name, chunk in found.items() if chunk.root != context.run.root}
    begin_record(context)
    note_merged(context, list(taken))
    for name in taken:
        context.write_arrays(f"{context.checkpoints}/{name}", found[name].value.to_arrays())
    _tell_damaged(context, found, damaged)
    _tell(context, found, taken)


def _shard_folder(context: Context, root: Path) -> Path:
    """Where a run directory keeps its chunks of this verification.

    Raises:
        ArtifactError: it has none, with the reason.
    """
    run = RunDirectory(root)
    if not run.begun:
        raise ArtifactError(f"--merge {root} is no run directory: there is no {run.path(MANIFEST)}")
    stages = run.manifest()["stages"]
    records = {one.folder: record for one in unfinished(run) if (record := one.record) is not None}
    for folder, record in records.items():
        if record["key"] == context.stage.key:
            return folder
    if records:
        made_of = dict(context.stage.made_of)
        differing = min((keys.differences(record["made_of"], made_of) for record in records.values()), key=len)
        raise ArtifactError(
            f"--merge {root} measured something else than {context.run.root} is to judge; they differ in "
            f"{_listed(differing) or 'their key'}. Shards need the same recipe (and --set), data, engine files, tools "
            "and kind of machine"
        )
    if "verify" in stages:
        raise ArtifactError(
            f"--merge {root} has a verdict of its own, and no unfinished images: finished verifications are not merged"
        )
    raise ArtifactError(f"--merge {root} has no measured images; run `madx verify --shard I/N` there first")


def _chunks_in(context: Context, folder: Path) -> list[tuple[Path, Accuracy | None]]:
    """The files of this verification's chunks that lie in a folder, and what is in them: None if it is damaged."""
    numbers = range(chunks_in_all(context))
    paths = [(folder / file_name(config, n), n) for config in context.recipe.export.engines for n in numbers]
    return [(path, read_chunk(context, path, number)) for path, number in paths if path.is_file()]


def _check_same(name: str, first: _Found, second: _Found) -> None:
    """Two measurements of the same images must be the same to the bit; compressed files need not be.

    Raises:
        ArtifactError: they disagree, so at least one of them is not what this engine does here.
    """
    one, other = first.value.to_arrays(), second.value.to_arrays()
    differing = sorted(key for key in one.keys() | other.keys() if not _equal(one, other, key))
    if differing:
        raise ArtifactError(
            f"{first.root} and {second.root} both measured {name} and disagree ({_listed(differing)}): the machines "
            "compute differently, or a file was changed. Nothing was merged; find out which of them is right, or "
            "leave both out"
        )


def _equal(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray], key: str) -> bool:
    return (
        key in one
        and key in other
        and one[key].dtype == other[key].dtype
        and one[key].shape == other[key].shape
        and one[key].tobytes() == other[key].tobytes()
    )


def _tell_damaged(context: Context, found: Mapping[str, _Found], damaged: Sequence[Path]) -> None:
    """What becomes of images whose file is damaged: another directory may have them whole."""
    for path in damaged:
        whole = found.get(path.name)
        instead = f"those of {whole.root} are used" if whole else "no other directory has them whole"
        context.progress.say(f"the stored images {path} are damaged; {instead}")


def _tell(context: Context, found: Mapping[str, _Found], taken: Mapping[str, Path]) -> None:
    """How many chunks came from where, and which nobody had."""
    for root in dict.fromkeys(taken.values()):
        context.progress.say(f"merged {list(taken.values()).count(root)} chunks of images from {root}")
    for config in context.recipe.export.engines:
        left = [number for number in range(chunks_in_all(context)) if file_name(config, number) not in found]
        if left and config.verify and not why_missing(context, config):
            which = f"{len(left)} chunks {_listed([str(number) for number in left])}"
            context.progress.say(f"{config.name}: no shard has the {which}; they are measured here")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
