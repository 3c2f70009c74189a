"""What every engine owes before its numbers mean anything.

An engine is a callable: images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K], for any B >= 1, the same
logits for the same image whatever else is in the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from madx.errors import DataError, EngineError

Images = NDArray[np.float32]
Classifier = Callable[[Images], NDArray[np.float32]]
"""An engine, a torch twin, or a lambda in a test."""

_ROW_SUM_TOLERANCE = 1e-3


def logits_of(engine: Classifier, images: Images) -> NDArray[np.float32]:
    """The engine's logits [B, K], checked, in memory that the engine's next call does not overwrite.

    Raises:
        EngineError: if the output is not one finite row of at least two logits per image.
    """
    output = np.asarray(engine(images))
    if output.ndim != 2 or output.shape[0] != len(images) or output.shape[1] < 2:
        raise EngineError(
            f"the engine returned shape {list(output.shape)} for {len(images)} images; "
            f"expected logits [{len(images)}, K] with K of at least 2"
        )
    if not np.isfinite(output).all():
        bad = int((~np.isfinite(output)).any(axis=1).sum())
        raise EngineError(
            f"the engine returned NaN or infinite logits for {bad} of {len(images)} images; an engine of lower "
            "precision may overflow: build it in fp32 and compare"
        )
    return np.array(output, dtype=np.float32)


def check_images(images: Images) -> None:
    """Refuse images that are not float32 [B, C, H, W] in [0, 1], as normalised ones are not.

    Raises:
        DataError: saying what was found.
    """
    if images.dtype != np.float32 or images.ndim != 4 or len(images) == 0:
        raise DataError(f"expected float32 images [B, C, H, W], got {images.dtype} {list(images.shape)}")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # written so that NaN is refused too
        raise DataError(
            f"expected images in [0, 1], found {low:g} to {high:g}; normalisation belongs inside the network"
        )


def check_contract(engine: Classifier, images: Images, *, tolerance: float = 1e-3) -> list[str]:
    """What the engine does against its contract, one sentence each; empty when it keeps it.

    Args:
        engine: the engine under test.
        images: at least 3 different images; they are used at batch 1, at an odd batch and all at once.
        tolerance: largest difference of logits between batch sizes, as a share of the largest |logit|: kernels of
            different batch sizes add in different orders. 1e-3 suits float32; float16 wants about 2e-2.

    Raises:
        DataError: if the images are fewer than 3 or not images.
        EngineError: if the output cannot be read as logits at all.
    """
    return check_form(engine, images, tolerance=tolerance) or _ignores_input(engine, images)


def check_form(engine: Classifier, images: Images, *, tolerance: float = 1e-3) -> list[str]:
    """The part of `check_contract` that a network owes before it has learned anything: logits may be all the same.

    Raises:
        DataError: if the images are fewer than 3 or not images.
        EngineError: if the output cannot be read as logits at all.
    """
    check_images(images)
    if len(images) < 3:
        raise DataError(f"the contract is checked with {len(images)} images; expected at least 3")
    given = images.copy()
    logits = logits_of(engine, given)
    if not np.array_equal(given, images):
        return ["the engine writes into the images it is given"]
    found = [
        _changed_between_calls(engine, images, logits),
        *_changed_with_batch(engine, images, logits, tolerance),
        _looks_like_softmax(logits),
    ]
    return [sentence for sentence in found if sentence]


def _changed_between_calls(engine: Classifier, images: Images, logits: NDArray[np.float32]) -> str:
    again = logits_of(engine, images)
    if not np.array_equal(again, logits):
        largest = float(np.abs(again - logits).max())
        return f"two calls with the same images differ by up to {largest:.2g}: dropout, train mode or a race"
    return ""


def _changed_with_batch(engine: Classifier, images: Images, logits: NDArray[np.float32], tolerance: float) -> list[str]:
    """Compare with the whole batch: batch 1, and the largest odd batch below the whole one."""
    n = len(images)
    odd = n - 1 if n % 2 == 0 else n - 2
    allowed = tolerance * float(np.abs(logits).max())
    sentences = []
    for size in sorted({1, odd}):
        parts = [logits_of(engine, images[start : start + size]) for start in range(0, n, size)]
        largest = float(np.abs(np.concatenate(parts) - logits).max())
        if largest > allowed:
            sentences.append(
                f"logits at batch {size} differ from those at batch {n} by up to {largest:.2g}, "
                f"more than the {allowed:.2g} that rounding explains: train-mode BatchNorm or a wrong batch axis"
            )
    return sentences


def _looks_like_softmax(logits: NDArray[np.float32]) -> str:
    sums_to_one = np.abs(logits.sum(axis=1) - 1).max() < _ROW_SUM_TOLERANCE
    if sums_to_one and logits.min() >= 0 and logits.max() <= 1:
        return "the outputs look like softmax probabilities (in [0, 1], rows sum to 1); attacks need logits"
    return ""


def _ignores_input(engine: Classifier, images: Images) -> list[str]:
    """The negatives are images too, and far away whatever the images are."""
    both = np.concatenate([logits_of(engine, images), logits_of(engine, 1 - images)])
    if float(np.ptp(both, axis=0).max()) <= 1e-6 * max(1.0, float(np.abs(both).max())):
        return ["the logits do not depend on the image"]
    return []
