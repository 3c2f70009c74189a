"""The user's own arrays: .npz files and factories, good ones and every way to get them wrong."""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from madx.data import collecting
from madx.data.classes import class_names
from madx.data.own import read_arrays as read_npz
from madx.data.own import read_factory
from madx.data.readers import read
from madx.errors import DataError
from madx.recipe import DataConfig

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
LABELS = np.array([[0], [1], [2], [2], [1], [0]])
KERAS = ("x_train", "y_train", "x_test", "y_test")
MEDMNIST = ("train_images", "train_labels", "test_images", "test_labels")
NUMBER = itertools.count()


def save(path: Path, keys: tuple[str, ...] = KERAS, **changes: np.ndarray) -> DataConfig:
    arrays = dict(zip(keys, (PIXELS, LABELS, PIXELS[:4], LABELS[:4]), strict=True)) | changes
    np.savez_compressed(path, **arrays)
    return DataConfig(name="npz", path=path)


@pytest.mark.parametrize("keys", [KERAS, MEDMNIST])
def test_npz_with_either_set_of_keys(tmp_path, keys):
    training, test = read_npz(save(tmp_path / "a.npz", keys, val_images=PIXELS))
    expected = PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255
    np.testing.assert_array_equal(training.images(np.arange(6)), expected)
    np.testing.assert_array_equal(test.images(np.arange(4)), expected[:4])
    assert training.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert (training.classes, test.classes) == (3, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"y_test": np.array([0, 1, 2, 3])}, r"\(test\): no training image has label 3"),
        ({"y_train": np.array([-1, 1, 2, 2, 1, 0])}, r"\(train\): labels run from -1"),
        ({"x_train": PIXELS / 100}, r"values from 0 to 2.5"),
        ({"x_test": PIXELS[:4, :8]}, r"\[3, 9, 8\], but test images \[3, 8, 8\]"),
        ({"y_train": np.zeros(6, np.int64), "y_test": np.zeros(4, np.int64)}, "every training image is of class 0"),
        ({"y_train": np.array([b"\xff"] * 6)}, "labels are names that are no text"),
        ({"x_train": np.array([{}], object)}, "without pickled objects"),
        ({"train_images": PIXELS, "train_labels": LABELS, "test_images": PIXELS, "test_labels": LABELS}, "both"),
    ],
)
def test_bad_npz_content_is_refused(tmp_path, changes, words):
    config = save(tmp_path / "a.npz", **changes)
    with pytest.raises(DataError, match=words):
        read(config)


def test_npz_with_other_keys_says_which_are_wanted(tmp_path):
    np.savez(tmp_path / "a.npz", u=PIXELS, v=LABELS)
    with pytest.raises(DataError, match=r"has the keys u, v; expected .*x_train, y_train"):
        read_npz(DataConfig(name="npz", path=tmp_path / "a.npz"))


@pytest.mark.parametrize("content", [b"", b"no archive at all", b"PK\x03\x04 cut off", b"\x80\x04N."])
def test_npz_that_is_none(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz (cannot be read|is empty)"):
        read_npz(DataConfig(name="npz", path=path))


@pytest.mark.parametrize("position", [200, 700])
def test_npz_with_damaged_bytes(tmp_path, position):
    path = tmp_path / "a.npz"
    config = save(path)
    content = bytearray(path.read_bytes())
    content[position : position + 20] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.npz cannot be read"):
        read_npz(config)


def test_npz_that_is_npy_or_missing(tmp_path):
    np.save(tmp_path / "a.npy", PIXELS)
    with pytest.raises(DataError, match=r"a\.npy is a single array"):
        read_npz(DataConfig(name="npz", path=tmp_path / "a.npy"))
    with pytest.raises(DataError, match=r"b\.npz is not a file"):
        read_npz(DataConfig(name="npz", path=tmp_path / "b.npz"))


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module with a `data` function into the current directory; returns its recipe section."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(body: str) -> DataConfig:
        module = f"user_data_{next(NUMBER)}"  # a fresh name, for Python remembers modules
        Path(f"{module}.py").write_text(f"import numpy as np\nimport torch\n\ndef data():\n    {body}\n")
        return DataConfig(name="factory", factory=f"{module}:data")

    return write


GOOD_PAIR = "(np.full((3, 1, 5, 5), 100, np.uint8), np.array([0, 1, 1]))"
TENSOR_PAIR = "(torch.full((3, 1, 5, 5), 0.25, dtype=torch.bfloat16, requires_grad=True), torch.tensor([0, 1, 1]))"


@pytest.mark.parametrize(("pair", "value"), [(GOOD_PAIR, np.float32(100) / np.float32(255)), (TENSOR_PAIR, 0.25)])
def test_factory_of_arrays_or_tensors(factory, pair, value):
    training, test = read_factory(factory(f"return {{'train': {pair}, 'test': {pair}}}"))
    np.testing.assert_array_equal(test.images(np.arange(3)), np.full((3, 1, 5, 5), value, np.float32))
    assert training.labels.tolist() == [0, 1, 1]
    assert training.classes == 2


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 3", "returned a int"),
        (f"return {GOOD_PAIR}", "returned a tuple"),
        (f"return {{'train': {GOOD_PAIR}}}", r"keys \['train'\]"),
        (f"return {{'train': {GOOD_PAIR}, 'test': {GOOD_PAIR}, 'val': 1}}", "'val'"),
        (f"return {{'train': {GOOD_PAIR}, 'test': (1, 2, 3)}}", "test: expected the pair .* tuple of 3"),
        (f"return {{'train': {GOOD_PAIR}, 'test': None}}", "test: expected the pair .* NoneType"),
        (f"return {{'train': {GOOD_PAIR}, 'test': ([[1.0]], [1])}}", "test images: .* this is a list"),
        ("raise RuntimeError('disk on fire')", "failed with RuntimeError: disk on fire"),
        ("return missing_name", "failed with NameError"),
    ],
)
def test_bad_factories_are_one_clear_error(factory, body, words):
    with pytest.raises(DataError, match=words):
        read_factory(factory(body))


LOADED = "np.load('x.npy', mmap_mode='r+')"
MAPPED = {
    "the map": LOADED,
    "as an array": f"np.asarray({LOADED})",
    "a view of a view": f"np.asarray({LOADED})[::-1].reshape(-1, 5, 5)[1:-1][:, None]",
}
HIDDEN = {
    "a tensor": f"torch.from_numpy({LOADED})",
    "a buffer": "np.frombuffer(mmap.mmap(os.open('x.npy', os.O_RDWR), 0), np.uint8, 250, 128).reshape(-1, 1, 5, 5)",
}


@pytest.fixture
def read_mapped(factory):
    """The test part of a factory that gives this of a file; the labels are of as many images."""
    np.save("x.npy", np.random.default_rng(0).integers(0, 256, (10, 1, 5, 5)).astype(np.uint8))

    def read(images):
        body = f"import mmap, os; images = {images}; return {{'test': (images, np.arange(len(images)) % 2)}}"
        return read_factory(factory(body))[1]

    return read


def rewrite(*, size=None):
    """Other pixels, or a shorter file, in the same place and with the same time."""
    path = Path("x.npy")
    before = path.stat()
    with path.open("r+b") as file:
        if size is None:
            file.seek(128)
            file.write(bytes(250))
        else:
            file.truncate(size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("images", MAPPED.values(), ids=MAPPED)
@pytest.mark.parametrize("size", [None, 60])
def test_pixels_that_change_under_a_run_end_it_however_a_map_is_handed_over(read_mapped, images, size):
    """Under the old size and time too; and a file that is cut off is noticed before it is read, which would kill."""
    source = read_mapped(images)
    rows = np.arange(len(source.labels))
    list(source.identity(rows))
    source.images(rows)
    rewrite(size=size)
    with pytest.raises(DataError, match=r"x\.npy was changed while madx was at work"):
        source.images(rows)


@pytest.mark.parametrize("images", HIDDEN.values(), ids=HIDDEN)
@pytest.mark.parametrize("size", [None, 60])
def test_what_may_be_a_map_and_does_not_show_it_is_copied(read_mapped, images, size):
    source = read_mapped(images)
    before = source.images(np.arange(10))
    rewrite(size=size)
    np.testing.assert_array_equal(source.images(np.arange(10)), before)


@pytest.mark.parametrize("images", HIDDEN.values(), ids=HIDDEN)
def test_what_is_too_large_to_be_copied_is_held_against_its_digests(read_mapped, images, monkeypatch):
    monkeypatch.setattr(collecting, "COPIED", 0)
    source = read_mapped(images)
    source.images(np.arange(10))
    rewrite()
    with pytest.raises(DataError, match=r"memory of the images .* was changed"):
        source.images(np.arange(10))


def test_arrays_of_the_factorys_own_are_neither_copied_nor_held(factory):
    kept = np.zeros((4, 1, 5, 5), np.uint8)
    images, _ = collecting.collected((kept[::2], np.arange(2)), "here")
    assert np.shares_memory(images, kept)
    source = read_factory(factory(f"return {{'test': {GOOD_PAIR}}}"))[1]
    assert (source.held, source.stamp) == (False, None)


def test_factory_that_cannot_be_imported(factory):
    factory("return 1")
    with pytest.raises(DataError, match="no_such_module_here"):
        read_factory(DataConfig(name="factory", factory="no_such_module_here:data"))


def test_more_classes_than_the_training_images_have(tmp_path):
    """The last classes of a network may have no image, in training or in either part."""
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6)).astype(np.uint8)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=images, y_train=[0, 1], x_test=images[::-1], y_test=[0, 2])
    training, test = read_npz(DataConfig(name="npz", path=path, num_classes=4))
    assert (training.classes, test.classes, test.labels.tolist()) == (4, 4, [0, 2])
    named = read_npz(DataConfig(name="npz", path=path, classes=["a", "b", "c"]))[1]
    assert (named.classes, named.names) == (3, ("a", "b", "c"))
    with pytest.raises(DataError, match=r"no training image has label 2, .*data.num_classes: 3"):
        read_npz(DataConfig(name="npz", path=path))
    np.savez(path, x_train=images, y_train=[0, 2], x_test=images[::-1], y_test=[0, 1])
    with pytest.raises(DataError, match=r"no training image has label 1, .*data.num_classes: 3"):
        read_npz(DataConfig(name="npz", path=path))


def test_arrays_that_opencv_saved(tmp_path):
    """Blue first: the network sees red first, and the images' identity is theirs."""
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 6, 6)).astype(np.uint8)
    path = tmp_path / "set.npz"
    np.savez(path, x_train=images, y_train=[0, 1], x_test=images[:, ::-1], y_test=[0, 1])
    plain, turned = (read(DataConfig(name="npz", path=path, channel_order=order)) for order in ("rgb", "bgr"))
    index = np.arange(2)
    for before, after in zip(plain, turned, strict=True):
        np.testing.assert_array_equal(after.images(index), before.images(index)[:, ::-1])
        assert (after.shape, after.classes, after.labels.tolist()) == ((3, 6, 6), 2, [0, 1])
        assert after.digests(index).tolist() == before.digests(index).tolist()
    np.savez(path, x_train=images[:, :1], y_train=[0, 1], x_test=images[:, :1], y_test=[0, 1])
    with pytest.raises(DataError, match="for images of 3 channels; these have 1"):
        read(DataConfig(name="npz", path=path, channel_order="bgr"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "npz", "path": "x.npz", "classes": ["a", "b"], "num_classes": 2}, "say the same; give one"),
        ({"name": "cifar10", "num_classes": 10}, "has classes of its own"),
        ({"name": "digits", "channel_order": "bgr"}, "an order of its own"),
        ({"name": "imagefolder", "path": "x", "image_size": 8, "num_classes": 3}, "takes data.classes"),
        ({"name": "npz", "path": "x.npz", "classes": ["a", "b", "a"]}, "each once"),
        ({"name": "npz", "path": "x.npz", "num_classes": 1}, "greater than or equal to 2"),
    ],
)
def test_what_cannot_be_said_of_classes_and_channels(fields, words):
    with pytest.raises(ValueError, match=words):
        DataConfig(**fields)


def test_classes_that_yaml_reads_as_numbers():
    assert DataConfig(name="npz", path="x.npz", classes=[0, 1, "n02"]).classes == ["0", "1", "n02"]


def test_labels_that_are_names(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6)).astype(np.uint8)
    np.savez(tmp_path / "a.npz", x_train=images, y_train=["cat", "ant"], x_test=images, y_test=["ant", "cat"])
    training, test = read(DataConfig(name="npz", path=tmp_path / "a.npz", classes=["bee", "ant", "cat"]))
    assert (training.labels.tolist(), test.labels.tolist(), test.classes) == ([2, 1], [1, 2], 3)
    with pytest.raises(DataError, match="labels are names, and ant, cat is none of the 0"):
        read(DataConfig(name="npz", path=tmp_path / "a.npz"))


@pytest.mark.parametrize(
    "content",
    [
        '["a", "b", "c"]',
        '{"b": 1, "c": 2, "a": 0}',
        '{"0": "a", "2": "c", "1": "b"}',
        '{"0": ["a", "x"], "1": ["b", "y"], "2": ["c", "z"]}',
    ],
)
def test_a_class_map_in_json(tmp_path, content):
    (tmp_path / "map.json").write_text(content)
    assert class_names(DataConfig(name="npz", path="x", class_map=tmp_path / "map.json")) == ("a", "b", "c")


@pytest.mark.parametrize("content", ["[1.5]", '{"a": 1, "b": 2}', '{"a": 0, "b": 0}', "nothing"])
def test_a_class_map_in_json_that_is_none(tmp_path, content):
    (tmp_path / "map.json").write_text(content)
    with pytest.raises(DataError, match=r"is no list of names|is not JSON"):
        class_names(DataConfig(name="npz", path="x", class_map=tmp_path / "map.json"))
