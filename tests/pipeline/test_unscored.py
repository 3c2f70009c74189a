"""A layer that cannot be scored is listed with its reason, stays whole, and has no saliency with any criterion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import TINY, Cli
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
"""
REASONS = {
    "bypassed": "the forward pass uses its weight without calling the layer",
    "spare": "the forward pass does not use this layer",
}


@pytest.mark.parametrize("criterion", ["mad", "mad-paper", "taylor", "obd", "magnitude"])
def test_what_is_listed_has_no_saliency(
    criterion: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nets_unscored.py").write_text(NETS)
    resnet = "{name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}"
    Path("tiny.yaml").write_text(TINY.replace(resnet, "{name: factory, factory: 'nets_unscored:net'}"))
    settings = (
        *("train.epochs=0.1", f"prune.criterion={criterion}", "prune.structure=unstructured", "prune.finetune=null"),
        *("prune.learning.steps=1", "prune.recalibration_batches=0"),
    )
    options = [word for setting in settings for word in ("--set", setting)]
    for command in ("train", "prune"):
        answer = cli(command, "tiny.yaml", "--run-dir", "run", *options)
        assert answer.code == 0, answer.err
    assert set(load_file("run/saliency.safetensors")) == {"conv.weight", "conv.bias", "head.weight", "head.bias"}
    layers = json.loads(Path("run/saliency.json").read_text())["layers"]
    assert [layer["name"] for layer in layers] == ["conv", "head"]
    covered = {layer["name"]: layer for layer in json.loads(Path("run/coverage.json").read_text())["layers"]}
    assert list(covered) == ["conv", "bypassed", "spare", "head"]
    for name, reason in REASONS.items():
        assert (covered[name]["reason"], covered[name]["kept"]) == (reason, covered[name]["weights"])
