"""`madx plan` does nothing: it tells what a run would do and take, and whether the gates can be decided."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Cli

from madx.cli import plan as room
from madx.cli import show
from madx.pipeline import Context
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

STAGES = ["train", "prune", "export", "verify", "report"]


def test_a_new_run_is_planned_and_not_begun(cli: Cli, tiny_recipe: Path) -> None:
    answer = cli("plan", tiny_recipe, "--run-dir", tiny_recipe.parent / "run", "--json")
    found = json.loads(answer.out)
    assert (answer.code, found["decidable"]) == (0, True)
    assert [stage["name"] for stage in found["stages"]] == STAGES
    assert not any(stage["up_to_date"] for stage in found["stages"])
    assert all(stage["seconds"] > 0 for stage in found["stages"][:4])
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]), abs=0.1)
    assert found["memory_bytes"] > 1e8
    assert 0 < found["disk_bytes"] < 1e8
    assert {gate["metric"] for gate in found["gates"]} == {"speedup", "robust_drop"}
    assert [path.name for path in tiny_recipe.parent.iterdir()] == ["tiny.yaml"]


def test_more_work_is_planned_longer(cli: Cli, tiny_recipe: Path) -> None:
    """Of one network, on one machine: ten times the steps, by the very passes that were timed for the plan."""
    found = {}
    for epochs in (2, 20):
        override = ("--set", f"train.epochs={epochs}", "--set", "train.evaluations=1")
        told = json.loads(cli("plan", tiny_recipe, "--run-dir", tiny_recipe.parent / "run", "--json", *override).out)
        pace = sum(told["seconds_an_image"].values())
        found[epochs] = told["stages"][0]["seconds"] / pace
    assert found[20] > 3 * found[2]


def test_a_gate_that_cannot_pass_ends_with_2(cli: Cli, tiny_recipe: Path) -> None:
    gates = ("--set", "verify.gates=[{metric: parity_flips, at_most: 0.005}]", "--set", "verify.images=60")
    answer = cli("plan", tiny_recipe, "--run-dir", tiny_recipe.parent / "run", *gates)
    assert answer.code == 2
    words = " ".join(answer.out.split())
    assert all(word in words for word in (*STAGES, "parity_flips", "60 images", "598 images", "no:"))


def test_what_is_done_is_up_to_date(cli: Cli, released: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(released, tmp_path / "copy")
    found = json.loads(cli("plan", folder / "tiny.yaml", "--run-dir", folder / "run", "--json").out)
    assert [stage["name"] for stage in found["stages"] if stage["up_to_date"]] == STAGES[:3]
    assert [stage["name"] for stage in found["stages"] if stage["seconds"]] == ["verify"]
    assert not found["pruned_network_is_an_example"]


def test_a_run_says_how_long_it_takes_and_begins_its_progress(
    released: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(released, tmp_path / "copy")
    progress = show.PlainProgress()
    context = Context(load_recipe(folder / "tiny.yaml", ()), RunDirectory(folder / "run"), progress)
    ended = room.begin(context)
    told = capsys.readouterr().err
    assert all(word in told for word in ("about", "verify", "madx plan"))
    assert "prune" not in told
    assert progress.overall is not None
    assert {piece.stage for piece in progress.overall.pieces} == {"verify"}
    ended("verify")
    assert progress.overall.share == 1


def test_a_network_that_cannot_be_timed_stops_no_run(tiny_recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The stage that needs it says what is wrong, better than a plan could."""
    recipe = load_recipe(tiny_recipe, ("model.args={widths: [16, 16]}",))
    context = Context(recipe, RunDirectory(tiny_recipe.parent / "run"), show.PlainProgress())
    room.begin(context)("train")
    assert "could not be estimated" in capsys.readouterr().err


def test_a_network_without_gradients_is_named(cli: Cli, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_recipe.parent
    (folder / "dull.py").write_text(
        "import torch\nclass Dull(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.end = torch.nn.Linear(64, 10)\n"
        "    def forward(self, x):\n        return self.end(x.detach().flatten(1)).detach()\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    options = ("--run-dir", folder / "run", "--set", "model={name: factory, factory: 'dull:Dull'}")
    answer = cli("plan", tiny_recipe, *options, "--set", "prune.structure=unstructured")
    assert (answer.code, "differentiate" in answer.err) == (2, True), answer
