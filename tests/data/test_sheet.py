"""The contact sheet: every class has its row, every image its place and its colours, nothing that is odd ends it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from PIL import Image

from madx.data import sheet
from madx.data.readers import read
from madx.data.sheet import MOST_CLASSES, MOST_IMAGES, drawn, write_sheet
from madx.data.sources import ArraySource, array_source
from madx.errors import DataError
from madx.recipe import DataConfig

COLOURS = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]


def arrays(shape: tuple[int, int, int], labels: list[int], names: tuple[str, ...] = ()) -> ArraySource:
    """Images of one level for each class; the last pixel differs, so that none is all zero."""
    pixels = np.zeros((len(labels), *shape), np.uint8)
    pixels += (np.array(labels, np.uint8) * 10 + 70)[:, None, None, None]
    return array_source(pixels, np.array(labels), where="here", classes=len(names) or None, names=names)


def folder(root: Path, per_class: int) -> Path:
    for name, colour in zip("abc", COLOURS, strict=True):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            Image.new("RGB", (16, 32), colour).save(root / name / f"{number:02}.png")
    return root


def colours(image: Image.Image) -> dict[tuple[int, ...], int]:
    return {colour: count for count, colour in image.getcolors(2**24)}


def test_each_class_has_a_row_of_at_most_ten_images_in_its_colours(tmp_path):
    source, _ = read(DataConfig(name="imagefolder", path=folder(tmp_path, MOST_IMAGES + 3)))
    image = drawn({"train": source})
    found = colours(image)
    rows = []
    for colour in COLOURS:
        assert found[colour] == MOST_IMAGES * 32 * 64, "16 x 32 pixels, twice as large"
        there = np.argwhere((np.asarray(image) == colour).all(-1))
        rows.append((there[:, 0].min(), there[:, 0].max()))
        assert there[:, 1].max() < image.width
    assert rows == sorted(rows)
    assert all(after[0] - before[1] > 11 for before, after in pairwise(rows)), "room for a name"


def test_names_are_drawn_under_their_rows():
    """Another name changes the pixels between its row and the next, and nothing else."""
    before, after = (
        np.asarray(drawn({"test": arrays((3, 32, 32), [0, 0, 1], names)}).convert("L"), np.int16)
        for names in (("ant", "bee"), ("oak", "bee"))
    )
    changed = np.argwhere(before != after)[:, 0]
    rows = np.argwhere((before == 70).sum(1) >= 64)[:, 0], np.argwhere((before == 80).sum(1) >= 64)[:, 0]
    assert len(changed)
    assert rows[0].max() < changed.min() <= changed.max() < rows[1].min()


@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 8, 8), (2, 8, 8), (4, 9, 5), (7, 8, 8), (1, 1, 300), (3, 500, 1), (3, 70, 90), (1, 1, 1)]
)
def test_any_channels_and_any_size(tmp_path, shape):
    channels, height, width = shape
    pixels = np.random.default_rng(0).random((4, *shape), dtype=np.float32)
    meant = DataConfig(name="npz", path=tmp_path / "set.npz", layout="nchw", split="test")
    np.savez(tmp_path / "set.npz", x=pixels, y=[0, 1, 0, 1])
    _, source = read(meant)
    write_sheet({"test": source}, tmp_path / "out" / "sheet.png", of=tmp_path / "set.npz")
    with Image.open(tmp_path / "out" / "sheet.png") as image:
        image.load()
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert image.height < 3 * max(64, min(height, 64)) + 100
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["sheet.png"]
    shown = sheet._picture(source, 0, (width, height))
    grey = channels < 3
    expected = np.rint(pixels[0, [0, 0, 0] if grey else [0, 1, 2]] * 255).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(shown), expected)


def test_of_many_classes_the_first_are_shown_and_empty_ones_have_a_row():
    many = arrays((1, 16, 16), list(range(MOST_CLASSES + 5)))
    few = arrays((1, 16, 16), [0, 1, 3], ("a", "b", "none", "d"))
    row = 64 + sheet._LINE + sheet._GAP
    assert drawn({"test": many}).height == MOST_CLASSES * row + 2 * sheet._LINE + sheet._GAP
    assert drawn({"test": few}).height == 4 * row + sheet._LINE + sheet._GAP
    assert sheet._title(few, 2, 0) == "none: no images"


def test_a_damaged_file_is_a_crossed_field_and_its_neighbours_are_shown(tmp_path):
    root = folder(tmp_path, 2)
    (root / "b" / "01.png").write_bytes((root / "b" / "01.png").read_bytes()[:50])
    Image.new("RGB", (16, 31), COLOURS[2]).save(root / "c" / "odd.png")
    source, _ = read(DataConfig(name="imagefolder", path=root))
    found = colours(drawn({"train": source}))
    area = 32 * 64
    assert [found[colour] for colour in COLOURS] == [2 * area, area, 2 * area]
    assert found[sheet._MISSING] > 2 * 64


def test_channels_are_exchanged_as_for_the_network(tmp_path):
    source, _ = read(DataConfig(name="imagefolder", path=folder(tmp_path, 1), channel_order="bgr"))
    found = colours(drawn({"train": source}))
    assert (10, 10, 200) in found
    assert sheet._picture(source, 0, (16, 32)).getpixel((0, 0)) == (10, 10, 200)


@dataclass
class _Named:
    names: tuple[str, ...]


def test_names_that_no_font_has_are_told_by_numbers():
    told = [sheet._title(_Named((name,)), 0, 3) for name in ("a\nb", "\udcff", "x" * 300, "\U0001f600\u732b")]
    assert told[:2] == ["a\\nb: 3", "\\udcff: 3"]
    assert told[2].endswith("...: 3")
    assert len(told[2]) < 120
    missing = bytes(sheet._font().getmask("\uffff"))
    assert all(bytes(sheet._font().getmask(letter)) != missing for name in told for letter in name)
    assert drawn({"test": arrays((1, 8, 8), [0, 1], ("\udcff\x07", ""))}).width > 0


def test_the_command_draws_it_and_refuses_what_would_do_harm(tmp_path: Path, cli: Cli) -> None:
    root, place = folder(tmp_path / "set", 3), tmp_path / "sheet.png"
    answer = cli("data", "inspect", root, "--sheet", place)
    assert (answer.code, f"{place} shows some of them" in answer.out) == (0, True)
    with Image.open(place) as image:
        assert set(COLOURS) <= set(colours(image.convert("RGB")))
    for wrong, said in (("sheet.jpg", "a sheet is a PNG"), ("set/a/x.png", "would lie among the images")):
        answer = cli("data", "inspect", root, "--sheet", tmp_path / wrong)
        assert (answer.code, said in " ".join(answer.err.split()), (tmp_path / wrong).exists()) == (2, True, False)
    np.savez(tmp_path / "set.npz", a=[1])
    answer = cli("data", "inspect", tmp_path / "set.npz", "--sheet", tmp_path / "none.png")
    assert (answer.code, "was not drawn" in answer.out, (tmp_path / "none.png").exists()) == (2, True, False)


def test_the_sheet_does_not_take_the_place_of_the_data(tmp_path):
    source = arrays((1, 8, 8), [0, 1])
    (tmp_path / "x.png").write_bytes(b"data")
    with pytest.raises(DataError, match="would lie among the images"):
        write_sheet({"test": source}, tmp_path / "x.png", of=tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == b"data"
