"""A verdict belongs to its data: other pixels or labels are other work, whatever they were read from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Cli

from madx.pipeline import Context, keys
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

FACTORY = """
import numpy as np
from pathlib import Path

STORE = Path(__file__).with_name("store.npz")

def stored():
    store = np.load(STORE)
    return {part: (store["x_" + part], store["y_" + part]) for part in ("train", "test")}

def shuffled():
    parts = stored()
    x, y = (np.concatenate([part[side] for part in parts.values()]) for side in (0, 1))
    order = np.random.permutation(len(y))
    return {"train": (x[order[:300]], y[order[:300]]), "test": (x[order[300:]], y[order[300:]])}
"""


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x_train": random.integers(0, 256, (300, 1, 8, 8)).astype(np.uint8),
        "y_train": np.arange(300) % 10,
        "x_test": random.integers(0, 256, (100, 1, 8, 8)).astype(np.uint8),
        "y_test": np.arange(100) % 10,
    }


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny recipe whose images a factory reads from a file."""
    module = f"images_of_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(FACTORY)
    np.savez(tmp_path / "store.npz", **arrays())
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own.yaml"
    data = f"data: {{name: factory, factory: '{module}:stored', selection: 100}}"
    path.write_text(TINY.replace("data: {name: digits, selection: 100}", data))
    return path


def depends(recipe: Path, stage: str) -> dict[str, object]:
    context = Context(load_recipe(recipe), RunDirectory(recipe.with_name("run")), Silent())
    return getattr(keys, stage)(context)


@pytest.mark.parametrize(
    ("name", "again"),
    [
        ("x_test", {"verify"}),
        ("y_test", {"verify"}),
        ("x_train", {"train", "prune", "export", "verify"}),
        ("y_train", {"train", "prune", "export", "verify"}),
    ],
)
def test_a_stage_depends_on_every_pixel_and_label_of_its_splits(recipe: Path, name: str, again: set[str]) -> None:
    """Through a factory, whose code stays as it is; training owes nothing to a test image that is replaced."""
    stages = ("train", "prune", "export", "verify")
    before = {stage: depends(recipe, stage) for stage in stages}
    changed = arrays()
    changed[name] = changed[name][::-1].copy()
    np.savez(recipe.with_name("store.npz"), **changed)
    after = {stage: depends(recipe, stage) for stage in stages}
    assert {stage for stage in stages if before[stage] != after[stage]} == again


def test_what_a_verdict_says_of_the_training_images_is_part_of_it(recipe: Path) -> None:
    """Also where nothing is trained on them."""
    before, changed = depends(recipe, "verify"), arrays()
    changed["x_train"][:150] = changed["x_test"][0]
    np.savez(recipe.with_name("store.npz"), **changed)
    assert "data.copies.of_others" in keys.differences(before, depends(recipe, "verify"))


def test_one_pixel_of_the_last_gate_image_is_enough(recipe: Path) -> None:
    before, changed = depends(recipe, "verify"), arrays()
    changed["x_test"][57, 0, 0, 0] ^= 1
    np.savez(recipe.with_name("store.npz"), **changed)
    assert keys.differences(before, depends(recipe, "verify")) == ["data.images.gate"]


def test_a_division_without_a_seed_is_refused_by_the_next_stage(recipe: Path, cli: Cli) -> None:
    """Its gate would hold images that the network was trained on."""
    recipe.write_text(recipe.read_text().replace(":stored", ":shuffled"))
    run = recipe.with_name("run")
    assert cli("train", recipe, "--run-dir", run, "--set", "train.epochs=0.4").code == 0
    answer = cli("prune", recipe, "--run-dir", run, "--set", "train.epochs=0.4")
    assert answer.code == 2
    assert "train comes first and is not up to date (changed: data.images.selection, data.images.train)" in answer.err


def test_a_gate_of_nothing_but_training_images_is_refused(recipe: Path, cli: Cli) -> None:
    changed = arrays()
    changed["x_test"], changed["y_test"] = changed["x_train"][:100], changed["y_train"][:100]
    np.savez(recipe.with_name("store.npz"), **changed)
    answer = cli("train", recipe, "--run-dir", recipe.with_name("run"))
    assert answer.code == 2
    assert "the gate split has 0 images" in answer.err
    assert "(100 test images are also training or selection images, and are left out of the gate)" in answer.err
    assert not recipe.with_name("run").exists()


def test_a_verdict_says_what_its_gate_is_made_of(recipe: Path, cli: Cli) -> None:
    changed = arrays()
    changed["x_test"][:50] = changed["x_train"][:50]
    changed["x_test"][90:] = changed["x_test"][89]
    changed["y_test"][90:] = changed["y_test"][89]
    np.savez(recipe.with_name("store.npz"), **changed)
    text = recipe.read_text().replace("selection: 100}", f"selection: 100, classes: {[f'c{n}' for n in range(10)]}}}")
    recipe.write_text(text)
    answer = cli("run", recipe, "--run-dir", recipe.with_name("run"), "--force")
    assert answer.code in (0, 1, 3), answer.err
    verdict = json.loads((recipe.with_name("run") / "verdict.json").read_text())
    said = " ".join(verdict["provenance"]["data"])
    assert "50 test images are also training or selection images" in said
    assert "10 test images are identical to images of the gate" in said
    assert verdict["provenance"]["gate_images"]["split"] == 40
    assert verdict["provenance"]["classes"] == [f"c{number}" for number in range(10)]
    for name in ("report.html", "report.md"):
        text = (recipe.with_name("run") / name).read_text()
        assert "10 test images are identical to images of the gate" in text, name
        assert "c0, c1, c2" in text, name
