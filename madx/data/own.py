"""The user's own arrays: a .npz file, or a Python callable that returns them.

Images are uint8 in 0..255 or floats in [0, 1]; [N, H, W], [N, C, H, W] or [N, H, W, C]; labels count from 0.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.classes import class_names
from madx.data.sources import Reading, array_source, checked_labels
from madx.errors import DataError
from madx.plugins import USER_ERRORS, describe, load_callable
from madx.recipe import DataConfig

NPZ_KEYS = (
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
"""Keras' names and MedMNIST's; a file uses one of these sets, other keys (val_images) are not read."""


def read_npz(config: DataConfig) -> Reading:
    """A .npz file with one of the sets of keys in `NPZ_KEYS`. Pickled objects are refused: they run code.

    Raises:
        DataError: if the file cannot be read, lacks a key, or an array is not as stated above.
    """
    if config.path is None or not config.path.is_file():
        raise DataError(f"data.path {config.path} is not a file; data.name: npz reads one .npz file")
    images, labels, test_images, test_labels = _load_npz(config.path)
    return _reading(config, (images, labels), (test_images, test_labels), where=str(config.path))


def _load_npz(path: Path) -> list[NDArray[Any]]:
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array (.npy); {_wanted_keys()}")
            return [archive[key] for key in _keys_of(path, set(archive.files))]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as .npz without pickled objects: {error}") from None


def _keys_of(path: Path, found: set[str]) -> tuple[str, ...]:
    """The set of keys that the file uses."""
    matching = [keys for keys in NPZ_KEYS if found.issuperset(keys)]
    if len(matching) != 1:
        problem = "uses both sets of keys" if matching else f"has the keys {', '.join(sorted(found)) or '(none)'}"
        raise DataError(f"{path} {problem}; {_wanted_keys()}")
    return matching[0]


def _wanted_keys() -> str:
    return "expected a .npz with " + ", or with ".join(", ".join(keys) for keys in NPZ_KEYS)


def read_factory(config: DataConfig) -> Reading:
    """What data.factory returns: {'train': (images, labels), 'test': (images, labels)}, arrays or tensors.

    Raises:
        DataError: if it cannot be imported or returns anything else.
    """
    if config.factory is None or config.path is not None:
        raise DataError("data.name: factory takes data.factory, and no data.path")
    where = f"data.factory {config.factory}"
    parts = _call(load_callable(config.factory, error=DataError), where)
    if not (isinstance(parts, Mapping) and set(parts) == {"train", "test"}):
        given = f"a mapping with the keys {sorted(map(str, parts))}" if isinstance(parts, Mapping) else _kind(parts)
        raise DataError(f"{where} returned {given}; expected {{'train': (images, labels), 'test': (images, labels)}}")
    training, test = (_pair(parts[name], f"{where}, {name}") for name in ("train", "test"))
    return _reading(config, training, test, where=where)


def _call(factory: Callable[[], object], where: str) -> object:
    try:
        return factory()
    except USER_ERRORS as problem:
        raise DataError(f"{where} failed with {describe(problem)}") from problem


def _pair(value: object, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    if not (isinstance(value, tuple | list) and len(value) == 2):
        length = f" of {len(value)}" if isinstance(value, tuple | list) else ""
        raise DataError(f"{where}: expected the pair (images, labels), this is {_kind(value)}{length}")
    images, labels = value
    return _as_array(images, f"{where} images"), _as_array(labels, f"{where} labels")


def _as_array(value: object, where: str) -> NDArray[Any]:
    """`value` as a NumPy array; lists are refused, for their type would be guessed."""
    import torch

    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    if isinstance(value, np.ndarray):
        return value
    raise DataError(f"{where}: expected a NumPy array or a tensor, this is {_kind(value)}")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _reading(
    config: DataConfig,
    training: tuple[NDArray[Any], NDArray[Any]],
    test: tuple[NDArray[Any], NDArray[Any]],
    *,
    where: str,
) -> Reading:
    """Both parts, checked; unless the recipe does, the training labels say how many classes there are."""
    names = class_names(config)
    classes = len(names) or config.num_classes
    source = array_source(*training, where=f"{where} (train)", classes=classes, names=names)
    any_label = np.iinfo(np.int64).max
    labels = checked_labels(test[1], where=f"{where} (test)", classes=classes or any_label)
    unknown = np.setdiff1d(labels, source.labels)
    if classes is None and len(unknown):
        all_classes = max(source.classes, int(unknown[-1]) + 1)
        raise DataError(
            f"{where} (test): no training image has label {unknown[0]}, and test images have. If the network knows "
            f"that class all the same, say how many it knows: data.num_classes: {all_classes}"
        )
    return source, array_source(*test, where=f"{where} (test)", classes=source.classes, names=names)
