"""Arrays become checked sources; whatever could be misread is refused with a message that says what was found."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from madx.data.checks import require_fit
from madx.data.sources import array_source, to_nchw
from madx.errors import DataError

ALL_BYTES = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, shape).astype(dtype)


def test_bytes_become_exact_255ths_and_stay_bytes_in_memory():
    source = array_source(ALL_BYTES, np.array([0]), where="x")
    images = source.images(np.array([0, 0]))
    expected = np.array([np.float32(k) / np.float32(255) for k in range(256)], np.float32).reshape(1, 16, 16)
    assert source.pixels.dtype == np.uint8
    assert images.dtype == np.float32
    assert images.shape == (2, 1, 16, 16)
    np.testing.assert_array_equal(images, [expected, expected])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_float32_and_are_copied_out(dtype):
    pixels = np.random.default_rng(0).random((5, 3, 6, 7)).astype(dtype)
    source = array_source(pixels, np.arange(5), where="x")
    chosen = np.array([4, 0, 4])
    taken = source.images(chosen)
    np.testing.assert_array_equal(taken, pixels[chosen].astype(np.float32))
    taken[:] = 9
    np.testing.assert_array_equal(source.images(chosen), pixels[chosen].astype(np.float32))
    assert source.shape == (3, 6, 7)
    assert source.classes == 5


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 5, 6), None),
        ((2, 3, 5, 6), (0, 1, 2, 3)),
        ((2, 1, 5, 6), (0, 1, 2, 3)),
        ((2, 5, 6, 3), (0, 3, 1, 2)),
        ((2, 5, 6, 1), (0, 3, 1, 2)),
        ((2, 5, 6, 4), (0, 3, 1, 2)),
        ((2, 3, 3, 5), (0, 1, 2, 3)),
    ],
)
def test_channel_axis(shape, axes):
    images = noise(*shape)
    expected = images.reshape(2, 1, 5, 6) if axes is None else images.transpose(axes)
    np.testing.assert_array_equal(to_nchw(images, where="x"), expected)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((2, 3, 32, 3), "both could"),
        ((2, 1, 5, 4), "both could"),
        ((2, 5, 6, 7), "neither can"),
        ((2, 784), r"shape \[2, 784\]"),
        ((2, 3, 5, 6, 7), r"shape \[2, 3, 5, 6, 7\]"),
    ],
)
def test_unclear_layout_is_refused(shape, words):
    with pytest.raises(DataError, match=words):
        to_nchw(noise(*shape), where="x")


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((2, 3, 6, 6), 255.0), "values from 255 to 255"),
        (np.full((2, 3, 6, 6), -0.01), "values from -0.01"),
        (np.full((2, 3, 6, 6), 1.01), "to 1.01"),
        (np.where(np.arange(108).reshape(1, 3, 6, 6) == 50, np.nan, 0.5), "NaN"),
        (np.full((1, 3, 6, 6), np.inf), "infinite"),
        (noise(2, 3, 6, 6, dtype=np.int64), "type int64"),
        (np.ones((2, 3, 6, 6), bool), "type bool"),
        (np.ones((2, 3, 6, 6), np.uint8), "largest value here is 1"),
        (np.empty((0, 3, 6, 6), np.uint8), "not one pixel"),
    ],
)
def test_bad_pixels_are_refused(images, words):
    with pytest.raises(DataError, match=words) as caught:
        array_source(images, np.zeros(len(images), np.int64), where="some file")
    assert str(caught.value).startswith("some file: ")


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (np.array([0, 10]), 10, "from 0 to 10; they must start at 0 and end at 9"),
        (np.array([-1, 1]), None, "from -1 to 1"),
        (np.array([0.0, 1.0]), None, "type float64"),
        (np.array([False, True]), None, "type bool"),
        (np.eye(2, dtype=np.int64), None, r"shape \[2, 2\]"),
        (np.array([0, 1, 1]), None, "2 images but 3 labels"),
        (np.array([], np.int64), None, "no label"),
    ],
)
def test_bad_labels_are_refused(labels, classes, words):
    with pytest.raises(DataError, match=words):
        array_source(noise(2, 6, 6), labels, where="x", classes=classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type_and_as_a_column(dtype):
    source = array_source(noise(3, 6, 6), np.array([[2], [0], [5]], dtype), where="x")
    assert source.labels.dtype == np.int64
    assert source.labels.tolist() == [2, 0, 5]
    assert source.classes == 6


def test_labels_that_start_at_one_are_not_taken_for_an_absent_class():
    with pytest.raises(DataError, match=r"from 1 to 3, and no image has label 0; .*first_label: 1; .*num_classes: 4"):
        array_source(noise(3, 6, 6), np.array([1, 2, 3]), where="x")
    assert array_source(noise(3, 6, 6), np.array([1, 2, 3]), where="x", classes=4).classes == 4


def test_shares_of_white_that_were_divided_once_more():
    with pytest.raises(DataError, match=r"largest value here is 0\.0039.*divided by 255 twice"):
        array_source(np.full((3, 6, 6), 1 / 255, np.float32), np.array([0, 1, 2]), where="x")


def test_a_training_set_of_one_class_is_refused():
    source = array_source(noise(3, 6, 6), np.array([4, 4, 4]), where="x", classes=5)
    with pytest.raises(DataError, match="every training image is of class 4"):
        require_fit(source, None, where="x")


def test_training_and_test_shapes_must_agree():
    training = array_source(noise(2, 6, 6), np.array([0, 1]), where="x")
    test = array_source(noise(2, 6, 7), np.array([0, 1]), where="x")
    with pytest.raises(DataError, match=r"\[1, 6, 6\], but test images \[1, 6, 7\]"):
        require_fit(training, test, where="x")
    require_fit(training, training, where="x")


def test_importing_the_room_loads_neither_torch_nor_sklearn():
    code = "import sys, madx.data, madx.data.fetch; print(sorted({'torch', 'sklearn', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
