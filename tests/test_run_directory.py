"""Locks that die with their process, parts that are swept, and manifests that are not trusted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from madx.artifacts import write_atomically
from madx.errors import ArtifactError
from madx.rundir import LOCK, MANIFEST_SCHEMA, RunDirectory

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
    process.communicate(timeout=200)


HANGS = """
import os, sys, time
from pathlib import Path
from madx.artifacts import write_atomically
def hang(descriptor):
    print("ready", flush=True)
    time.sleep(600)
os.fsync = hang
write_atomically(Path(sys.argv[1]), b"half of it")
"""


def test_a_kill_while_writing_leaves_the_old_content_and_the_part_is_swept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, OLD)
    ended(started(HANGS, path))
    assert path.read_bytes() == OLD
    assert len(parts(tmp_path)) == 1
    (tmp_path / "manifest.json").write_text('{"schema": 1, "stages": {}}')
    foreign = tmp_path / ".a-download.part"
    foreign.write_bytes(b"not ours")
    with RunDirectory(tmp_path).locked():
        assert parts(tmp_path) == [foreign.name]
    assert path.read_bytes() == OLD


HOLDS = """
import sys
from pathlib import Path
from madx.rundir import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("ready", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.parametrize("end", ["kill", "finish"])
def test_a_second_process_is_told_who_has_the_directory_until_that_one_ends(tmp_path: Path, end: str) -> None:
    run = RunDirectory(tmp_path / "run")
    write_atomically(run.path(".madx/model"), OLD)
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
        holder.communicate("\n", timeout=200)
        assert holder.returncode == 0
    with run.locked():
        assert run.path(LOCK).read_text() == str(os.getpid())


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
                shutil.rmtree(run.root)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fails()
    assert not run.root.exists()


@pytest.mark.parametrize("mine", ["checkpoints/robust.safetensors", "report.html", "empty folder/"])
def test_a_folder_of_the_users_own_is_not_written_to(tmp_path: Path, mine: str) -> None:
    (tmp_path / mine).parent.mkdir(exist_ok=True)
    (tmp_path / mine).mkdir() if mine.endswith("/") else (tmp_path / mine).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactError, match="not a madx run directory; nothing in it was touched"):
        RunDirectory(tmp_path).locked().__enter__()
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_that_was_there_before_stays(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="inside"), RunDirectory(tmp_path).locked():
        raise KeyError("inside")
    assert tmp_path.is_dir()


def test_a_stage_that_is_forgotten_takes_its_files_along(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("a", "b"):
        write_atomically(run.path(f"{name}/file"), OLD)
        run.record_stage(name, {"key": "1"}, [f"{name}/file"])
    run.forget_stage("b")
    run.forget_stage("never there")
    assert run.stage("b") is None
    assert not run.path("b/file").exists()
    assert run.read("a/file") == OLD


def test_what_a_stage_no_longer_writes_is_removed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for name in ("old", "kept"):
        write_atomically(run.path(name), OLD)
    run.record_stage("a", {}, ["old", "kept"])
    run.record_stage("a", {}, ["kept"])
    assert not run.path("old").exists()
    assert run.read("kept") == OLD


@pytest.mark.parametrize("harm", ["swap a byte", "delete", "not vouched for"])
def test_only_vouched_bytes_are_read(tmp_path: Path, harm: str) -> None:
    run = RunDirectory(tmp_path)
    write_atomically(run.path("file"), OLD)
    if harm != "not vouched for":
        run.record_stage("a", {}, ["file"])
    if harm == "swap a byte":
        run.path("file").write_bytes(b"T" + OLD[1:])
    if harm == "delete":
        run.path("file").unlink()
    with pytest.raises(ArtifactError, match=r"file (is not what the stage|cannot be read)"):
        run.read("file")


def test_a_lock_file_that_was_removed_meanwhile_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run ends, and removes its empty folder, between our opening of the file and our lock on it."""
    import madx.rundir as module

    run, original = RunDirectory(tmp_path / "run"), module.fcntl.flock

    def late(file: Any, flags: int) -> None:
        run.path(LOCK).unlink()
        original(file, flags)

    monkeypatch.setattr(module.fcntl, "flock", late)
    with pytest.raises(ArtifactError, match="in use by another madx"), run.locked():
        pytest.fail("a third process could lock the new file at the same time")


def test_a_file_system_without_locks_is_not_blamed_on_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import madx.rundir as module

    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with pytest.raises(ArtifactError, match=r"cannot be locked: .*; choose a --run-dir on a local disk") as caught:
        RunDirectory(tmp_path).locked().__enter__()
    assert "another madx" not in str(caught.value)


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


def test_attempts_are_kept_for_each_subject_and_outlive_the_stages(run: RunDirectory) -> None:
    run.record_stage("verify", {"key": "k"}, ["dense/log.json"])
    assert run.attempts() == {}
    run.keep_attempts("a", {"attempt": 1})
    run.keep_attempts("b", {"attempt": 5})
    run.forget_stage("verify")
    run.record_stage("verify", {"key": "other"}, [])
    assert RunDirectory(run.root).attempts() == {"a": {"attempt": 1}, "b": {"attempt": 5}}
    assert run.stage("verify") is not None


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
    {"schema": 1, "stages": {}, "attempts": []},
    {"schema": 1, "stages": {}, "attempts": {"a": "7"}},
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
