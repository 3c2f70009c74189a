"""`make long`: results carry commit, machine and command, and those that are older than their code are named."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/long.py, which is no package's."""
    spec = importlib.util.spec_from_file_location("long", ROOT / "benchmarks/long.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "long", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def long(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script in a small repository of its own, with one study."""
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(script, "STUDIES", {"small": script.Study(("-c", "print('found 7')"), ("code",))})
    for name in ("code", "other"):
        (tmp_path / name).write_text("1")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path)
    return script


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", *words], cwd=folder, check=True)


def commit(folder: Path) -> None:
    git(folder, "add", "code", "other")
    git(folder, "commit", "--quiet", "-m", "x")


def test_a_study_keeps_what_it_printed_and_what_it_is_of(long: ModuleType, tmp_path: Path) -> None:
    assert long.standing("small") == "never run"
    assert long.run("small") == 0
    assert (tmp_path / "results/small.txt").read_text() == "found 7\n"
    record = json.loads((tmp_path / "results/small.json").read_text())
    assert record["commit"] == long.git("rev-parse", "HEAD")
    assert record["command"] == """python -c 'print('"'"'found 7'"'"')'"""
    assert {"cpus", "processor", "instruction_sets"} <= record["machine"].keys()
    assert long.standing("small") == ""


def test_a_commit_that_touches_the_code_makes_it_old_and_another_does_not(long: ModuleType, tmp_path: Path) -> None:
    long.run("small")
    (tmp_path / "other").write_text("2")
    commit(tmp_path)
    assert long.standing("small") == ""
    (tmp_path / "code").write_text("2")
    commit(tmp_path)
    assert long.standing("small").startswith("older than the code it measured: 1 commits")


def test_what_is_in_no_commit_is_not_measured(long: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "code").write_text("2")
    with pytest.raises(SystemExit, match="in no commit"):
        long.run("small")
    assert not (tmp_path / "results").exists()


def test_a_failed_study_and_a_foreign_commit_are_named(long: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(long.STUDIES, "small", long.Study(("-c", "raise SystemExit(3)"), ("code",)))
    assert long.run("small") == 3
    assert long.standing("small").startswith("failed at ")
    path = long.RESULTS / "small.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"exit_code": 0, "commit": "0" * 40}))
    assert "which this repository does not have" in long.standing("small")


def test_every_study_of_ours_measures_paths_that_are_there(script: ModuleType) -> None:
    for study in script.STUDIES.values():
        assert all((ROOT / path).exists() for path in study.measures)
        assert study.command[0] == "-m" or (ROOT / study.command[0]).is_file()
