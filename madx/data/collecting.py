"""What a factory gives for a part: arrays, tensors, a torch Dataset or a DataLoader; all become two arrays.

A data set is read in its own order, whatever the order of its loader: images are known by their positions.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from madx.data.nested import as_numpy
from madx.data.sources import in_own_memory, mapped_file
from madx.errors import DataError
from madx.plugins import USER_ERRORS, describe

COPIED = 2**28
"""Bytes of an array up to which it is copied where nobody knows whose memory it is in."""
_TRIED = 3
"""Images that are asked for twice, to see that they are the same."""
_IMAGE_KEYS = ("image", "img", "pixel_values", "x", "input")
_LABEL_KEYS = ("label", "labels", "target", "y", "class")


def collected(part: object, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Images and labels of a part, as arrays.

    Raises:
        DataError: it is none of these, or gives other images each time.
    """
    if isinstance(part, tuple | list) and len(part) == 2:
        return _array(part[0], f"{where} images"), _array(part[1], f"{where} labels")
    try:
        return _from_torch(part, where)
    except USER_ERRORS as problem:
        if isinstance(problem, DataError):
            raise
        raise DataError(f"{where}: reading the {type(part).__name__} failed with {describe(problem)}") from problem


def _array(value: object, where: str) -> NDArray[Any]:
    """`value` as a NumPy array; lists are refused, for their type would be guessed.

    What lies in memory that may be a map of a file, and does not say which, is copied where it is small: that file may
    be written into, or cut off, which kills whoever reads it.
    """
    if not (isinstance(value, np.ndarray) or hasattr(value, "detach")):
        raise DataError(f"{where}: expected a NumPy array or a tensor, this is a {type(value).__name__}")
    found: NDArray[Any] = value if isinstance(value, np.ndarray) else as_numpy(value)
    known = in_own_memory(found) or mapped_file(found) is not None
    return found if known or found.nbytes > COPIED else found.copy()


def _from_torch(part: object, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    from torch.utils.data import DataLoader, IterableDataset

    if isinstance(part, DataLoader):
        return _from_loader(part, where)
    if isinstance(part, IterableDataset):
        return _stacked(part, None, where)
    if isinstance(part, tuple | list | str | bytes | np.ndarray) or not (
        hasattr(part, "__getitem__") and hasattr(part, "__len__")
    ):
        length = f" of {len(part)}" if isinstance(part, tuple | list) else ""
        raise DataError(
            f"{where}: expected the pair (images, labels) of arrays, a torch Dataset or a DataLoader; this is a "
            f"{type(part).__name__}{length}"
        )
    return _from_dataset(part, range(len(part)), where)


def _from_loader(loader: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The loader's data set in its own order; batches that its own function makes are taken as they come."""
    from torch.utils.data import BatchSampler, IterableDataset, RandomSampler, SequentialSampler, SubsetRandomSampler
    from torch.utils.data.dataloader import default_collate

    sampler = loader.sampler
    usual = loader.collate_fn is default_collate and type(loader.batch_sampler) is BatchSampler
    if usual and not isinstance(loader.dataset, IterableDataset):
        if isinstance(sampler, SubsetRandomSampler):
            return _from_dataset(loader.dataset, sorted(int(row) for row in sampler.indices), where)
        if isinstance(sampler, SequentialSampler | RandomSampler) and len(sampler) == len(loader.dataset):
            return _from_dataset(loader.dataset, range(len(loader.dataset)), where)
    elif isinstance(loader.dataset, IterableDataset) or isinstance(sampler, SequentialSampler):
        images, labels = zip(*((_field(batch, 0, where), _field(batch, 1, where)) for batch in loader), strict=True)
        return np.concatenate([_array(one, where) for one in images]), np.concatenate(
            [_array(one, where) for one in labels]
        )
    raise DataError(
        f"{where}: the DataLoader has a {type(sampler).__name__} or a function of its own that makes batches, so which "
        "images it stands for, in which order, is not known; return its data set, or a loader with shuffle=False"
    )


def _from_dataset(data: Any, rows: Iterable[int], where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    chosen = list(rows)
    for row in chosen[:_TRIED]:
        first, second = (_pixels(_field(data[row], 0, where), where) for _ in range(2))
        if first.shape != second.shape or not np.array_equal(first, second):
            raise DataError(
                f"{where}: the image {row} of the {type(data).__name__} is another one each time it is asked for (a "
                "random augmentation?); return the data set without it, madx augments by itself (train.augment)"
            )
    return _stacked((data[row] for row in chosen), len(chosen), where)


def _stacked(items: Iterable[Any], count: int | None, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    pairs: Iterator[tuple[NDArray[Any], int]] = (
        (_pixels(_field(item, 0, where), where), _label(_field(item, 1, where), where)) for item in items
    )
    images: NDArray[Any] | list[NDArray[Any]] = []
    labels: list[int] = []
    for number, (image, label) in enumerate(pairs):
        if number == 0 and count is not None:
            images = np.empty((count, *image.shape), image.dtype)
        if number and image.shape != images[0].shape:
            raise DataError(
                f"{where}: image {number} has the shape {list(image.shape)}, the first one {list(images[0].shape)}; "
                "resize them in the data set"
            )
        if isinstance(images, list):
            images.append(image)
        else:
            images[number] = image
        labels.append(label)
    if not labels:
        raise DataError(f"{where}: the data set is empty")
    return np.stack(images) if isinstance(images, list) else images, np.array(labels, np.int64)


def _field(item: Any, place: int, where: str) -> Any:
    """The image (0) or the label (1) of an item, which is a pair or has usual keys."""
    if isinstance(item, Mapping):
        found = [key for key in (_IMAGE_KEYS, _LABEL_KEYS)[place] if key in item]
        if len(found) == 1:
            return item[found[0]]
    elif isinstance(item, tuple | list) and len(item) == 2:
        return item[place]
    kind = f"the keys {sorted(map(str, item))}" if isinstance(item, Mapping) else f"a {type(item).__name__}"
    raise DataError(f"{where}: an item of the data set is {kind}; expected the pair (image, label)")


def _label(value: Any, where: str) -> int:
    """A whole number; anything else would be rounded to another class."""
    try:
        return operator.index(value)
    except TypeError:
        raise DataError(
            f"{where}: a label of the data set is a {type(value).__name__} ({str(value)[:40]}); expected a whole "
            "number, the number of the class"
        ) from None


def _pixels(image: Any, where: str) -> NDArray[Any]:
    """A tensor, an array or a picture of Pillow as an array."""
    if hasattr(image, "detach"):
        return as_numpy(image)
    if isinstance(image, Image.Image) and image.mode not in ("L", "RGB"):
        raise DataError(
            f"{where}: a picture of the data set has Pillow's mode {image.mode}, whose numbers are not grey or "
            "colours as they are seen; return picture.convert('RGB') or convert('L')"
        )
    found = np.asarray(image)
    if found.dtype == object:
        raise DataError(f"{where}: an image of the data set is a {type(image).__name__}; expected a tensor or an array")
    return found
