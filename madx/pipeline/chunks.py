"""Attacked images of a verification, chunk by chunk, as they are kept until its verdict.

A chunk is one file in the verification's checkpoint folder. Its random streams are named by its number, so it does not
matter which process, or which machine of the same kind, measured it. Beside the chunks lies what the verification's
key was made from (`madx.pipeline.unfinished`): whoever takes chunks over can say why they do not belong to his.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from madx.errors import ArtifactError
from madx.pipeline.context import Context
from madx.pipeline.reporting import read_arrays
from madx.pipeline.unfinished import RECORD, read_record
from madx.recipe import EngineConfig
from madx.verify import Accuracy, Chunk


def gate_images(context: Context) -> int:
    """How many images the gates are measured on, at most."""
    wanted = context.recipe.verify.images or len(context.splits.gate)
    return min(wanted, len(context.splits.gate))


def chunks_in_all(context: Context) -> int:
    """How many chunks these images make; they are numbered from 0."""
    return -(-gate_images(context) // context.recipe.verify.chunk)


def chunk(context: Context, number: int) -> Chunk:
    """Some of the gate's images, in their committed order."""
    split, rows = context.splits.gate, _rows(context, number)
    images, labels = split.tensors(rows.start, rows.stop)
    return Chunk(number, split.index[rows], images.numpy(), labels.numpy())


def images_in(context: Context, number: int) -> int:
    """How many images a chunk has; the last one may have fewer than the others."""
    size = context.recipe.verify.chunk
    return min(size, gate_images(context) - number * size)


def file_name(config: EngineConfig, number: int) -> str:
    """Of a chunk, in the checkpoint folder."""
    return f"{config.name}-{number:05d}.npz"


def begin_record(context: Context, *, shard: str = "") -> None:
    """Note beside the chunks what they belong to, and of which shard they are: it may be merged elsewhere."""
    if context.world.first:
        _note(context, "shards", [shard] if shard else [])


def note_merged(context: Context, names: list[str]) -> None:
    """Remember which chunks other run directories measured: the verdict says so."""
    _note(context, "merged", names)


def merged(context: Context) -> list[str]:
    """File names of the chunks that other run directories measured."""
    names: list[str] = _record(context)["merged"]
    return names


def _note(context: Context, what: str, names: list[str]) -> None:
    """Add names to those of the record, which is begun if it is not there."""
    record, path = _record(context), f"{context.checkpoints}/{RECORD}"
    now = record | {what: sorted({*record[what], *names})}
    if now != record or not context.run.path(path).is_file():
        context.write_json(path, now)


def _record(context: Context) -> dict[str, Any]:
    path = context.run.path(f"{context.checkpoints}/{RECORD}")
    if path.is_file():
        return read_record(path)
    return {"key": context.stage.key, "made_of": context.stage.made_of, "merged": [], "shards": []}


def store_chunk(context: Context, config: EngineConfig, number: int, value: Accuracy) -> None:
    """Keep a chunk that was measured."""
    context.write_arrays(f"{context.checkpoints}/{file_name(config, number)}", value.to_arrays())


def stored_chunks(context: Context, config: EngineConfig) -> dict[int, Accuracy]:
    """Those of a killed run, a shard or a merge, by number; one that is damaged is said, and measured again."""
    found = {}
    for number in range(chunks_in_all(context)):
        path = context.run.path(f"{context.checkpoints}/{file_name(config, number)}")
        if not path.is_file():
            continue
        if (value := read_chunk(context, path, number)) is None:
            context.progress.say(f"the stored images {path} are damaged and measured again")
        else:
            found[number] = value
    return found


def read_chunk(context: Context, path: Path, number: int) -> Accuracy | None:
    """A chunk from its file; None if the file is damaged or of other images.

    Raises:
        ArtifactError: the file cannot be read at all, which says nothing of what is in it.
    """
    try:
        payload = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path} cannot be read: {error.strerror}; make it readable, or delete it to have its images measured again"
        ) from None
    try:
        value = Accuracy.from_arrays(read_arrays(payload))
    except ArtifactError:
        return None
    return value if np.array_equal(value.index, context.splits.gate.index[_rows(context, number)]) else None


def _rows(context: Context, number: int) -> slice:
    """Places of the chunk's images in the gate's split."""
    start = number * context.recipe.verify.chunk
    return slice(start, start + images_in(context, number))
