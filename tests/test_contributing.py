"""The diffs of CONTRIBUTING.md are whole: each touches two files at most, and a recipe can then name what it adds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

USED = """
import torch
from report_cases import measurements
from torch import nn

from madx.attacks import SUITES, Victim, run_suite
from madx.deploy.engine import backend
from madx.prune import CRITERIA
from madx.recipe import ThreatConfig, parse_recipe
from madx.seeds import torch_generator
from madx.train.losses import LOSSES
from madx.verify import judge

recipe = parse_recipe('''
data: {name: digits}
train: {loss: mixed}
prune: {criterion: snip}
export: {engines: [{kind: ort-xnnpack}]}
verify: {attack: quick, gates: [{metric: turned, at_most: 0.5}]}
''', source="here")

(gate,) = judge([measurements()], recipe.verify.gates).gates
assert 0 < gate.estimate <= gate.upper < 0.5, gate
network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
x, y = torch.rand(8, 1, 4, 4), torch.arange(8) % 3
scores = CRITERIA[recipe.prune.criterion](network, x, y, torch_generator(0))
assert scores["1.weight"].shape == (3, 16) and scores["1.weight"].gt(0).any()
logits = network(x)
assert LOSSES[recipe.train.loss](logits, lambda: logits, y, 1.0) > LOSSES["ce"](logits, lambda: logits, y, 1.0)
noise, square = SUITES["quick"].query
assert noise.most.forward == 10
found = run_suite(
    Victim.of(network), x, y, attacks=(noise,), threat=ThreatConfig(eps=1), generator=torch_generator(0)
)
record = found.records[-1]
assert record.name == noise.name, record
available = backend(recipe.export.engines[0].kind).availability()
assert "XnnpackExecutionProvider" in available.reason or available.can_run, available
print("all five")
"""


def diffs() -> list[str]:
    return re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)


def test_each_diff_touches_two_files_at_most() -> None:
    assert len(diffs()) == 5
    assert all(1 <= diff.count("\n+++ ") <= 2 for diff in diffs())


@pytest.mark.slow
def test_with_them_a_recipe_can_name_what_they_add(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "madx", tmp_path / "madx", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    for diff in diffs():
        subprocess.run(["git", "apply", "-C1", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    place = os.pathsep.join(map(str, (tmp_path, ROOT / "tests")))
    done = subprocess.run(
        [sys.executable, "-c", USED],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": place},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "all five\n", done.stderr
