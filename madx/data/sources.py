"""What a data set is to madx: a `Source`. `ArraySource` is one in memory; here its arrays are checked.

Canonical layout: pixels [N, C, H, W], uint8 in 0..255 or float32 in [0, 1]; labels int64 [N] in [0, classes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from madx.errors import DataError

MOST_CHANNELS = 4
"""An axis of at most this many entries can be the channels; a longer one is height or width."""


class Source(Protocol):
    """One whole set of labelled images, decoded on demand."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of every image, [N], in [0, classes)."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        ...

    @property
    def classes(self) -> int:
        """How many classes there are."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Of the classes, in the order of the network's outputs; empty where nobody said."""
        ...

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, C, H, W] in [0, 1], a new array."""
        ...

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_] | None:
        """A digest of each image's content, S16 [n], which exact copies share; None where reading it takes too long."""
        ...

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """What tells these images from any others, in order, and the same on every machine."""
        ...

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """What on this machine tells at a glance that files behind the images were touched; nothing without files."""
        ...


DIGEST = "S16"
"""NumPy's type of a row of digests; it compares them right, although it drops zeros at their ends."""
_AT_ONCE = 2**23
"""Bytes of images that are compared at a time."""

Reading: TypeAlias = tuple[Source, Source | None]
"""What a reader returns: the training set, and the test set if there is one."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory. Made by `array_source`, which checks them."""

    pixels: NDArray[Any]
    """[N, C, H, W], uint8 in 0..255 (kept so: a quarter of the memory) or float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """[N], in [0, classes)."""
    classes: int
    """How many classes there are."""
    names: tuple[str, ...] = ()
    """Of the classes; empty where nobody said."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, C, H, W] in [0, 1], a new array."""
        chosen = self.pixels[index]
        if chosen.dtype == np.uint8:
            shares: NDArray[np.float32] = np.divide(chosen, np.float32(255), dtype=np.float32)
            return shares
        return chosen

    @cached_property
    def _digests(self) -> NDArray[np.bytes_]:
        found = np.empty(len(self.pixels), DIGEST)
        at_once = max(1, _AT_ONCE // self.pixels[0].nbytes)
        for start in range(0, len(found), at_once):
            for row, image in enumerate(_as_bytes(self.pixels[start : start + at_once]), start):
                found[row] = digest(np.ascontiguousarray(image))
        return found

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of the pixels, however they are kept."""
        return self._digests[index]

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """The digests: what is in memory is known whole."""
        yield self.digests(index).tobytes()

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:  # noqa: ARG002 - there are no files
        """Nothing."""
        return iter(())


def digest(content: Any) -> bytes:
    """16 bytes that tell the content (anything with a buffer) from any other."""
    return hashlib.blake2b(content, digest_size=16).digest()


def _as_bytes(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Each of the images [n, ...] as uint8 where that loses nothing, so that two forms of one image have one digest."""
    if pixels.dtype == np.uint8:
        yield from pixels
        return
    levels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    lossless = (np.divide(levels, np.float32(255), dtype=np.float32) == pixels).reshape(len(pixels), -1).all(1)
    for image, level, same in zip(pixels, levels, lossless, strict=True):
        yield level if same else image


def array_source(
    images: NDArray[Any],
    labels: NDArray[Any],
    *,
    where: str,
    classes: int | None = None,
    names: tuple[str, ...] = (),
) -> ArraySource:
    """A checked source of arrays.

    Args:
        images: uint8 in 0..255 or floats in [0, 1]; [N, H, W], [N, C, H, W] or [N, H, W, C] (see `to_nchw`).
        labels: Integers, [N] or [N, 1].
        where: The file or part the arrays came from; errors begin with it.
        classes: How many classes there are; without it, the largest label plus one, and label 0 must occur.
        names: Of the classes, if they have any.

    Raises:
        DataError: if an array breaks this contract.
    """
    pixels = _checked_pixels(to_nchw(images, where=where), where)
    checked = checked_labels(labels, where=where, classes=classes)
    if len(pixels) != len(checked):
        raise DataError(f"{where}: there are {len(pixels)} images but {len(checked)} labels; each image needs one")
    return ArraySource(pixels, checked, int(checked.max()) + 1 if classes is None else classes, names)


def to_nchw(images: NDArray[Any], *, where: str) -> NDArray[Any]:
    """`images` as [N, C, H, W].

    [N, H, W] is greyscale. Of four axes, the channels are the second or the last, whichever has at most four
    entries; if both have, or neither, nothing is guessed.

    Raises:
        DataError: if the channel axis is not clear.
    """
    if images.ndim == 3:
        return images[:, None]
    shape = list(images.shape)
    if images.ndim != 4:
        raise DataError(f"{where}: images have the shape {shape}; expected [N, H, W], [N, C, H, W] or [N, H, W, C]")
    first, last = (1 <= images.shape[axis] <= MOST_CHANNELS for axis in (1, 3))
    if first == last:
        either = "both could" if first else "neither can"
        raise DataError(
            f"{where}: images have the shape {shape}; of the second and the last axis {either} be the "
            f"channels (1 to {MOST_CHANNELS}); store them as [N, C, H, W] with H and W above {MOST_CHANNELS}"
        )
    return images if first else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _checked_pixels(pixels: NDArray[Any], where: str) -> NDArray[Any]:
    """`pixels` as uint8 or float32, with values that can be images."""
    if pixels.size == 0:
        raise DataError(f"{where}: images have the shape {list(pixels.shape)}; there is not one pixel in them")
    if pixels.dtype == np.uint8:
        if pixels.max() <= 1:
            raise DataError(
                f"{where}: uint8 images run from 0 to 255, but the largest value here is {pixels.max()}; "
                "if they are shares of white, store them as float32"
            )
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise DataError(f"{where}: images are of type {pixels.dtype}; expected uint8 in 0..255 or floats in [0, 1]")
    low, high = pixels.min(), pixels.max()  # a NaN anywhere makes both NaN
    if low >= 0 and 0 < high <= 1.5 / 255:
        raise DataError(
            f"{where}: float images run from 0 to 1, but the largest value here is {high:.4g}: were they divided by "
            "255 twice? Divide them once, or store them as uint8 in 0..255"
        )
    if not (low >= 0 and high <= 1):
        found = f"values from {low:g} to {high:g}" if np.isfinite([low, high]).all() else "infinite values or NaN"
        raise DataError(
            f"{where}: float images must be finite and in [0, 1], but there are {found}; "
            "undo any normalisation (it belongs into the model) or store them as uint8 in 0..255"
        )
    return pixels.astype(np.float32, copy=False)


def checked_labels(labels: NDArray[Any], *, where: str, classes: int | None) -> NDArray[np.int64]:
    """`labels` as int64 [N] in [0, classes); [N, 1] is accepted too.

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
        raise DataError(f"{where}: labels are of type {labels.dtype}; expected integers, for example int64")
    if labels.size == 0:
        raise DataError(f"{where}: there is no label, so there is nothing to learn or to measure")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= classes):
        top = "" if classes is None else f" and end at {classes - 1}"
        raise DataError(f"{where}: labels run from {low} to {high}; they must start at 0{top}")
    if classes is None and low > 0:
        raise DataError(
            f"{where}: labels run from {low} to {high}, and no image has label 0; if they start at {low}, subtract "
            f"{low}; if the first classes have no images here, say how many there are: data.num_classes: {high + 1}"
        )
    return labels.astype(np.int64)


def require_fit(training: Source, test: Source | None, *, where: str) -> None:
    """Check that the training set has classes to tell apart and that the test set is of the same kind.

    Raises:
        DataError: if fewer than two classes occur in the training set, or shapes differ.
    """
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
