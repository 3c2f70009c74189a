"""`madx init --data`: the section that `madx data inspect` prints, in a recipe that is read and used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Cli
from PIL import Image

from madx.data import load_splits
from madx.recipe import Recipe, TrainConfig, load_recipe, load_written

GENERATOR = np.random.default_rng(6)


def folders(root: Path, parts: tuple[str, ...] = ("train", "test")) -> Path:
    for part in parts:
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for number in range(20):
                pixels = GENERATOR.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def section(cli: Cli, *words: str) -> dict:
    """The data section that inspect prints."""
    line = next(line for line in cli("data", "inspect", *words).out.splitlines() if line.startswith("data: "))
    return yaml.safe_load(line)["data"]


@pytest.mark.parametrize("recipe", ["recipe.yaml", "deep/er/mine.yaml"])
def test_the_section_is_the_one_that_inspect_prints_and_the_rest_as_ever(tmp_path: Path, cli: Cli, recipe: str) -> None:
    folders(tmp_path / "images")
    keys = ("--set", "channel_order=bgr", "--set", "selection=10")
    answer = cli("init", recipe, "--data", "images", *keys)
    assert (answer.code, f"madx run {recipe}" in answer.out) == (0, True), answer.err
    printed, found = section(cli, "images", *keys), load_recipe(tmp_path / recipe)
    assert found.data.path == tmp_path / printed.pop("path")
    assert found.data.model_dump(exclude_defaults=True, exclude={"path"}) == printed
    assert not load_written(tmp_path / recipe).data.path.is_absolute()
    usual = Recipe(train=TrainConfig())
    assert found.model_copy(update={"data": usual.data}) == usual
    assert len(load_splits(found.data, 0).gate) == 40
    text = (tmp_path / recipe).read_text()
    assert "# train: 40 images, 2 classes, [C, H, W] = [3, 6, 9]: ant, bee" in text


def test_test_images_alone_make_a_recipe_that_judges(tmp_path: Path, cli: Cli) -> None:
    folders(tmp_path / "images", ("test",))
    answer = cli("init", "--data", "images")
    assert (answer.code, "madx verify recipe.yaml --engine model.onnx" in answer.out) == (0, True)
    assert not load_recipe(tmp_path / "recipe.yaml").has_network
    assert "# A madx recipe to judge finished networks by" in (tmp_path / "recipe.yaml").read_text()


def test_nothing_is_written_over_without_force(tmp_path: Path, cli: Cli) -> None:
    folders(tmp_path / "images")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("mine")
    for words in ((), ("--data", "images")):
        answer = cli("init", *words)
        assert (answer.code, "already exists" in answer.err, recipe.read_text()) == (2, True, "mine")
    assert cli("init", "--data", "images", "--force").code == 0
    assert load_recipe(recipe).data.name == "imagefolder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--data", "images"), "data.image_size"),  # two sizes: nothing is guessed
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--data", "images", "--set", "image_size"), "not of the form key=value"),
        (("--data", "images", "--set", "layout=nchw"), "belongs to data.name"),
        (("--set", "image_size=4"), "--set says more of --data"),
    ],
)
def test_what_is_unclear_is_asked_and_nothing_is_written(
    tmp_path: Path, cli: Cli, words: tuple[str, ...], said: str
) -> None:
    folders(tmp_path / "images")
    Image.new("RGB", (7, 7)).save(tmp_path / "images/train/ant/odd.png")
    answer = cli("init", *words)
    assert (answer.code, said in " ".join(answer.err.split())) == (2, True), answer.err
    assert not (tmp_path / "recipe.yaml").exists()
    assert cli("init", "--data", "images", "--set", "image_size=[6, 9]", "--set", "crop_mode=squash").code == 0
    assert load_recipe(tmp_path / "recipe.yaml").data.image_size == (6, 9)


def test_names_cannot_end_a_comment(tmp_path: Path, cli: Cli) -> None:
    names = ("a\nprune: 3", "b\u2028seed: 7")
    for name in names:
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(9):
            pixels = GENERATOR.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    assert cli("init", "--data", "images").code == 0
    assert load_recipe(tmp_path / "recipe.yaml").seed == 0
