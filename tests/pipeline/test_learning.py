"""The prune stage with criteria that learn their masks: every structure, and continued exactly where it was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
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


def test_scores_of_channels_are_stored_beside_the_averages_that_they_started_from(folder: Path, cli: Cli) -> None:
    prune(cli, folder, "prune.structure=channels")
    scores = load_file(folder / "run/saliency.safetensors")
    channels = {name: score for name, score in scores.items() if name.startswith("channels/")}
    layers = ("conv1", "layer1.conv1", "layer2.conv1", "layer2.conv2", "layer3.conv1", "layer3.conv2")
    assert {name: len(score) for name, score in channels.items()} == {f"channels/{layer}": 16 for layer in layers}
    assert scores["conv1.weight"].min() >= 0, "damage"
    assert any((score.sort().values * 16 - torch.arange(1, 17)).abs().max() > 0.01 for score in channels.values())


def test_masks_of_channels_are_learned_before_fine_tuning_too(folder: Path, cli: Cli) -> None:
    tuning = "{epochs: 0.1, batch_size: 64, evaluations: 1, selection_images: 50, attack: {steps: 1}}"
    prune(cli, folder, "prune.structure=channels", f"prune.finetune={tuning}")
    assert json.loads((folder / "run/saliency.json").read_text())["learned_steps"] == 6
    assert json.loads((folder / "run/pruned/finetuning.json").read_text())["evaluations"]


def test_without_a_channel_that_can_go_nothing_is_learned(folder: Path, cli: Cli) -> None:
    log = prune(cli, folder, "prune.structure=channels+2:4", "prune.round_to=16")
    assert "no channel can go, so that there is no mask to learn" in log
    assert json.loads((folder / "run/saliency.json").read_text())["learned_steps"] == 0


def test_what_has_no_effect_is_not_in_the_key(folder: Path, cli: Cli) -> None:
    settings = ("prune.criterion=obd", "prune.structure=channels")
    prune(cli, folder, *settings)
    assert "prune: up to date" in prune(cli, folder, *settings, "prune.learning.steps=7", "prune.max_batches=9")
    assert "prune: up to date" not in prune(cli, folder, *settings, "prune.round_to=4")
    unstructured = ("prune.criterion=magnitude", "prune.batches=2")
    prune(cli, folder, *unstructured)
    assert "prune: up to date" in prune(cli, folder, *unstructured, "prune.batches=3", "prune.round_to=4")
    assert "prune: up to date" not in prune(cli, folder, *unstructured, "prune.sparsity=0.6")


def test_the_learning_configuration_changes_the_result(folder: Path, cli: Cli) -> None:
    prune(cli, folder)
    before = sha256_file(folder / "run/saliency.safetensors")
    prune(cli, folder, "prune.learning.steps=7")
    assert sha256_file(folder / "run/saliency.safetensors") != before


@pytest.mark.parametrize("structure", ["unstructured", "channels"])
def test_a_run_killed_while_it_learns_ends_with_the_same_bytes(
    structure: str, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f"prune.structure={structure}"
    undisturbed = Path(shutil.copytree(folder, folder.with_name("undisturbed")))
    prune(cli, undisturbed, settings)
    monkeypatch.setattr(learned, "_SAVE_EVERY", 2)
    attack, calls = learning.last_iterate, []

    def counted(*arguments: Any, **named: Any) -> Any:
        if len(calls) == 5:
            raise KeyboardInterrupt
        calls.append(1)
        return attack(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(learning, "last_iterate", counted)
        assert cli(*command(folder, settings)).code != 0
    calls.clear()
    monkeypatch.setattr(learning, "last_iterate", lambda *a, **n: calls.append(1) or attack(*a, **n))
    prune(cli, folder, settings)
    assert len(calls) == 2, "steps 0 to 3 were kept"
    for name in FILES:
        assert sha256_file(folder / "run" / name) == sha256_file(undisturbed / "run" / name), name
