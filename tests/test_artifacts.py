"""Files whole or not at all, locks that die with their process, and manifests and checkpoints that are not trusted."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from madx.artifacts import (
    MANIFEST_SCHEMA,
    FileCheckpoint,
    NoCheckpoint,
    RunDirectory,
    free_bytes,
    read_json,
    sha256_bytes,
    sha256_file,
    write_atomically,
    write_json,
)
from madx.errors import ArtifactError

OLD, NEW = b"the old content", b"the new content, which is longer"


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.part"))


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process, after it has printed its first line."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen[str], sign: int = signal.SIGKILL) -> None:
    process.send_signal(sign)
    process.communicate(timeout=20)


# --- writing


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
        [sys.executable, "-c", FILLS_UP, str(path)], capture_output=True, text=True, check=True, timeout=30
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
            RunDirectory(folder).locked(),
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


HANGS = """
import os, sys, time
from pathlib import Path
from madx.artifacts import write_atomically
def hang(descriptor):
    print("ready", flush=True)
    time.sleep(60)
os.fsync = hang
write_atomically(Path(sys.argv[1]), b"half of it")
"""


def test_a_kill_while_writing_leaves_the_old_content_and_the_part_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, OLD)
    ended(started(HANGS, path))
    assert path.read_bytes() == OLD
    assert len(parts(tmp_path)) == 1
    foreign = tmp_path / ".a-download.part"
    foreign.write_bytes(b"not ours")
    with RunDirectory(tmp_path).locked():
        assert parts(tmp_path) == [foreign.name]
    assert path.read_bytes() == OLD


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


@pytest.mark.parametrize("raw", [b"", b"{", b"{'a': 1}", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} x'])
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


def test_free_bytes_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    system = os.statvfs(tmp_path)
    found = free_bytes(tmp_path / "not" / "yet")
    assert abs(found - system.f_bavail * system.f_frsize) < 2**30  # others write on the same disk meanwhile


# --- the lock

HOLDS = """
import sys
from pathlib import Path
from madx.artifacts import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["kill", "finish"])
def test_a_second_process_is_told_who_has_the_directory_until_that_one_ends(tmp_path: Path, end: str) -> None:
    run = RunDirectory(tmp_path / "run")
    write_atomically(run.path("model"), OLD)
    holder = started(HOLDS, run.root)
    for _ in range(2):
        with (
            pytest.raises(ArtifactError, match=rf"in use by another madx \(process {holder.pid}\); wait for it"),
            run.locked(),
        ):
            pytest.fail("two processes are inside")
    if end == "kill":
        ended(holder)
    else:
        holder.communicate("\n", timeout=20)
        assert holder.returncode == 0
    with run.locked():
        assert run.path(".lock").read_text() == str(os.getpid())


def test_the_lock_is_given_back_after_an_error_and_can_be_taken_again(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")

    def fails() -> None:
        with run.locked():
            write_atomically(run.path("model"), NEW)
            with pytest.raises(ArtifactError, match=rf"process {os.getpid()}\)"), RunDirectory(run.root).locked():
                pytest.fail("locked twice")
            raise KeyError("inside")

    for _ in range(2):
        with pytest.raises(KeyError, match="inside"):
            fails()
    assert run.path("model").read_bytes() == NEW


@pytest.mark.parametrize("already_gone", [False, True])
def test_a_new_run_that_wrote_nothing_leaves_nothing_and_hides_no_error(tmp_path: Path, already_gone: bool) -> None:
    run = RunDirectory(tmp_path / "run")

    def fails() -> None:
        with run.locked():
            if already_gone:
                run.path(".lock").unlink()
                run.root.rmdir()
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert not run.root.exists()


@pytest.mark.parametrize("before", [[], ["empty folder/"], ["notes.txt"]])
def test_a_folder_that_was_there_before_stays(tmp_path: Path, before: list[str]) -> None:
    for name in before:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text("mine")
    with pytest.raises(KeyError, match="inside"), RunDirectory(tmp_path).locked():
        raise KeyError("inside")
    assert [(tmp_path / name).exists() for name in before] == [True] * len(before)
    assert tmp_path.exists()


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run ends, and removes its empty folder, between our opening of the file and our lock on it."""
    import madx.artifacts as module

    run, original = RunDirectory(tmp_path / "run"), module.fcntl.flock

    def late(file: Any, flags: int) -> None:
        run.path(".lock").unlink()
        original(file, flags)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with pytest.raises(ArtifactError, match="in use by another madx"), run.locked():
        pytest.fail("a third process could lock the new file at the same time")


def test_a_file_system_without_locks_is_not_blamed_on_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import madx.artifacts as module

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with pytest.raises(ArtifactError, match=r"cannot be locked: .*; choose a --run-dir on a local disk") as caught:
        RunDirectory(tmp_path).locked().__enter__()
    assert "another madx" not in str(caught.value)


# --- the manifest


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """A run with one finished stage of two files."""
    directory = RunDirectory(tmp_path / "run")
    for name in ("dense/model.bin", "dense/log.json"):
        write_atomically(directory.path(name), name)
    directory.record_stage("train", {"key": "k", "inputs": {}}, ["dense/model.bin", "dense/log.json"])
    return directory


def test_a_stage_is_recorded_with_the_hashes_and_sizes_of_its_files(run: RunDirectory) -> None:
    record = run.stage("train")
    assert record == {
        "key": "k",
        "inputs": {},
        "outputs": {
            name: {"sha256": hashlib.sha256(name.encode()).hexdigest(), "bytes": len(name)}
            for name in ("dense/log.json", "dense/model.bin")
        },
    }
    assert json.loads(run.path("manifest.json").read_text()) == {"schema": MANIFEST_SCHEMA, "stages": {"train": record}}
    assert run.hashes("train") == {name: entry["sha256"] for name, entry in record["outputs"].items()}
    assert run.changed_outputs("train") == []


def test_stages_are_added_replaced_and_asked_for(run: RunDirectory) -> None:
    run.record_stage("prune", {"key": "p"}, [])
    run.record_stage("train", {"key": "other"}, ["dense/log.json"])
    assert list(run.manifest()["stages"]) == ["train", "prune"]
    assert list(run.hashes("train")) == ["dense/log.json"]
    assert (run.stage("verify"), run.hashes("verify"), run.changed_outputs("verify")) == (None, {}, [])


def swap(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def to_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change",
    [swap, Path.unlink, to_folder, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(OLD)],
    ids=["byte", "gone", "folder", "empty", "other"],
)
def test_a_changed_output_is_found(run: RunDirectory, change: Callable[[Path], Any]) -> None:
    change(run.path("dense/model.bin"))
    assert run.changed_outputs("train") == ["dense/model.bin"]


def test_a_stage_whose_file_is_missing_is_not_recorded(run: RunDirectory) -> None:
    before = run.path("manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="missing cannot be read"):
        run.record_stage("prune", {"key": "p"}, ["missing"])
    assert run.path("manifest.json").read_bytes() == before


FOREIGN: list[Any] = [
    [],
    1,
    {},
    {"schema": 1},
    {"stages": {}},
    {"schema": "1", "stages": {}},
    {"schema": True, "stages": {}},
    {"schema": 1, "stages": []},
    {"schema": 1, "stages": {"train": 5}},
    {"schema": 1, "stages": {"train": {}}},
    {"schema": 1, "stages": {"train": {"outputs": []}}},
    {"schema": 1, "stages": {"train": {"outputs": {"a": "b"}}}},
    {"schema": 1, "stages": {"train": {"outputs": {"a": {"sha256": 7}}}}},
    {"name": "vite", "icons": []},
]


@pytest.mark.parametrize("content", FOREIGN, ids=repr)
@pytest.mark.parametrize("use", ["stage", "hashes", "changed_outputs"])
def test_a_foreign_or_broken_manifest_is_one_clear_error(tmp_path: Path, content: Any, use: str) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"manifest\.json is not a madx manifest; choose another --run-dir"):
        getattr(RunDirectory(tmp_path), use)("train")


@pytest.mark.parametrize("extra", [{"stages": {}}, {"stages": []}, {}])
def test_a_manifest_of_a_newer_madx_is_named_as_such(tmp_path: Path, extra: dict[str, Any]) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": MANIFEST_SCHEMA + 1, **extra}))
    with pytest.raises(ArtifactError, match=rf"newer madx \(schema {MANIFEST_SCHEMA + 1}\); update madx"):
        RunDirectory(tmp_path).manifest()


def test_a_manifest_that_is_not_json_is_never_overwritten(run: RunDirectory) -> None:
    run.path("manifest.json").write_text('{"schema": 1, "stages": {"tr')
    with pytest.raises(ArtifactError, match="not readable JSON"):
        run.record_stage("prune", {"key": "p"}, [])
    assert run.path("manifest.json").read_text() == '{"schema": 1, "stages": {"tr'


# --- checkpoints

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
    checkpoint.clear()
    checkpoint.clear()
    assert checkpoint.load() is None
    assert list(checkpoint.path.parent.iterdir()) == []


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
