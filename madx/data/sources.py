"""What a data set is to madx: a `Source`. `ArraySource` is one in memory; here its arrays are checked.

Canonical layout: pixels [N, C, H, W], as they are stored; images float32 in [0, 1]; labels int64 [N] in [0, classes).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from madx.data.checks import check_pixels, checked_labels, dim, in_parts
from madx.data.rows import Pixels, Rows, Stamp, changed_file
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

    @property
    def remarks(self) -> tuple[str, ...]:
        """Sentences for whoever reads the verdict: how the data were read, what was passed over."""
        ...

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, C, H, W] in [0, 1], a new array."""
        ...

    @property
    def large(self) -> bool:
        """Whether it takes too long to decode all of it for a command."""
        ...

    def glances(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of each image something quick, S16 [n], that exact copies share and other images hardly ever do."""
        ...

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """A digest of each image's content, S16 [n], which exact copies share and no others."""
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

Reading: TypeAlias = tuple[Source | None, Source | None]
"""What a reader returns: the training set, and the test set if there is one; one of them may be all there is."""


@dataclass(frozen=True)
class Meaning:
    """How stored arrays are to be understood, as the recipe says."""

    layout: Literal["nchw", "nhwc"] | None = None
    """Order of the axes; None: the axis of at most four entries is the channels."""
    range: tuple[float, float] | None = None
    """The stored values that are 0 and 1."""
    mean: tuple[float, ...] = ()
    """Of each channel, if the data are (image - mean) / std; else empty."""
    std: tuple[float, ...] = ()
    first_label: int = 0

    @property
    def converts(self) -> bool:
        """Whether values are not 0..255 or [0, 1] as they are."""
        return self.range is not None or bool(self.mean)

    def images(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Stored pixels [n, C, H, W] as a new float32 array in [0, 1], whatever the strides of the stored ones."""
        found = np.empty(stored.shape, np.float32)
        if self.range is not None:
            low, high = self.range
            np.subtract(stored, np.float32(low), out=found, casting="unsafe")
            found /= np.float32(high - low)
        elif self.mean:
            mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (self.mean, self.std))
            np.multiply(stored, std, out=found, casting="unsafe")
            found += mean
        elif stored.dtype == np.uint8:
            np.divide(stored, np.float32(255), out=found)
        else:
            found[:] = stored
        return np.clip(found, 0, 1, out=found) if self.converts else found

    def sentence(self) -> tuple[str, ...]:
        """What was done to the values."""
        if self.range is not None:
            return ("stored values {:g} to {:g} became 0 to 1; eps is in that unit".format(*self.range),)
        if self.mean:
            numbers = (", ".join(f"{number:g}" for number in numbers) for numbers in (self.mean, self.std))
            told = "the stored normalisation (mean {}, std {}) was undone: the network is given images in [0, 1]"
            return (told.format(*numbers),)
        return ()


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory, or in a file. Made by `array_source`, which checks them."""

    pixels: Pixels
    """[N, C, H, W] as they are stored (mostly uint8, a quarter of the memory); never copied as a whole."""
    labels: NDArray[np.int64]
    """[N], in [0, classes)."""
    classes: int
    """How many classes there are."""
    names: tuple[str, ...] = ()
    """Of the classes; empty where nobody said."""
    meaning: Meaning = Meaning()
    remarks: tuple[str, ...] = ()
    stamp: Stamp | None = None
    """Of the file, where a factory gave an array that is mapped."""
    held: bool = False
    """Whether somebody else may write into the memory: then every image is held against its digest."""
    limits: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest stored value."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, C, H, W] in [0, 1], a new array.

        Raises:
            DataError: what the file holds there is not what was checked, whatever its size and time say.
        """
        self._check_file()  # before it is read, for the end of a map whose file became shorter cannot be
        stored = self.pixels[index]
        self._check_file()
        kept_elsewhere = self.held or self._file is not None
        if kept_elsewhere and (self._digested(stored) != self._digests[index]).any():
            raise changed_file(self._file or "the memory of the images that the factory gave")
        return self.meaning.images(stored)

    @cached_property
    def _digests(self) -> NDArray[np.bytes_]:
        self._check_file()
        found = np.concatenate([self._digested(part) for part in in_parts(self.pixels, _AT_ONCE)])
        self._check_file()
        return found

    def _digested(self, stored: NDArray[Any]) -> NDArray[np.bytes_]:
        """Of each of some images as they are stored."""
        found = np.empty(len(stored), DIGEST)
        for row, image in enumerate(stored if self.meaning.converts else _as_bytes(stored)):
            found[row] = digest(np.ascontiguousarray(image), image.dtype.str.encode())
        return found

    @property
    def _file(self) -> Path | None:
        """Where the pixels are read from again; None if they are in memory."""
        return self.pixels.path if isinstance(self.pixels, Rows) else mapped_file(self.pixels)

    def _check_file(self) -> None:
        """Raise a DataError if the file behind mapped pixels is not as it was when they were checked."""
        if _stamp(self.pixels) != self.stamp:
            raise changed_file(str(self._file))

    @property
    def large(self) -> bool:
        """Never: nothing has to be decoded."""
        return False

    def glances(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """The digests."""
        return self._digests[index]

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of the pixels, however they are kept."""
        return self._digests[index]

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """The digests: what is in memory is known whole."""
        yield self.digests(index).tobytes()

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:  # noqa: ARG002 - there are no files
        """Nothing."""
        return iter(())


def mapped_file(pixels: NDArray[Any]) -> Path | None:
    """The file whose map an array is a view of, however many views lie between; `np.asarray` of a map is no map."""
    at: Any = pixels
    while isinstance(at, np.ndarray):
        if isinstance(at, np.memmap) and at.filename is not None:
            return Path(str(at.filename))
        at = at.base
    return None


def in_own_memory(pixels: NDArray[Any]) -> bool:
    """Whether NumPy itself holds the values, or nobody can change them.

    The memory of a tensor or of any other buffer may be a map too, and an array does not show it.
    """
    while isinstance(pixels.base, np.ndarray):
        pixels = pixels.base
    return bool(pixels.flags.owndata) or isinstance(pixels.base, bytes)


def _stamp(pixels: Pixels) -> Stamp | None:
    """Of the file that is mapped; None where none is."""
    path = None if isinstance(pixels, Rows) else mapped_file(pixels)
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read any more ({error.strerror}); put it back") from None
    return status.st_size, status.st_mtime_ns


def digest(content: Any, kind: bytes = b"") -> bytes:
    """16 bytes that tell the content (anything with a buffer) from any other; `kind` stands before it."""
    found = hashlib.blake2b(kind, digest_size=16)
    found.update(content)
    return found.digest()


def _as_bytes(pixels: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Each of the images [n, ...] as uint8 where that loses nothing, so that two forms of one image have one digest."""
    if pixels.dtype == np.uint8:
        yield from pixels
        return
    pixels = pixels.astype(np.float32)
    levels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    lossless = (np.divide(levels, np.float32(255), dtype=np.float32) == pixels).reshape(len(pixels), -1).all(1)
    for image, level, same in zip(pixels, levels, lossless, strict=True):
        yield level if same else image


def array_source(
    images: Pixels,
    labels: NDArray[Any],
    *,
    where: str,
    classes: int | None = None,
    names: tuple[str, ...] = (),
    meaning: Meaning = Meaning(),
) -> ArraySource:
    """A checked source of arrays.

    Args:
        images: uint8 in 0..255 or floats in [0, 1], or what `meaning` says; [N, H, W], [N, C, H, W] or [N, H, W, C].
        labels: Integers, [N] or [N, 1].
        where: The file or part the arrays came from; errors begin with it.
        classes: How many classes there are; without it, the largest label plus one, and label 0 must occur.
        names: Of the classes, if they have any.
        meaning: of axes, values and labels.

    Raises:
        DataError: if an array breaks this contract.
    """
    stamp = _stamp(images)
    _check_counts(images, labels, where)
    pixels = to_nchw(images, where=where, layout=meaning.layout)
    limits = check_pixels(pixels, meaning, where)
    checked = checked_labels(labels, where=where, classes=classes, first=meaning.first_label)
    if len(pixels) != len(checked):
        raise DataError(f"{where}: there are {len(pixels)} images but {len(checked)} labels; each image needs one")
    count = int(checked.max()) + 1 if classes is None else classes
    held = not isinstance(images, Rows) and not in_own_memory(images)
    remarks = (*meaning.sentence(), *dim(limits, meaning.range))
    return ArraySource(pixels, checked, count, names, meaning, remarks, stamp, held, limits)


def _check_counts(images: Pixels, labels: NDArray[Any], where: str) -> None:
    """Raise a DataError if another axis than the first one has as many entries as there are labels."""
    count = labels.shape[0] if labels.ndim else 0
    if images.ndim < 3 or images.shape[0] == count or count not in images.shape[1:]:
        return
    axis = images.shape.index(count)
    raise DataError(
        f"{where}: images have the shape {list(images.shape)} and there are {count} labels, as many as the axis {axis} "
        f"has entries; images belong on the first axis: np.moveaxis(images, {axis}, 0) (in .mat files, which have "
        "been turned already, on the last one)"
    )


def to_nchw(images: Pixels, *, where: str, layout: Literal["nchw", "nhwc"] | None = None) -> Pixels:
    """`images` as [N, C, H, W], a view.

    [N, H, W] is greyscale. Of four axes, the channels are the second or the last, whichever has at most four
    entries; if both have, or neither, nothing is guessed.

    Raises:
        DataError: if the channel axis is not clear.
    """
    if images.ndim == 3:
        return images.with_channel() if isinstance(images, Rows) else images[:, None]
    shape = list(images.shape)
    if images.ndim != 4:
        rows = ": are these flat rows? Store images.reshape(N, H, W), or with the channels where they were"
        raise DataError(
            f"{where}: images have the shape {shape}; expected [N, H, W], [N, C, H, W] or [N, H, W, C]"
            f"{rows if images.ndim == 2 else ''}"
        )
    first, last = (1 <= images.shape[axis] <= MOST_CHANNELS for axis in (1, 3))
    if layout is None and first == last:
        either = "both could" if first else "neither can"
        raise DataError(
            f"{where}: images have the shape {shape}; of the second and the last axis {either} be the channels (1 to "
            f"{MOST_CHANNELS} where nothing is said); say which: data.layout: nchw ([N, C, H, W]) or nhwc "
            "([N, H, W, C])"
        )
    channels_first = first if layout is None else layout == "nchw"
    return images if channels_first else images.transpose(0, 3, 1, 2)
