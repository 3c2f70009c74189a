"""The user's own arrays: from files (`madx.data.formats`), or from a Python callable that returns them.

Images are uint8 in 0..255, floats in [0, 1], or what the recipe says; [N, H, W], [N, C, H, W] or [N, H, W, C].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.checks import checked_labels, require_one_unit
from madx.data.classes import class_names
from madx.data.collecting import collected
from madx.data.formats import Arrays, open_arrays
from madx.data.labelling import check_readings
from madx.data.naming import Pair, choose
from madx.data.rows import Pixels, in_memory
from madx.data.sources import Meaning, Reading, array_source
from madx.errors import DataError
from madx.plugins import USER_ERRORS, describe, load_callable
from madx.recipe import DataConfig

Part = tuple[Pixels, NDArray[Any]]
"""Images and labels."""


def read_arrays(config: DataConfig) -> Reading:
    """Arrays of one of the formats that `FORMATS` lists. Pickled objects are refused: they run code.

    Raises:
        DataError: if a file cannot be read, lacks an array, or an array is not as stated above.
    """
    if config.path is None or not config.path.exists():
        raise DataError(f"data.path {config.path} is not a file and not a folder; data.name: {config.name} reads one")
    _, arrays, passed_over = open_arrays(config.name, config.path)
    where = str(config.path)
    chosen = choose(arrays, where=where, keys=dict(config.keys or {}))
    if config.split == "test":
        wanted = chosen.test or chosen.whole
        if wanted is None:
            raise DataError(f"{where} has no test images; data.split: test takes all images of the test part")
        return reading(config, None, _loaded(arrays, wanted), where=where, remarks=passed_over)
    training = chosen.train or chosen.whole
    parts = [None if pair is None else _loaded(arrays, pair) for pair in (training, chosen.test)]
    return reading(config, parts[0], parts[1], where=where, remarks=(*chosen.remarks, *passed_over))


def _loaded(arrays: Arrays, pair: Pair) -> Part:
    images, labels = (arrays[name]() for name in pair)
    return images, in_memory(labels)


def read_factory(config: DataConfig) -> Reading:
    """What data.factory returns: {'train': part, 'test': part}; a part alone must be the test part.

    A part is a pair (images, labels) of arrays or tensors, a torch Dataset or a DataLoader.

    Raises:
        DataError: if it cannot be imported or returns anything else.
    """
    if config.factory is None or config.path is not None:
        raise DataError("data.name: factory takes data.factory, and no data.path")
    where = f"data.factory {config.factory}"
    parts = _call(load_callable(config.factory, error=DataError), where)
    if not (isinstance(parts, Mapping) and set(parts) in ({"train", "test"}, {"test"})):
        given = (
            f"a mapping with the keys {sorted(map(str, parts))}"
            if isinstance(parts, Mapping)
            else f"a {type(parts).__name__}"
        )
        raise DataError(
            f"{where} returned {given}; expected {{'train': part, 'test': part}}, or {{'test': part}} for a finished "
            "network; a part is (images, labels), a torch Dataset or a DataLoader"
        )
    names = ("test",) if config.split == "test" else tuple(parts)
    found = {name: collected(parts[name], f"{where}, {name}") for name in names}
    return reading(config, found.get("train"), found["test"], where=where)


def _call(factory: Callable[[], object], where: str) -> object:
    try:
        return factory()
    except USER_ERRORS as problem:
        raise DataError(f"{where} failed with {describe(problem)}") from problem


def meaning_of(config: DataConfig) -> Meaning:
    """What the recipe says of arrays."""
    undone = config.normalised
    return Meaning(
        layout=config.layout,
        range=config.range,
        mean=undone.mean if undone else (),
        std=undone.std if undone else (),
        first_label=config.first_label,
    )


def reading(
    config: DataConfig, training: Part | None, test: Part | None, *, where: str, remarks: tuple[str, ...] = ()
) -> Reading:
    """Both parts, checked; unless the recipe does, the training labels say how many classes there are."""
    names, meaning = class_names(config), meaning_of(config)
    training, test = (part and (part[0], _numbered(part[1], names, meaning, where)) for part in (training, test))
    classes = len(names) or config.num_classes
    source = None
    if training is not None:
        source = array_source(*training, where=f"{where} (train)", classes=classes, names=names, meaning=meaning)
    if test is None:
        return source and replace(source, remarks=(*source.remarks, *remarks)), None
    if source is not None and classes is None:
        _require_known(test[1], source.labels, meaning, where)
        classes = source.classes
    found = array_source(*test, where=f"{where} (test)", classes=classes, names=names, meaning=meaning)
    if source is not None and meaning.converts:
        require_one_unit(source.limits, found.limits, where=where)
    return source, replace(found, remarks=(*found.remarks, *remarks))


def _numbered(labels: NDArray[Any], names: tuple[str, ...], meaning: Meaning, where: str) -> NDArray[Any]:
    """Labels that are names as the numbers that the recipe gives them."""
    if labels.dtype.kind in "iu":
        check_readings(map(str, np.unique(labels).tolist()), names, meaning.first_label, where)
    if labels.dtype.kind not in "US":
        return labels
    try:
        texts, rows = np.unique(labels.astype(str), return_inverse=True)
    except ValueError as error:
        raise DataError(f"{where}: labels are names that are no text ({error}); save them as text or numbers") from None
    if unknown := sorted(set(texts.tolist()) - set(names)):
        raise DataError(
            f"{where}: labels are names, and {', '.join(unknown[:3])} is none of the {len(names)} that the recipe "
            "lists; list all classes of the network in data.classes or data.class_map, in the order of its outputs"
        )
    return np.array([names.index(text) + meaning.first_label for text in texts.tolist()])[rows].reshape(labels.shape)


def _require_known(labels: NDArray[Any], trained: NDArray[np.int64], meaning: Meaning, where: str) -> None:
    """That test images have no class that no training image has."""
    first = meaning.first_label
    checked = checked_labels(labels, where=f"{where} (test)", classes=np.iinfo(np.int64).max - first, first=first)
    unknown = np.setdiff1d(checked, trained)
    if len(unknown):
        classes = max(int(trained.max()), int(unknown[-1])) + 1
        raise DataError(
            f"{where} (test): no training image has label {unknown[0] + first}, and test images have. If the network "
            f"knows that class all the same, say how many it knows: data.num_classes: {classes}"
        )
