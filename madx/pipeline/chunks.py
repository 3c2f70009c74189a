"""Attacked images of a verification, chunk by chunk, as they are kept until its verdict.

A chunk is one file in the verification's checkpoint folder. Its random streams are named by its number, so it does not
matter which process, or which machine of the same kind, measured it. Beside the chunks lies what the verification's
key was made from: whoever takes chunks over can say why they do not belong to his verification.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from madx.artifacts import read_json
from madx.errors import ArtifactError
from madx.pipeline.context import Context
from madx.pipeline.reporting import read_arrays
from madx.recipe import EngineConfig
from madx.rundir import CHECKPOINTS
from madx.verify import Accuracy, Chunk

RECORD = "verification.json"


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


def folder_name(context: Context) -> str:
    """The checkpoint folder of this verification, in any run directory."""
    return f"{CHECKPOINTS}/{context.key[:16]}"


def begin_record(context: Context) -> None:
    """Note beside the chunks what they belong to, unless that is there."""
    if context.world.first and not context.run.path(f"{folder_name(context)}/{RECORD}").is_file():
        _write_record(context, [])


def note_merged(context: Context, names: list[str]) -> None:
    """Remember which chunks other run directories measured: the verdict says so."""
    _write_record(context, sorted({*merged(context), *names}))


def merged(context: Context) -> list[str]:
    """File names of the chunks that other run directories measured."""
    path = context.run.path(f"{folder_name(context)}/{RECORD}")
    return list(read_record(path)["merged"]) if path.is_file() else []


def _write_record(context: Context, names: list[str]) -> None:
    content = {"key": context.key, "made_of": context.made_of, "merged": names}
    context.write_json(f"{folder_name(context)}/{RECORD}", content)


def read_record(path: Path) -> dict[str, Any]:
    """The key of a verification, what it was made of, and which chunks were merged.

    Raises:
        ArtifactError: the file is damaged.
    """
    content = read_json(path)
    kinds = {"key": str, "made_of": dict, "merged": list}
    if not isinstance(content, dict) or any(not isinstance(content.get(name), kind) for name, kind in kinds.items()):
        raise ArtifactError(f"{path} does not say which verification it belongs to; measure that shard again")
    return content


def store_chunk(context: Context, config: EngineConfig, number: int, value: Accuracy) -> None:
    """Keep a chunk that was measured."""
    context.write_arrays(f"{folder_name(context)}/{file_name(config, number)}", value.to_arrays())


def stored_chunks(context: Context, config: EngineConfig) -> dict[int, Accuracy]:
    """Those of a killed run, a shard or a merge, by number; one that is damaged is said, and measured again."""
    found = {}
    for number in range(chunks_in_all(context)):
        path = context.run.path(f"{folder_name(context)}/{file_name(config, number)}")
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
