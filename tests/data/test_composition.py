"""What is said of a gate: the order of its classes, those that are nearly all of it, those that are not there."""

import numpy as np
import pytest

from madx.data import ArraySource, Split, Splits, describe


def told(labels, names=(), classes=10):
    labels = np.array(labels)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 4, 4)).astype(np.uint8)
    split = Split("gate", ArraySource(pixels, labels, classes, names), np.arange(len(labels)))
    return describe(Splits(split, split, split))


def test_an_even_gate_is_not_worth_a_word():
    assert told(list(range(10)) * 3) == []


def test_the_order_of_the_classes():
    assert told([0, 1, 2], ("c0", "c1", "c10"), 3) == ["classes, in the order of the network's outputs: c0, c1, c10"]
    long = told(list(range(30)), tuple(f"n{n}" for n in range(30)), 30)
    assert long[0].endswith("n19, ... (30 in all)")


@pytest.mark.parametrize(("most", "said"), [(80, True), (76, False)])
def test_one_class_that_is_nearly_all(most, said):
    """Its answer alone would pass a gate on accuracy."""
    sentences = told([7] * most + [1] * (100 - most), classes=8)
    assert any(f"{most} of 100 gate images are of one class (7)" in sentence for sentence in sentences) is said


def test_classes_without_images():
    assert "the gate has no image of 2 of 4 classes: b, d" in told([0, 2] * 5, ("a", "b", "c", "d"), 4)[1]
