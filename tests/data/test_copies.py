"""Exact copies: out of the gate if they are elsewhere too, counted once within it, and said."""

import numpy as np
import pytest

from madx.data import ArraySource, describe, load_splits
from madx.data import splits as splits_module
from madx.recipe import DataConfig

CONFIG = DataConfig(name="digits", selection=10)


def pictures(numbers, *, floats=False):
    """Image i is like no other; the same number is the same image."""
    pixels = np.array([np.random.default_rng(number).integers(0, 256, (1, 3, 3)) for number in numbers], np.uint8)
    return pixels / np.float32(255) if floats else pixels


def source(numbers, labels=None, **more):
    return ArraySource(pictures(numbers, **more), np.array([n % 3 for n in numbers] if labels is None else labels), 3)


@pytest.fixture
def splits(monkeypatch):
    def made(training, test=None, config=CONFIG):
        monkeypatch.setattr(splits_module, "read", lambda _: (training, test))
        return load_splits(config, 0)

    return made


@pytest.mark.parametrize("floats", [False, True])
def test_what_is_outside_of_the_gate_is_not_in_it(splits, floats):
    """Also where one part is kept as bytes and the other as shares of white."""
    found = splits(source(range(60)), source([*range(20), *range(100, 130)], floats=floats))
    assert sorted(found.gate.source.labels[found.gate.index].tolist()) == sorted(n % 3 for n in range(100, 130))
    assert found.copies.of_others == 20
    assert "20 test images are also training or selection images, and are left out of the gate" in " ".join(
        describe(found)
    )


def test_within_the_gate_an_image_counts_once(splits):
    found = splits(source(range(60)), source(np.repeat(np.arange(100, 120), 4)))
    assert len(found.gate) == 20
    assert found.copies.in_gate == 60
    assert "60 test images are identical to images of the gate" in " ".join(describe(found))


def test_an_image_under_two_labels_is_said(splits):
    found = splits(source(range(60)), source([100, 100, 101, 102], labels=[0, 1, 1, 2]))
    assert (len(found.gate), found.copies.disputed) == (3, 1)


def test_the_selection_keeps_what_training_has_too(splits):
    found = splits(source([*range(30), *range(30)]), source(range(100, 110)))
    chosen = {found.selection.source.digests(found.selection.index)[row] for row in range(10)}
    assert not chosen & set(found.train.source.digests(found.train.index).tolist())
    assert 0 < found.copies.in_training <= 10


def test_a_set_that_is_divided_here_is_looked_through_too(splits):
    whole = splits(source([*range(60), *range(60)]))
    inside = set(whole.gate.source.digests(whole.gate.index).tolist())
    outside = np.concatenate([whole.train.index, whole.selection.index])
    assert not inside & set(whole.train.source.digests(outside).tolist())
    assert len(inside) == len(whole.gate) > 0


def test_where_nothing_is_trained_the_gate_keeps_what_its_owner_put_there(monkeypatch):
    """An engine from outside may have been trained on other images; who reads the verdict is told."""
    monkeypatch.setattr(splits_module, "read", lambda _: (source(range(60)), source([*range(20), 100, 100])))
    found = load_splits(CONFIG, 0, trains=False)
    assert (len(found.gate), found.copies.of_others, found.copies.in_gate) == (21, 20, 1)
    assert "20 gate images are also training or selection images of this recipe" in " ".join(describe(found))


def test_no_copies_no_word(splits):
    found = splits(source(range(60)), source(range(100, 130)))
    assert (len(found.train), len(found.gate), describe(found)) == (50, 30, [])


def test_a_smaller_gate_is_full_where_there_are_enough_different_images(splits):
    found = splits(source(range(60)), source([*range(40), *range(100, 130)]), DataConfig(name="digits", gate=25))
    assert len(found.gate) == 25


def test_what_is_said_is_said_of_the_gate_and_not_of_the_whole_test_set(monkeypatch):
    numbers = np.repeat(np.arange(40), 10)
    monkeypatch.setattr(splits_module, "read", lambda _: (source(range(60)), source(numbers)))
    found = load_splits(DataConfig(name="digits", gate=5), 0, trains=False)
    assert (len(found.gate), found.copies.of_others, found.copies.in_gate) == (5, 5, 45)


def test_only_what_looks_alike_is_read_whole(splits, monkeypatch):
    """A glance that is shared says nothing yet, and one that is not says that there is no copy."""
    read, content = [], ArraySource.digests
    test = source([*range(20), *range(100, 130)])
    monkeypatch.setattr(ArraySource, "glances", lambda self, index: content(self, index).astype("S1").astype("S16"))
    everything = splits(source(range(60)), test)
    assert everything.copies.of_others == 20, "images of one glance are told apart"

    def counted(self, index):
        read.extend(index.tolist())
        return content(self, index)

    monkeypatch.setattr(ArraySource, "glances", content)
    monkeypatch.setattr(ArraySource, "digests", counted)
    found = splits(source(range(60)), test)
    np.testing.assert_array_equal(found.gate.index, everything.gate.index)
    assert found.copies == everything.copies
    assert sorted(read) == sorted([*range(20), *range(20)]), "those that are there twice, in both sets"


def test_a_gate_that_copies_leave_smaller_than_asked_is_said(splits):
    found = splits(source(range(60)), source([*range(20), *range(100, 130)]), DataConfig(name="digits", gate=40))
    assert (len(found.gate), found.copies.lacking) == (30, 10)
    assert "the gate has 10 images less than data.gate asks for" in " ".join(describe(found))
    assert splits(source(range(60)), source(range(100, 130)), DataConfig(name="digits", gate=30)).copies.lacking == 0


def test_what_is_too_large_to_decode_is_said(splits, monkeypatch):
    assert "near copies were not" not in " ".join(describe(splits(source(range(60)), source(range(5)))))
    monkeypatch.setattr(ArraySource, "large", True)
    assert "near copies were not" in " ".join(describe(splits(source(range(60)), source(range(5)))))
