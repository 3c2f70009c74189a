"""Labels of images in tables and archives become numbers of the network's outputs.

Each file may count its classes in an order of its own: so a number goes by the name that its own file gives it, and
what could be read as a number and as a name is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.checks import checked_labels
from madx.data.listing import called
from madx.data.places import few
from madx.errors import DataError

_LARGEST = 2**31
"""No network has as many classes."""
_LIST = "list all classes of the network in data.classes or data.class_map, in the order of its outputs"


@dataclass(frozen=True)
class Written:
    """The labels of one file as they are written there."""

    where: str
    """The file."""
    labels: Sequence[Any]
    names: tuple[str, ...] = ()
    """Of the classes by number, if the file tells them."""


@dataclass(frozen=True)
class Known:
    """What is known of the classes before the labels are read."""

    names: tuple[str, ...] = ()
    """In the order of the network's outputs."""
    said: bool = False
    """Whether the recipe lists them; else they are those of the training images."""
    count: int | None = None
    """How many classes there are, where they have no names."""
    first: int = 0
    """The label of the first class."""
    by_number: bool = False
    """Whether the training images have numbers without names."""


@dataclass(frozen=True)
class Numbered:
    """Labels as numbers of outputs."""

    labels: NDArray[np.int64]
    names: tuple[str, ...]
    classes: int


def number_labels(files: Sequence[Written], known: Known) -> Numbered:
    """The labels of all files of a part, in order.

    Raises:
        DataError: a label is no number and no name, or it is not clear which class is meant.
    """
    if any(file.names for file in files):
        return _by_own_names(files, known)
    where = files[0].where if len(files) == 1 else f"{files[0].where} and the other files of its part"
    written = [label for file in files for label in file.labels]
    _check_kinds(written, where)
    texts = [called(label) if isinstance(label, str) else str(label) for label in written]
    if not all(_is_number(text) for text in texts):
        return _by_text(texts, known, where)
    numbers = [int(text) for text in texts]
    if known.names and not known.said:
        raise DataError(
            f"{where}: labels are numbers, but those of the training images are names ({few(list(known.names))}); "
            f"{_LIST}"
        )
    check_readings(texts, known.names, known.first, where, written=isinstance(written[0], str))
    count = len(known.names) or known.count
    labels = checked_labels(np.array(numbers), where=where, classes=count, first=known.first)
    return Numbered(labels, known.names, count or int(labels.max()) + 1)


def _check_kinds(labels: Sequence[Any], where: str) -> None:
    """That all labels are whole numbers, or all of them text."""
    kinds = {type(label) for label in labels}
    if kinds - {int, str} or len(kinds) > 1:
        odd = sorted("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise DataError(
            f"{where}: labels are of the types {', '.join(odd)}; expected whole numbers in all rows, or names in all"
        )
    if kinds == {int} and not all(-_LARGEST < label < _LARGEST for label in labels):
        raise DataError(f"{where}: there are labels beyond {_LARGEST}; expected numbers of classes")
    if kinds == {str} and len({_is_number(text) for text in labels}) > 1:
        digits, words = (sorted({t for t in labels if _is_number(t) is number}) for number in (True, False))
        raise DataError(
            f"{where}: some labels are numbers ({few(digits)}) and some are names ({few(words)}); write all of them in "
            "one way"
        )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?[0-9]{1,10}", text) is not None


def check_readings(
    texts: Iterable[str], names: Sequence[str], first: int, where: str, *, written: bool = False
) -> None:
    """That digits are not the name of one class and the number of another.

    Args:
        texts: the labels.
        names: of the classes, in the order of the network's outputs.
        first: the label of the first class.
        where: the labels came from.
        written: whether they are text there; numbers may be names only if every one of them is some class's.

    Raises:
        DataError: they are.
    """
    found, places = set(texts), {called(name): place for place, name in enumerate(names)}
    differ = sorted(text for text in found if text in places and places[text] != int(text) - first)
    if differ and (written or found <= places.keys()):
        raise DataError(
            f"{where}: the label {differ[0]} may be the number of a class, or the name of class {places[differ[0]]} in "
            "the recipe; call the classes in the recipe something else if numbers are meant"
        )


def _by_text(texts: Sequence[str], known: Known, where: str) -> Numbered:
    if known.by_number:
        raise DataError(f"{where}: labels are names, but those of the training images are numbers; {_LIST}")
    names = known.names or tuple(sorted(set(texts)))
    places = {called(name): place for place, name in enumerate(names)}
    if unknown := sorted(set(texts) - places.keys()):
        raise DataError(f"{where} has classes that are none of the {len(names)} there are: {few(unknown)}; {_LIST}")
    return Numbered(np.array([places[text] for text in texts], np.int64), names, len(names))


def _by_own_names(files: Sequence[Written], known: Known) -> Numbered:
    """Where files name the classes that they count: by these names."""
    if known.first:
        raise DataError(f"{files[0].where} names its classes from 0 on; leave data.first_label out")
    names = known.names or next(file.names for file in files if file.names)
    if not known.names and known.count is not None and known.count != len(names):
        raise DataError(
            f"{files[0].where} names {len(names)} classes ({few(list(names))}), and there are {known.count}; {_LIST}"
        )
    labels = [_of_file(file, names, known.said) for file in files]
    return Numbered(np.concatenate(labels), names, len(names))


def _of_file(file: Written, names: tuple[str, ...], said: bool) -> NDArray[np.int64]:
    own = file.names
    if not own and not said:
        raise DataError(f"{file.where} does not name the classes that it counts, and other files do; {_LIST}")
    if len(set(own)) < len(own):
        raise DataError(f"{file.where} gives several classes one name; mend its names, or leave them out and {_LIST}")
    _check_kinds(file.labels, file.where)
    if not all(isinstance(label, int) for label in file.labels):
        raise DataError(f"{file.where} names the classes by number, but its labels are text; expected whole numbers")
    written = checked_labels(np.array(file.labels), where=file.where, classes=len(own or names))
    places = {called(name): place for place, name in enumerate(names)}
    used = {called(own[number]) for number in set(written.tolist())} if own else set()
    if unknown := sorted(used - places.keys()):
        raise DataError(
            f"{file.where} has classes that are none of the {len(names)} there are ({few(list(names))}): "
            f"{few(unknown)}; {_LIST}"
        )
    numbers = [places.get(called(name), -1) for name in own] if own else range(len(names))
    return np.array(numbers, np.int64)[written]
