"""Tables of file names and classes: CSV, TSV, text with blanks, Tiny-ImageNet's annotations, ImageNet's ground truth.

A table that can be read in two ways is refused with both.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from madx.data.listing import SUFFIXES, called
from madx.data.places import BROKEN, few, shown
from madx.data.stored import ImageFile
from madx.errors import DataError

_LABELS = frozenset(
    {
        "label",
        "labels",
        "class",
        "classes",
        "class_name",
        "category",
        "target",
        "wnid",
        "synset",
        "species",
        "y",
        "diagnosis",
    }
)
"""What a column of classes is called, in small letters."""


@dataclass(frozen=True)
class Labelled:
    """The images that a table names, in its order."""

    files: tuple[ImageFile, ...]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    classes: int
    remarks: tuple[str, ...]


def labelled(table: Path, files: Sequence[ImageFile], root: Path, names: tuple[str, ...]) -> Labelled:
    """The images that `table` names, with their classes.

    Args:
        table: the file.
        files: all images of the part.
        root: the part's folder.
        names: of the classes, in the order of the network's outputs; without them, those of the table, sorted.

    Raises:
        DataError: the table cannot be read, names no such file, or a class is not known.
    """
    rows = _rows(table)
    if max(map(len, rows)) == 1:
        return _ground_truth(table, [row[0] for row in rows], files, names)
    by_name = _by_name(files, root)
    column, header = _name_column(table, by_name, rows)
    body = rows[1:] if header else rows
    if column is None:
        raise DataError(
            f"{table}: no column of its first rows ({' | '.join(rows[0])}) is the name of an image in {root}; expected "
            "file names in one column and classes in another"
        )
    class_column = _class_column(table, header, body[0], column)
    if short := [number for number, row in enumerate(body, 1) if len(row) <= max(column, class_column)]:
        raise DataError(f"{table}: row {short[0]} has too few columns")
    found = [by_name.get(_key(row[column])) for row in body]
    if missing := [row[column] for row, file in zip(body, found, strict=True) if file is None]:
        raise DataError(f"{table} names {len(missing)} images that are not in {root}: {few(missing)}")
    labels, all_names, classes = _numbers(table, [row[class_column] for row in body], names)
    chosen = tuple(file for file in found if file is not None)
    unnamed = len(files) - len({file.path for file in chosen})
    remark = f"{unnamed} images of {shown(root.name)} are not in {table.name} and were not read"
    return Labelled(chosen, labels, all_names, classes, (remark,) if unnamed else ())


def _rows(table: Path) -> list[list[str]]:
    """The cells, without empty lines."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"data.labels {table} cannot be read: {error}") from None
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"data.labels {table} is empty; expected file names and classes")
    delimiter = next((mark for mark in "\t,;" if mark in lines[0]), None)
    if delimiter is None:
        return [line.split() for line in lines]
    try:
        return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=delimiter)]
    except csv.Error as error:
        raise DataError(f"data.labels {table} cannot be read as a table: {error}") from None


def _by_name(files: Sequence[ImageFile], root: Path) -> Mapping[str, ImageFile]:
    """Every file by its path below the folder and by its bare name, with and without ending, where only one has it."""
    found: dict[str, ImageFile | None] = {}
    for file in files:
        relative = PurePosixPath(Path(file.path).relative_to(root).as_posix())
        keys = {str(relative), relative.name, relative.stem, str(relative.with_suffix("")), f"{root.name}/{relative}"}
        for key in map(called, keys):
            found[key] = None if key in found else file
    return {key: file for key, file in found.items() if file is not None}


def _key(cell: str) -> str:
    return called(cell.replace("\\", "/").removeprefix("./"))


def _name_column(
    table: Path, by_name: Mapping[str, ImageFile], rows: Sequence[Sequence[str]]
) -> tuple[int | None, Sequence[str] | None]:
    """The column in which every row names an image, and the header if the first row is one.

    Numbers of rows or of classes may be called as images are (0 and 0.png): so one row alone does not tell.

    Raises:
        DataError: two columns do.
    """
    found, header = _naming(by_name, rows), None
    if not found and len(rows) > 1 and not _naming(by_name, rows[:1]):
        header = rows[0]
    body, titles = (rows[1:], header) if header else (rows, ())
    classes = {column for column, title in enumerate(titles) if title.lower() in _LABELS}
    for some in (body, body[:1]):  # in one row where other images are missing, which is told by their names
        found = found or [column for column in _naming(by_name, some) if column not in classes]
    width = min(map(len, body), default=0)
    if full := [column for column in range(width) if all(_has_ending(row[column]) for row in body)]:
        found = [column for column in found if column in full] or full[:1]  # not numbers, even if no image is there
    if len(found) > 1:
        told = ", ".join(f"{header[column] if header else rows[0][column]!r}" for column in found)
        raise DataError(
            f"{table}: in {len(found)} columns ({told}) every row is the name of an image; write the names with their "
            "endings (7.png), or leave two columns, the file name and the class"
        )
    return (found[0] if found else None), header


def _naming(by_name: Mapping[str, ImageFile], rows: Sequence[Sequence[str]]) -> list[int]:
    """The columns in which each of these rows has the name of an image."""
    width = min(map(len, rows), default=0)
    return [column for column in range(width) if all(_key(row[column]) in by_name for row in rows)]


def _has_ending(cell: str) -> bool:
    return PurePosixPath(_key(cell)).suffix.lower() in SUFFIXES


def _class_column(table: Path, header: Sequence[str] | None, row: Sequence[str], names: int) -> int:
    """The column of the classes: by its title, or the only other one; Tiny-ImageNet's is the second of six."""
    titled = [column for column, title in enumerate(header or ()) if title.lower() in _LABELS and column != names]
    others = [column for column in range(len(row)) if column != names]
    if len(titled) == 1:
        return titled[0]
    if len(others) == 1:
        return others[0]
    if header is None and len(row) == 6 and all(map(_is_number, row[2:])):
        return 1  # name, class, and the four numbers of a box
    raise DataError(
        f"{table} has {len(row)} columns ({' | '.join(header or row)}); which one is the class? Leave two, the file "
        "name and the class, or call one label"
    )


def _numbers(
    table: Path, cells: Sequence[str], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...], int]:
    """Labels, the names of the classes, and how many there are."""
    known = {called(name): number for number, name in enumerate(names)}
    texts = [called(cell) for cell in cells]
    if set(texts) <= known.keys():
        return np.array([known[text] for text in texts], np.int64), names, len(names)
    if not names and not all(map(_is_number, texts)):
        names = tuple(sorted(set(texts)))
        return np.array([names.index(text) for text in texts], np.int64), names, len(names)
    if all(map(_is_number, texts)):
        labels = np.array([int(text) for text in texts], np.int64)
        if names and labels.max() >= len(names):
            raise DataError(
                f"{table} has class numbers up to {labels.max()}, but there are {len(names)} classes, 0 to "
                f"{len(names) - 1}; if it counts from 1, write the names of the classes instead"
            )
        if not names and labels.min() > 0:
            raise DataError(
                f"{table} has class numbers from {labels.min()} to {labels.max()}, and no image has 0; if it counts "
                f"from {labels.min()}, list these numbers in data.classes, in the order of the network's outputs"
            )
        return labels, names, len(names) or int(labels.max()) + 1
    unknown = sorted(set(texts) - known.keys())
    raise DataError(
        f"{table} has classes that are none of the {len(names)} there are ({few(list(names))}): {few(unknown)}"
    )


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,9}", text) is not None


def _ground_truth(table: Path, cells: Sequence[str], files: Sequence[ImageFile], names: tuple[str, ...]) -> Labelled:
    """ImageNet's development kit: one number a line, for the images in the order of their names.

    The numbers count classes in an order of the kit's own, which meta.mat translates.
    """
    meta = table.with_name("meta.mat")
    if not meta.is_file() or len(cells) != len(files) or not all(map(_is_number, cells)):
        raise DataError(
            f"{table} has one column and {len(cells)} lines, for {len(files)} images; expected file names and classes. "
            "ImageNet's ground truth (a number for each image, in the order of their names) needs meta.mat of its "
            "development kit beside it, because the numbers are not those of the sorted classes"
        )
    synsets = _synsets(meta)
    if unknown := sorted({cell for cell in cells if int(cell) not in synsets}):
        raise DataError(f"{table} has the numbers {few(unknown)}, which {meta} does not know")
    labels, all_names, classes = _numbers(table, [synsets[int(cell)] for cell in cells], names)
    ordered = tuple(sorted(files, key=lambda file: Path(file.path).name))
    return Labelled(ordered, labels, all_names, classes, ())


def _synsets(meta: Path) -> dict[int, str]:
    """The kit's number of each class -> its folder's name."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(meta, squeeze_me=True)["synsets"]
        return {int(row[0]): str(row[1]) for row in np.atleast_1d(found)}
    except (MatReadError, *BROKEN) as error:
        raise DataError(f"{meta} is not the meta.mat of ImageNet's development kit ({error})") from None
