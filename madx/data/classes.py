"""What classes are called, in the order of the network's outputs."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
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
    if config.class_map.suffix.lower() == ".json":
        lines = _from_json(config.class_map, text)
    else:
        lines = _in_order(text.rstrip().split("\n"))
    names = tuple(_composed(line.strip()) for line in lines)
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


_NUMBERED = (
    r"\s*(?P<number>[0-9]{1,9})[\s,;:]+(?P<name>.*\S)\s*",
    r"\s*(?P<name>.*?\S)[\s,;:]+(?P<number>[0-9]{1,9})\s*",
)


def _in_order(lines: list[str]) -> list[str]:
    """The names, where each line has its number too ("0 cat", "cat,0"), or a description of ImageNet's synset.

    Lines of which any is otherwise, or whose numbers are not those of all outputs, are names as they stand.
    """
    if all(re.match(r"n[0-9]{8}\s", line) for line in lines):
        return [line.split()[0] for line in lines]
    for pattern in (
        r"\s*(?P<number>[0-9]{1,9})[\s,;:]+(?P<name>.*\S)\s*",
        r"\s*(?P<name>.*?\S)[\s,;:]+(?P<number>[0-9]{1,9})\s*",
    ):
        found = [re.fullmatch(pattern, line) for line in lines]
        body = found if found[0] else found[1:]  # the first line may be the titles of the columns
        named = {int(match["number"]): match["name"] for match in body if match}
        first = min(named, default=0)
        all_numbers = first in (0, 1) and sorted(named) == list(range(first, first + len(body)))
        if all_numbers and len(body) > 1 and len(set(named.values())) == len(body):
            return [named[number] for number in sorted(named)]
    return lines


def _from_json(path: Path, text: str) -> list[str]:
    """A list of names, {name: number} (torchvision), {number: name} or {number: [folder, name]} (Keras)."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"data.class_map {path} is not JSON ({error})") from None
    if isinstance(content, list) and all(isinstance(name, str | int) for name in content):
        return [str(name) for name in content]
    if isinstance(content, dict):
        by_name = all(isinstance(value, int) for value in content.values())
        pairs = content.items() if by_name else [(name, number) for number, name in content.items()]
        numbered = {str(number): name[0] if isinstance(name, list) else str(name) for name, number in pairs}
        if len(numbered) == len(content) and set(numbered) == {str(number) for number in range(len(content))}:
            return [numbered[str(number)] for number in range(len(content))]
    raise DataError(
        f"data.class_map {path} is no list of names and no mapping between names and all numbers from 0; expected one"
    )


def _composed(name: str) -> str:
    """Letters with their accents in one, as folders' names are compared: systems differ in how they keep them."""
    return unicodedata.normalize("NFC", name)
