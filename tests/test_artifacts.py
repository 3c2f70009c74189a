"""Files appear whole or not at all, whatever the disk says; JSON and hashes say which file is wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from madx.artifacts import (
    read_json,
    sha256_bytes,
    sha256_file,
    write_atomically,
    write_json,
)
from madx.errors import ArtifactError
from madx.rundir import RunDirectory

OLD, NEW = b"the old content", b"the new content, which is longer"


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.part"))


@pytest.mark.parametrize("content", [b"", b"\x00\xff" * 1000, "äöü\n"])
def test_what_is_written_is_read(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "new" / "folders" / "file"
    for _ in range(2):
        write_atomically(path, content)
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


REASONS = [
    (errno.ENOSPC, "the disk is full; free some space and run the command again"),
    (errno.EDQUOT, "the disk quota is used up"),
    (errno.EROFS, "the file system is read-only; choose another --run-dir"),
    (errno.EACCES, "no permission to write there; choose another --run-dir"),
    (errno.EIO, os.strerror(errno.EIO)),
]


@pytest.mark.parametrize(("number", "reason"), REASONS)
@pytest.mark.parametrize("where", ["fsync", "replace", "open"])
def test_a_write_that_fails_leaves_the_old_content_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, where: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, OLD)

    def fails(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os if where == "fsync" else Path, where, fails)
        with pytest.raises(ArtifactError) as caught:
            write_atomically(path, NEW)
    assert f"{path} cannot be written: " in str(caught.value)
    assert reason in str(caught.value)
    assert path.read_bytes() == OLD
    assert parts(tmp_path) == []


FILLS_UP = """
import resource, sys
from pathlib import Path
from madx.artifacts import write_atomically
from madx.errors import ArtifactError
from madx.rundir import RunDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), b"x" * 100_000)
except ArtifactError as error:
    print(error)
"""


def test_the_system_that_takes_no_more_bytes_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, OLD)
    run = subprocess.run(
        [sys.executable, "-c", FILLS_UP, str(path)], capture_output=True, text=True, check=True, timeout=200
    )
    assert f"{path} cannot be written: File too large" in run.stdout
    assert path.read_bytes() == OLD
    assert parts(tmp_path) == []


@contextlib.contextmanager
def read_only_folder() -> Iterator[Path]:
    """A folder this process may not write in; root gives up its rights for the time."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        (folder / "file").write_bytes(OLD)
        folder.chmod(0o555)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if user == 0:
                os.seteuid(0)
            folder.chmod(0o755)


@pytest.mark.parametrize("name", ["file", "fresh", "below/fresh"])
def test_a_read_only_folder_is_one_clear_error(name: str) -> None:
    with read_only_folder() as folder:
        with pytest.raises(ArtifactError, match=f"{name} cannot be written: no permission to write there"):
            write_atomically(folder / name, NEW)
        with (
            pytest.raises(ArtifactError, match="cannot be written: no permission to write there"),
            RunDirectory(folder / "run").locked(),
        ):
            pass
        assert (folder / "file").read_bytes() == OLD
        assert [entry.name for entry in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), lambda path: (path / "x").mkdir(parents=True)])
def test_a_folder_in_the_place_of_the_file_is_one_clear_error(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "file")
    with pytest.raises(ArtifactError, match="file cannot be written"):
        write_atomically(tmp_path / "file", NEW)
    assert parts(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [{"a": float("-inf")}]])
def test_json_without_a_meaning_is_refused_before_anything_is_written(tmp_path: Path, value: Any) -> None:
    write_json(tmp_path / "x.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", value)
    assert read_json(tmp_path / "x.json") == 1


def test_json_round_trips(tmp_path: Path) -> None:
    content = {"b": [1, 0.1, None, True, "ä"], "a": {}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    assert list(read_json(tmp_path / "x.json")) == ["b", "a"], "the order is the writer's"


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x', b"[NaN]", b"[-1e999]"]
)
def test_json_that_cannot_be_read_says_which_file(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(raw)
    with pytest.raises(ArtifactError, match=r"x\.json is not readable JSON .*; delete it to make it again"):
        read_json(path)
    with pytest.raises(ArtifactError, match=r"there is no .*y\.json"):
        read_json(tmp_path / "y.json")


def test_hashes(tmp_path: Path) -> None:
    content = random.Random(0).randbytes(300_000)
    (tmp_path / "x").write_bytes(content)
    assert sha256_file(tmp_path / "x") == sha256_bytes(content) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ArtifactError, match="y cannot be read: No such file"):
        sha256_file(tmp_path / "y")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArtifactError, match="is no regular file"):
        sha256_file(tmp_path / "pipe")
