"""What every engine owes before its numbers mean anything.

An engine is a callable: images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K], for any B >= 1, the same
logits for the same image whatever else is in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from madx.closeness import LEAST, MOST_FLIPS, MOST_OFFSET, ROUNDING, apart, offset
from madx.errors import DataError, EngineError

Images = NDArray[np.float32]
Logits = NDArray[np.float32]
Classifier = Callable[[Images], NDArray[np.float32]]
"""An engine, a torch twin, or a lambda in a test."""


class ManyAnswers(str):
    """A breach by which an image has no one answer: what is measured then depends on when, and beside what, one asks.

    Everywhere else a sentence like any other.
    """

    __slots__ = ()


_ROW_SUM_TOLERANCE = 1e-3
_SATURATED = 0.5
"""Share of the images whose answers may name one class and say nothing of the others."""
_ZERO = np.float32(np.log(LEAST))
"""Logit of a probability of 0."""
USUAL_CAUSE = "train-mode BatchNorm, a wrong batch axis, or an engine that looks at its batch"
SERVED_ALONE = "If it is served one image at a time, say so in the recipe: verify.input: {batch: 1}"
DYNAMIC = (
    "dynamic quantisation (DynamicQuantizeLinear) takes one scale for the whole batch, so an image's logits depend on "
    f"the images beside it, by design. Quantise it statically. {SERVED_ALONE}"
)
"""Causes of answers that depend on the batch."""


def logits_of(engine: Classifier, images: Images) -> Logits:
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


def check_contract(
    engine: Classifier,
    images: Images,
    *,
    tolerance: float = ROUNDING["fp32"],
    measured: bool = True,
    cause: str = USUAL_CAUSE,
) -> list[str]:
    """What the engine does against its contract, one sentence each; empty when it keeps it.

    Args:
        engine: the engine under test.
        images: at least 3 different images; they are used at batch 1, at an odd batch and all at once.
        tolerance: largest difference that rounding explains between batch sizes, whose kernels add in different orders:
            as `rounding` in `madx.closeness.apart`.
        measured: whether that is known of the engine's precision; where it is not, differences beyond it are a breach
            and no proof that an image has many answers, unless labels change.
        cause: what explains it if the answers depend on the batch.

    Raises:
        DataError: if the images are fewer than 3 or not images.
        EngineError: if the output cannot be read as logits at all.
    """
    found = check_form(engine, images, tolerance=tolerance, measured=measured, cause=cause)
    return found or [*_ignores_input(engine, images), *_far_from_zero(engine, images)]


def check_form(
    engine: Classifier,
    images: Images,
    *,
    tolerance: float = ROUNDING["fp32"],
    measured: bool = True,
    cause: str = USUAL_CAUSE,
) -> list[str]:
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
    n = len(images)
    odd = n - 1 if n % 2 == 0 else n - 2
    by_batch = check_batches(engine, images, logits, batches=(1, odd), tolerance=tolerance, at=n, measured=measured)
    found = [
        _changed_between_calls(engine, images, logits, tolerance if measured else math.inf),
        *explained(by_batch, cause),
        _looks_like_softmax(logits),
        _names_one_class(logits),
    ]
    return [sentence for sentence in found if sentence]


def check_batches(
    engine: Classifier,
    images: Images,
    logits: Logits,
    *,
    batches: Iterable[int],
    tolerance: float,
    at: int,
    measured: bool = True,
) -> list[str]:
    """A sentence for each batch at which the engine answers otherwise on more than `MOST_FLIPS` of the images.

    Images come in another order than those answers are from, so each has other neighbours and another place.

    Args:
        engine: the engine under test.
        images: [N, C, H, W].
        logits: [N, K] its answers at the batch `at`.
        batches: images a call.
        tolerance: as in `check_contract`.
        at: images a call that the answers are from.
        measured: as in `check_contract`.
    """
    found, n = [], len(images)
    for size in sorted(set(batches)):
        answers = in_batches(engine, images, size, np.arange(n)[::-1])
        times = apart(answers, logits, rounding=tolerance, usual=logits)
        if float((times > 1).mean()) > MOST_FLIPS:
            flips = int((answers.argmax(axis=1) != logits.argmax(axis=1)).sum())
            kind = ManyAnswers if measured or flips > MOST_FLIPS * n else str
            sentence = (
                f"logits at batch {size} differ from those at batch {at} on {int((times > 1).sum())} of {n} images, by "
                f"up to {times.max():.2g} times what rounding explains, and {flips} labels with them"
            )
            found.append(kind(sentence))
    return found


def explained(found: Iterable[str], cause: str) -> list[str]:
    """What `check_batches` found, with its cause; by design, an image has many answers whatever they differ by."""
    return [
        (ManyAnswers if isinstance(sentence, ManyAnswers) or cause == DYNAMIC else str)(f"{sentence}: {cause}")
        for sentence in found
    ]


def in_batches(engine: Classifier, images: Images, size: int, order: NDArray[np.intp] | None = None) -> Logits:
    """Logits [N, K] of images that the engine sees exactly `size` at a time, the last call filled up with earlier ones.

    Args:
        engine: the engine under test.
        images: [N, C, H, W].
        size: images a call.
        order: [N] in which the images go in, which decides their neighbours and places; the answer is in theirs.
    """
    order = np.arange(len(images)) if order is None else order
    rows = np.resize(order, -(-len(order) // size) * size)
    found = np.concatenate([logits_of(engine, images[rows[at : at + size]]) for at in range(0, len(rows), size)])
    answer = np.empty((len(images), found.shape[1]), dtype=np.float32)
    answer[order] = found[: len(order)]
    return answer


def _changed_between_calls(engine: Classifier, images: Images, logits: Logits, tolerance: float) -> str:
    """The last bit may hang on which thread was first; an image has many answers where more than rounding changes."""
    again = logits_of(engine, images)
    if np.array_equal(again, logits):
        return ""
    largest = float(np.abs(again - logits).max())
    flips = int((again.argmax(axis=1) != logits.argmax(axis=1)).sum())
    beyond = int((apart(again, logits, rounding=tolerance, usual=logits) > 1).sum()) if math.isfinite(tolerance) else 0
    kind = ManyAnswers if max(flips, beyond) > MOST_FLIPS * len(images) else str
    return kind(
        f"two calls with the same images differ by up to {largest:.2g}, and {flips} labels with them: dropout, train "
        "mode or a race"
    )


def _far_from_zero(engine: Classifier, images: Images) -> list[str]:
    """A constant on all classes changes no answer; it only makes float32 coarse, and differences look small."""
    largest = float(offset(logits_of(engine, images)).max())
    if largest <= MOST_OFFSET:
        return []
    return [
        f"all logits of an image lie up to {largest:.2g} times as far from zero as the best class from the middle one: "
        "a constant was added to every class; take it out of the last layer's bias"
    ]


def _looks_like_softmax(logits: Logits) -> str:
    sums_to_one = np.abs(logits.sum(axis=1) - 1).max() < _ROW_SUM_TOLERANCE
    if sums_to_one and logits.min() >= 0 and logits.max() <= 1:
        return "the outputs look like softmax probabilities (in [0, 1], rows sum to 1); attacks need logits"
    return ""


def _names_one_class(logits: Logits) -> str:
    """Queries climb what the logits say of the other classes; where that is nothing, an attack sees a plain."""
    others = np.sort(logits, axis=1)[:, :-1]
    same = int(((others[:, 0] == others[:, -1]) & (logits.max(axis=1) > others[:, -1])).sum())
    if logits.shape[1] == 2:  # one other class is always like itself: then two answers are all there are
        same = len(logits) if len(np.unique(logits, axis=0)) == 2 < len(logits) else 0
    if same <= _SATURATED * len(logits):
        return ""
    return (
        f"on {same} of {len(logits)} images all classes but the best have the very same logit: the output is a label, "
        "or probabilities that were rounded to 0 and 1, and no attack can climb it; take the scores before that"
    )


def names_one_class(logits: Logits) -> NDArray[np.bool_]:
    """[N] whether logits that are logarithms of probabilities say nothing of any class but the best."""
    others = np.sort(logits, axis=1)[:, :-1]
    if logits.shape[1] == 2:  # the other class is alone: nothing is said of it where its probability is 0
        return others[:, 0] <= _ZERO
    same: NDArray[np.bool_] = others[:, 0] == others[:, -1]
    return same


def _ignores_input(engine: Classifier, images: Images) -> list[str]:
    """The negatives are images too, and far away whatever the images are."""
    both = np.concatenate([logits_of(engine, images), logits_of(engine, 1 - images)])
    if float(np.ptp(both, axis=0).max()) <= 1e-6 * max(1.0, float(np.abs(both).max())):
        return ["the logits do not depend on the image"]
    return []
