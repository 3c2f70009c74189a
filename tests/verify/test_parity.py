"""Parity of an engine with its twin, on logits that are known."""

import numpy as np
import pytest

from madx.errors import DataError, MadxError
from madx.verify import measure_parity

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
