"""What arrays, files and shards are called: which part of the set they are of, and whether they are images or labels.

Names are cut into words ("x_train", "trainX" and "train-images-idx3-ubyte" are two, two and four), and only words
that everybody uses count. Of two names that fit, the one with fewer other words is meant; where that leaves two, it is
asked which.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from madx.data.places import few
from madx.errors import DataError

Pair = tuple[str, str]
"""What images and labels are called."""
PARTS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "train": frozenset({"train", "training", "tr", "trn"}),
        "test": frozenset({"test", "testing", "tst", "te", "t10k"}),
        "val": frozenset({"val", "valid", "validation", "dev"}),
    }
)
IMAGES = frozenset({"x", "image", "images", "img", "imgs", "data", "input", "inputs", "pixels", "features", "samples"})
LABELS = frozenset({"y", "label", "labels", "lbl", "lbls", "target", "targets", "class", "classes"})
USUAL = "x_train, y_train, x_test, y_test, or train_images, train_labels, test_images, test_labels"
"""The usual names, for messages; those of the test part alone are for finished networks."""


@dataclass(frozen=True)
class Chosen:
    """Which names are which part; `whole` is a set without parts."""

    train: Pair | None = None
    test: Pair | None = None
    whole: Pair | None = None
    remarks: tuple[str, ...] = ()


def words(name: str) -> list[str]:
    """Of a name, in small letters; a glued "Xtrain" is two."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    found = [word for word in re.split(r"[^a-z0-9]+", parted.lower()) if word]
    glued = [re.fullmatch(r"([xy])(train|test|valid|val)|(train|test|valid|val)([xy])", word) for word in found]
    cut = [
        [part for part in match.groups() if part] if match else [word] for word, match in zip(found, glued, strict=True)
    ]
    return [word for parts in cut for word in parts]


def part_of(name: str) -> str | None:
    """train, test or val; None where the name does not say it, or says two of them."""
    found = parts_of(name)
    return next(iter(found)) if len(found) == 1 else None


def parts_of(name: str) -> frozenset[str]:
    """All parts that the name says."""
    return frozenset(part for part, usual in PARTS.items() if usual & set(words(name)))


def kind_of(name: str) -> Literal["images", "labels"] | None:
    """What the name says of the array."""
    found = set(words(name))
    return "labels" if found & LABELS else "images" if found & IMAGES else None


def choose(names: Iterable[str], *, where: str, keys: Mapping[Any, str] | None = None) -> Chosen:
    """Which of the names are images and labels of which part.

    Args:
        names: that are there.
        where: they are, for errors.
        keys: what the recipe says, x_train, y_train, x_test, y_test -> name.

    Raises:
        DataError: none fits, or two do.
    """
    there = list(names)
    if keys:
        return _as_said(keys, there, where)
    pairs = {part: _pair(there, part, where) for part in (*PARTS, None)}
    train, test, validation, whole = (pairs[part] for part in ("train", "test", "val", None))
    if whole is not None and (train or test):
        whole = None  # of the parts' names the other set may be a leftover of
    if train is None and test is None and validation is None and whole is None:
        lone = [kind for kind in ("images", "labels") if any(kind_of(name) == kind for name in there)]
        told = f"{lone[0]} and nothing that could be the other (images need labels): " if len(lone) == 1 else ""
        raise DataError(
            f"{where} has {told}the keys {', '.join(sorted(there)[:20]) or '(none)'}; expected the usual ones "
            f"({USUAL}), or say which are which: data.keys: {{x_train: NAME, y_train: NAME, x_test: NAME, y_test: "
            "NAME}"
        )
    unread = validation is not None and test is not None
    remarks = (f"{validation[0]} is not read: {test[0]} is the gate",) if unread and validation and test else ()
    return Chosen(train, test or validation, whole if not validation else None, remarks)


def _as_said(keys: Mapping[Any, str], there: Sequence[str], where: str) -> Chosen:
    if missing := sorted(set(keys.values()) - set(there)):
        raise DataError(
            f"{where} has no {few(missing)}, which data.keys names; there are {', '.join(sorted(there)[:20])}"
        )
    pairs: dict[str, Pair] = {}
    for part in ("train", "test"):
        if (f"x_{part}" in keys) != (f"y_{part}" in keys):
            raise DataError(f"data.keys gives one of x_{part} and y_{part}; images need labels, and labels images")
        if f"x_{part}" in keys:
            pairs[part] = keys[f"x_{part}"], keys[f"y_{part}"]
    return Chosen(pairs.get("train"), pairs.get("test"))


def _pair(names: Sequence[str], part: str | None, where: str) -> Pair | None:
    """Images and labels of one part; None where one of them is not there."""
    found = []
    for kind in ("images", "labels"):
        of_part = [name for name in names if part_of(name) == part and len(parts_of(name)) <= 1]
        fitting = [name for name in of_part if kind_of(name) == kind]
        if not fitting:
            return None
        fewest = min(len(words(name)) for name in fitting)
        best = [name for name in fitting if len(words(name)) == fewest]
        if len(best) > 1:
            raise DataError(
                f"{where} has both {' and '.join(sorted(best)[:3])}, which could be the {kind}"
                f"{f' of the part {part}' if part else ''}; say which are meant: data.keys: {{x_train: NAME, "
                "y_train: NAME, x_test: NAME, y_test: NAME}"
            )
        found.append(best[0])
    return found[0], found[1]
