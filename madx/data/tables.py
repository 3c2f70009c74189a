"""Tables of file names and classes: CSV, TSV, text with blanks, Tiny-ImageNet's annotations, ImageNet's ground truth.

A table that can be read in two ways is refused with both.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from madx.data.labelling import names_of
from madx.data.listing import SUFFIXES, called
from madx.data.naming import parts_of
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
"""What a column of classes is called, as `_title` has it."""
_NAMED = frozenset({"class_label", "label_name", "category_name"})
"""The same, where no column is called so."""
_IDS = frozenset(
    {"class_id", "classid", "label_id", "labelid", "category_id", "class_index", "class_idx", "label_idx", "target_id"}
)
"""What a column of the classes' numbers is called."""
_PARTS = frozenset({"split", "set", "subset", "data_set", "dataset", "partition", "phase", "usage"})
"""What a column is called that says of which part of the set an image is."""
_FLAGS = frozenset({"is_train", "is_training", "is_training_image", "is_test", "is_val", "is_valid"})
"""What one is called that says yes or no to that."""
_NOTHING = frozenset({"", "nan", "null", "<na>", "#n/a"})
"""What programs write where there is no value, in small letters."""


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
    class_column = _class_column(table, header, body, column)
    if short := [number for number, row in enumerate(body, 1) if len(row) <= max(column, class_column)]:
        raise DataError(f"{table}: row {short[0]} has too few columns")
    _check_one_part(table, header, body)
    found = [by_name.get(_key(row[column])) for row in body]
    if missing := [row[column] for row, file in zip(body, found, strict=True) if file is None]:
        raise DataError(f"{table} names {len(missing)} images that are not in {root}: {few(missing)}")
    cells = [row[class_column] for row in body]
    _check_cells(table, cells, names)
    labels, all_names, classes = _numbers(table, cells, names or _names_by_id(table, header, body, class_column))
    chosen = tuple(file for file in found if file is not None)
    unnamed = len(files) - len({file.path for file in chosen})
    remark = f"{unnamed} images of {shown(root.name)} are not in {table.name} and were not read"
    return Labelled(chosen, labels, all_names, classes, (remark,) if unnamed else ())


def _rows(table: Path) -> list[list[str]]:
    """The cells, without empty lines."""
    try:
        content = table.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # Excel's "Unicode text"
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise DataError(f"data.labels {table} cannot be read: {error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"data.labels {table} is no text in UTF-8 ({error}); save it as CSV in UTF-8") from None
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
    classes = {column for column, title in enumerate(titles) if _title(title) in _LABELS | _IDS}
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


def _title(cell: str) -> str:
    """Of a column, as it is compared: "Class ID" and "class-id" are class_id."""
    return re.sub(r"[^a-z0-9]+", "_", cell.lower()).strip("_")


def _class_column(table: Path, header: Sequence[str] | None, body: Sequence[Sequence[str]], names: int) -> int:
    """The column of the classes: by its title, or the only other one; Tiny-ImageNet's is the second of six."""
    row, titles = body[0], [_title(title) for title in header or ()]
    others = [column for column in range(len(row)) if column != names]
    for known in (_LABELS, _NAMED, _IDS):
        titled = [column for column, title in enumerate(titles) if title in known and column != names]
        if len(titled) == 1:
            return titled[0]
        if titled:
            break
    if len(others) == 1:
        return others[0]
    if header is None and len(row) == 6 and all(map(_is_number, row[2:])):
        return 1  # name, class, and the four numbers of a box
    if header and all(
        cell in ("0", "1", "0.0", "1.0") for line in body for cell in [*line[:names], *line[names + 1 :]]
    ):
        raise DataError(
            f"{table} has a column of 0 and 1 for each of {len(others)} classes; write the name of the class of each "
            "image in one column called label (several labels for an image are not supported)"
        )
    raise DataError(
        f"{table} has {len(row)} columns ({' | '.join(header or row)}); which one is the class? Leave two, the file "
        "name and the class, or call one label"
    )


def _check_one_part(table: Path, header: Sequence[str] | None, body: Sequence[Sequence[str]]) -> None:
    """That the rows are of one part of the set.

    Raises:
        DataError: a column says of which part each is; training images would be in the gate.
    """
    for column, title in enumerate(header or ()):
        said = sorted({row[column] for row in body if len(row) > column}) if _title(title) in _PARTS else []
        flags = sorted({row[column] for row in body if len(row) > column}) if _title(title) in _FLAGS else []
        if len({part for cell in said for part in parts_of(cell)}) > 1 or len(flags) > 1:
            raise DataError(
                f"{table}: the column {title!r} says that rows are of several parts ({few(said or flags)}); write a "
                "table for each: data.train_labels for the training images, data.labels for the test images"
            )


def _check_cells(table: Path, cells: Sequence[str], names: Sequence[str]) -> None:
    """That every row has one class, which is a name or a number of all rows' kind.

    Raises:
        DataError: one has none, or several, or some are numbers and some are names and the recipe lists no classes.
    """
    if odd := [number for number, cell in enumerate(cells, 1) if cell.lower() in _NOTHING and cell not in names]:
        raise DataError(
            f"{table}: {len(odd)} rows have no class (the first of them is row {odd[0]} of the images, with "
            f"{cells[odd[0] - 1]!r}); remove them, or write their classes"
        )
    if names:
        return
    texts = set(cells)
    numbers = {text for text in texts if re.fullmatch(r"-?[0-9]+(\.[0-9]*)?", text)}
    if texts - numbers and numbers:
        raise DataError(
            f"{table}: some classes are numbers ({few(sorted(numbers))}) and some are names "
            f"({few(sorted(texts - numbers))}); if all are names, list them in data.classes, in the order of the "
            "network's outputs"
        )
    if odd_numbers := sorted(text for text in numbers if not _is_number(_whole(text))):
        raise DataError(
            f"{table}: there are the class numbers {few(odd_numbers)}; expected whole numbers from 0 on (rows without "
            "a class are to be left out)"
        )
    if several := sorted(text for text in texts if _is_combined(text, texts)):
        raise DataError(
            f"{table}: {few(several)} are several classes of one image, and one is expected; leave such images out. "
            "If these are classes, list all of them in data.classes, in the order of the network's outputs"
        )


def _is_combined(text: str, texts: set[str]) -> bool:
    """Whether a class is made of others that there are: "cat|dog", "cat dog"."""
    return any(len(found := text.split(mark)) > 1 and texts.issuperset(found) for mark in ("|", ";", ",", " ", "+"))


def _names_by_id(
    table: Path, header: Sequence[str] | None, body: Sequence[Sequence[str]], class_column: int
) -> tuple[str, ...]:
    """The names of the classes in the order of their numbers, where a column has these; empty where none does.

    Raises:
        DataError: a number has two names, or there are gaps, so that the order of the network's outputs is not known.
    """
    titled = [place for place, title in enumerate(header or ()) if _title(title) in _IDS and place != class_column]
    if len(titled) != 1 or all(_is_number(row[class_column]) for row in body):
        return ()
    if short := [number for number, row in enumerate(body, 1) if len(row) <= titled[0]]:
        raise DataError(f"{table}: row {short[0]} has too few columns")
    pairs = {(row[titled[0]], called(row[class_column])) for row in body}
    numbers = sorted(int(number) for number, _ in pairs if _is_number(number))
    if not numbers:  # codes of the classes, which order nothing
        return ()
    if len({name for _, name in pairs}) < len(pairs) or numbers not in (
        list(range(len(pairs))),
        list(range(1, len(pairs) + 1)),
    ):
        raise DataError(
            f"{table}: the column {(header or ())[titled[0]]!r} does not number the classes from 0 or 1 on, one number "
            "for each name; list all classes in data.classes, in the order of the network's outputs"
        )
    return tuple(name for _, name in sorted(pairs, key=lambda pair: int(pair[0])))


def _numbers(
    table: Path, cells: Sequence[str], names: tuple[str, ...]
) -> tuple[NDArray[np.int64], tuple[str, ...], int]:
    """Labels, the names of the classes, and how many there are."""
    known = {called(name): number for number, name in enumerate(names)}
    written = [called(cell) for cell in cells]  # classes may be called 1.0 and 2.0
    texts = _as_named([text if text in known else _whole(text) for text in written], names)
    if set(texts) <= known.keys():
        return np.array([known[text] for text in texts], np.int64), names, len(names)
    if not names and not all(map(_is_number, texts)):
        names = names_of(texts, str(table))
        return np.array([names.index(text) for text in texts], np.int64), names, len(names)
    if all(map(_is_number, texts)):
        labels = np.array([int(text) for text in texts], np.int64)
        if names and all(map(_is_number, names)):
            unknown = sorted(set(texts) - known.keys())
            raise DataError(
                f"{table}: the classes are called by numbers ({few(list(names))}), and {few(unknown)} is none of them; "
                "write the names of the classes"
            )
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


def _whole(text: str) -> str:
    """1.0 as 1: a column in which a cell was empty once is written so."""
    return re.sub(r"^([0-9]+)\.0*$", r"\1", text)


def _as_named(texts: Sequence[str], names: Sequence[str]) -> list[str]:
    """Numbers written as the classes are called, where these are called by numbers (1 for 01)."""
    if not all(map(_is_number, names)) or len(values := {int(name): name for name in names}) < len(names):
        return list(texts)
    return [values.get(int(text), text) if _is_number(text) else text for text in texts]


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
