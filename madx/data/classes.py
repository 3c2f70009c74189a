"""What classes are called, in the order of the network's outputs."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

from madx.errors import DataError
from madx.recipe import DataConfig

CLASS_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fashion-mnist": (
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        "cifar10": (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
    }
)
"""By data.name; the other data sets have numbers only."""


def class_names(config: DataConfig) -> tuple[str, ...]:
    """What the recipe lists or has in a file, or what a published set has; empty where there are only numbers.

    Raises:
        DataError: the file cannot be read, or is not one name a line.
    """
    if config.classes is not None:
        return tuple(_composed(name) for name in config.classes)
    if config.class_map is None:
        return CLASS_NAMES.get(config.name, ())
    try:
        text = config.class_map.read_text(encoding="utf-8-sig")  # some editors begin with a mark that no one sees
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.class_map {config.class_map} cannot be read: {error}") from None
    names = tuple(_composed(line.strip()) for line in text.rstrip().split("\n"))
    if "" in names:
        raise DataError(
            f"data.class_map {config.class_map}: line {names.index('') + 1} is empty, and every line names an output "
            "of the network; give that output any name that no folder has"
        )
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"data.class_map {config.class_map} has {len(names)} names, {len(set(names))} of them different; expected "
            "one class name a line, each once, in the order of the network's outputs"
        )
    return names


def _composed(name: str) -> str:
    """Letters with their accents in one, as folders' names are compared: systems differ in how they keep them."""
    return unicodedata.normalize("NFC", name)
