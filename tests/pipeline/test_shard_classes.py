"""Shards keep the order of the classes: the network's outputs are counted as the recipe says, in every piece."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, Cli
from PIL import Image
from quick_runs import quick_runs

from madx.pipeline import Context, keys
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

ORDER = ["c2", "c0", "c1"]
OTHER = ["c0", "c1", "c2"]
SMALL = ("--set", "verify.images=30", "--set", "verify.chunk=10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of three classes, each brighter in a corner of its own, and a recipe that does not number them by name."""
    for number in range(240):
        name, part = f"c{number % 3}", "val" if number % 4 == 0 else "train"
        pixels = np.random.default_rng(number).integers(0, 100, (8, 8), dtype=np.uint8)
        rows = slice(0, 4) if number % 3 < 2 else slice(4, 8)
        pixels[rows, slice(0, 4) if number % 3 else slice(4, 8)] += 120
        place = tmp_path / "set" / part / name
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    data = f"data: {{name: imagefolder, path: '{tmp_path / 'set'}', channels: 1, selection: 60, classes: {ORDER}}}"
    (tmp_path / "tiny.yaml").write_text(TINY.replace("data: {name: digits, selection: 100}", data))
    return tmp_path


def called(names: list[str]) -> str:
    return f"data.classes={json.dumps(names)}"


def test_another_order_is_another_verification(folder: Path) -> None:
    def made_of(names: list[str]) -> dict[str, object]:
        recipe = load_recipe(folder / "tiny.yaml", overrides=[called(names)])
        return keys.verify(Context(recipe, RunDirectory(folder / "run"), Silent()))

    differing = keys.differences(made_of(ORDER), made_of(OTHER))
    assert any("data.classes" in name for name in differing)
    assert "data.images.gate" in differing
    assert made_of(ORDER) == made_of(list(ORDER))


@pytest.mark.slow
def test_shards_of_another_order_are_not_merged_and_those_of_the_same_count_as_the_recipe_says(
    folder: Path, cli: Cli
) -> None:
    where = (folder / "tiny.yaml", "--run-dir", folder / "run")
    with quick_runs():
        for command in ("train", "prune", "export"):
            assert cli(command, *where).code == 0
    shutil.copytree(folder / "run", folder / "piece")
    piece = (folder / "tiny.yaml", "--run-dir", folder / "piece")
    answer = cli("verify", *piece, "--shard", "1/2", *SMALL, "--force")
    assert answer.code == 3, answer.err
    [stored] = {path.parent for path in (folder / "piece").glob(".madx/checkpoints/*/ort-cpu-fp32-*.npz")}
    context = Context(load_recipe(folder / "tiny.yaml"), RunDirectory(folder / "run"), Silent())
    gate = context.splits.gate
    for number in (0, 2):
        with np.load(stored / f"ort-cpu-fp32-{number:05d}.npz") as chunk:
            names = [Path(gate.source.files[row].path).parent.name for row in chunk["index"]]
            assert chunk["labels"].tolist() == [ORDER.index(name) for name in names]
    merge = ("--merge", folder / "piece", *SMALL, "--force")
    other = cli("verify", *where, *merge, "--set", called(OTHER))
    assert other.code == 2, other.err
    same = cli("verify", *where, *merge)
    assert "merged 2 chunks of images" in same.err
    assert json.loads((folder / "run/verdict.json").read_text())["provenance"]["classes"] == ORDER
