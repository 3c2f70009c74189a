"""IDX files: parsed against a writer of our own, refused when damaged, and the real set when it is here."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest

from madx.data import fashion
from madx.data.fashion import Pinned, checked_content, parse_idx, read_fashion
from madx.data.places import candidates
from madx.errors import DataError
from madx.recipe import DataConfig

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 28, 28), dtype=np.uint8)
LABELS = np.array([9, 0, 3, 3], np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def pin(content: bytes) -> Pinned:
    return Pinned(len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four small files, plain and compressed, pinned as if they were the published ones."""
    contents = {
        "train-images-idx3-ubyte": idx(PIXELS),
        "train-labels-idx1-ubyte": idx(LABELS),
        "t10k-images-idx3-ubyte": idx(PIXELS[::-1].copy()),
        "t10k-labels-idx1-ubyte": idx(LABELS[::-1].copy()),
    }
    monkeypatch.setattr(fashion, "FILES", {name: pin(content) for name, content in contents.items()})
    for name, content in contents.items():
        if name.startswith("train"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content, 1))
        else:
            (tmp_path / name).write_bytes(content)
    return tmp_path


def test_reads_plain_and_compressed_files(small_set):
    training, test = read_fashion(DataConfig(path=small_set))
    every = np.arange(4)
    np.testing.assert_array_equal(training.images(every), PIXELS[:, None].astype(np.float32) / 255)
    np.testing.assert_array_equal(test.images(every), PIXELS[::-1, None].astype(np.float32) / 255)
    assert training.labels.tolist() == [9, 0, 3, 3]
    assert test.labels.tolist() == [3, 3, 0, 9]
    assert training.shape == (1, 28, 28)
    assert training.classes == 10


def test_compression_level_does_not_matter(small_set):
    path = small_set / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(PIXELS), 9, mtime=12345))
    training, _ = read_fashion(DataConfig(path=small_set))
    assert len(training.labels) == 4


def damage_missing(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()


def damage_gzip_truncated(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])


def damage_gzip_bits(folder: Path) -> None:
    path = folder / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # the stored CRC
    path.write_bytes(content)


def damage_other_content(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS))


def damage_longer(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(path.read_bytes() + bytes(10**6)))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing, "neither t10k-labels-idx1-ubyte.gz nor t10k-labels-idx1-ubyte; `madx data fetch"),
        (damage_gzip_truncated, "train-images-idx3-ubyte.gz is a damaged or truncated gzip"),
        (damage_gzip_bits, "train-images-idx3-ubyte.gz is a damaged or truncated gzip"),
        (damage_other_content, "t10k-images-idx3-ubyte is not the published file"),
        (damage_longer, "more than 3152 bytes"),
    ],
)
def test_damage_is_named(small_set, damage, words):
    damage(small_set)
    with pytest.raises(DataError, match=words):
        read_fashion(DataConfig(path=small_set))


@pytest.mark.parametrize(
    ("content", "axes", "words"),
    [
        (idx(LABELS), 3, "begins with 0x00000801, expected 0x00000803"),
        (idx(PIXELS), 1, "begins with 0x00000803, expected 0x00000801"),
        (b"", 1, "header of 8 bytes"),
        (b"\x00\x00\x08\x03\x00", 3, "header of 16 bytes"),
        (b"\x00\x00\x0d\x01" + idx(LABELS)[4:], 1, "0x00000d01"),
        (idx(LABELS)[:-1], 1, r"promises \[4\] entries, but 3 bytes"),
        (idx(LABELS) + b"\x00", 1, r"promises \[4\] entries, but 5 bytes"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2**31, 2**31, 4) + b"", 3, "but 0 bytes"),
    ],
)
def test_malformed_idx_is_refused(content, axes, words):
    with pytest.raises(DataError, match=words):
        parse_idx(content, axes=axes, where="file")


def test_a_decompression_bomb_is_cut_off():
    bomb = gzip.compress(bytes(50_000_000), 9)
    beginning = hashlib.sha256(bytes(101)).hexdigest()  # no more than this was decompressed
    with pytest.raises(DataError, match=f"more than 100 bytes and SHA-256 {beginning}"):
        checked_content(bomb, Pinned(100, "0" * 64), where="bomb")


def test_the_published_set():
    """The real files. Means and standard deviation are those the community publishes (0.2860, 0.3530)."""
    folder = next((place for place in candidates("fashion-mnist") if place.is_dir()), None)
    if folder is None:
        pytest.skip("Fashion-MNIST is not on this machine; `madx data fetch fashion-mnist` gets it")
    training, test = read_fashion(DataConfig(path=folder))
    assert np.bincount(training.labels).tolist() == [6000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert training.pixels.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert training.pixels.std() / 255 == pytest.approx(0.3530, abs=5e-5)
