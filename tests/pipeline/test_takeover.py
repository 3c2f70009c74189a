"""Weights that are taken over are measured before anything is done with them, through the command line.

The network is a linear classifier of digits, right on nine of ten, trained here in a second.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, Answer, Cli
from safetensors.torch import save_file

from madx.data import load_splits
from madx.recipe import DataConfig

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, unit, order, far, classes):
        super().__init__()
        self.head = nn.Linear(64, classes)
        self.unit, self.order, self.far = unit, order, far

    def forward(self, x):
        logits = self.head((x * self.unit).clamp(-1, 1).flatten(1))
        return logits / (x.flatten(1).mean(1, keepdim=True) < self.far)

def net(unit=1.0, order=None, far=1e9, classes=10):
    return Net(unit, order, far, classes)
"""
RESNET = "model: {name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}"
TRAIN, PRUNE = TINY.index("train: {"), TINY.index("prune:")
GIVEN = TINY[:TRAIN] + TINY[PRUNE:]
"""The tiny recipe without training."""


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a linear classifier of the training split, by logistic regression."""
    images, labels = load_splits(DataConfig(name="digits", selection=100), 0).train.tensors()
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 10)
    optimiser = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(100):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(head(images.flatten(1)), labels).backward()
        optimiser.step()
    return {"head.weight": head.weight.detach(), "head.bias": head.bias.detach()}


@pytest.fixture
def take(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """`madx train` with weights and model.args; settings come last."""
    monkeypatch.chdir(tmp_path)
    Path("nets_taken_over.py").write_text(NETS)

    def taken(state: dict[str, torch.Tensor], args: str = "{}", *settings: str, recipe: str = GIVEN) -> Answer:
        save_file(state, "given.safetensors")
        model = f"model: {{name: factory, factory: 'nets_taken_over:net', args: {args}, weights: given.safetensors}}"
        assert RESNET in recipe
        Path("tiny.yaml").write_text(recipe.replace(RESNET, model))
        answer = cli("train", "tiny.yaml", "--run-dir", "run", *(f"--set={setting}" for setting in settings))
        return Answer(answer.code, answer.out, " ".join(answer.err.split()))

    return taken


def recorded() -> dict:
    return json.loads(Path("run/dense/training.json").read_text())


def test_accuracies_are_said_and_kept_at_once(take, weights) -> None:
    answer = take(weights)
    assert answer.code == 0, answer.err
    (entry,) = recorded()["evaluations"]
    assert entry["step"] == 0
    assert 0.85 < entry["clean"] <= 1
    assert entry["robust"] < entry["clean"]
    assert f"clean {entry['clean']:.1%}, robust {entry['robust']:.1%}" in answer.err
    assert recorded()["fit"]["clean"] == pytest.approx(entry["clean"])
    assert recorded()["fit"]["standing"] == "above chance"


def test_a_network_that_is_not_robust_is_told_so_and_used(take, weights) -> None:
    answer = take(weights, "{}", "threat.eps=0.5")
    assert answer.code == 0
    assert recorded()["evaluations"][0]["robust"] < 0.05
    assert "undefended" in answer.err
    assert "undefended" not in take(weights, "{}", "threat.eps=0.01").err


def test_images_of_another_scale_stop_the_run_and_the_advice_makes_it_run(take, weights) -> None:
    """The network's forward divides by 255; the recipe's normalisation multiplies."""
    args = "{unit: 0.00392156862745098}"
    answer = take(weights, args)
    assert answer.code == 2
    assert not Path("run/dense/model.safetensors").exists()
    for fact in ("images from 0 to 255", "normalise: {mean: [0], std: [1/255]}", "own-network.md"):
        assert fact in answer.err
    assert take(weights, args[:-1] + ", normalise: {mean: [0], std: [1/255]}}").code == 0


def test_a_normalisation_that_the_network_already_has_is_to_be_left_out(take, weights) -> None:
    answer = take(weights, "{normalise: {mean: [0], std: [1/255]}}")
    assert answer.code == 2
    assert "leave out model.args.normalise" in answer.err


def test_another_order_of_the_classes_stops_it(take, weights) -> None:
    turned = {name: value.roll(1, 0) for name, value in weights.items()}
    answer = take(turned)
    assert answer.code == 2
    assert "label 0 is output 1" in answer.err
    assert "label 9 is output 0" in answer.err


def test_random_weights_stop_it_with_a_question(take, weights) -> None:
    torch.manual_seed(1)
    answer = take({name: torch.randn_like(value) for name, value in weights.items()})
    assert answer.code == 2
    assert "guessing gives" in answer.err
    assert "?" in answer.err
    assert not Path("run/dense/model.safetensors").exists()


def test_a_start_for_training_is_only_warned_of(take, weights) -> None:
    torch.manual_seed(1)
    random = {name: torch.randn_like(value) for name, value in weights.items()}
    answer = take(random, "{}", "train.epochs=1", "train.precision=fp32", recipe=TINY)
    assert answer.code == 0, answer.err
    assert "guessing gives" in answer.err
    assert recorded()["fit"]["clean"] < 0.2
    assert recorded()["evaluations"][0]["step"] == 0


def test_a_network_that_breaks_on_some_images_is_refused(take, weights) -> None:
    """On the probes of its form too few images are bright enough."""
    answer = take(weights, "{far: 0.4}")
    assert answer.code == 2
    assert "NaN or infinite logits" in answer.err


def test_three_images_tell_nothing_and_that_is_said(take, weights) -> None:
    answer = take(weights, "{}", "data.selection=3", "export.parity_images=3")
    assert answer.code == 0, answer.err
    assert "3 selection images" in answer.err
    assert recorded()["fit"]["standing"] == "undecided"
