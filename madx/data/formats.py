"""Formats of arrays: a row for each, with how its files are known and how one is opened.

What a file or a folder holds is a mapping of names to functions that load the array, so that only what is meant is
read; `madx.data.naming` says what is meant.
"""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from madx.data.infile import open_idx, open_npy, open_npz
from madx.data.naming import part_of
from madx.data.nested import Load, flat, joined
from madx.data.pickles import load_arrays
from madx.data.places import BROKEN, few, require_memory
from madx.data.rows import in_memory
from madx.data.unread import require_content, told_of
from madx.errors import DataError

Arrays = Mapping[str, Load]
_DEPTH = 2
"""Folders below the one that is given in which files are looked for, where it has none itself (MNIST/raw)."""


@dataclass(frozen=True)
class Format:
    """One way of keeping arrays in files."""

    what: str
    """In words."""
    pattern: str
    """Regular expression of its files' names, in small letters."""
    open: Callable[[Path], Arrays]
    batches: str = ""
    """Of names of files that are pieces of one set."""

    def files(self, folder: Path) -> list[Path]:
        """Of this format, sorted."""
        found = [file for file in sorted(folder.iterdir()) if re.fullmatch(self.pattern, file.name.lower())]
        return [file for file in found if file.is_file()]


def _open_pt(path: Path) -> Arrays:
    import pickle

    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            require_memory(path, sum(member.file_size for member in archive.infolist()))
    try:
        with warnings.catch_warnings():  # of other pickle protocols, which it refuses or reads
            warnings.simplefilter("ignore")
            content = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, *BROKEN) as error:
        told = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(error)).split())[:200]
        raise DataError(
            f"{path} cannot be read as tensors without running code ({told}); save a dictionary of tensors, or let a "
            "factory of yours read it (data.name: factory)"
        ) from None
    return flat(content, path)


def _open_pickle(path: Path) -> Arrays:
    require_memory(path, 2 * path.stat().st_size)  # the file and what is made of it
    return flat(load_arrays(path), path)


_MAT_BYTES = {
    **{f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)},
    **{"double": 8, "single": 4, "logical": 1, "char": 4},
}
"""Of an entry of each of MATLAB's classes of arrays of numbers and text; others are not read."""


def _open_mat(path: Path) -> Arrays:
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    if re.fullmatch(r"(train|test|extra)_32x32\.mat", path.name):
        raise DataError(f"{path} is a file of SVHN, where the label 10 means 0: say data.name: svhn")
    try:
        there = {name: math.prod(shape) * _MAT_BYTES.get(kind, 0) for name, shape, kind in whosmat(path)}
        require_memory(path, sum(there.values()))
        content = loadmat(path, variable_names=[name for name, size in there.items() if size])
    except (MatReadError, *BROKEN) as error:
        raise DataError(
            f"{path} cannot be read as a MATLAB file ({error}); one of version 7.3 is HDF5: save it with -v7"
        ) from None
    arrays = {
        key: value for key, value in content.items() if not key.startswith("__") and isinstance(value, np.ndarray)
    }
    return {key: lambda value=value: _images_first(value) for key, value in arrays.items()}  # type: ignore[misc]


def _images_first(array: NDArray[Any]) -> NDArray[Any]:
    """MATLAB counts images on the last axis, its vectors are rows or columns, and its numbers are double by default."""
    if array.ndim >= 3:
        return np.moveaxis(array, -1, 0)
    if 1 not in array.shape:
        return array
    whole = array.dtype.kind == "f" and bool((abs(array) < 2**31).all()) and bool((array == np.floor(array)).all())
    return (array.astype(np.int64) if whole else array).ravel()


_BATCHES = r"(train_)?data_batch(_\d+)?"
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "npz": Format("a .npz file", r".*\.npz", open_npz),
        "npy": Format(".npy files", r".*\.npy", lambda path: {"": lambda: open_npy(path)}),
        "pt": Format(".pt files of tensors", r".*\.pth?", _open_pt),
        "idx": Format(
            "IDX files (as MNIST's)",
            r".*[-._]idx\d([-._](u?byte|short|int|float|double))?(\.gz)?",
            lambda path: {"": lambda: open_idx(path)},
        ),
        "mat": Format(".mat files", r".*\.mat", _open_mat),
        "pickles": Format(
            "Python pickles of arrays (as CIFAR's)",
            rf".*\.(pkl|pickle|p)|{_BATCHES}|test_batch|val_data|train|test",
            _open_pickle,
            batches=rf"{_BATCHES}|test_batch|val_data|train|test",
        ),
    }
)
"""By data.name. A new format is a new row (and its name a choice of the recipe's)."""


class Opened(NamedTuple):
    """What a file or folder holds."""

    format: str
    arrays: Arrays
    remarks: tuple[str, ...] = ()
    """What was passed over, for whoever reads the verdict."""


def open_arrays(name: str, path: Path) -> Opened:
    """What the file or folder holds, and in which format.

    Args:
        name: of a format, or `arrays` for whichever there is.
        path: of a file, or of a folder of files.

    Raises:
        DataError: there is nothing of that format, or two formats.
    """
    wanted = dict(FORMATS) if name == "arrays" else {name: FORMATS[name]}
    if path.is_file():
        fitting = [key for key, row in wanted.items() if re.fullmatch(row.pattern, path.name.lower())]
        if not fitting and name != "arrays":
            fitting = [name]
        if not fitting:
            raise DataError(f"data.path {path} is none of {_known(wanted)}{told_of([path])}")
        return Opened(fitting[0], _opened(wanted[fitting[0]], path))
    if not path.is_dir():
        raise DataError(f"data.path {path} is not a file and not a folder; data.name: {name} reads {_known(wanted)}")
    opened = {folder: _of_folder(folder, found, wanted) for folder, found in _found(path, wanted).items()}
    first, *others = opened.values()
    if not others:
        return first
    arrays = {
        joined(str(part_of(folder.name)), key): load
        for folder, one in opened.items()
        for key, load in one.arrays.items()
    }
    return Opened(first.format, arrays, tuple(remark for one in opened.values() for remark in one.remarks))


def _of_folder(folder: Path, found: Mapping[str, list[Path]], wanted: Mapping[str, Format]) -> Opened:
    if len(found) > 1:
        raise DataError(
            f"{folder} has {' and '.join(map(_known_one, found))}; say which are meant: data.name: {' or '.join(found)}"
        )
    key, files = next(iter(found.items()))
    kept = _without_twins(files)
    remarks = tuple(
        f"{file.name} has the same content as another file beside it and was not read"
        for file in files
        if file not in kept
    )
    return Opened(key, _of_files(wanted[key], kept), (*remarks, *_lacking(wanted[key], kept)))


def _lacking(row: Format, files: Sequence[Path]) -> tuple[str, ...]:
    """What to say of pieces of a set whose numbers have a gap."""
    pieces = [file.name for file in files if row.batches and re.fullmatch(row.batches, file.name.lower())]
    numbers = {int(digits) for name in pieces for digits in re.findall(r"\d+", name)}
    missing = sorted(set(range(1, max(numbers, default=0))) - numbers)
    if not missing:
        return ()
    told = few(list(map(str, missing)))
    return (f"the pieces {told} of the set are not there, and {max(numbers)} is: are images missing?",)


def _opened(row: Format, path: Path) -> Arrays:
    """The arrays of a file; one without a name is called as the file is."""
    require_content(path)
    return {key or _stem(path): load for key, load in row.open(path).items()}


def _found(path: Path, wanted: Mapping[str, Format]) -> dict[Path, dict[str, list[Path]]]:
    """The folder that has such files, which may lie in the one that is given, and the files by format.

    Several only if each is called by a part of the set.
    """
    level = [path]
    for _ in range(_DEPTH + 1):
        having = {}
        for folder in level:
            found = {key: files for key, row in wanted.items() if (files := row.files(folder))}
            if found:
                having[folder] = found
        parts = {part_of(folder.name) for folder in having}
        if len(having) > 1 and (None in parts or len(parts) < len(having)):
            raise DataError(
                f"{few([str(folder) for folder in having])} all have such files; give one of them as data.path. If "
                "every file is one image, stack them: np.savez('set.npz', x_train=np.stack(...), y_train=...), or let "
                "a factory of yours read them (data.name: factory)"
            )
        if having:
            return having
        level = [entry for folder in level for entry in sorted(folder.iterdir()) if entry.is_dir()]
    raise DataError(f"{path} has none of {_known(wanted)}{told_of(path.iterdir())}")


def _of_files(row: Format, files: list[Path]) -> Arrays:
    pieces = [file for file in files if row.batches and re.fullmatch(row.batches, file.name.lower())]
    if pieces:
        return _of_batches(row, pieces)
    if len(files) == 1:
        return _opened(row, files[0])
    found: dict[str, Load] = {}
    for file in files:
        for key, load in _opened(row, file).items():
            name = key if key == _stem(file) else joined(_stem(file), key)
            if name in found:
                raise DataError(
                    f"{file.parent} has two arrays called {name}, one of them in {file.name}; rename a file"
                )
            found[name] = load
    return found


def _stem(file: Path) -> str:
    return re.sub(r"(?i)\.(gz|npz|npy|pth?|mat|pkl|pickle|p)$", "", re.sub(r"(?i)\.gz$", "", file.name))


def _without_twins(files: list[Path]) -> list[Path]:
    """One file of each stem: of a file beside its packed form the unpacked one, if both have the same content.

    Raises:
        DataError: they differ, so one of them is an old one.
    """
    kept: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: file.suffix.lower() == ".gz"):
        first = kept.setdefault(_stem(file), file)
        if first != file and not _same(first, file):
            raise DataError(
                f"{file.parent} has {first.name} and {file.name}, which differ; remove the one that is not meant"
            )
    return sorted(kept.values())


def _same(*files: Path) -> bool:
    """Whether files have the same content when they are unpacked; no more is unpacked than up to where they differ."""
    return all(len(set(parts)) == 1 for parts in zip_longest(*map(_parts, files)))


def _parts(path: Path) -> Iterator[bytes]:
    """The content, piece by piece, unpacked if it is packed."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            while part := file.read(2**20):
                yield part
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is damaged or cannot be read ({error}); replace or remove it") from None


def _of_batches(row: Format, files: list[Path]) -> Arrays:
    """CIFAR's Python version: rows of channels, height, width; CIFAR-100's fine labels; ImageNet 32 x 32 alike."""
    found: dict[str, list[Mapping[str, NDArray[Any]]]] = {"train": [], "test": []}
    for file in sorted(files, key=lambda file: [int(digits) for digits in re.findall(r"\d+", file.name)]):
        arrays = {key: in_memory(load()) for key, load in _opened(row, file).items()}
        labels = arrays.get("fine_labels", arrays.get("labels"))
        if "data" not in arrays or labels is None:
            raise DataError(
                f"{file} has {few(sorted(arrays))}; expected data and labels, as CIFAR's Python version has"
            )
        part = "test" if file.name.lower() in ("test_batch", "val_data", "test") else "train"
        found[part].append({"x": _square(arrays["data"], file), "y": labels})
    return {
        f"{key}_{part}": lambda batches=batches, key=key: np.concatenate([one[key] for one in batches])  # type: ignore[misc]
        for part, batches in found.items()
        if batches
        for key in ("x", "y")
    }


def _square(rows: NDArray[Any], file: Path) -> NDArray[Any]:
    """[N, 3 * S * S] as [N, 3, S, S]."""
    if rows.ndim == 4:
        return rows
    side = round((rows.shape[1] / 3) ** 0.5) if rows.ndim == 2 else 0
    if rows.ndim != 2 or 3 * side * side != rows.shape[1]:
        raise DataError(f"{file}: data has the shape {list(rows.shape)}; expected rows of three square channels")
    return rows.reshape(-1, 3, side, side)


def _known(rows: Mapping[str, Format]) -> str:
    return ", ".join(row.what for row in rows.values())


def _known_one(key: str) -> str:
    return FORMATS[key].what
