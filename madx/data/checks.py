"""What arrays of pixels and labels must be before anything is computed from them; what is wrong is told with a remedy.

A wrong unit gives wrong numbers in silence: so values are looked at, all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from madx.errors import DataError

if TYPE_CHECKING:
    from madx.data.rows import Pixels
    from madx.data.sources import Meaning, Source

_AT_ONCE = 2**23
"""Bytes that are looked at together, so that a file is never in memory as a whole."""
_ROUNDING = 1e-3
"""How far outside of [0, 1] a value may be that was normalised and is brought back."""
_OVERSHOT = 0.25
"""How far beyond [0, 1] bicubic resizing and the like may go."""
_ANY = np.iinfo(np.int64).max
"""More classes than there are."""
_DARK = 0.25
"""A share of white that some pixel of every usual set exceeds; where none does, the unit is asked about."""


def check_pixels(pixels: Pixels, meaning: Meaning, where: str) -> tuple[float, float]:
    """Look at all values of pixels [N, C, H, W]; gives the smallest and the largest one.

    Raises:
        DataError: they cannot be images, or not in the unit that is said.
    """
    if pixels.size == 0:
        raise DataError(f"{where}: images have the shape {list(pixels.shape)}; there is not one pixel in them")
    if meaning.converts:
        return _check_converted(pixels, meaning, where)
    if pixels.dtype == np.uint8:
        low, high = _limits(pixels)
        _check_bytes(high, where)
    elif np.issubdtype(pixels.dtype, np.floating):
        low, high = _limits(pixels)
        _check_floats(low, high, where)
    else:
        span = "[0, 1]" if pixels.dtype == np.bool_ else "[0, 255] or [0, 65535], say"
        raise DataError(
            f"{where}: images are of type {pixels.dtype}; expected uint8 in 0..255 or floats in [0, 1]; for other "
            f"numbers say which values are 0 and 1: data.range: {span}"
        )
    return low, high


def _check_bytes(high: float, where: str) -> None:
    """That some value of uint8 images is bright."""
    if high <= 1:
        raise DataError(
            f"{where}: uint8 images run from 0 to 255, but the largest value here is {high:g}; "
            "if they are shares of white, store them as float32, or say so: data.range: [0, 1]"
        )
    if high < _DARK * 255:
        raise DataError(
            f"{where}: uint8 images run from 0 to 255, but the largest value here is {high:g}; if that is white (fewer "
            f"than 8 bits a pixel), say so: data.range: [0, {high:g}]; if they are as dark as that, data.range: "
            "[0, 255]"
        )


def _limits(pixels: Pixels) -> tuple[float, float]:
    """The smallest and the largest value; a NaN anywhere makes both NaN."""
    limits = [(part.min(), part.max()) for part in in_parts(pixels, _AT_ONCE)]
    return float(np.min([low for low, _ in limits])), float(np.max([high for _, high in limits]))


def _limits_by_channel(pixels: Pixels) -> NDArray[np.float64]:
    """The same of each channel, [C, 2]."""
    others = (0, 2, 3)
    limits = [(part.min(others), part.max(others)) for part in in_parts(pixels, _AT_ONCE)]
    low, high = np.min([low for low, _ in limits], axis=0), np.max([high for _, high in limits], axis=0)
    return np.stack([low, high], axis=1).astype(np.float64)


def in_parts(pixels: Pixels, at_once: int) -> Iterator[NDArray[Any]]:
    """The images in order, about so many bytes of them at a time."""
    step = max(1, at_once // max(1, pixels.nbytes // len(pixels)))
    return (pixels[start : start + step] for start in range(0, len(pixels), step))


def _check_floats(low: float, high: float, where: str) -> None:
    if low >= 0 and 0 < high <= 1.5 / 255:
        raise DataError(
            f"{where}: float images run from 0 to 1, but the largest value here is {high:.4g}: were they divided by "
            "255 twice? Divide them once, or store them as uint8 in 0..255"
        )
    if low >= 0 and 0 < high < _DARK:
        raise DataError(
            f"{where}: float images run from 0 to 1, but the largest value here is {high:.4g}; if that is white "
            f"(divided by 255, though they ran to {255 * high:.0f} only?), say so: data.range: [0, {high:.4g}]; if "
            "they are as dark as that, data.range: [0, 1]"
        )
    if low >= 0 and high <= 1:
        return
    if not np.isfinite([low, high]).all():
        raise DataError(f"{where}: float images must be finite and in [0, 1], but there are infinite values or NaN")
    told = f"{where}: float images must be finite and in [0, 1], but there are values from {low:g} to {high:g}; "
    if low > -_OVERSHOT and high < 1 + _OVERSHOT:
        raise DataError(
            told + "if resizing went a little beyond, clip them (np.clip(images, 0, 1)); if these are black and white, "
            f"say so: data.range: [{low:.4g}, {high:.4g}]"
        )
    if low >= 0:
        raise DataError(
            told + f"store them as uint8 in 0..255, or say which values are 0 and 1: data.range: {_span(high)}"
        )
    raise DataError(
        told
        + "if they were normalised, say how, and let the network do it inside: data.normalised: {mean: [...], std: "
        "[...]} undoes it, model.args.normalise: {mean: [...], std: [...]} does it in the network. If they are in "
        f"another unit, say which values are 0 and 1: data.range: [{low:.4g}, {high:.4g}], say"
    )


def _span(high: float) -> str:
    return "[0, 255]" if high <= 255 else "[0, 65535]" if high <= 65535 else f"[0, {high:g}]"


def _check_converted(pixels: Pixels, meaning: Meaning, where: str) -> tuple[float, float]:
    if not any(np.issubdtype(pixels.dtype, kind) for kind in (np.floating, np.integer, np.bool_)):
        raise DataError(f"{where}: images are of type {pixels.dtype}; expected numbers")
    if meaning.range is not None:
        low, high = _limits(pixels)
        _check_range(low, high, meaning.range, where)
        return low, high
    if len(meaning.mean) != pixels.shape[1]:
        raise DataError(
            f"{where}: images have {pixels.shape[1]} channels, and data.normalised gives {len(meaning.mean)} numbers; "
            "expected one for each channel"
        )
    limits = _limits_by_channel(pixels)
    back = limits * np.array(meaning.std)[:, None] + np.array(meaning.mean)[:, None]
    if not (back.min() >= -_ROUNDING and back.max() <= 1 + _ROUNDING):
        raise DataError(
            f"{where}: with data.normalised undone there are values from {back.min():.4g} to {back.max():.4g}; "
            "expected [0, 1]: are mean and std those that the data were normalised with, in the unit of [0, 1]?"
        )
    return float(limits.min()), float(limits.max())


def _check_range(low: float, high: float, said: tuple[float, float], where: str) -> None:
    """That the values are within what data.range says, and not all of them next to its lower end."""
    slack = 1e-6 * (said[1] - said[0])
    if not (low >= said[0] - slack and high <= said[1] + slack):
        raise DataError(
            f"{where}: there are values from {low:g} to {high:g}, and data.range says {said[0]:g} to {said[1]:g}; "
            "widen it"
        )
    if high <= said[0] + 1.5 / 255 * (said[1] - said[0]):
        raise DataError(
            f"{where}: there are values from {low:g} to {high:g}, all of them black if data.range is [{said[0]:g}, "
            f"{said[1]:g}]; are these in another unit (already in [0, 1], or of fewer bits)? Give the range that they "
            "have, and convert a part that has another one than the other part"
        )


def dim(limits: tuple[float, float], said: tuple[float, float] | None) -> tuple[str, ...]:
    """What to say of values that use little of what data.range says: 12 bits in 16, perhaps."""
    if said is None or limits[1] >= said[0] + _DARK * (said[1] - said[0]):
        return ()
    return (
        f"the largest stored value is {limits[1]:g}, and data.range says that {said[1]:g} is white: all images are dark"
        " (are they of fewer bits than the range?)",
    )


def require_one_unit(training: tuple[float, float], test: tuple[float, float], *, where: str) -> None:
    """That values that are to be converted are not in [0, 1] already in one of two parts.

    Raises:
        DataError: one part runs below 0 and the other one from 0 to 1.
    """
    for (low, _), (other_low, other_high) in ((training, test), (test, training)):
        if low < 0 <= other_low and other_high <= 1:
            raise DataError(
                f"{where}: training images have values from {training[0]:.4g} to {training[1]:.4g}, test images from "
                f"{test[0]:.4g} to {test[1]:.4g}; data.range and data.normalised are for both, so convert the one that "
                "is in [0, 1] already as the other one was"
            )


def checked_labels(labels: NDArray[Any], *, where: str, classes: int | None, first: int = 0) -> NDArray[np.int64]:
    """`labels` as int64 [N] in [0, classes); [N, 1] is accepted too.

    Args:
        labels: as they are stored.
        where: they came from.
        classes: how many there are, if that is known.
        first: the label of the first class.

    Raises:
        DataError: if they are not integers, not one per image, or out of range.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise DataError(
            f"{where}: labels have the shape {list(labels.shape)}; expected [N], one class number per image "
            "(several labels per image and one-hot labels are not supported)"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{where}: labels are of type {labels.dtype}; expected integers: store labels.astype('int64'), if they are "
            "the numbers of classes"
        )
    if labels.size == 0:
        raise DataError(f"{where}: there is no label, so there is nothing to learn or to measure")
    low, high = int(labels.min()), int(labels.max())
    if low < first or (classes is not None and high >= classes + first):
        top = "" if classes is None or classes + first >= _ANY else f" and end at {classes - 1 + first}"
        hint = "; if -1 marks images without a label, leave these out" if low == -1 else ""
        raise DataError(f"{where}: labels run from {low} to {high}; they must start at {first}{top}{hint}")
    if classes is None and low > first:
        raise DataError(
            f"{where}: labels run from {low} to {high}, and no image has label {first}; if they start at {low}, say "
            f"so: data.first_label: {low}; if the first classes have no images here, say how many there are: "
            f"data.num_classes: {high + 1 - first}"
        )
    return labels.astype(np.int64) - first


def require_fit(training: Source | None, test: Source | None, *, where: str) -> None:
    """Check that the training set has classes to tell apart and that the test set is of the same kind.

    Raises:
        DataError: if fewer than two classes occur in the training set, or shapes differ.
    """
    if training is None:
        return
    present = np.unique(training.labels)
    if len(present) < 2:
        raise DataError(
            f"{where}: every training image is of class {present[0]}; a classifier needs at least 2 classes"
        )
    if test is not None and test.shape != training.shape:
        raise DataError(
            f"{where}: training images have the shape {list(training.shape)}, but test images "
            f"{list(test.shape)}; they must be equal"
        )
