"""The prune stage takes batches until the kept set has settled, says so, and continues exactly where it was killed."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli

from madx.artifacts import sha256_file
from madx.pipeline import scoring
from madx.prune import averaging

FILES = ("saliency.safetensors", "saliency.json", "masks.safetensors", "coverage.json")
SETTINGS = (
    *("prune.batches=auto", "prune.settled=0.7", "prune.max_batches=20"),
    *("prune.structure=unstructured", "prune.finetune=null"),
)
OPTIONS = tuple(word for setting in SETTINGS for word in ("--set", setting))


def prune(cli: Cli, folder: Path, *options: str) -> str:
    answer = cli("prune", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1", *options)
    assert answer.code == 0, answer.err
    return " ".join(answer.err.split())


def settling(folder: Path) -> dict[str, Any]:
    content = json.loads((folder / "run/saliency.json").read_text())
    return content["settling"] | {"batches": content["batches"]}


def test_auto_stops_when_the_kept_set_has_settled(folder: Path, cli: Cli) -> None:
    log = prune(cli, folder, *OPTIONS)
    found = settling(folder)
    assert found["settled"]
    assert found["batches"] < 20, "it did not stop; the case shows nothing"
    agree = [point["overlap"] >= 0.7 for point in found["curve"]]
    assert agree[-2:] == [True, True]
    assert not any(one and two for one, two in itertools.pairwise(agree[:-1]))
    assert f"the kept set has settled after {found['batches']} batches" in log


def test_auto_ends_at_the_most_batches_and_says_that_it_has_not_settled(folder: Path, cli: Cli) -> None:
    log = prune(cli, folder, *OPTIONS, "--set", "prune.settled=0.999", "--set", "prune.max_batches=5")
    found = settling(folder)
    assert (found["settled"], found["batches"]) == (False, 5)
    assert [point["batches"] for point in found["curve"]] == [2, 4, 5]
    assert "the kept set has NOT settled after 5 batches" in log
    assert "prune.max_batches" in log


def test_a_fixed_number_is_taken_whatever_the_curve_says(folder: Path, cli: Cli) -> None:
    prune(cli, folder, *OPTIONS, "--set", "prune.batches=6", "--set", "prune.settled=0.01")
    found = settling(folder)
    assert (found["asked"], found["batches"], found["settled"]) == (6, 6, True)


@pytest.mark.parametrize("criterion", ["magnitude", "random", "hydra"])
def test_a_criterion_without_images_rests_on_no_batch(criterion: str, folder: Path, cli: Cli) -> None:
    prune(cli, folder, *OPTIONS, "--set", f"prune.criterion={criterion}", "--set", "prune.learning.steps=2")
    content = json.loads((folder / "run/saliency.json").read_text())
    assert (content["batches"], content["settling"]) == (0, None)


def test_masks_in_bfloat16_rank_otherwise_and_it_is_recorded(folder: Path, cli: Cli) -> None:
    found = {}
    for precision in ("fp32", "bf16"):
        prune(cli, folder, *OPTIONS, "--set", "prune.batches=1", "--set", f"prune.precision={precision}")
        assert json.loads((folder / "run/saliency.json").read_text())["precision"] == precision
        found[precision] = sha256_file(folder / "run/saliency.safetensors")
    assert found["fp32"] != found["bf16"]


@pytest.mark.parametrize("killed_at", [5])
def test_killed_in_mid_saliency_it_ends_with_the_same_bytes(
    killed_at: int, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Path(shutil.copytree(folder, folder.with_name("undisturbed")))
    prune(cli, undisturbed, *OPTIONS)
    total = settling(undisturbed)["batches"]
    assert total > killed_at
    monkeypatch.setattr(averaging, "_SAVE_SECONDS", -1.0)
    criterion, calls = scoring.CRITERIA["mad-paper"], []

    def counted(*arguments: Any, **format: Any) -> Any:
        if len(calls) == killed_at:
            raise KeyboardInterrupt
        calls.append(1)
        return criterion(*arguments, **format)

    monkeypatch.setitem(scoring.CRITERIA.own, "mad-paper", replace(criterion, score=counted))
    command = ("prune", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1", *OPTIONS)
    assert cli(*command).code != 0
    assert (folder / "run/.madx/checkpoints").exists()
    calls.clear()

    def going_on(*arguments: Any, **format: Any) -> Any:
        calls.append(1)
        return criterion(*arguments, **format)

    monkeypatch.setitem(scoring.CRITERIA.own, "mad-paper", replace(criterion, score=going_on))
    log = prune(cli, folder, *OPTIONS)
    assert "continuing where it stopped" in log
    assert len(calls) == total - (killed_at - 1 if killed_at % 2 else killed_at)
    for name in FILES:
        assert sha256_file(folder / "run" / name) == sha256_file(undisturbed / "run" / name), name


def test_what_a_kill_right_after_the_record_left_is_tidied_up(folder: Path, cli: Cli) -> None:
    prune(cli, folder, *OPTIONS)
    key = json.loads((folder / "run/manifest.json").read_text())["stages"]["prune"]["key"]
    left = folder / "run/.madx/checkpoints" / f"prune-{key[:16]}" / "finetuning.pt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"left over")
    assert "prune: up to date" in prune(cli, folder, *OPTIONS)
    assert not left.parent.parent.exists()
