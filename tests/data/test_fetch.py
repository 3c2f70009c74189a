"""Fetching with stand-ins for the network and for apt: what is believed, what is tried next, what is left behind."""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from madx.data import fetch as fetch_module
from madx.data.fashion import Pinned
from madx.data.fetch import PACKAGE, Way, debian, fetch, fetch_files, run_command, site
from madx.errors import DataError
from madx.progress import Silent

CONTENTS = {"a.gz": b"some images", "b.gz": b"some labels"}
FILES = {name: Pinned(len(content), hashlib.sha256(content).hexdigest()) for name, content in CONTENTS.items()}


class Told(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def store(folder: Path, contents: dict[str, bytes] = CONTENTS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(gzip.compress(content))
    return folder


def good_site(tmp_path: Path) -> Way:
    return site(store(tmp_path / "server").as_uri() + "/")


def refusing(name: str) -> Way:
    def obtain(names: Sequence[str], progress: object) -> dict[str, bytes]:  # noqa: ARG001
        raise DataError(f"{name} is down")

    return Way(name, obtain)


def contents_of(folder: Path) -> dict[str, bytes]:
    return {path.name: gzip.decompress(path.read_bytes()) for path in folder.iterdir()}


def test_a_site_is_downloaded_checked_and_put_in_place(tmp_path):
    told = Told()
    target = tmp_path / "deep" / "target"
    assert fetch_files(FILES, target, told, ways=[refusing("first"), good_site(tmp_path)]) == target
    assert contents_of(target) == CONTENTS
    assert "that failed: first is down" in told.lines


def test_what_is_there_and_right_is_not_fetched_again(tmp_path):
    told = Told()
    fetch_files(FILES, store(tmp_path / "t"), told, ways=[refusing("never asked")])
    assert told.lines == [f"{tmp_path / 't'} already holds all 2 files, and their SHA-256 is right"]


@pytest.mark.parametrize("damaged", [{"a.gz": b"other"}, {"b.gz": b""}])
def test_what_is_there_and_wrong_is_replaced(tmp_path, damaged):
    target = store(tmp_path / "t", CONTENTS | damaged)
    fetch_files(FILES, target, Told(), ways=[good_site(tmp_path)])
    assert contents_of(target) == CONTENTS


@pytest.mark.parametrize(
    ("served", "words"),
    [
        (CONTENTS | {"b.gz": b"tampered!!!"}, "b.gz from the site .* is not the published file"),
        ({"a.gz": CONTENTS["a.gz"]}, "b.gz cannot be downloaded"),
    ],
)
def test_nothing_unproven_is_put_in_place(tmp_path, served, words):
    way = site(store(tmp_path / "server", served).as_uri() + "/")
    with pytest.raises(DataError, match=words):
        fetch_files(FILES, tmp_path / "t", Told(), ways=[way])
    assert not (tmp_path / "t").exists()


def test_all_failures_are_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch_files(FILES, tmp_path / "t", Told(), ways=[refusing("one"), refusing("two")])
    message = str(caught.value)
    assert "(1) one: one is down; (2) two: two is down" in message
    assert "a.gz, b.gz" in message


def test_a_site_that_sends_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch_module, "MOST_BYTES", 10)
    with pytest.raises(DataError, match="sends more than 10 bytes"):
        fetch_files(FILES, tmp_path / "t", Told(), ways=[good_site(tmp_path)])


@pytest.mark.parametrize("below", ["", "deep", "deep/er"])
def test_a_file_where_a_folder_is_needed_is_told_before_anything_is_fetched(tmp_path, below):
    (tmp_path / "t").write_text("in the way")
    told, target = Told(), tmp_path / "t" / below
    with pytest.raises(DataError) as caught:
        fetch_files(FILES, target, told, ways=[refusing("never asked")])
    reason = "a file stands where a folder is needed; choose another folder with --to"
    assert str(caught.value) == f"{target} cannot be written: {reason}"
    assert told.lines == []


def test_a_folder_that_cannot_be_written_says_why_and_what_to_do(tmp_path, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    way = good_site(tmp_path)
    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(DataError) as caught:
        fetch_files(FILES, tmp_path / "t", Told(), ways=[way])
    reason = "the file system is read-only; choose another folder with --to"
    assert str(caught.value) == f"{tmp_path / 't' / 'a.gz'} cannot be written: {reason}"


class FakeMachine:
    """apt-get and dpkg as a function: downloads work after `updates_needed` updates, unless the package is broken."""

    def __init__(self, *, updates_needed: int = 0, contents: dict[str, bytes] | None = None) -> None:
        self.updates_needed = updates_needed
        self.contents = CONTENTS if contents is None else contents
        self.commands: list[str] = []

    def __call__(self, command: Sequence[str], folder: Path) -> str:
        self.commands.append(" ".join(command[:2]))
        if command[:2] == ["apt-get", "update"]:
            self.updates_needed -= 1
        elif command == ["apt-get", "download", PACKAGE]:
            if self.updates_needed > 0:
                return "E: Unable to locate package"
            (folder / f"{PACKAGE}_1_all.deb").touch()
        else:
            store(Path(command[3]) / "usr/share/datasets/fashion-mnist", self.contents)
        return ""


@pytest.mark.parametrize(
    ("updates", "commands"),
    [
        (0, ["apt-get download", "dpkg -x"]),
        (1, ["apt-get download", "apt-get update", "apt-get download", "dpkg -x"]),
    ],
)
def test_the_debian_package(tmp_path, updates, commands):
    machine = FakeMachine(updates_needed=updates)
    fetch_files(FILES, tmp_path / "t", Told(), ways=[debian(machine, root=True)])
    assert machine.commands == commands
    assert contents_of(tmp_path / "t") == CONTENTS


@pytest.mark.parametrize(
    ("machine", "root", "words"),
    [
        (FakeMachine(updates_needed=1), False, "Unable to locate package.*sudo apt-get update"),
        (FakeMachine(updates_needed=2), True, "Unable to locate package"),
        (FakeMachine(contents={"a.gz": b"some images"}), True, "the package lacks b.gz"),
        (
            FakeMachine(contents=CONTENTS | {"a.gz": b"other"}),
            True,
            "a.gz from the Debian package .* not the published",
        ),
    ],
)
def test_the_debian_package_fails(tmp_path, machine, root, words):
    with pytest.raises(DataError, match=words):
        fetch_files(FILES, tmp_path / "t", Told(), ways=[debian(machine, root=root)])
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("pass", ""),
        ("import sys; print('W: noise', file=sys.stderr)", ""),
        ("import sys; print('first\\nE: the reason', file=sys.stderr); sys.exit(3)", "E: the reason"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_commands_tell_why_they_failed(tmp_path, code, reason):
    assert run_command([sys.executable, "-c", code], tmp_path) == reason


def test_a_command_that_is_not_there(tmp_path):
    assert "no-such-command-here" in run_command(["no-such-command-here"], tmp_path)


@pytest.mark.parametrize(("tools", "first"), [(True, "the Debian package"), (False, "the site https://")])
def test_apt_is_tried_first_where_it_is(monkeypatch, tmp_path, tools, first):
    tried: list[str] = []
    monkeypatch.setattr(fetch_module.shutil, "which", lambda name: name if tools else None)
    monkeypatch.setattr(fetch_module, "fetch_files", lambda *_, ways: tried.extend(way.name for way in ways))
    fetch("fashion-mnist", tmp_path, Told())
    assert tried[0].startswith(first)
    assert len(tried) == 2 + tools


@pytest.mark.parametrize(("name", "words"), [("cifar10", "download https://"), ("nonsense", "not 'nonsense'$")])
def test_other_sets_are_not_fetched(tmp_path, name, words):
    with pytest.raises(DataError, match=words):
        fetch(name, tmp_path, Told())
