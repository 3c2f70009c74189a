"""No default of a recipe refuses a small data set; a number that its author named is held to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli

RECIPE = """
data: {name: npz, path: small.npz}
model: {name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}
threat: {eps: 0.1}
train: {precision: fp32, epochs: 1, attack: {steps: 1}, selection_attack: {steps: 1}, evaluations: 1}
prune: {round_to: 8, criterion: magnitude, recalibration_batches: 1, attack: {steps: 1},
        finetune: {precision: fp32, epochs: 1, attack: {steps: 1}, selection_attack: {steps: 1}, evaluations: 1}}
"""


@pytest.fixture
def small(tmp_path: Path):
    """A recipe whose data have so many images, the text of the recipe's numbers left out."""

    def made(train: int, test: int) -> Path:
        rng = np.random.default_rng(0)
        images = {
            f"x_{part}": rng.random((n, 1, 8, 8), dtype=np.float32) for part, n in (("train", train), ("test", test))
        }
        labels = {f"y_{part}": np.arange(n) % 4 for part, n in (("train", train), ("test", test))}
        np.savez(tmp_path / "small.npz", **images, **labels)
        (tmp_path / "small.yaml").write_text(RECIPE)
        return tmp_path / "small.yaml"

    return made


@pytest.mark.parametrize(("train", "batches"), [pytest.param(600, 4, marks=pytest.mark.slow), (90, 1)])
def test_the_defaults_train_and_prune_and_export_few_images(
    small, cli: Cli, tmp_path: Path, train: int, batches: int
) -> None:
    recipe = small(train, 40)
    for command in ("train", "prune", "export"):
        answer = cli(command, recipe, "--run-dir", tmp_path / "run")
        assert answer.code == 0, answer.err
    steps = json.loads((tmp_path / "run/dense/training.json").read_text())["evaluations"][-1]["step"]
    assert steps == batches
    saliency = json.loads((tmp_path / "run/saliency.json").read_text())
    assert saliency["batch_size"] == min(128, train - train // 10)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("train.batch_size=128", "train.batch_size is 128, but there are only 81 training images"),
        ("prune.batch_size=128", "prune.batch_size is 128, but there are only 81 training images"),
        ("prune.finetune.batch_size=99", "prune.finetune.batch_size is 99, but there are only 81"),
        ("data.selection=2000", "data.selection is 2000"),
        ("data.selection=2", "the selection split has 2 images, and engines are compared on at least 3"),
    ],
)
def test_a_number_that_was_named_is_held_to(small, cli: Cli, tmp_path: Path, named: str, said: str) -> None:
    answer = cli("train", small(90, 40), "--run-dir", tmp_path / "run", "--set", named)
    assert (answer.code, said in " ".join(answer.err.split())) == (2, True), answer.err


def test_too_few_images_for_the_gate_are_refused_before_training(small, cli: Cli, tmp_path: Path) -> None:
    answer = cli("train", small(90, 2), "--run-dir", tmp_path / "run")
    assert (answer.code, "the gate split has 2 images" in " ".join(answer.err.split())) == (2, True), answer.err
