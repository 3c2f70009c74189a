"""The split: disjoint, seeded, stratified where it divides; batches against a slow loop; what a fingerprint sees."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from madx.data import splits as splits_module
from madx.data.readers import READERS
from madx.data.sources import ArraySource
from madx.data.splits import Split, load_splits
from madx.errors import DataError
from madx.recipe import DataConfig
from madx.seeds import numpy_generator


class Numbered:
    """Image i is filled with i / 1000, so that an image tells where it came from; counts what is decoded."""

    names = ()
    large = False

    def __init__(self, labels: list[int], classes: int = 3) -> None:
        self.labels = np.array(labels, np.int64)
        self.shape = (1, 2, 2)
        self.classes = classes
        self.decoded: list[int] = []

    def images(self, index: np.ndarray) -> np.ndarray:
        self.decoded += index.tolist()
        return np.broadcast_to((index / 1000).astype(np.float32)[:, None, None, None], (len(index), 1, 2, 2)).copy()

    def glances(self, index: np.ndarray) -> np.ndarray:
        return self.digests(index)

    def digests(self, index: np.ndarray) -> np.ndarray:
        """No image of one source is in another."""
        return np.array([f"{id(self) % 10**6} {position}" for position in index], "S16")


def numbered(count: int) -> Numbered:
    return Numbered([i % 3 for i in range(count)])


def split_of(count: int, name: str = "train") -> Split:
    return Split(name, numbered(count + 5), np.random.default_rng(1).permutation(count + 5)[:count])


@pytest.fixture
def with_sets(monkeypatch):
    """Let the reader return the given sources."""

    def use(training, test=None):
        monkeypatch.setattr(splits_module, "read", lambda _: (training, test))

    return use


DIGITS = DataConfig(name="digits", selection=200, gate=500)


def test_every_name_of_the_recipe_has_a_reader():
    assert set(READERS) == set(get_args(DataConfig.model_fields["name"].annotation))


@pytest.mark.parametrize("has_test", [True, False])
def test_parts_are_disjoint_and_complete(with_sets, has_test):
    training, test = numbered(100), numbered(40) if has_test else None
    with_sets(training, test)
    found = load_splits(DataConfig(name="digits", selection=20), seed=5)
    of_training = [found.train, found.selection] if has_test else [found.train, found.selection, found.gate]
    assert sorted(np.concatenate([part.index for part in of_training]).tolist()) == list(range(100))
    assert len(found.selection) == 20
    assert found.gate.source is (test if has_test else training)
    if has_test:
        assert sorted(found.gate.index.tolist()) == list(range(40))
    assert [part.name for part in (found.train, found.selection, found.gate)] == ["train", "selection", "gate"]


def test_same_seed_same_split_other_seed_other_split():
    first, again, other = (load_splits(DIGITS, seed) for seed in (0, 0, 1))
    for part in ("train", "selection", "gate"):
        np.testing.assert_array_equal(getattr(first, part).index, getattr(again, part).index)
        assert getattr(first, part).fingerprint == getattr(again, part).fingerprint
        assert getattr(first, part).index.tolist() != getattr(other, part).index.tolist()
        assert getattr(first, part).fingerprint != getattr(other, part).fingerprint


def test_the_split_never_changes_between_versions_of_madx():
    """A release that divides otherwise would measure on images that older networks were trained on."""
    found = load_splits(DIGITS, 0)
    assert found.gate.index[:5].tolist() == [619, 63, 1722, 1355, 145]
    assert found.train.index[:5].tolist() == [733, 897, 599, 1790, 467]


def test_the_gate_is_drawn_by_its_own_stream_whatever_else_there_is(with_sets):
    """With a test set of its own, and where test images are all there are: the order of one seed is always the same."""
    config, seeds = DataConfig(name="digits", selection=20), (0, 1, 2)
    gates = {}
    for training in (numbered(100), numbered(40), None):
        with_sets(training, numbered(40))
        found = [load_splits(config, seed, trains=training is not None).gate.index.tolist() for seed in seeds]
        gates[None if training is None else len(training.labels)] = found
    for seed, order in zip(seeds, gates[None], strict=True):
        assert order == numpy_generator(seed, "split", "gate").permutation(np.arange(40)).tolist()
    assert gates[100] == gates[40] == gates[None]
    assert len({tuple(order) for order in gates[None]}) == 3
    with_sets(numbered(40), numbered(40))
    other = load_splits(config, 0)
    both = [*other.selection.index, *other.train.index]
    assert sorted(both) == list(range(40))
    assert both != gates[None][0], "the selection must tell nothing of the order of the gate"


def test_smaller_parts_are_beginnings_of_larger_ones():
    large = load_splits(DIGITS, 3)
    small = load_splits(DIGITS.model_copy(update={"selection": 50, "gate": 60}), 3)
    np.testing.assert_array_equal(small.selection.index, large.selection.index[:50])
    np.testing.assert_array_equal(small.gate.index, large.gate.index[:60])
    assert len(small.train) == len(large.train) + 150


def test_no_seed_moves_an_image_between_training_and_gate():
    """Weights that were trained under one seed must not meet their training images in the gate of another."""
    found = [load_splits(DIGITS.model_copy(update={"gate": None}), seed) for seed in (0, 1, 2)]
    assert len({frozenset(splits.gate.index.tolist()) for splits in found}) == 1
    assert len({tuple(splits.gate.index.tolist()) for splits in found}) == 3, "the order should follow the seed"


def test_digits_are_divided_class_by_class():
    found = load_splits(DIGITS.model_copy(update={"gate": None}), 0)
    counts = np.bincount(found.gate.source.labels)
    inside = np.bincount(found.gate.source.labels[found.gate.index])
    assert inside.tolist() == [round(0.4 * count) for count in counts]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_division_is_stratified_for_any_labels(labels):
    doubled = np.array(labels * 2)  # every class twice at least
    outside, inside = splits_module._divide(doubled)
    assert sorted([*outside, *inside]) == list(range(len(doubled)))
    for label in set(labels):
        total, part = (doubled == label).sum(), (doubled[inside] == label).sum()
        assert 1 <= part <= total - 1
        assert abs(part - 0.4 * total) <= 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"selection": 2000}, "data.selection is 2000, but digits has 1078 .* at most 539, for example 215"),
        ({"selection": 540}, "at most 539"),
        ({"gate": 720}, "data.gate is 720, but digits has only 719 test images"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_fits(changes, words):
    with pytest.raises(DataError, match=words):
        load_splits(DIGITS.model_copy(update=changes), 0)
    load_splits(DIGITS.model_copy(update={"selection": 539, "gate": 719}), 0)


def test_a_class_that_cannot_be_divided(with_sets):
    with_sets(Numbered([0, 0, 0, 1, 1, 2]))
    with pytest.raises(DataError, match="class 2 has a single image"):
        load_splits(DataConfig(name="digits", selection=1), 0)


def test_tensors_are_the_slice_in_order():
    split = split_of(12)
    images, labels = split.tensors(3, 7)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert images[:, 0, 0, 0].mul(1000).round().int().tolist() == split.index[3:7].tolist()
    assert labels.tolist() == [position % 3 for position in split.index[3:7]]
    assert len(split.tensors()[0]) == 12


@pytest.mark.parametrize(("asked", "given_"), [(5, 5), (12, 12), (99, 12)])
def test_take(asked, given_):
    split = split_of(12, "gate")
    taken = split.take(asked)
    assert taken.index.tolist() == split.index[:given_].tolist()
    assert (taken.name, taken.shape, taken.classes) == ("gate", (1, 2, 2), 3)


@given(st.integers(1, 30), st.integers(1, 12), st.none() | st.integers(0, 9), st.booleans(), st.integers(0, 9))
def test_batches_agree_with_a_slow_loop(count, size, shuffle, drop_last, start):
    split = split_of(count)
    if drop_last and count < size:
        with pytest.raises(DataError, match="not one batch"):
            split.batches(size, shuffle=shuffle, drop_last=True)
        return
    whole = next(split.batches(count, shuffle=shuffle))[1].tolist()
    expected = [whole[first : first + size] for first in range(0, count, size)]
    if drop_last:
        expected = [batch for batch in expected if len(batch) == size]
    found = split.batches(size, shuffle=shuffle, drop_last=drop_last, start=start)
    assert [labels.tolist() for _, labels in found] == expected[start:]


def test_a_resumed_pass_decodes_nothing_before_its_start():
    split = split_of(20)
    full = [images for images, _ in split.batches(6, shuffle=4)]
    split.source.decoded.clear()
    resumed = [images for images, _ in split.batches(6, shuffle=4, start=2)]
    assert len(split.source.decoded) == 8
    assert all(torch.equal(a, b) for a, b in zip(full[2:], resumed, strict=True))


def test_batches_are_decoded_one_ahead_and_no_more():
    split = split_of(20)
    batches = split.batches(6)
    assert split.source.decoded == []
    next(batches)
    batches.close()  # waits for what was begun
    assert split.source.decoded in (split.index[:6].tolist(), split.index[:12].tolist())


def test_shuffling_is_a_permutation_by_its_seed_alone():
    split = split_of(20)

    def order(**options: int) -> list[float]:
        return [value for images, _ in split.batches(7, **options) for value in images[:, 0, 0, 0].tolist()]

    assert order(shuffle=1) == order(shuffle=1)
    assert order(shuffle=1) != order(shuffle=2)
    assert order(shuffle=1) != order()
    assert sorted(order(shuffle=1)) == sorted(order())


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": 4, "start": -1}])
def test_senseless_batches_are_refused(options):
    with pytest.raises(DataError, match="expected at least 1 and 0"):
        split_of(5).batches(**options)


BASE = ArraySource(np.arange(200, dtype=np.uint8).reshape(50, 1, 2, 2), np.arange(50) % 3, 3)


@pytest.mark.parametrize(
    "changed",
    [
        Split("gate", BASE, np.array([4, 3])),
        Split("gate", BASE, np.array([3, 4, 5])),
        Split("gate", replace(BASE, labels=(np.arange(50) + 1) % 3), np.array([3, 4])),
        Split("gate", replace(BASE, pixels=BASE.pixels.reshape(50, 1, 1, 4)), np.array([3, 4])),
        Split("gate", replace(BASE, pixels=BASE.pixels // 2), np.array([3, 4])),
        Split("gate", replace(BASE, classes=4), np.array([3, 4])),
    ],
    ids=["order", "size", "labels", "shape", "pixels", "classes"],
)
def test_a_fingerprint_sees_every_change(changed):
    assert changed.fingerprint != Split("gate", BASE, np.array([3, 4])).fingerprint


def test_a_fingerprint_is_a_sha256_that_ignores_how_bytes_are_kept():
    as_floats = replace(BASE, pixels=BASE.images(np.arange(50)))
    prints = {Split("gate", source, np.array([3, 4])).fingerprint for source in (BASE, as_floats)}
    assert len(prints) == 1
    assert len(bytes.fromhex(prints.pop())) == 32


@pytest.mark.parametrize(("training", "selection"), [(60_000, 2000), (20_000, 2000), (600, 60), (40, 4), (10, 3)])
def test_the_selection_that_nobody_named_suits_the_set(with_sets, training: int, selection: int) -> None:
    with_sets(numbered(training), numbered(30))
    splits = load_splits(DataConfig(name="digits"), 0)
    assert (len(splits.selection), len(splits.train)) == (selection, training - selection)


def test_a_selection_that_was_named_is_checked_as_ever(with_sets) -> None:
    with_sets(numbered(600), numbered(30))
    with pytest.raises(DataError, match=r"data.selection is 2000, but digits has 600 .* at most 300"):
        load_splits(DataConfig(name="digits", selection=2000), 0)
