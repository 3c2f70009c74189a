"""CIFAR, SVHN and digits: small files in the published formats, read back byte by byte by a slow oracle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from sklearn.datasets import load_digits

from madx.data.published import CIFAR10, CIFAR100, Cifar, read_cifar, read_digits, read_svhn
from madx.data.readers import READERS
from madx.errors import DataError
from madx.recipe import DataConfig

SMALL10 = replace(CIFAR10, train_records=3, test_records=2)
SMALL100 = replace(CIFAR100, train_records=3, test_records=2)
GENERATOR = np.random.default_rng(11)


def write_cifar(folder: Path, layout: Cifar, *, label: int | None = None) -> dict[str, bytes]:
    """Random records in the layout's files; `label` replaces the first fine label of the test file."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {}
    for name in (*layout.train, layout.test):
        count = layout.test_records if name == layout.test else layout.train_records
        records = [
            bytes(GENERATOR.integers(0, layout.classes, layout.label_bytes).tolist()) + GENERATOR.bytes(3072)
            for _ in range(count)
        ]
        contents[name] = b"".join(records)
    if label is not None:
        content = bytearray(contents[layout.test])
        content[layout.label_bytes - 1] = label
        contents[layout.test] = bytes(content)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return contents


def slow_cifar(content: bytes, layout: Cifar) -> list[tuple[int, list[list[list[int]]]]]:
    """(label, pixel[channel][row][column]) of every record, by the format's description."""
    size = layout.label_bytes + 3072
    found = []
    for start in range(0, len(content), size):
        record = content[start : start + size]
        pixels = record[layout.label_bytes :]
        image = [[[pixels[c * 1024 + r * 32 + k] for k in range(32)] for r in range(32)] for c in range(3)]
        found.append((record[layout.label_bytes - 1], image))
    return found


@pytest.mark.parametrize("inside", [True, False], ids=["in-the-archive-folder", "flat"])
@pytest.mark.parametrize("layout", [SMALL10, SMALL100], ids=lambda layout: layout.name)
def test_cifar_agrees_with_a_slow_reader(tmp_path, layout, inside):
    contents = write_cifar(tmp_path / layout.subfolder if inside else tmp_path, layout)
    training, test = read_cifar(DataConfig(name=layout.name, path=tmp_path), layout)
    for source, names in ((training, layout.train), (test, (layout.test,))):
        expected = [record for name in names for record in slow_cifar(contents[name], layout)]
        assert source.labels.tolist() == [label for label, _ in expected]
        np.testing.assert_array_equal(source.pixels, [image for _, image in expected])
        assert source.classes == layout.classes
        assert source.shape == (3, 32, 32)


@pytest.mark.parametrize(("layout", "label"), [(SMALL10, 10), (SMALL100, 100)])
def test_cifar_label_out_of_range(tmp_path, layout, label):
    write_cifar(tmp_path, layout, label=label)
    with pytest.raises(DataError, match=f"to {label}; they must start at 0 and end at {layout.classes - 1}"):
        read_cifar(DataConfig(name=layout.name, path=tmp_path), layout)


@pytest.mark.parametrize("cut", [1, 3073])
def test_cifar_truncated_even_at_a_record(tmp_path, cut):
    contents = write_cifar(tmp_path, SMALL10)
    (tmp_path / "data_batch_4.bin").write_bytes(contents["data_batch_4.bin"][:-cut])
    with pytest.raises(DataError, match=r"data_batch_4\.bin has .* truncated or another version"):
        read_cifar(DataConfig(name="cifar10", path=tmp_path), SMALL10)


def test_cifar_missing_files_are_all_named(tmp_path):
    write_cifar(tmp_path, SMALL10)
    (tmp_path / "data_batch_2.bin").unlink()
    (tmp_path / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_2\.bin, test_batch\.bin; download https://"):
        read_cifar(DataConfig(name="cifar10", path=tmp_path), SMALL10)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (CIFAR10, r"data_batch_1.bin has 5 bytes; expected 30730000 \(10000 records of 3073\)"),
        (CIFAR100, r"train.bin has 5 bytes; expected 153700000 \(50000 records of 3074\)"),
    ],
)
def test_the_registered_readers_expect_the_published_sizes(tmp_path, layout, words):
    """Sizes as on the CIFAR page: 30,730,000 bytes a file of CIFAR-10."""
    for name in (*layout.train, layout.test):
        (tmp_path / name).write_bytes(bytes(5))
    with pytest.raises(DataError, match=words):
        READERS[layout.name](DataConfig(name=layout.name, path=tmp_path))


def write_svhn(folder: Path, **changes: object) -> tuple[np.ndarray, np.ndarray]:
    pixels = GENERATOR.integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    labels = np.array([[10], [1], [9], [2]], np.uint8)
    savemat(folder / "train_32x32.mat", {"X": pixels, "y": labels})
    savemat(folder / "test_32x32.mat", {"X": pixels, "y": labels} | changes)
    return pixels, labels


def test_svhn(tmp_path):
    pixels, _ = write_svhn(tmp_path)
    training, test = read_svhn(DataConfig(name="svhn", path=tmp_path))
    assert training.labels.tolist() == [0, 1, 9, 2]
    for n, c, h, w in [(0, 0, 0, 0), (3, 2, 31, 5), (1, 1, 7, 30)]:
        assert test.pixels[n, c, h, w] == pixels[h, w, c, n]
    assert training.shape == (3, 32, 32)
    assert training.classes == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y": np.array([[0], [1], [2], [3]], np.uint8)}, "labels from 1 to 10"),
        ({"y": np.array([[11], [1], [2], [3]], np.uint8)}, "labels from 1 to 10"),
        ({"y": np.array([[1], [2]], np.uint8)}, "4 images but 2 labels"),
        ({"X": np.zeros((32, 32, 3), np.uint8)}, r"uint8 of the shape \[32, 32, 3\]"),
        ({"X": np.zeros((32, 32, 3, 4))}, "float64 of the shape"),
    ],
)
def test_bad_svhn_is_refused(tmp_path, changes, words):
    write_svhn(tmp_path, **changes)
    with pytest.raises(DataError, match=words) as caught:
        read_svhn(DataConfig(name="svhn", path=tmp_path))
    assert "test_32x32.mat" in str(caught.value)


@pytest.mark.parametrize("cut", [0, 10, 150, 5000, -1])
def test_damaged_svhn_is_one_clear_error(tmp_path, cut):
    write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"test_32x32\.mat"):
        read_svhn(DataConfig(name="svhn", path=tmp_path))


def test_compressed_and_damaged_svhn(tmp_path):
    pixels, labels = write_svhn(tmp_path)
    path = tmp_path / "test_32x32.mat"
    savemat(path, {"X": pixels, "y": labels}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[400] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test_32x32\.mat cannot be read as a MATLAB file"):
        read_svhn(DataConfig(name="svhn", path=tmp_path))


def test_svhn_without_its_arrays(tmp_path):
    write_svhn(tmp_path)
    savemat(tmp_path / "test_32x32.mat", {"Z": np.zeros(3)})
    with pytest.raises(DataError, match="lacks X or y"):
        read_svhn(DataConfig(name="svhn", path=tmp_path))


def test_digits():
    source, test = read_digits(DataConfig(name="digits"))
    expected = load_digits()
    assert test is None
    assert source.shape == (1, 8, 8)
    assert source.classes == 10
    np.testing.assert_array_equal(source.images(np.arange(1797))[:, 0] * 16, expected.images)
    np.testing.assert_array_equal(source.labels, expected.target)
