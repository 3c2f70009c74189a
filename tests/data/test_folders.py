"""Image folders: layouts, order, decoding against an independent resize, and damaged files by name."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from madx.data.folders import decode, read_folders
from madx.errors import DataError
from madx.recipe import DataConfig

SIZE = 8
GENERATOR = np.random.default_rng(23)


def picture(width: int = SIZE, height: int = SIZE) -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(root: Path, counts: dict[str, int]) -> Path:
    """`counts` pictures in each class folder."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture().save(root / name / f"{number:02}.png")
    return root


def config(root: Path) -> DataConfig:
    return DataConfig(name="imagefolder", path=root, image_size=SIZE)


@pytest.mark.parametrize("part", ["val", "test"])
def test_imagenet_layout(tmp_path, part):
    fill(tmp_path / "train", {"cat": 3, "ant": 2})
    fill(tmp_path / part, {"ant": 1, "cat": 1})
    (tmp_path / "train" / "cat" / ".hidden").touch()
    training, test = read_folders(config(tmp_path))
    assert training.names == ("ant", "cat")
    assert training.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert (training.shape, training.classes) == ((3, SIZE, SIZE), 2)
    images = training.images(np.array([4, 0]))
    for image, name in zip(images, ("cat/02.png", "ant/00.png"), strict=True):
        stored = np.asarray(Image.open(tmp_path / "train" / name), np.float32) / 255
        np.testing.assert_array_equal(image, stored.transpose(2, 0, 1))


def test_test_goes_before_val_unless_it_has_no_classes(tmp_path):
    """ImageNet's test folder holds unlabelled files; then val is the test set."""
    for part in ("train", "val"):
        fill(tmp_path / part, {"a": 1, "b": 1})
    (tmp_path / "test").mkdir()
    picture().save(tmp_path / "test" / "unlabelled.png")
    assert read_folders(config(tmp_path))[1].files[0].parts[-3] == "val"
    fill(tmp_path / "test", {"a": 1, "b": 1})
    assert read_folders(config(tmp_path))[1].files[0].parts[-3] == "test"


def test_flat_layout_has_no_test_set(tmp_path):
    source, test = read_folders(config(fill(tmp_path / "set", {"a": 2, "b": 1})))
    assert test is None
    assert source.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, "b only in the first, c only in the second"),
        ({"a": 1, "b": 1}, {"a": 1}, "b only in the first, none only in the second"),
        (dict.fromkeys("abcdefg", 1), {"g": 1}, "a, b, c and 3 more only in the first"),
        ({"a": 1, "b": 0}, {"a": 1, "b": 1}, "b is empty"),
        ({"a": 1, "b": 1}, {}, "neither test/ nor val/"),
        ({}, {"a": 1}, "train has no folders"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, train, test, words):
    (tmp_path / "train").mkdir()
    fill(tmp_path / "train", train)
    fill(tmp_path / "val", test)
    with pytest.raises(DataError, match=words):
        read_folders(config(tmp_path))


@pytest.mark.parametrize("stray", ["notes.txt", "Thumbs.db", "nested"])
def test_whatever_is_no_image_is_named(tmp_path, stray):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    if stray == "nested":
        (root / "b" / stray).mkdir()
    else:
        (root / "b" / stray).touch()
    with pytest.raises(DataError, match=f"{stray} is not an image file"):
        read_folders(config(root))


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_folders(config(tmp_path / "nowhere"))


@pytest.mark.parametrize(("width", "height"), [(16, 8), (8, 16), (40, 24), (24, 41), (13, 9), (8, 8), (5, 4), (31, 8)])
def test_decoding_agrees_with_torch(tmp_path, width, height):
    """Oracle: torch's antialiased bilinear resize of the shorter side, then a centre cut; both round to bytes."""
    image = picture(width, height)
    image.save(tmp_path / "a.png")
    shorter = min(width, height)
    tall, wide = int(SIZE * height / shorter), int(SIZE * width / shorter)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(planes, (tall, wide), mode="bilinear", antialias=True)[0]
    top, left = round((tall - SIZE) / 2), round((wide - SIZE) / 2)
    expected = resized[:, top : top + SIZE, left : left + SIZE].permute(1, 2, 0).numpy()
    found = decode(tmp_path / "a.png", SIZE)
    assert found.shape == (SIZE, SIZE, 3)
    assert np.abs(found - expected).max() <= 1.01  # Pillow rounds to bytes after each of its two passes


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_of_eight_bits_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(path)
    assert np.unique(decode(path, SIZE)).tolist() == [255]


@pytest.mark.parametrize("depth", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_refused_rather_than_clipped(tmp_path, depth):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((9, 9), 1000, depth)).save(path)
    with pytest.raises(DataError, match=r"deep\.tif has more than 8 bits"):
        decode(path, SIZE)


def stored(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow warns, then raises
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_image_is_named(tmp_path, kind, share):
    root = fill(tmp_path / "set", {"a": 2, "b": 2})
    content = stored(kind)
    (root / "b" / "zz-broken.jpg").write_bytes(content[: int(share * len(content))])
    source, _ = read_folders(config(root))
    assert len(source.images(np.arange(4))) == 4
    with pytest.raises(DataError, match=r"zz-broken\.jpg cannot be decoded"):
        source.images(np.arange(5))


def test_a_damaged_png_chunk_is_named(tmp_path):
    content = bytearray(stored("PNG"))
    content[60] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        decode(tmp_path / "a.png", SIZE)


def test_a_file_that_vanished_is_named(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    source, _ = read_folders(config(root))
    (root / "b" / "00.png").unlink()
    with pytest.raises(DataError, match=r"00\.png cannot be decoded"):
        source.images(np.array([1]))
