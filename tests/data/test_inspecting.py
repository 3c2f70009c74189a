"""`madx data inspect`: what it recognises, counts and asks, and that the section it prints is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from madx.cli.formats import data_app
from madx.data.inspecting import look, recognised
from madx.data.readers import read
from madx.errors import DataError
from madx.recipe import DataConfig

GENERATOR = np.random.default_rng(4)


def folders(root: Path) -> Path:
    for part, count in (("train", 8), ("test", 4)):
        for name in ("cat", "ant"):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = GENERATOR.integers(0, 256, (6, 9, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number}.png")
    return root


def test_folders_are_counted_and_the_section_is_read(tmp_path):
    found = look(folders(tmp_path), {})
    assert (found.name, found.question) == ("imagefolder", "")
    assert found.parts["train"]["by_class"] == {"ant": 8, "cat": 8}
    assert found.parts["test"]["shape"] == [3, 6, 9]
    assert found.parts["test"]["kinds"] == {"PNG RGB": 8}
    assert found.parts["test"]["sizes"] == {"9 x 6": 8}
    section = yaml.safe_load(found.section)["data"]
    assert read(DataConfig(**section))[1].labels.tolist() == [0] * 4 + [1] * 4


def test_what_is_unclear_is_the_question(tmp_path):
    Image.new("RGB", (5, 5)).save(folders(tmp_path) / "train" / "ant" / "odd.png")
    assert "data.image_size" in look(tmp_path, {}).question
    assert look(tmp_path, {"image_size": 4}).question == ""
    result = CliRunner().invoke(data_app, ["inspect", str(tmp_path)])
    assert isinstance(result.exception, DataError)
    result = CliRunner().invoke(
        data_app, ["inspect", str(tmp_path), "--set", "image_size=[6, 9]", "--set", "crop_mode=squash"]
    )
    assert result.exit_code == 0
    assert "train: 17 images, 2 classes, [C, H, W] = [3, 6, 9]" in result.stdout
    assert '"crop_mode": "squash"' in result.stdout


def test_what_lies_at_a_path(tmp_path):
    np.savez(tmp_path / "a.npz", x_test=GENERATOR.integers(0, 256, (5, 6, 6), dtype=np.uint8), y_test=[0, 1, 0, 1, 1])
    assert recognised(tmp_path / "a.npz") == recognised(tmp_path) == "arrays"
    assert look(tmp_path / "a.npz", {}).parts["test"]["images"] == 5
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "train-0.parquet").touch()
    assert recognised(tmp_path / "b") == "parquet"
    with pytest.raises(DataError, match="does not exist"):
        recognised(tmp_path / "nowhere")
    (tmp_path / "note.md").touch()
    with pytest.raises(DataError, match="no set of images"):
        recognised(tmp_path / "note.md")
    with pytest.raises(DataError, match=r"data: .*belongs to data\.name"):
        look(tmp_path / "a.npz", {"image_size": 3})
