"""Where data sets lie on this machine, and what to say when one does not.

The first existing folder of $MADX_DATA/<name>, ./datasets/<name> and the system's package is taken.
"""

from __future__ import annotations

import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from madx.errors import DataError
from madx.machine import available_memory
from madx.recipe import DataConfig

BROKEN = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy, torch and scipy raise for damaged files, each in some place: none of them has an error of its own."""
SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Folders that Debian packages install."""

HOW_TO_GET = {
    "fashion-mnist": "`madx data fetch fashion-mnist` gets it",
    "cifar10": (
        "download https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (from "
        "https://www.cs.toronto.edu/~kriz/cifar.html) and unpack it there"
    ),
    "cifar100": (
        "download https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz (from "
        "https://www.cs.toronto.edu/~kriz/cifar.html) and unpack it there"
    ),
    "svhn": (
        "download train_32x32.mat and test_32x32.mat from http://ufldl.stanford.edu/housenumbers/ and put them there"
    ),
}
"""One sentence per data set that lies in files with standard names."""


def data_root() -> Path:
    """The folder that data sets are fetched into: $MADX_DATA, or ./datasets if it is not set.

    Raises:
        DataError: it lies in the home of a user that this machine does not know, or that has none.
    """
    root = os.environ.get("MADX_DATA")
    try:
        return Path(root).expanduser() if root else Path("datasets")
    except RuntimeError as error:
        raise DataError(f"MADX_DATA is {root!r}: {error} Give the folder without the '~'") from None


def candidates(name: str) -> list[Path]:
    """The folders in which the set `name` is looked for, in order."""
    places = [data_root() / name, Path("datasets") / name]
    if name in SYSTEM_FOLDERS:
        places.append(SYSTEM_FOLDERS[name])
    return list(dict.fromkeys(places))  # without $MADX_DATA the first two are the same


def find_folder(config: DataConfig) -> Path:
    """The folder of a set with standard file names: data.path if given, else the first candidate that exists.

    Raises:
        DataError: if there is none; it lists the places tried and says where to get the set.
    """
    if config.path is not None:
        if not config.path.is_dir():
            raise DataError(f"data.path {config.path} is not a folder; {config.name} lies in a folder of files")
        return config.path
    places = candidates(config.name)
    for place in places:
        if place.is_dir():
            return place
    tried = ", ".join(str(place) for place in places)
    raise DataError(
        f"the data set {config.name} is not on this machine; looked in {tried}. "
        f"Set data.path or MADX_DATA, or: {HOW_TO_GET[config.name]}"
    )


def require_files(folder: Path, names: Iterable[str], *, hint: str) -> None:
    """Raise a DataError that lists the files of `names` that `folder` lacks, if any, followed by `hint`."""
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; {hint}")


def read_whole(path: Path) -> bytes:
    """The bytes of the file, or a DataError naming it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None


def require_memory(path: Path, size: int, available: int | None = None) -> None:
    """Raise a DataError if what `path` says that it holds, `size` bytes, is more than this machine has memory for.

    Of what is held in memory already, `available` is what there was before.
    """
    available = available_memory() if available is None else available
    if available is not None and size > available:
        raise DataError(
            f"{shown(path)} says that it holds {size / 1e9:,.1f} GB, and {available / 1e9:,.1f} GB of memory are free "
            "here; if it is no damaged or hostile file, keep it as .npy files or an uncompressed .npz (np.savez), "
            "which stay on disk, or use a machine with more memory"
        )


def shown(path: Path | str) -> str:
    """A name for messages: bytes that are no UTF-8 text, as zip files of other systems have them, by their numbers."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def few(names: list[str]) -> str:
    """The first three, and how many more there are."""
    told = ", ".join(names[:3]) or "none"
    return told if len(names) <= 3 else f"{told} and {len(names) - 3} more"
