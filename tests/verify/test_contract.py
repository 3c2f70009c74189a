"""Engines that keep the contract, and one known-bad engine for every sentence that the check can say."""

import numpy as np
import pytest

from madx.deploy.interface import Interface
from madx.errors import DataError, EngineError
from madx.verify import check_contract
from madx.verify.contract import (
    DYNAMIC,
    ManyAnswers,
    _changed_between_calls,
    check_batches,
    in_batches,
    logits_of,
    names_one_class,
)

RNG = np.random.default_rng(3)
IMAGES = RNG.random((8, 1, 4, 4), dtype=np.float32)
WEIGHTS = RNG.normal(size=(16, 5)).astype(np.float32)


def linear(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def softmax(images):
    exponentials = np.exp(linear(images))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def train_mode(images):
    logits = linear(images)
    return logits - logits.mean(axis=0) * (len(images) > 1)


def only_odd_is_wrong(images):
    return linear(images)[:, :: -1 if len(images) == 7 else 1]


def constant(images):
    return np.tile(np.float32([0.3, 2.0, -1.0]), (len(images), 1))


def labels_only(images):
    """Scores in form, labels in fact: an attack has nothing to climb."""
    return np.eye(5, dtype=np.float32)[linear(images).argmax(axis=1)] * 8


def two_labels_only(images):
    return np.eye(2, dtype=np.float32)[(images.mean((1, 2, 3)) > IMAGES.mean()).astype(int)] * 8


def scribbler(images):
    logits = linear(images)
    images[:] = 0
    return logits


def forgetful():
    noise = np.random.default_rng(0)
    return lambda images: linear(images) + noise.normal(size=(len(images), 5))


def reusing_its_buffer():
    buffer = np.zeros((64, 5), dtype=np.float32)

    def engine(images):
        buffer[: len(images)] = linear(images)
        return buffer[: len(images)]

    return engine


def test_a_good_engine_keeps_it():
    assert check_contract(linear, IMAGES) == []


def test_an_engine_may_reuse_its_output_buffer():
    assert check_contract(reusing_its_buffer(), IMAGES) == []


def test_rounding_between_batch_sizes_is_within_tolerance():
    def rounded(images):
        return linear(images) * (1 + 1e-5 * len(images))

    assert check_contract(rounded, IMAGES) == []
    assert len(check_contract(rounded, IMAGES, tolerance=1e-6)) == 2


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (softmax, "softmax probabilities"),
        (train_mode, "batch 1 differ from those at batch 8"),
        (only_odd_is_wrong, "batch 7 differ from those at batch 8"),
        (labels_only, "all classes but the best have the very same logit"),
        (two_labels_only, "no attack can climb it"),
        (constant, "do not depend on the image"),
        (scribbler, "writes into the images"),
        (forgetful(), "two calls with the same images differ"),
    ],
)
def test_every_breach_is_named(engine, said):
    assert any(said in sentence for sentence in check_contract(engine, IMAGES.copy()))


def small_batches_differ(images):
    return linear(images)[:, :: -1 if len(images) < 6 else 1]


def the_first_differs(images):
    logits = linear(images)
    logits[0] = logits[0, ::-1]
    return logits


def alike_neighbours_differ(images):
    """Whether the first image has a brighter neighbour decides: of one image, none has."""
    logits = linear(images)
    return logits[:, :: -1 if images.mean(axis=(1, 2, 3)).argmax() == 0 else 1]


def at_batches(engine, *sizes):
    return check_batches(engine, IMAGES, logits_of(engine, IMAGES), batches=sizes, tolerance=1e-3, at=len(IMAGES))


def test_a_few_of_many_images_may_differ():
    images = RNG.random((200, 1, 4, 4), dtype=np.float32)

    def differing(rows):
        def engine(given):
            logits = linear(given)
            odd = np.isin(given[:, 0, 0, 0], images[:rows, 0, 0, 0]) & (len(given) < 200)
            return np.where(odd[:, None], logits[:, ::-1], logits)

        return check_batches(engine, images, engine(images), batches=(4,), tolerance=1e-3, at=200)

    assert (differing(2), len(differing(3))) == ([], 1)


@pytest.mark.parametrize("size", [2, 4, 32])
def test_only_a_size_that_is_asked_for_is_looked_at(size):
    def only_there(images):
        return linear(images)[:, :: -1 if len(images) == size else 1]

    assert check_contract(only_there, IMAGES) == []
    assert any(f"logits at batch {size} differ" in one for one in at_batches(only_there, size))
    assert at_batches(linear, size) == []


@pytest.mark.parametrize("engine", [small_batches_differ, the_first_differs, alike_neighbours_differ])
@pytest.mark.parametrize("disguise", [0, 3e4])
def test_an_engine_that_looks_at_its_batch_is_found_whatever_it_adds(engine, disguise):
    found = at_batches(lambda images: engine(images) + np.float32(disguise), 1, 4, 8)
    assert any("differ from those at batch" in sentence for sentence in found)


def test_a_constant_on_all_classes_is_named():
    assert check_contract(lambda images: linear(images) + np.float32(3e4), IMAGES, tolerance=0.1) != []
    assert "a constant was added" in check_contract(lambda x: linear(x) * 10 + np.float32(1e4), IMAGES)[0]


@pytest.mark.parametrize("size", [1, 3, 8, 20])
def test_every_call_has_exactly_the_size_and_answers_keep_their_place(size):
    sizes = []

    def noted(images):
        sizes.append(len(images))
        return linear(images)

    order = np.random.default_rng(0).permutation(len(IMAGES))
    np.testing.assert_allclose(in_batches(noted, IMAGES, size, order), linear(IMAGES), rtol=1e-5)
    assert set(sizes) == {size}


def test_equal_images_do_not_make_an_engine_look_constant():
    assert check_contract(linear, np.repeat(IMAGES[:1], 5, axis=0)) == []


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (lambda images: linear(images)[:-1], r"shape \[7, 5\] for 8 images"),
        (lambda images: linear(images).ravel(), r"shape \[40\]"),
        (lambda images: linear(images)[:, :1], r"K of at least 2"),
        (lambda images: linear(images) * np.where(np.arange(len(images)) == 0, np.nan, 1)[:, None], "1 of 8 images"),
        (lambda images: linear(images) + np.inf, "NaN or infinite logits for 8 of 8"),
    ],
)
def test_what_is_no_logits_is_an_error(engine, said):
    with pytest.raises(EngineError, match=said):
        logits_of(engine, IMAGES)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (IMAGES * 255, "found .* normalisation belongs inside"),
        (IMAGES - 0.5, "found -0"),
        (np.full_like(IMAGES, np.nan), "nan"),
        (IMAGES.astype(np.float64), "float64"),
        (IMAGES[0], r"\[1, 4, 4\]"),
        (IMAGES[:2], "at least 3"),
    ],
)
def test_what_is_no_images_is_an_error(images, said):
    with pytest.raises(DataError, match=said):
        check_contract(linear, images)


@pytest.mark.parametrize(
    ("probabilities", "flat"),
    [([1, 0, 0], True), ([0, 1, 0], True), ([0.9, 0.1, 0], False), ([1, 0], True), ([0.99, 0.01], False)],
)
def test_probabilities_that_say_nothing_of_the_others_are_counted(probabilities, flat):
    row = np.array([probabilities], np.float32)
    logits = Interface((1, 1, 1), row.shape[1], (1, 1, 1), form="probabilities").logits(row, 1)
    assert names_one_class(logits).tolist() == [flat]


def unsteady(by, *, rows=slice(None), label=False):
    """Every second call answers otherwise."""
    calls = []

    def engine(images):
        calls.append(1)
        logits = linear(images)
        if len(calls) % 2 == 0:
            logits[rows] = logits[rows, ::-1] if label else logits[rows] + by * np.arange(5)
        return logits.astype(np.float32)

    return engine


@pytest.mark.parametrize(
    ("engine", "tolerance", "measured", "many"),
    [
        (unsteady(1e-6), 1e-3, True, False),  # a last bit
        (unsteady(0.1), 1e-3, True, True),
        (unsteady(0.1), 0.2, True, False),  # as coarse as its numbers
        (unsteady(0.1), 1e-3, False, False),  # nothing says how coarse they are
        (unsteady(0, rows=slice(1), label=True), 1e-3, False, True),  # and a label is a label
    ],
)
def test_calls_that_differ_are_a_breach_and_many_answers_where_more_than_rounding_changes(
    engine, tolerance, measured, many
):
    found = _changed_between_calls(engine, IMAGES, logits_of(engine, IMAGES), tolerance if measured else np.inf)
    assert "two calls" in found
    assert isinstance(found, ManyAnswers) is many


@pytest.mark.parametrize(
    ("measured", "cause", "many"), [(True, "x", True), (False, "x", False), (False, DYNAMIC, True)]
)
def test_batches_that_differ_by_an_unknown_rounding_are_a_breach_and_no_more(measured, cause, many):
    def coarse(images):
        return linear(images) * np.float32(1.05 if len(images) < 8 else 1)

    found = check_contract(coarse, IMAGES, measured=measured, cause=cause)
    assert len(found) == 2
    assert {isinstance(one, ManyAnswers) for one in found} == {many}
    assert any(isinstance(one, ManyAnswers) for one in check_contract(train_mode, IMAGES, measured=False))
