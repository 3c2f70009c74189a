"""Checkpoints that save time: what is damaged, foreign or malicious is no checkpoint, and no code in it runs."""

from __future__ import annotations

import errno
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from madx.artifacts import (
    FileCheckpoint,
    NoCheckpoint,
)
from madx.errors import ArtifactError

STATE = {"step": 3, "weights": {"a": torch.arange(50.0), "b": torch.ones(2, dtype=torch.bool)}, "log": [{"x": 0.5}]}


def flattened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (value.dtype, value.tolist())
    if isinstance(value, dict):
        return {key: flattened(inner) for key, inner in value.items()}
    return [flattened(inner) for inner in value] if isinstance(value, list) else value


@pytest.fixture
def checkpoint(tmp_path: Path) -> FileCheckpoint:
    kept = FileCheckpoint(tmp_path / "checkpoints" / "work.pt", "the key")
    kept.save(STATE)
    return kept


def test_a_checkpoint_gives_back_the_last_state_of_its_own_key(checkpoint: FileCheckpoint) -> None:
    assert flattened(checkpoint.load()) == flattened(STATE)
    checkpoint.save({"step": 4})
    assert checkpoint.load() == {"step": 4}
    assert FileCheckpoint(checkpoint.path, "another key").load() is None


def test_a_save_that_fails_keeps_the_last_state(checkpoint: FileCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="the disk is full"):
            checkpoint.save({"step": 4})
    assert flattened(checkpoint.load()) == flattened(STATE)


def test_no_checkpoint_keeps_nothing() -> None:
    kept = NoCheckpoint()
    kept.save(STATE)
    assert kept.load() is None


def test_a_truncated_checkpoint_is_no_checkpoint(checkpoint: FileCheckpoint) -> None:
    whole = checkpoint.path.read_bytes()
    for size in [*range(0, len(whole), 61), len(whole) - 1]:
        checkpoint.path.write_bytes(whole[:size])
        assert checkpoint.load() is None, f"{size} of {len(whole)} bytes were taken for a state"


def test_a_flipped_bit_never_becomes_another_state(checkpoint: FileCheckpoint) -> None:
    """Torch does not look at the archive's checksums: a flipped bit in the weights would be trained on."""
    whole, draws, refused = checkpoint.path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[draws.randrange(len(whole))] ^= 1 << draws.randrange(8)
        checkpoint.path.write_bytes(damaged)
        state = checkpoint.load()
        refused += state is None
        assert state is None or flattened(state) == flattened(STATE)
    assert refused > 200, "flips in names and padding do no harm, but these are not most of the file"
    tensor = whole.index(torch.arange(50.0).numpy().tobytes())
    checkpoint.path.write_bytes(whole[: tensor + 9] + bytes([whole[tensor + 9] ^ 1]) + whole[tensor + 10 :])
    assert checkpoint.load() is None


def test_a_codec_that_is_not_its_own_is_damage(checkpoint: FileCheckpoint) -> None:
    """Which one to use is a byte of the file, and each has an error of its own."""
    checkpoint.save({"weights": torch.rand(30_000, generator=torch.Generator().manual_seed(0))})
    whole = bytearray(checkpoint.path.read_bytes())
    method = whole.rindex(b"PK\1\2", 0, whole.rindex(b"/data/0")) + 10
    assert whole[method] == 0, "torch stores its files without compression"
    for codec in range(1, 256):
        whole[method] = codec
        checkpoint.path.write_bytes(whole)
        assert checkpoint.load() is None


def test_garbage_is_no_checkpoint(checkpoint: FileCheckpoint) -> None:
    draws = random.Random(1)
    for size in range(200):
        checkpoint.path.write_bytes(draws.randbytes(size))
        assert checkpoint.load() is None


def saved(content: Any, *, archive: bool = True) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=archive)
    return buffer.getvalue()


FOREIGN_FILES = {
    "plain pickle": lambda: pickle.dumps({"key": "the key", "state": {"step": 1}}),
    "old torch format": lambda: saved({"key": "the key", "state": {"step": 1}}, archive=False),
    "a tensor": lambda: saved(torch.ones(3)),
    "a list": lambda: saved(["the key", {}]),
    "no key": lambda: saved({"state": {"step": 1}}),
    "no state": lambda: saved({"key": "the key"}),
    "state is a list": lambda: saved({"key": "the key", "state": [1]}),
    "a whole module": lambda: saved({"key": "the key", "state": {"net": torch.nn.Linear(1, 1)}}),
    "empty zip": lambda: b"PK\x05\x06" + b"\0" * 18,
}


@pytest.mark.parametrize("kind", FOREIGN_FILES)
def test_a_foreign_file_is_no_checkpoint(checkpoint: FileCheckpoint, kind: str) -> None:
    checkpoint.path.write_bytes(FOREIGN_FILES[kind]())
    assert checkpoint.load() is None


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    assert FileCheckpoint(tmp_path, "the key").load() is None


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "pickle"])
def test_code_in_a_checkpoint_never_runs(checkpoint: FileCheckpoint, tmp_path: Path, archive: bool) -> None:
    marker = tmp_path / "marker"
    evil = saved({"key": "the key", "state": {"step": Malicious(marker)}}, archive=archive)
    checkpoint.path.write_bytes(evil)
    assert checkpoint.load() is None
    assert not marker.exists()
    torch.load(io.BytesIO(evil), weights_only=False)
    assert marker.exists(), "the bait is harmless, so this test decides nothing"
