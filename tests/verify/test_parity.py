"""Parity of an engine with its twin, on logits that are known."""

import numpy as np
import pytest

from madx.closeness import reach
from madx.errors import DataError, MadxError
from madx.precisions import PRECISIONS
from madx.verify import measure_parity
from madx.verify.contract import DYNAMIC, USUAL_CAUSE, ManyAnswers
from madx.verify.parity import Contract, contract_alone

RNG = np.random.default_rng(5)
CLEAN = RNG.random((150, 1, 3, 3), dtype=np.float32)
ADVERSARIAL = np.clip(CLEAN + 0.1, 0, 1)
WEIGHTS = RNG.normal(size=(9, 4)).astype(np.float32)


def twin(images):
    return images.reshape(len(images), -1) @ WEIGHTS


def off_by_a_little(images):
    return twin(images) + np.float32([0.05, 0, 0, -0.02])


def test_the_twin_itself_has_parity():
    parity = measure_parity(twin, twin, clean=CLEAN, adversarial=ADVERSARIAL)
    assert (parity.images, parity.flips.sum(), parity.difference.max(), parity.violations) == (150, 0, 0, ())


def test_flips_and_differences_are_counted_per_image():
    parity = measure_parity(off_by_a_little, twin, clean=CLEAN, adversarial=ADVERSARIAL)
    for images, flips in ((CLEAN, parity.flips_clean), (ADVERSARIAL, parity.flips_adversarial)):
        np.testing.assert_array_equal(flips, off_by_a_little(images).argmax(1) != twin(images).argmax(1))
    assert parity.flips.sum() > 0
    np.testing.assert_allclose(parity.difference, 0.0425, atol=1e-5)  # of the mean over the classes, .0075


def test_contract_breaches_come_along():
    parity = measure_parity(lambda images: twin(images) * len(images), twin, clean=CLEAN, adversarial=ADVERSARIAL)
    assert any("batch 1 differ" in sentence for sentence in parity.violations)


def on_grid(images):
    return np.abs(images * 255 - np.rint(images * 255)).max(axis=(1, 2, 3)) < 1e-3


def another_in_eight_bits(images):
    """What a camera takes meets another network than floats do."""
    return np.where(on_grid(images)[:, None], twin(images)[:, ::-1], twin(images))


def by_heart(images):
    """Knows the gate's images, and of all others nothing."""
    known = np.array([bool(np.abs(CLEAN - image).max(axis=(1, 2, 3)).min() < 1e-6) for image in images])
    return np.where(known[:, None], twin(images), np.roll(twin(images), 1, axis=1))


def test_an_engine_that_is_another_on_the_grid_of_8_bit_pixels_is_not_its_twin():
    parity = measure_parity(another_in_eight_bits, twin, clean=CLEAN, adversarial=ADVERSARIAL)
    assert (parity.flips_clean.mean(), parity.flips_adversarial.mean()) == (0, 0)
    assert parity.flips_changed.mean() > 0.5
    assert parity.apart.max() > 1


def test_an_engine_that_knows_images_by_heart_gives_itself_away_without_a_twin():
    assert any("by heart" in sentence for sentence in contract_alone(by_heart, clean=CLEAN).violations)
    assert contract_alone(twin, clean=CLEAN).violations == ()


def test_batches_that_are_served_are_compared_on_all_images():
    def weak_below_32(images):
        return twin(images)[:, :: -1 if len(images) < 32 else 1]

    def violations(*batches):
        contract = Contract(batches=batches)
        return measure_parity(weak_below_32, twin, clean=CLEAN, adversarial=ADVERSARIAL, contract=contract).violations

    assert violations() == (), "batches of 1, 15 and 16 are alike"
    assert any("logits at batch 8" in sentence for sentence in violations(8))
    assert all(isinstance(sentence, ManyAnswers) for sentence in violations(8))


def test_a_file_that_draws_random_numbers_has_many_answers_though_no_call_shows_it():
    found = contract_alone(twin, clean=CLEAN, contract=Contract(random="it draws")).violations
    assert (found, isinstance(found[0], ManyAnswers)) == (("it draws",), True)


def test_answers_that_change_from_call_to_call_are_many():
    draws = np.random.default_rng(0)

    def noisy(images):
        return twin(images) + draws.normal(size=(len(images), 4)).astype(np.float32)

    found = contract_alone(noisy, clean=CLEAN).violations
    assert any("two calls" in one and isinstance(one, ManyAnswers) for one in found)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: measure_parity(twin, twin, clean=CLEAN, adversarial=CLEAN[:9]), MadxError, "as many adversarial"),
        (lambda: measure_parity(twin, twin, clean=CLEAN, adversarial=CLEAN * 2), DataError, "found"),
        (
            lambda: measure_parity(lambda x: twin(x)[:, :3], twin, clean=CLEAN, adversarial=CLEAN),
            MadxError,
            "3 classes and its twin 4",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call, error, said):
    with pytest.raises(error, match=said):
        call()


@pytest.mark.parametrize(
    ("cause", "only", "many"), [(DYNAMIC, None, True), (DYNAMIC, 1, False), (USUAL_CAUSE, None, False)]
)
def test_what_depends_on_its_batch_by_design_has_many_answers_whatever_these_images_show(cause, only, many):
    batches = (only or 8,)
    contract = Contract(batches=batches, only=only, cause=cause, precision="int8", between_batches=0.02)
    found = contract_alone(twin, clean=CLEAN, contract=contract).violations
    assert any(isinstance(one, ManyAnswers) and "dynamic quantisation" in one for one in found) is many


def test_two_answers_of_one_int8_engine_have_less_room_than_it_has_from_its_torch_model():
    room = float(np.median(reach(twin(CLEAN)))) * PRECISIONS["int8"].rounding

    def engine(images):
        """Half of what int8 explains, at one batch alone."""
        return twin(images) + (
            0.5 * room * np.eye(twin(images).shape[1], dtype=np.float32)[0] if len(images) == 8 else 0
        )

    row = PRECISIONS["int8"]
    contract = Contract(row.rounding, row.between_batches, batches=(8,), precision="int8")
    assert any("batch 8" in one for one in contract_alone(engine, clean=CLEAN, contract=contract).violations)


def test_a_last_bit_between_two_calls_hides_no_other_answer_at_the_served_batch():
    """The small breach is told, and what is served is looked at all the same."""
    calls = []

    def engine(images):
        calls.append(1)
        return twin(images)[:, :: -1 if len(images) == 8 else 1] * np.float32(1 + 1e-7 * (len(calls) % 3))

    found = contract_alone(engine, clean=CLEAN, contract=Contract(batches=(8,))).violations
    assert [isinstance(one, ManyAnswers) for one in found] == [False, True]
    assert "two calls" in found[0]
    assert "batch 8" in found[1]
