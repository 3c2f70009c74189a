"""Networks of the user's own with something that pruning has to notice, through the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import TINY, Answer, Cli
from safetensors.torch import load_file

NETS = """
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3)
        self.bypassed = nn.Linear(16, 16)
        self.spare = nn.Linear(16, 16)
        self.head = nn.Linear(16, classes)

    def forward(self, x):
        hidden = F.relu(self.conv(x)).mean((2, 3))
        return self.head(F.relu(F.linear(hidden, self.bypassed.weight)))

def net(classes=10):
    return Net(classes)

def chain(classes=10):
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, classes))
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3), nn.ReLU(), pooled)

def by_heart(classes=10):
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), Sixteen(), nn.Linear(16, classes))

class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))

class Attentive(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.patches, self.attn, self.head = nn.Conv2d(1, 32, 2, 2), Attention(), nn.Linear(32, classes)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attn(x)).mean(1))

def attentive(classes=10):
    return Attentive(classes)

class Sixteen(nn.Module):
    def forward(self, x):
        return x.view(-1, 16)
"""
RESNET = "{name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}"
SETTINGS = (
    *("train.epochs=0.1", "prune.finetune=null", "prune.learning.steps=1", "prune.recalibration_batches=0"),
    *("prune.batches=2", "prune.round_to=8"),
)
REASONS = {
    "bypassed": "the forward pass uses its weight without calling the layer",
    "spare": "the forward pass does not use this layer",
}


@pytest.fixture
def call(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`madx COMMAND` on one of the networks above, with more settings."""
    monkeypatch.chdir(tmp_path)
    Path("odd_networks.py").write_text(NETS)

    def called(command: str, network: str, *settings: str, options: Sequence[str] = ("--run-dir", "run")) -> Answer:
        Path("tiny.yaml").write_text(TINY.replace(RESNET, f"{{name: factory, factory: 'odd_networks:{network}'}}"))
        changes = [word for setting in (*SETTINGS, *settings) for word in ("--set", setting)]
        return cli(command, "tiny.yaml", *options, *changes)

    return called


@pytest.mark.parametrize("criterion", ["mad", "mad-paper", "taylor", "obd", "magnitude"])
def test_what_is_listed_has_no_saliency(criterion: str, call: Cli) -> None:
    """A layer that cannot be scored has a reason, stays whole, and no criterion has a number for it."""
    for command in ("train", "prune"):
        answer = call(command, "net", f"prune.criterion={criterion}", "prune.structure=unstructured")
        assert answer.code == 0, answer.err
    assert set(load_file("run/saliency.safetensors")) == {"conv.weight", "conv.bias", "head.weight", "head.bias"}
    layers = json.loads(Path("run/saliency.json").read_text())["layers"]
    assert [layer["name"] for layer in layers] == ["conv", "head"]
    covered = {layer["name"]: layer for layer in json.loads(Path("run/coverage.json").read_text())["layers"]}
    assert list(covered) == ["conv", "bypassed", "spare", "head"]
    for name, reason in REASONS.items():
        assert (covered[name]["reason"], covered[name]["kept"]) == (reason, covered[name]["weights"])


@pytest.mark.slow
def test_heads_that_went_are_known_from_the_weights(call: Cli) -> None:
    """The export builds the network anew, from the recipe and the pruned weights, and compares the file with it."""
    shown = call("inspect", "attentive", "prune.structure=channels", options=("--groups",))
    assert "2 of 4 heads (attn.num_heads) go: made by attn.qkv, read by attn.proj" in shown.out.splitlines()
    for command in ("train", "prune", "export"):
        answer = call(command, "attentive", "prune.structure=channels")
        assert answer.code == 0, answer.err
    weights = load_file("run/pruned/model.safetensors")
    assert weights["attn.qkv.weight"].shape == (48, 16)
    assert weights["attn.proj.weight"].shape == (16, 16)


def test_a_network_that_cannot_lose_channels_is_refused_before_its_saliency(call: Cli) -> None:
    assert call("train", "by_heart").code == 0
    answer = call("prune", "by_heart", "prune.structure=channels")
    assert answer.code == 2
    assert "does not run with fewer channels" in " ".join(answer.err.split())
    assert "saliency after" not in answer.err
    assert call("prune", "by_heart", "prune.structure=unstructured").code == 0


def test_groups_are_shown_before_any_work(call: Cli) -> None:
    answer = call("inspect", "chain", "prune.keep=['2']", options=("--groups",))
    assert answer.code == 0, answer.err
    assert answer.out.splitlines() == [
        "8 of 16 channels go: made by 0, read by 2",
        "2 stays whole: kept by prune.keep: 2",
        "4.2 stays whole: makes the network's outputs",
    ]
    assert not Path("run").exists()
    found = json.loads(call("inspect", "by_heart", options=("--groups", "--json")).out)
    assert found["groups"] == []
    assert "does not run with fewer channels" in found["whole"]["0"]
    answer = call("inspect", "chain", "prune.only=[stem]", options=("--groups",))
    assert answer.code == 2
    assert "prune.only: 'stem' names no layer of this network; there are 0, 2, 4.2" in " ".join(answer.err.split())
