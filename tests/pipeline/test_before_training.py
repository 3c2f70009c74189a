"""A network whose outputs are no logits is refused before anything is trained on it."""

import json
import re
from pathlib import Path

import pytest
from conftest import TINY, Cli

NETS = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, after):
        super().__init__(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes)
        )
        self.after = after

    def forward(self, x):
        return self.after(super().forward(x))

def probabilities(classes=10):
    return Net(classes, lambda out: out.softmax(1))

def always_dropping(classes=10):
    return Net(classes, F.dropout)

def looking_sideways(classes=10):
    return Net(classes, lambda out: out - out.mean(0))

def nowhere(classes=10):
    return Net(classes, lambda out: out / 0 if out.std(0).max() > 0 else out)  # fine on the factory's trial, zeros

def from_zero(classes=10):
    net = Net(classes, lambda out: out)
    nn.init.zeros_(net[-1].weight), nn.init.zeros_(net[-1].bias)
    return net

def in_float32_alone(classes=10):
    net = Net(classes, lambda out: out)
    net.after = lambda out, pairs=nn.Bilinear(classes, classes, classes): pairs(out, out.float())
    return net
"""
RESNET = "{name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}"


@pytest.fixture
def train(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """`madx train` on one of the networks above."""

    def with_net(name: str, *settings: str, command: str = "train"):
        assert RESNET in TINY
        monkeypatch.chdir(tmp_path)
        Path("nets_before_training.py").write_text(NETS)
        Path("tiny.yaml").write_text(TINY.replace(RESNET, f"{{name: factory, factory: 'nets_before_training:{name}'}}"))
        return cli(command, tmp_path / "tiny.yaml", "--run-dir", tmp_path / "run", *settings)

    return with_net


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("probabilities", "look like softmax probabilities"),
        ("always_dropping", "two calls with the same images differ"),
        ("looking_sideways", "logits at batch 1 differ"),
        ("nowhere", "the network returned NaN or infinite logits"),
    ],
)
def test_what_export_would_refuse_is_refused_before_training(train, tmp_path: Path, name: str, said: str) -> None:
    answer = train(name)
    assert answer.code == 2
    assert said in " ".join(answer.err.split())
    assert "must return logits" in " ".join(answer.err.split())
    manifest = tmp_path / "run/manifest.json"
    assert not manifest.exists() or "train" not in json.loads(manifest.read_text())["stages"]


def test_a_last_layer_that_starts_at_zero_may_be_trained(train) -> None:
    assert train("from_zero").code == 0


def test_a_network_that_does_not_run_in_bfloat16_is_told_what_to_set(train) -> None:
    """Both lines of the answer together make it run."""
    in_bf16 = [f"--set={part}.precision=bf16" for part in ("train", "prune.finetune")]
    answer = train("in_float32_alone", *in_bf16)
    assert answer.code == 2
    said = " ".join(answer.err.split())
    assert "does not run under bfloat16 autocast: RuntimeError" in said
    found = re.search(r"set (.*)", said)
    assert found
    settings = [setting.replace(": ", "=") for setting in found[1].split(" and ")]
    assert settings == ["train.precision=fp32", "prune.finetune.precision=fp32"]
    assert train("in_float32_alone", *in_bf16, *(f"--set={setting}" for setting in settings)).code == 0


def test_auto_never_takes_a_precision_in_which_the_network_does_not_run(train) -> None:
    answer = train("in_float32_alone")
    assert answer.code == 0, answer.err


def test_so_is_one_whose_recipe_asks_for_bfloat16_after_training(train) -> None:
    """The training stands; only what pruning would run in bfloat16 is named."""
    in_fp32 = [f"--set={part}.precision=fp32" for part in ("train", "prune", "prune.finetune", "prune.learning")]
    assert train("in_float32_alone", *in_fp32).code == 0
    answer = train("in_float32_alone", *in_fp32, "--set=prune.finetune.precision=bf16", command="prune")
    assert answer.code == 2
    assert "does not run under bfloat16 autocast: RuntimeError" in " ".join(answer.err.split())
    assert re.findall(r"[a-z.]+\.precision: fp32", answer.err) == ["prune.finetune.precision: fp32"]


def test_a_run_in_which_nothing_can_go_is_refused_before_training(train, tmp_path: Path) -> None:
    """`madx train` alone promises no pruning."""
    whole = ("--set", "prune.round_to=16")
    answer = train("from_zero", *whole, command="run")
    assert (answer.code, "0: 16 channels, and what is kept is a multiple of 16" in " ".join(answer.err.split())) == (
        2,
        True,
    )
    manifest = tmp_path / "run/manifest.json"
    assert not manifest.exists() or "train" not in json.loads(manifest.read_text())["stages"]
    assert train("from_zero", *whole, "--set", "train.precision=fp32", "--set", "train.epochs=1").code == 0
    answer = train("from_zero", *whole, "--set", "train.precision=fp32", "--set", "train.epochs=1", command="prune")
    assert (answer.code, "removes nothing of this network" in " ".join(answer.err.split())) == (2, True)
    assert "prune" not in json.loads(manifest.read_text())["stages"]
