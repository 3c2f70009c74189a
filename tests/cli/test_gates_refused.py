"""A gate that no network could pass is refused before any work, and measured all the same where somebody insists."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import Cli

TIGHT = ("--set", "verify.gates=[{metric: clean_drop, at_most: 0.01}]")
"""298 images need be; the tiny recipe has 120."""


QUICK = ("--set", "verify.images=30", "--set", "verify.attack=quick")


def test_a_run_is_refused_before_it_begins(cli: Cli, tiny_recipe: Path) -> None:
    answer = cli("run", tiny_recipe, "--run-dir", tiny_recipe.parent / "run", *TIGHT)
    assert answer.code == 2
    assert all(word in answer.err for word in ("clean_drop", "120 images", "299 images", "--force"))
    assert not (tiny_recipe.parent / "run").exists()


@pytest.mark.parametrize("options", [(), ("--shard", "1/2"), ("--again",)])
def test_a_verification_is_refused_too(cli: Cli, released: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    folder = shutil.copytree(released, tmp_path / "copy")
    answer = cli("verify", folder / "tiny.yaml", "--run-dir", folder / "run", *TIGHT, *options)
    assert (answer.code, "299 images" in answer.err) == (2, True)
    assert not list((folder / "run").glob("measurements/*"))


def test_who_insists_gets_an_undecided_gate(cli: Cli, released: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(released, tmp_path / "copy")
    quick = (*TIGHT, "--set", "verify.images=30")
    answer = cli("verify", folder / "tiny.yaml", "--run-dir", folder / "run", *quick, "--force")
    assert answer.code in (1, 3)
    assert "--force" in answer.err
    [gate] = json.loads((folder / "run/verdict.json").read_text())["gates"]
    assert gate["outcome"] in ("INCONCLUSIVE", "FAIL")
    shown = cli("verify", folder / "tiny.yaml", "--run-dir", folder / "run", *quick)
    assert (shown.code, "nothing to do" in shown.out) == (answer.code, True)


def test_what_was_not_given_is_not_asked_for_images(cli: Cli, released: Path, tmp_path: Path) -> None:
    """Without a reference a gate that compares is undecided whatever the number of images, and says so itself."""
    folder = shutil.copytree(released, tmp_path / "copy")
    engine = ("--engine", folder / "run/pruned-fp32.onnx", "--out", tmp_path / "out")
    answer = cli("verify", folder / "tiny.yaml", *engine, *TIGHT, *QUICK)
    assert (answer.code, "no reference" in answer.out) == (3, True), answer
