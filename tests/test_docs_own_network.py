"""docs/own-network.md is executed as it is written: its files, and its commands in their order, in an empty folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/own-network.md").read_text()
FILES = dict(re.findall(r"^`(\w+\.(?:py|yaml))`[^\n]*:\n\n```\w+\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL))
RUNNERS = {"python": [sys.executable], "madx": [sys.executable, "-m", "madx"]}


def blocks() -> list[str]:
    """What the page types and is answered, in order."""
    return re.findall(r"^```console\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def type_in(block: str, folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Every command of a block, run in `folder`."""
    commands = [shlex.split(line[2:]) for line in block.splitlines() if line.startswith("$ ")]
    assert commands
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    return [
        subprocess.run(
            [*RUNNERS[program], *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        for program, *arguments in commands
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's files, in which its first block was typed."""
    empty = tmp_path_factory.mktemp("own")
    assert set(FILES) == {"make_data.py", "mynet.py", "train_robust.py", "recipe.yaml"}
    for name, content in FILES.items():
        (empty / name).write_text(content)
    for done in type_in(blocks()[0], empty):
        assert done.returncode == 0, done.stderr[-2000:]
    return empty


def test_the_recipe_is_short_and_shows_the_arguments() -> None:
    assert len(FILES["recipe.yaml"].splitlines()) <= 24
    assert "args: {" in FILES["recipe.yaml"]
    assert "args: {" in (ROOT / "README.md").read_text()
    assert "docs/own-network.md" in (ROOT / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_ends_in_a_verdict(folder: Path) -> None:
    """No gate of it is about time, which belongs to the machine."""
    verdict = json.loads((folder / "runs/digits/verdict.json").read_text())
    assert verdict["outcome"] == "PASS"
    gates = [gate["metric"] for gate in verdict["provenance"]["gates"]]
    assert gates == re.findall(r"metric: (\w+)", FILES["recipe.yaml"])
    training = json.loads((folder / "runs/digits/dense/training.json").read_text())
    assert training["evaluations"][0]["clean"] > 0.9
    assert training["evaluations"][0]["robust"] > 0.6
    assert training["fit"]["standing"] == "above chance"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_wrong_scaling_is_refused_as_the_page_shows(folder: Path) -> None:
    (answer,) = type_in(blocks()[1], folder)
    assert answer.returncode == 2
    said, shown = (" ".join(text.split()) for text in (answer.stderr, blocks()[1]))
    for fact in ("guessing gives", "it is right on", "leave out model.args.normalise", "docs/own-network.md"):
        assert fact in said
        assert fact in shown
