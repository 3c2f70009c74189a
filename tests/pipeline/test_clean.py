"""What is usual with ordinary networks, recalibration and training on clean images: done if asked for, and said."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli
from safetensors.torch import load_file
from torch import Tensor, nn

from madx.data import load_splits
from madx.models import build_model
from madx.pipeline import pruning
from madx.recipe import load_recipe
from madx.seeds import derive_seed
from madx.train import loop

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

SINGLE_WEIGHTS = ("prune.criterion=magnitude", "prune.structure=unstructured", "prune.recalibration_batches=3")
ONLY_RECALIBRATED = (*SINGLE_WEIGHTS, "prune.finetune=null")
CLEAN = "prune.recalibration=clean"
CLEAN_FINETUNING = "prune.finetune.method=clean"
SAID = "robustness is not trained for"


def prune(cli: Cli, folder: Path, *settings: str, code: int = 0) -> str:
    """What `madx prune` says under these settings."""
    options = [word for setting in settings for word in ("--set", setting)]
    answer = cli("prune", folder / "tiny.yaml", "--run-dir", folder / "run", "--set", "train.epochs=1", *options)
    assert answer.code == code, answer.err
    return answer.err


def statistics(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "running" in name}


def by_hand(folder: Path) -> dict[str, Tensor]:
    """BatchNorm of the pruned network after three clean batches in training mode: torch's own cumulative average."""
    recipe = load_recipe(folder / "tiny.yaml")
    split = load_splits(recipe.data, recipe.seed).train
    module = build_model(recipe.model, shape=split.shape, classes=split.classes, seed=0)
    masks, dense = load_file(folder / "run/masks.safetensors"), load_file(folder / "run/dense/model.safetensors")
    module.load_state_dict({name: value * masks[name] if name in masks else value for name, value in dense.items()})
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
    order = derive_seed(recipe.seed, "prune", 0)
    batches = split.batches(recipe.prune.batch_size, shuffle=order, drop_last=True)
    with torch.no_grad():
        for (images, _), _ in zip(batches, range(3), strict=False):
            module.train()(images)
    return statistics(module.state_dict())


def test_clean_recalibration_takes_the_statistics_of_clean_images(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "last_iterate", None)  # nobody attacks
    assert SAID in prune(cli, folder, *ONLY_RECALIBRATED, CLEAN)
    expected, found = by_hand(folder), statistics(load_file(folder / "run/pruned/model.safetensors"))
    assert expected.keys() == found.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-5)


def test_by_default_they_are_those_of_examples(folder: Path, cli: Cli) -> None:
    assert SAID not in prune(cli, folder, *ONLY_RECALIBRATED)
    expected, found = by_hand(folder), statistics(load_file(folder / "run/pruned/model.safetensors"))
    apart = [float((value - expected[name]).abs().max() / expected[name].abs().max()) for name, value in found.items()]
    assert max(apart) > 0.05


def test_what_has_no_effect_is_not_in_the_key(folder: Path, cli: Cli) -> None:
    again = "prune: up to date"
    prune(cli, folder, *ONLY_RECALIBRATED, CLEAN)
    rounds = "prune.recalibration_rounds=5"  # clean images are the same in every round
    assert again in prune(cli, folder, *ONLY_RECALIBRATED, CLEAN, rounds)
    assert again not in prune(cli, folder, *ONLY_RECALIBRATED)
    assert again not in prune(cli, folder, *ONLY_RECALIBRATED, rounds)
    none = (*ONLY_RECALIBRATED, "prune.recalibration_batches=0")
    prune(cli, folder, *none)
    assert again in prune(cli, folder, *none, CLEAN, rounds)


def test_clean_fine_tuning_makes_no_example_and_measures_what_that_costs(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "last_iterate", None)
    said = prune(cli, folder, *SINGLE_WEIGHTS, CLEAN, CLEAN_FINETUNING)
    assert f"{SAID} (prune.recalibration: clean and prune.finetune.method: clean); robust_drop will tell" in said
    entries: list[dict[str, Any]] = json.loads((folder / "run/pruned/finetuning.json").read_text())["evaluations"]
    assert [entry["step"] for entry in entries] == [0, 15, 30]
    assert entries[-1]["clean"] > entries[0]["clean"]
    assert all(0 < entry["robust"] < entry["clean"] for entry in entries)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([CLEAN], "(prune.recalibration: clean); robust_drop will tell"),
        ([CLEAN_FINETUNING, "verify.gates=[{metric: clean_drop, at_most: 0.5}]"], "and no gate of the recipe looks at"),
        ([CLEAN, "prune.recalibration_batches=0"], None),
    ],
)
def test_it_is_said_in_one_line_with_who_will_see_it(
    settings: list[str], words: str | None, folder: Path, cli: Cli
) -> None:
    said = [line for line in prune(cli, folder, *SINGLE_WEIGHTS, *settings).splitlines() if SAID in line]
    assert len(said) == (0 if words is None else 1)
    assert words is None or words in said[0]


def test_a_dense_network_can_be_trained_clean(tiny_recipe: Path, tmp_path: Path, cli: Cli) -> None:
    settings = ("--set", "train.method=clean", "--set", "train.epochs=1")
    answer = cli("train", tiny_recipe, "--run-dir", tmp_path / "run", *settings)
    assert answer.code == 0
    assert f"{SAID} (train.method: clean)" in answer.err


def test_clean_training_has_no_loss_on_examples(tiny_recipe: Path, tmp_path: Path, cli: Cli) -> None:
    settings = ("--set", "train.method=clean", "--set", "train.loss=trades")
    answer = cli("train", tiny_recipe, "--run-dir", tmp_path / "run", *settings)
    assert answer.code == 2
    assert "method: clean trains with loss: ce, not with trades" in answer.err
