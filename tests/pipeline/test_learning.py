"""The prune stage with criteria that learn their masks: every structure, and continued exactly where it was killed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli
from safetensors.torch import load_file

from madx.artifacts import sha256_file
from madx.pipeline import learning
from madx.prune import learned

SETTINGS = (
    *("prune.criterion=mad", "prune.learning.steps=6", "prune.batches=2"),
    *("prune.structure=unstructured", "prune.finetune=null"),
)
FILES = ("saliency.safetensors", "saliency.json", "masks.safetensors", "pruned/model.safetensors")


def command(folder: Path, *settings: str) -> list[Any]:
    options = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
    return ["prune", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1", *options]


def prune(cli: Cli, folder: Path, *settings: str) -> str:
    answer = cli(*command(folder, *settings))
    assert answer.code == 0, answer.err
    return " ".join(answer.err.split())


@pytest.mark.parametrize("structure", ["unstructured", "channels", "2:4", "channels+2:4"])
def test_mad_prunes_under_every_structure(structure: str, folder: Path, cli: Cli) -> None:
    prune(cli, folder, f"prune.structure={structure}", "prune.criterion=obd")
    obd = load_file(folder / "run/masks.safetensors")
    prune(cli, folder, f"prune.structure={structure}")
    masks = load_file(folder / "run/masks.safetensors")
    share = sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
    assert share < 0.75
    assert any(not masks[name].equal(obd[name]) for name in masks)


def test_whole_channels_are_ranked_without_learning_and_the_log_says_so(folder: Path, cli: Cli) -> None:
    assert "mad ranks whole channels without learning masks" in prune(cli, folder, "prune.structure=channels")


def test_the_learning_configuration_changes_the_result(folder: Path, cli: Cli) -> None:
    prune(cli, folder)
    before = sha256_file(folder / "run/saliency.safetensors")
    prune(cli, folder, "prune.learning.steps=7")
    assert sha256_file(folder / "run/saliency.safetensors") != before


def test_a_run_killed_while_it_learns_ends_with_the_same_bytes(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Path(shutil.copytree(folder, folder.with_name("undisturbed")))
    prune(cli, undisturbed)
    monkeypatch.setattr(learned, "_SAVE_EVERY", 2)
    attack, calls = learning.last_iterate, []

    def counted(*arguments: Any, **named: Any) -> Any:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return attack(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "last_iterate", counted)
        assert cli(*command(folder)).code != 0
    calls.clear()
    monkeypatch.setattr(learning, "last_iterate", lambda *a, **n: calls.append(1) or attack(*a, **n))
    prune(cli, folder)
    assert len(calls) == 2, "steps 0 to 3 were kept"
    for name in FILES:
        assert sha256_file(folder / "run" / name) == sha256_file(undisturbed / "run" / name), name
