"""Chunks on disk: what is damaged is never taken for a measurement, and what is something else is never hidden."""

from __future__ import annotations

import errno
import io
import os
import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from accuracy_cases import compared, gallery

from madx.errors import ArtifactError
from madx.pipeline.chunks import read_chunk
from madx.verify import Accuracy

IMAGES = 20


class Gate:
    """As much of a split as a chunk asks for."""

    def __init__(self, index: Sequence[int]) -> None:
        self.index = np.asarray(index)

    def __len__(self) -> int:
        return len(self.index)


def context(index: Sequence[int]) -> Any:
    """A run whose only chunk has these images."""
    verify = SimpleNamespace(images=None, chunk=IMAGES)
    return SimpleNamespace(recipe=SimpleNamespace(verify=verify), splits=SimpleNamespace(gate=Gate(index)))


@pytest.fixture
def chunk(tmp_path: Path) -> Path:
    """A chunk as a verification stores it."""
    right = np.arange(IMAGES) % 3 > 0
    value = compared(right, right, kinds=("white-box", "query"))
    arrays = value.to_arrays() | {f"gallery.{name}": array for name, array in gallery(2, 1).to_arrays().items()}
    path = tmp_path / "chunk.npz"
    np.savez_compressed(path, **arrays)
    return path


def read(path: Path, *, index: Sequence[int] = range(IMAGES)) -> dict[str, Any] | None:
    value = read_chunk(context(index), path, 0)
    return None if value is None else {name: array.tolist() for name, array in value.to_arrays().items()}


def test_a_chunk_is_read_and_one_of_other_images_is_not(chunk: Path) -> None:
    whole = read(chunk)
    assert whole is not None
    assert whole["index"] == list(range(IMAGES))
    assert read(chunk, index=range(1, IMAGES + 1)) is None


def test_a_truncated_chunk_is_damaged(chunk: Path) -> None:
    whole = chunk.read_bytes()
    for size in [*range(0, len(whole), 37), len(whole) - 1]:
        chunk.write_bytes(whole[:size])
        assert read(chunk) is None, f"{size} of {len(whole)} bytes were taken for a chunk"


def test_a_flipped_byte_never_becomes_another_measurement_or_a_crash(chunk: Path) -> None:
    whole, expected, draws, refused = chunk.read_bytes(), read(chunk), random.Random(0), 0
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= draws.randrange(1, 256)
        chunk.write_bytes(damaged)
        found = read(chunk)
        refused += found is None
        assert found is None or found == expected
    assert refused > 250, "flips in names and dates do no harm, but these are not most of the file"


@pytest.mark.parametrize("place", [6, 8, 10], ids=["version", "flags", "method"])
@pytest.mark.parametrize("member", ["labels.npy", "large.npy"])
def test_every_value_of_the_bytes_that_say_how_to_unpack_is_survived(chunk: Path, member: str, place: int) -> None:
    """Version, encryption and compression: zipfile has an error of its own for each, and one for each codec."""
    with np.load(chunk) as content:
        arrays = {name: content[name] for name in content.files}
    np.savez_compressed(chunk, large=np.random.default_rng(0).random(30_000), **arrays)
    whole, expected = chunk.read_bytes(), read(chunk)
    assert expected is not None
    at = whole.rindex(b"PK\1\2", 0, whole.rindex(member.encode())) + place
    for flip in range(1, 256):
        chunk.write_bytes(whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :])
        assert read(chunk) in (None, expected)


def test_a_member_that_is_no_array_is_damage(chunk: Path) -> None:
    """Numpy hands its bytes out as they are."""
    content = io.BytesIO()
    with zipfile.ZipFile(chunk) as source, zipfile.ZipFile(content, "w") as target:
        for name in source.namelist():
            target.writestr(name, b"no array" if name == "index.npy" else source.read(name))
    chunk.write_bytes(content.getvalue())
    assert read(chunk) is None


def test_a_file_that_cannot_be_read_is_not_called_damaged(chunk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(_: Path) -> bytes:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_bytes", unreadable)
    with pytest.raises(ArtifactError, match="cannot be read: Permission denied; make it readable, or delete it"):
        read(chunk)


@pytest.mark.parametrize("bug", [TypeError, KeyError, AssertionError])
def test_a_bug_in_madx_is_not_called_a_damaged_file(chunk: Path, monkeypatch: pytest.MonkeyPatch, bug: type) -> None:
    def broken(_: Any) -> Accuracy:
        raise bug("a bug")

    monkeypatch.setattr(Accuracy, "from_arrays", broken)
    with pytest.raises(bug, match="a bug"):
        read(chunk)
