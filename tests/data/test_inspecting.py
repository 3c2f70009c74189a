"""`madx data inspect`: what it recognises, counts and asks, and that the section it prints is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from madx.cli.formats import data_app
from madx.data import inspecting, listing
from madx.data.inspecting import look, look_at_tests, recognised
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


@pytest.mark.parametrize("backwards", [False, True])
def test_what_a_folder_is_does_not_hang_on_the_order_of_its_entries(tmp_path, monkeypatch, backwards):
    """What lies higher counts; two kinds at one height are asked about, in one folder or in two."""
    scan = listing.os.scandir

    class Scan:
        def __init__(self, folder):
            with scan(folder) as found:
                self.entries = sorted(found, key=lambda entry: entry.name, reverse=backwards)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(listing.os, "scandir", Scan)
    folders(tmp_path / "set")
    (tmp_path / "set" / "train" / "a.parquet").touch()  # higher than the images, of which it may be a table
    assert recognised(tmp_path / "set") == "parquet"
    (tmp_path / "set" / "train" / "a.parquet").rename(tmp_path / "set" / "train" / "cat" / "z.parquet")
    told = r"image files \(in .*ant\) and Parquet files \(in .*cat\); .*data\.name: imagefolder or parquet"
    with pytest.raises(DataError, match=told):
        recognised(tmp_path / "set")
    assert look(tmp_path / "set", {"name": "imagefolder"}).question.endswith("so move anything else elsewhere")
    for name in ("ant/x.tar", "cat/a.arrow"):
        (tmp_path / "two" / name).parent.mkdir(parents=True)
        (tmp_path / "two" / name).touch()
    with pytest.raises(DataError, match=r"\.tar shards \(in .*ant\) and Arrow files \(in .*cat\)"):
        recognised(tmp_path / "two")
    (tmp_path / "two" / "test.arrow").touch()
    np.save(tmp_path / "two" / "x_test.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"Arrow files .* and files of arrays .*: arrow or arrays"):
        recognised(tmp_path / "two")
    (tmp_path / "two" / "x_test.npy").unlink()
    (tmp_path / "two" / ".hidden.tar").touch()
    (tmp_path / "two" / "cache-0.tar").touch()
    assert recognised(tmp_path / "two") == "arrow"


def test_one_channel_is_read_where_every_file_of_every_part_is_grey_and_asked_about_elsewhere(tmp_path):
    """The odd one is neither in the sample that is counted nor among the eight kinds that are most frequent."""
    for part in ("train", "test"):
        for name in ("ant", "cat"):
            (tmp_path / part / name).mkdir(parents=True)
            for number in range(2):
                Image.new("L", (4, 4), 10 * number).save(tmp_path / part / name / f"{number}.png")
    asked = {"outputs": 2, "channels": 1}
    assert look_at_tests(tmp_path, {}, **asked)["channels"] == 1
    assert "channels" not in look_at_tests(tmp_path, {}, outputs=2, channels=3)
    for part in ("test", "train"):
        odd = tmp_path / part / "cat" / "1.png"
        Image.new("RGB", (4, 4), (1, 2, 3)).save(odd)
        with pytest.raises(
            DataError, match=r"of 4 images some are not plain grey \(1 of mode RGB\).*data\.channels: 1"
        ):
            look_at_tests(tmp_path, {}, **asked)
        assert look_at_tests(tmp_path, {"channels": 1}, **asked)["channels"] == 1
        Image.new("L", (4, 4)).save(odd)


def test_every_gate_file_counts_beyond_those_that_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(inspecting, "_LOOKED_AT", 2)
    (tmp_path / "test" / "ant").mkdir(parents=True)
    for number in range(5):
        Image.new("RGB" if number == 2 else "L", (4, 4)).save(tmp_path / "test" / "ant" / f"{number}.png")
    with pytest.raises(DataError, match="1 of mode RGB"):
        look_at_tests(tmp_path, {}, outputs=2, channels=1)
