"""Arrays in every format: one set written in each of them is read as the same images; what is not clear is asked."""

from __future__ import annotations

import errno
import gzip
import io
import mmap
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from madx.data import places
from madx.data.formats import FORMATS, open_arrays
from madx.data.inspecting import recognised
from madx.data.naming import choose, kind_of, part_of, words
from madx.data.published import CIFAR10, read_cifar
from madx.data.readers import READERS, read
from madx.data.rows import Rows
from madx.errors import DataError
from madx.recipe import DataConfig
from madx.recipe.data import ARRAYS, DATA_FILES, ENCODED

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 2, 1, 0])
SET = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS[:4], "y_test": LABELS[:4]}


def write_npz(folder: Path) -> None:
    np.savez(folder / "a.npz", **SET)


def write_npz_by_part(folder: Path) -> None:
    for part in ("train", "test"):
        np.savez(folder / f"{part}.npz", images=SET[f"x_{part}"], labels=SET[f"y_{part}"])


def write_npy(folder: Path) -> None:
    for key, array in SET.items():
        np.save(folder / f"{key}.npy", array)


def write_pt(folder: Path) -> None:
    torch.save(
        {part: (torch.tensor(SET[f"x_{part}"]), torch.tensor(SET[f"y_{part}"])) for part in ("train", "test")},
        folder / "set.pt",
    )


def write_pt_by_part(folder: Path) -> None:
    for part, name in (("train", "training"), ("test", "test")):
        torch.save((torch.tensor(SET[f"x_{part}"]), torch.tensor(SET[f"y_{part}"])), folder / f"{name}.pt")


def write_idx(folder: Path) -> None:
    (folder / "MNIST" / "raw").mkdir(parents=True)
    for part, name in (("train", "train"), ("test", "t10k")):
        for kind, array in (("images-idx4", SET[f"x_{part}"]), ("labels-idx1", SET[f"y_{part}"].astype(np.uint8))):
            head = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
            content = head + array.tobytes()
            path = folder / "MNIST" / "raw" / f"{name}-{kind}-ubyte"
            if part == "train":
                path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
            else:
                path.write_bytes(content)


def write_mat(folder: Path) -> None:
    last = {key: np.moveaxis(array, 0, -1) if array.ndim > 1 else array[:, None] for key, array in SET.items()}
    scipy.io.savemat(folder / "set.mat", last)


def write_pickles(folder: Path) -> None:
    for part in ("train", "test"):
        content = {"features": SET[f"x_{part}"], "labels": SET[f"y_{part}"], "n": np.float64(3)}
        (folder / f"{part}.p").write_bytes(pickle.dumps(content))


def write_batches(folder: Path) -> None:
    place = folder / "cifar-10-batches-py"
    place.mkdir()
    parts = {
        "data_batch_1": slice(4),
        "data_batch_10": slice(5, 6),
        "data_batch_2": slice(4, 5),
        "test_batch": slice(4),
    }
    for name, rows in parts.items():
        content = {b"data": PIXELS[rows].reshape(-1, 192), b"labels": LABELS[rows].tolist(), b"batch_label": b"x"}
        (place / name).write_bytes(pickle.dumps(content, protocol=2))
    (place / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"a"]}))


WRITERS: list[tuple[str, Callable[[Path], None]]] = [
    ("npz", write_npz),
    ("npz", write_npz_by_part),
    ("npy", write_npy),
    ("pt", write_pt),
    ("pt", write_pt_by_part),
    ("idx", write_idx),
    ("mat", write_mat),
    ("pickles", write_pickles),
    ("pickles", write_batches),
]


@pytest.mark.parametrize(("name", "write"), WRITERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_set_is_the_same_in_every_format(tmp_path, name, write):
    write(tmp_path)
    for asked in (name, "arrays"):
        training, test = read(DataConfig(name=asked, path=tmp_path))
        np.testing.assert_array_equal(training.images(np.arange(6)), PIXELS.astype(np.float32) / 255)
        np.testing.assert_array_equal(test.images(np.arange(4)), PIXELS[:4].astype(np.float32) / 255)
        assert (training.labels.tolist(), test.labels.tolist()) == (LABELS.tolist(), LABELS[:4].tolist())


def test_every_format_is_tested_and_can_be_asked_for():
    assert {name for name, _ in WRITERS} == set(FORMATS) == set(ARRAYS) - {"arrays"}
    choices = DataConfig.model_json_schema()["properties"]["name"]["enum"]
    assert set(choices) == set(READERS) >= {*ARRAYS, *ENCODED}


def test_npy_files_stay_in_the_file(tmp_path):
    write_npy(tmp_path)
    training, _ = read(DataConfig(name="npy", path=tmp_path))
    assert isinstance(training.pixels, Rows)
    nhwc = np.save(tmp_path / "x_train.npy", np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1)))
    assert nhwc is None
    np.save(tmp_path / "x_test.npy", np.ascontiguousarray(PIXELS[:4].transpose(0, 2, 3, 1)))
    training, _ = read(DataConfig(name="npy", path=tmp_path))
    assert isinstance(training.pixels, Rows)
    images = training.images(np.array([3]))
    np.testing.assert_array_equal(images, PIXELS[3:4].astype(np.float32) / 255)
    assert images.flags.c_contiguous


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("keep", [np.savez, np.savez_compressed])
def test_npz_files_stay_in_the_file_unless_they_are_compressed(tmp_path, keep, nhwc):
    stored = np.ascontiguousarray(PIXELS.transpose(0, 2, 3, 1)) if nhwc else PIXELS
    keep(tmp_path / "a.npz", other=np.arange(3), x_train=stored, y_train=LABELS, x_test=stored[:4], y_test=LABELS[:4])
    training, test = read(DataConfig(name="npz", path=tmp_path / "a.npz"))
    assert isinstance(training.pixels, Rows) == isinstance(test.pixels, Rows) == (keep is np.savez)
    np.testing.assert_array_equal(training.pixels[:], PIXELS)
    np.testing.assert_array_equal(training.pixels[np.array([4, 0, 1, 1, 5])], PIXELS[[4, 0, 1, 1, 5]])
    np.testing.assert_array_equal(test.images(np.array([3])), PIXELS[3:4].astype(np.float32) / 255)
    assert training.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("keep", ["npz", "npy"])
def test_images_on_the_axis_that_runs_fastest_are_taken_into_memory(tmp_path, keep):
    if keep == "npz":
        save(tmp_path / "a.npz", np.asfortranarray(PIXELS))
    else:
        write_npy(tmp_path)
        np.save(tmp_path / "x_train.npy", np.asfortranarray(PIXELS))
    training, _ = read(DataConfig(name=keep, path=tmp_path))
    assert isinstance(training.pixels, np.ndarray)
    np.testing.assert_array_equal(training.images(np.arange(6)), PIXELS.astype(np.float32) / 255)


def plain_npz(folder: Path) -> Path:
    write_npz(folder)
    return folder / "a.npz"


def plain_npy(folder: Path) -> Path:
    write_npy(folder)
    return folder / "x_train.npy"


def plain_idx(folder: Path) -> Path:
    write_idx(folder)
    raw = folder / "MNIST" / "raw"
    for packed in raw.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    return raw / "train-images-idx4-ubyte"


@pytest.mark.parametrize("keep", [plain_npz, plain_npy, plain_idx])
def test_other_pixels_under_the_same_size_and_time_are_not_taken_for_the_checked_ones(tmp_path, keep):
    """Images that did not change are read."""
    path = keep(tmp_path)
    training, _ = read(DataConfig(name="arrays", path=tmp_path))
    training.digests(np.arange(6))
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[content.index(PIXELS[2].tobytes()) + 3] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    np.testing.assert_array_equal(training.images(np.array([4, 3])), PIXELS[[4, 3]].astype(np.float32) / 255)
    with pytest.raises(DataError, match="was changed while madx was at work"):
        training.images(np.array([4, 2]))


@pytest.mark.parametrize("keep", [plain_npz, plain_npy, plain_idx])
def test_a_file_that_becomes_shorter_while_it_is_read_ends_in_a_message(tmp_path, monkeypatch, keep):
    """Under a map it would kill the process, whatever was looked at before; here even an old size is believed."""
    path = keep(tmp_path)
    training, _ = read(DataConfig(name="arrays", path=tmp_path))
    monkeypatch.setattr("madx.data.rows.stamp_of", lambda _: training.pixels.stamp)
    os.truncate(path, path.stat().st_size // 3)
    for read_again in (training.images, training.digests):
        with pytest.raises(DataError, match="was changed while madx was at work"):
            read_again(np.array([5]))


def test_a_file_is_read_where_nothing_can_be_mapped(tmp_path, monkeypatch):
    def refuse(*_given, **_more):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", refuse)
    for keep in (plain_npz, plain_npy, plain_idx):
        folder = tmp_path / keep.__name__
        folder.mkdir()
        keep(folder)
        training, _ = read(DataConfig(name="arrays", path=folder))
        np.testing.assert_array_equal(training.images(np.arange(6)), PIXELS.astype(np.float32) / 255)


def test_a_header_that_claims_more_than_the_file_has_is_damage(tmp_path):
    write_npy(tmp_path)
    path = tmp_path / "x_train.npy"
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"x_train\.npy cannot be read as \.npy .*it says \[6, 3, 8, 8\]"):
        read(DataConfig(name="npy", path=tmp_path))


@pytest.mark.parametrize("where", ["pixels", "header", "end"])
def test_an_npz_that_is_damaged_or_changes_is_told(tmp_path, where):
    path = tmp_path / "a.npz"
    np.savez(path, x_train=PIXELS, y_train=LABELS, x_test=PIXELS[:4], y_test=LABELS[:4])
    content = bytearray(path.read_bytes())
    place = content.index(PIXELS.tobytes()) + 5 if where == "pixels" else content.index(b"NUMPY") + 20
    if where == "end":
        training, _ = read(DataConfig(name="npz", path=path))
        path.write_bytes(content[:-1])
        with pytest.raises(DataError, match=r"a\.npz was changed while madx was at work"):
            training.images(np.arange(2))
        return
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz cannot be read as \.npz"):
        read(DataConfig(name="npz", path=path))


@pytest.mark.parametrize("change", ["times", "longer", "gone"])
def test_a_file_that_changes_ends_the_command(tmp_path, change):
    write_npy(tmp_path)
    training, _ = read(DataConfig(name="npy", path=tmp_path))
    path = tmp_path / "x_train.npy"
    if change == "times":
        os.utime(path, ns=(1, 1))
    elif change == "longer":
        path.write_bytes(path.read_bytes() + b"x")
    else:
        path.unlink()
    for read_again in (training.images, training.digests):
        with pytest.raises(
            DataError, match=r"x_train\.npy (was changed while madx was at work|cannot be read any more)"
        ):
            read_again(np.arange(2))


def test_the_type_of_stored_values_is_part_of_their_digest(tmp_path):
    found = []
    for dtype in (np.uint16, np.int16):
        path = save(tmp_path / "a.npz", PIXELS.astype(dtype))
        found.append(read(DataConfig(name="npz", path=path, range=[0, 255]))[0].digests(np.arange(6)))
    assert not (found[0] == found[1]).any()


def test_two_files_of_one_stem_are_refused_unless_they_are_the_same(tmp_path):
    write_idx(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    packed = raw / "train-labels-idx1-ubyte.gz"
    plain = packed.with_suffix("")
    plain.write_bytes(gzip.decompress(packed.read_bytes()))
    config = DataConfig(name="idx", path=tmp_path)
    training, test = read(config)
    assert training.labels.tolist() == LABELS.tolist()
    assert test.remarks == (f"{packed.name} has the same content as another file beside it and was not read",)
    plain.write_bytes(plain.read_bytes()[:-1] + b"\2")
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte and train-labels-idx1-ubyte\.gz, which differ"):
        read(config)
    for name, value in (("x.pt", 0), ("x.pth", 1)):
        torch.save(torch.tensor(value), tmp_path / name)
    with pytest.raises(DataError, match=r"x\.pt and x\.pth, which differ"):
        read(DataConfig(name="pt", path=tmp_path))


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x_test.npy", content)
        archive.writestr("y_test.npy", content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a-idx2", b"\0\0\x0b\2" + bytes(8) + b"abc"),
        ("a-idx2", b"\0\0\x08\x40" + bytes(256)),
        ("a-idx2", b"\0\0\x0d\1" + b"\0\0\0\1" + b"abc"),
        ("a.npz", zipped(b"\x93NUMPY\1\0\x06\0{'a':\n")),
        ("a.npz", zipped(b"\x93NUMPY\x09\0")),
        ("a.npy", b"\x93NUMPY\1\0\x10\0" + b"{" * 16),
        ("a.pt", b"PK\3\4" + bytes(40)),
        ("a.pt", b"\x80\2\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.abc"),
        ("a.mat", b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"\x0e\0\0\0\xff\0\0\0abc"),
        ("a.mat", bytes(range(256))),
    ],
)
def test_a_damaged_file_is_told_as_such(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"a[-.]"):  # noqa: PT012 - some formats are read when the array is
        for load in open_arrays("arrays", tmp_path / name).arrays.values():
            load()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["train.p", "data_batch_1", "set.pt"])
def test_nothing_that_is_in_a_pickle_is_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(pickle.dumps({"data": Evil(), "labels": LABELS}))
    with pytest.raises(DataError, match=r"run.* code"):
        read(DataConfig(name="arrays", path=tmp_path))
    assert not Path("executed").exists()
    content = pickle.dumps({"data": PIXELS})
    (tmp_path / "other.p").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"other\.p is not a whole pickle"):
        read(DataConfig(name="arrays", path=tmp_path / "other.p"))


def test_two_formats_or_two_folders_or_none_are_asked_about(tmp_path):
    with pytest.raises(DataError, match=r"has none of a \.npz file, "):
        read(DataConfig(name="arrays", path=tmp_path))
    write_npz(tmp_path)
    write_npy(tmp_path)
    with pytest.raises(DataError, match=r"a \.npz file and \.npy files; say which are meant: data\.name: npz or npy"):
        read(DataConfig(name="arrays", path=tmp_path))
    for name in ("one", "two"):
        (tmp_path / "up" / name).mkdir(parents=True)
        write_npz(tmp_path / "up" / name)
    with pytest.raises(DataError, match="all have such files; give one of them"):
        read(DataConfig(name="npz", path=tmp_path / "up"))


@pytest.mark.parametrize("keep", ["npy", "npz"])
def test_folders_that_are_called_by_the_parts_are_one_set(tmp_path, keep):
    for part, count in (("train", 6), ("Test", 4)):
        folder = tmp_path / "sets" / part
        folder.mkdir(parents=True)
        if keep == "npz":
            np.savez(folder / "data.npz", x=PIXELS[:count], y=LABELS[:count])
        else:
            np.save(folder / "images.npy", PIXELS[:count])
            np.save(folder / "labels.npy", LABELS[:count])
    training, test = read(DataConfig(name="arrays", path=tmp_path))
    assert (training.labels.tolist(), test.labels.tolist()) == (LABELS.tolist(), LABELS[:4].tolist())
    np.testing.assert_array_equal(test.images(np.arange(4)), PIXELS[:4] / np.float32(255))


def test_a_batch_that_is_missing_among_others_is_said(tmp_path):
    write_batches(tmp_path)
    said = open_arrays("pickles", tmp_path).remarks
    assert any("the pieces 3, 4, 5 and 4 more" in remark for remark in said)
    (tmp_path / "cifar-10-batches-py/data_batch_10").rename(tmp_path / "cifar-10-batches-py/data_batch_3")
    assert open_arrays("pickles", tmp_path).remarks == ()


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!DOCTYPE html><html>"])
@pytest.mark.parametrize("name", ["set.npz", "x.npy", "train-images-idx3-ubyte", "set.pt"])
def test_a_pointer_or_a_web_page_in_the_place_of_a_file_is_told_as_such(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=r"git lfs pull|web page"):
        read(DataConfig(name="arrays", path=tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("set.h5", "HDF5: open it with h5py"),
        ("images.zip", "unpack it"),
        ("train.tar.gz", "unpack it"),
        ("a-train.tfrecord-00000-of-00002", "TensorFlow's records"),
        ("a.feather", r"call it \.arrow"),
        ("train.safetensors", r"torch\.save"),
        ("data_batch_1.bin", "data.name: cifar10"),
        ("train.csv", "if it holds pixels"),
    ],
)
@pytest.mark.parametrize("whole", [True, False], ids=["folder", "file"])
def test_what_is_known_and_not_read_is_told_with_what_to_do(tmp_path, name, words, whole):
    (tmp_path / name).write_bytes(b"-")
    for data in ("arrays", "imagefolder"):
        with pytest.raises(DataError, match=words):
            read(DataConfig(name=data, path=tmp_path if whole else tmp_path / name))
    if not whole:
        with pytest.raises(DataError, match=words):
            recognised(tmp_path / name)


def test_a_file_of_svhn_has_a_reader_of_its_own(tmp_path):
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [10]]})
    with pytest.raises(DataError, match=r"the label 10 means 0: say data\.name: svhn"):
        read(DataConfig(name="mat", path=tmp_path))
    pixels = np.arange(32 * 32 * 3 * 2).reshape(32, 32, 3, 2).astype(np.uint8)
    scipy.io.savemat(tmp_path / "test_32x32.mat", {"X": pixels, "y": [[1], [10]]})
    training, test = read(DataConfig(name="svhn", path=tmp_path, split="test"))
    assert training is None
    assert test.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("name", "part", "kind"),
    [
        ("x_train", "train", "images"),
        ("trainX", "train", "images"),
        ("Xtest", "test", "images"),
        ("ytest", "test", "labels"),
        ("train-images-idx3-ubyte", "train", "images"),
        ("t10k-labels-idx1-ubyte", "test", "labels"),
        ("valid.features", "val", "images"),
        ("test_data_labels", "test", "labels"),
        ("train_test", None, None),
        ("mean", None, None),
        ("entrain_x", None, "images"),
    ],
)
def test_names_are_cut_into_words(name, part, kind):
    assert (part_of(name), kind_of(name)) == (part, kind), words(name)


def test_which_names_are_meant():
    usual = ["x_train", "y_train", "x_test", "y_test"]
    assert choose([*usual, "x_train_mean", "val_images", "val_labels"], where="w").test == ("x_test", "y_test")
    assert choose([*usual[:2], "X_val", "y_val"], where="w").test == ("X_val", "y_val")
    assert choose(["x_test", "y_test"], where="w").train is None
    assert choose(["images", "labels"], where="w").whole == ("images", "labels")
    assert choose(["x_train", "y_train", "x_test", "X_valid", "Y_valid"], where="w").test == ("X_valid", "Y_valid")
    with pytest.raises(DataError, match=r"has both fine_labels and rough_labels.*data\.keys"):
        choose(["images", "fine_labels", "rough_labels"], where="w")
    keys = {"x_test": "a", "y_test": "b"}
    assert choose(["a", "b"], where="w", keys=keys).test == ("a", "b")
    with pytest.raises(DataError, match=r"has no b, which data\.keys names; there are a"):
        choose(["a"], where="w", keys=keys)
    with pytest.raises(DataError, match="images need labels"):
        choose(["a"], where="w", keys={"x_test": "a"})


def save(path: Path, images: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, **{"x_train": images, "y_train": LABELS, "x_test": images[:3], "y_test": LABELS[:3]} | more)
    return path


def images_of(path: Path, **keys: object) -> np.ndarray:
    return read(DataConfig(name="npz", path=path, **keys))[0].images(np.arange(6))


SHARES = PIXELS.astype(np.float32) / 255


@pytest.mark.parametrize(
    ("stored", "keys"),
    [
        (PIXELS.astype(np.float64), {"range": [0, 255]}),
        (PIXELS.astype(np.int64), {"range": [0, 255]}),
        (PIXELS.astype(np.uint16) * 257, {"range": [0, 65535]}),
        (SHARES * 2 - 1, {"range": [-1, 1]}),
        (SHARES * 80 - 80, {"range": [-80, 0]}),
        ((SHARES - 0.5) / 0.25, {"normalised": {"mean": [0.5] * 3, "std": [0.25] * 3}}),
    ],
    ids=["floats to 255", "int64", "16 bit", "-1 to 1", "decibels", "normalised"],
)
def test_values_in_another_unit_are_brought_back_and_that_is_said(tmp_path, stored, keys):
    path = save(tmp_path / "a.npz", stored)
    found = images_of(path, **keys)
    np.testing.assert_allclose(found, SHARES, atol=2e-6)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    (remark,) = read(DataConfig(name="npz", path=path, **keys))[0].remarks
    assert "became 0 to 1" in remark or "was undone" in remark
    with pytest.raises(DataError, match=r"data\.range: \["):
        images_of(path)


def test_channels_are_undone_each_with_its_own_numbers(tmp_path):
    mean, std = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    path = save(tmp_path / "a.npz", ((SHARES - mean[:, None, None]) / std[:, None, None]).transpose(0, 2, 3, 1))
    keys = {"normalised": {"mean": mean.tolist(), "std": std.tolist()}}
    np.testing.assert_allclose(images_of(path, **keys), SHARES, atol=2e-6)
    with pytest.raises(DataError, match="undone there are values from"):
        images_of(path, normalised={"mean": [0.5] * 3, "std": [0.9] * 3})
    with pytest.raises(DataError, match="gives 1 numbers; expected one for each channel"):
        images_of(path, normalised={"mean": [0.5], "std": [0.25]})
    with pytest.raises(DataError, match=r"and data\.range says 0 to 1; widen it"):
        images_of(path, range=[0, 1])


@pytest.mark.parametrize(
    ("images", "keys", "words"),
    [
        (PIXELS // 16, {}, r"data\.range: \[0, 15\]"),
        (SHARES / 8, {}, r"data\.range: \[0, 0\.125\]"),
        (PIXELS > 99, {}, r"of type bool.*data\.range: \[0, 1\]"),
        (PIXELS.astype(np.uint16), {"range": [0, 65535]}, "all of them black"),
        (PIXELS.reshape(6, -1), {}, "flat rows"),
        (np.moveaxis(PIXELS, 0, -1), {"layout": "nhwc"}, r"moveaxis\(images, 3, 0\)"),
        (np.moveaxis(PIXELS, 0, 1), {}, r"moveaxis\(images, 1, 0\)"),
    ],
    ids=["4 bits", "4 bits divided", "truth", "8 bits of 16", "rows", "last axis", "second axis"],
)
def test_values_and_axes_that_are_probably_others_are_asked_about(tmp_path, images, keys, words):
    path = tmp_path / "a.npz"
    np.savez(path, x_test=images, y_test=LABELS)
    with pytest.raises(DataError, match=words):
        read(DataConfig(name="npz", path=path, **keys))


def test_what_the_messages_say_of_dark_and_true_and_false_is_read(tmp_path):
    dark = images_of(save(tmp_path / "a.npz", PIXELS // 16), range=[0, 15])
    np.testing.assert_array_equal(dark, (PIXELS // 16) / np.float32(15))
    as_dark = images_of(save(tmp_path / "a.npz", PIXELS // 16), range=[0, 255])
    np.testing.assert_array_equal(as_dark, (PIXELS // 16) / np.float32(255))
    np.testing.assert_array_equal(images_of(save(tmp_path / "a.npz", PIXELS > 99), range=[0, 1]), PIXELS > 99)
    twelve = read(DataConfig(name="npz", path=save(tmp_path / "a.npz", PIXELS.astype("u2") * 16), range=[0, 65535]))
    assert any("all images are dark" in remark for remark in twelve[0].remarks)


@pytest.mark.parametrize(
    ("train", "test", "keys", "words"),
    [
        (PIXELS.astype("f4"), SHARES, {"range": [0, 255]}, "all of them black"),
        (SHARES * 2 - 1, SHARES, {"range": [-1, 1]}, "convert the one"),
        (SHARES, SHARES * 2 - 1, {"range": [-1, 1]}, "convert the one"),
        ((SHARES - 0.5) / 0.5, SHARES, {"normalised": {"mean": [0.5] * 3, "std": [0.5] * 3}}, "convert the one"),
    ],
    ids=["255", "-1 to 1", "the other part", "normalised"],
)
def test_a_unit_that_only_one_part_has_is_refused(tmp_path, train, test, keys, words):
    """Both readings are within what the recipe says, and one of them is wrong."""
    path = save(tmp_path / "a.npz", train, x_test=test[:3])
    with pytest.raises(DataError, match=words):
        read(DataConfig(name="npz", path=path, **keys))


def test_numbers_that_may_be_names_of_other_classes_are_asked_about(tmp_path):
    path = save(tmp_path / "a.npz", PIXELS)
    with pytest.raises(DataError, match="label 1 may be the number of a class, or the name of class 2"):
        read(DataConfig(name="npz", path=path, classes=["0", "2", "1"]))
    assert read(DataConfig(name="npz", path=path, classes=["1", "2", "3"]))[0].names == ("1", "2", "3")  # 0 is no name


def test_double_is_the_type_of_matlabs_labels_and_fractions_are_none(tmp_path):
    parts = {"x_test": np.moveaxis(PIXELS, 0, -1), "y_test": LABELS + 0.0}
    scipy.io.savemat(tmp_path / "a.mat", parts)
    assert read(DataConfig(name="mat", path=tmp_path / "a.mat"))[1].labels.tolist() == LABELS.tolist()
    scipy.io.savemat(tmp_path / "a.mat", parts | {"y_test": LABELS + 0.5})
    with pytest.raises(DataError, match="expected integers"):
        read(DataConfig(name="mat", path=tmp_path / "a.mat"))


def test_what_is_missing_or_too_much_is_told(tmp_path):
    np.save(tmp_path / "x_test.npy", PIXELS)
    with pytest.raises(DataError, match=r"images and nothing that could be the other.*keys x_test;"):
        read(DataConfig(name="npy", path=tmp_path))
    np.save(tmp_path / "y_test.npy", LABELS)
    with (tmp_path / "x_test.npy").open("ab") as file:
        np.save(file, LABELS)  # as np.save(file, x); np.save(file, y) leaves it
    with pytest.raises(DataError, match=r"bytes more than .*several arrays in one file"):
        read(DataConfig(name="npy", path=tmp_path))
    (tmp_path / "x_test.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"x_test\.npy is empty"):
        read(DataConfig(name="npy", path=tmp_path))


def test_values_a_little_beyond_are_not_said_to_run_to_255(tmp_path):
    with pytest.raises(DataError, match=r"clip them .*data\.range: \[-0\.01, 1\.01\]"):
        images_of(save(tmp_path / "a.npz", SHARES * 1.02 - 0.01))


@pytest.mark.parametrize("keep", ["pt", "pkl"])
@pytest.mark.parametrize("samples", [True, False], ids=["pairs", "lists"])
def test_images_that_are_kept_one_by_one_are_a_set(tmp_path, keep, samples):
    images = [torch.from_numpy(image.copy()) if keep == "pt" else image for image in PIXELS]
    labels = LABELS.tolist()
    content = list(zip(images, labels, strict=True)) if samples else {"images": images, "labels": labels}
    path = tmp_path / f"test.{keep}"
    if keep == "pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    _, test = read(DataConfig(name="arrays", path=path, split="test"))
    np.testing.assert_array_equal(test.images(np.arange(6)), SHARES)
    assert test.labels.tolist() == labels
    path.write_bytes(pickle.dumps({"images": [PIXELS[0], PIXELS[1], PIXELS[2, :, :5]], "labels": [0, 1, 0]}))
    with pytest.raises(DataError, match="2 shapes; images must be of one size"):
        read(DataConfig(name="pickles", path=path, split="test"))


def test_a_list_that_repeats_one_array_is_held_against_the_memory_first(tmp_path, monkeypatch):
    image = np.zeros((3, 8, 8), np.uint8)
    path = tmp_path / "test.pkl"
    path.write_bytes(pickle.dumps({"images": [image] * 50, "labels": [0, 1] * 25}))
    monkeypatch.setattr(places, "available_memory", lambda: 12_000)
    with pytest.raises(DataError, match="of memory are free"):
        read(DataConfig(name="pickles", path=path, split="test"))


def test_labels_of_minus_one_are_told_as_what_they_mostly_are(tmp_path):
    path = save(tmp_path / "a.npz", PIXELS, y_train=LABELS - 1)
    with pytest.raises(DataError, match="images without a label"):
        images_of(path)


def test_the_layout_where_it_is_not_clear(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (6, 5, 7, 9), dtype=np.uint8)
    path = save(tmp_path / "a.npz", images)
    np.testing.assert_array_equal(images_of(path, layout="nchw"), images.astype(np.float32) / 255)
    np.testing.assert_array_equal(images_of(path, layout="nhwc"), images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    with pytest.raises(DataError, match=r"neither can be the channels .*data\.layout: nchw"):
        images_of(path)


def test_labels_that_count_from_one(tmp_path):
    path = save(tmp_path / "a.npz", PIXELS, y_train=LABELS + 1, y_test=LABELS[:3] + 1)
    training, test = read(DataConfig(name="npz", path=path, first_label=1))
    assert (training.labels.tolist(), test.labels.tolist()) == (LABELS.tolist(), LABELS[:3].tolist())
    with pytest.raises(DataError, match=r"data\.first_label: 1"):
        images_of(path)


def test_every_option_of_the_data_is_part_of_the_stages_keys():
    """All fields are but those that say where files are, whose content counts, and the gate where it plays no part."""
    import inspect

    from madx.pipeline import keys

    source = inspect.getsource(keys._common)
    assert 'recipe.data.model_dump(mode="json", exclude=hidden)' in source
    assert {"path", "class_map", "labels", "train_labels"} == set(DATA_FILES)
    assert set(DataConfig.model_fields) >= {*DATA_FILES, "gate", "exif", "range", "layout", "split", "keys"}


def test_what_is_missing_for_tables_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for name in ("parquet", "arrow"):
        (tmp_path / f"train.{name}").write_bytes(b"-")
        with pytest.raises(DataError, match=r"needs the package pyarrow: pip install 'madx\[datasets\]'"):
            read(DataConfig(name=name, path=tmp_path))


def test_cifar_in_its_python_version(tmp_path):
    """As torchvision unpacks it; another number of images is another set."""
    write_batches(tmp_path)
    small = replace(CIFAR10, train=("data_batch_1.bin",), train_records=6, test_records=4)
    training, test = read_cifar(DataConfig(name="cifar10", path=tmp_path), small)
    np.testing.assert_array_equal(training.images(np.arange(6)), PIXELS.astype(np.float32) / 255)
    assert (test.labels.tolist(), test.names[0], test.classes) == (LABELS[:4].tolist(), "airplane", 10)
    with pytest.raises(DataError, match=r"has 6 training and 4 test images.*data\.name: pickles.*binary"):
        read(DataConfig(name="cifar10", path=tmp_path))
