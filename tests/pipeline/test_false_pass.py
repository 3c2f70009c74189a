"""Runs that must not pass: each was tampered with, or is no better than it was, and each has to say why.

They start from the demo, which passes, so what forbids the PASS is what was done to it.
"""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import Cli
from safetensors.torch import load_file, save_file

from madx.data import load_splits
from madx.models import build_model
from madx.prune import resize_to_
from madx.recipe import AttackConfig, Recipe, load_recipe
from madx.rundir import RunDirectory
from madx.train import evaluate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(3600),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.usefixtures("from_the_root"),
]

RECIPE = Path("recipes/fashion-mnist.yaml")
QUIETLY_LOST = 0.05
STAIRCASE = """
import torch
from madx.models.resnet import resnet8

def net():
    network = resnet8((1, 28, 28), 10)
    network.norm = Staircase()
    return network

class Staircase(torch.nn.Module):
    def forward(self, x):
        return torch.floor(x * 64 + 0.5) / 64
"""


@pytest.fixture
def copy(demo: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path) -> Path:
    """The demo's run directory, to be tampered with."""
    return Path(shutil.copytree(demo[0], tmp_path / "run"))


def gates(run: Path) -> dict[str, tuple[str, str]]:
    """Metric -> (outcome, all evidence) of a finished run."""
    verdict = json.loads((run / "verdict.json").read_text())
    return {gate["metric"]: (gate["outcome"], " ".join(gate["evidence"])) for gate in verdict["gates"]}


def pruned_network(recipe: Recipe, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    network = build_model(recipe.model, shape=(1, 28, 28), classes=10, seed=0)
    resize_to_(network, state)
    return network.eval()


def weakened(recipe: Recipe, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights with just enough noise to cost QUIETLY_LOST of robust accuracy on the selection split."""
    selection = load_splits(recipe.data, recipe.seed).selection.take(1000)
    noise = {
        name: torch.randn(value.shape, generator=torch.Generator().manual_seed(3)) for name, value in state.items()
    }

    def robust(candidate: dict[str, torch.Tensor]) -> float:
        network = pruned_network(recipe, candidate)
        return evaluate(network, selection, AttackConfig(steps=10), recipe.threat, seed=0)[1]

    whole = robust(state)
    for share in (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5):
        candidate = {
            name: value + share * value.std() * noise[name] if value.dim() == 4 else value
            for name, value in state.items()
        }
        if whole - robust(candidate) >= QUIETLY_LOST:
            return candidate
    raise AssertionError("no noise cost enough robustness")


def test_a_pruned_network_that_was_quietly_made_less_robust(copy: Path, timed_cli: Cli) -> None:
    recipe, run = load_recipe(RECIPE), RunDirectory(copy)
    file = copy / "pruned/model.safetensors"
    save_file(weakened(recipe, load_file(file)), file, metadata={"format": "pt"})
    record = run.stage("prune")
    assert record is not None
    run.record_stage("prune", record, list(record["outputs"]))  # the manifest vouches for the new bytes
    answer = timed_cli("run", RECIPE, "--run-dir", copy, "--set", "verify.images=1000")
    outcome, evidence = gates(copy)["robust_drop"]
    assert (answer.code, outcome) == (1, "FAIL"), evidence
    assert "a drop of" in evidence


def test_a_network_that_is_no_faster(tmp_path: Path, timed_cli: Cli) -> None:
    """Zeros at random places: ONNX Runtime multiplies by them like by any number."""
    changes = (
        "prune.criterion=magnitude",
        "prune.structure=unstructured",
        "prune.sparsity=0.3",
        "prune.finetune=null",
        "verify.images=200",
        "verify.attack={steps: 3}",
    )
    options = [word for change in changes for word in ("--set", change)]
    answer = timed_cli("run", RECIPE, "--run-dir", tmp_path / "run", *options)
    outcome, evidence = gates(tmp_path / "run")["speedup"]
    assert answer.code in (1, 3), answer.out
    assert outcome in ("FAIL", "INCONCLUSIVE"), evidence
    assert "times as fast" in evidence


def test_twins_with_masked_gradients(tmp_path: Path, timed_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both networks round their images first: gradients vanish, and attacks by gradient find nothing."""
    (tmp_path / "staircase_of_a_user.py").write_text(STAIRCASE)
    monkeypatch.syspath_prepend(tmp_path)
    weights = Path("recipes/weights/fashion-mnist-resnet8.safetensors").resolve()
    text = RECIPE.read_text().replace("  name: resnet8\n", "  name: factory\n  factory: staircase_of_a_user:net\n")
    text = text.replace("  args: {widths: [64, 128, 128], stem_stride: 2}\n", "")
    text = text.replace("weights/fashion-mnist-resnet8.safetensors", str(weights))
    (tmp_path / "masked.yaml").write_text(text)
    changes = (
        "prune.criterion=magnitude",
        "prune.finetune=null",
        "verify.images=200",
        "verify.gates=[{metric: robust_accuracy, at_least: 0.5}]",
    )
    options = [word for change in changes for word in ("--set", change)]
    answer = timed_cli("run", tmp_path / "masked.yaml", "--run-dir", tmp_path / "run", *options)
    outcome, evidence = gates(tmp_path / "run")["robust_accuracy"]
    assert (answer.code, outcome) == (3, "INCONCLUSIVE"), evidence
    assert "masked" in evidence


def test_an_engine_file_that_was_swapped_after_export(copy: Path, timed_cli: Cli) -> None:
    """The dense engine in the place of the pruned one would keep all robustness."""
    record = json.loads((copy / "engines/ort-cpu-fp32/build.json").read_text())
    shutil.copyfile(copy / record["dense"]["file"], copy / record["pruned"]["file"])
    answer = timed_cli("verify", RECIPE, "--run-dir", copy)
    assert answer.code not in (0, 1, 70)
    assert "changed since the stage wrote it" in answer.err
    assert record["pruned"]["file"] in answer.err


def test_the_demo_itself_passes(demo: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Or else nothing above would show anything; its speed-up may be inconclusive on a busy machine."""
    run, process = demo
    outcomes = {metric: outcome for metric, (outcome, _) in gates(run).items()}
    assert outcomes.pop("speedup") in ("PASS", "INCONCLUSIVE"), process.stdout
    assert set(outcomes.values()) == {"PASS"}, process.stdout
    assert (run / "report.html").stat().st_size > 50_000
