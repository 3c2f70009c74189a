"""Fashion-MNIST (Xiao et al. 2017): four IDX files, plain or gzip, known by the SHA-256 of their content.

IDX: two zero bytes, 0x08 for uint8, the number of axes, each axis as a big-endian uint32, then the entries.
Distributors compress anew (Debian does), so the gzip bytes say nothing; the content does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.classes import CLASS_NAMES
from madx.data.places import HOW_TO_GET, find_folder, read_whole
from madx.data.sources import ArraySource, Reading, array_source
from madx.errors import DataError
from madx.recipe import DataConfig

CLASSES = 10


@dataclass(frozen=True)
class Pinned:
    """A published file, known by its decompressed content."""

    size: int
    """Bytes."""
    sha256: str
    """Hexadecimal."""


FILES = {
    "train-images-idx3-ubyte": Pinned(47040016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
    "train-labels-idx1-ubyte": Pinned(60008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    "t10k-images-idx3-ubyte": Pinned(7840016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
    "t10k-labels-idx1-ubyte": Pinned(10008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
}
"""The four files by their plain names; with .gz they are compressed."""

AGAIN = (
    "; if it is of another set of IDX files (MNIST, say), data.name: idx reads those as they are; if not, remove it, "
    f"then {HOW_TO_GET['fashion-mnist']} again"
)
"""What to do about a file that is not the published one."""


def read_fashion(config: DataConfig) -> Reading:
    """Fashion-MNIST: 60,000 and 10,000 images of 1 x 28 x 28.

    Raises:
        DataError: if a file is missing, damaged or not the published one.
    """
    folder = find_folder(config)
    return _part(folder, "train"), _part(folder, "t10k")


def _part(folder: Path, part: str) -> ArraySource:
    images = _array(folder, f"{part}-images-idx3-ubyte", axes=3)
    labels = _array(folder, f"{part}-labels-idx1-ubyte", axes=1)
    return array_source(images, labels, where=f"{folder} ({part})", classes=CLASSES, names=CLASS_NAMES["fashion-mnist"])


def _array(folder: Path, name: str, *, axes: int) -> NDArray[Any]:
    """The array of the file `name`, compressed or not, checked against its pin."""
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            content = checked_content(read_whole(path), FILES[name], where=str(path), advice=AGAIN)
            return parse_idx(content, axes=axes, where=str(path))
    raise DataError(f"{folder} has neither {name}.gz nor {name}; {HOW_TO_GET['fashion-mnist']}")


def checked_content(stored: bytes, pinned: Pinned, *, where: str, advice: str = "") -> bytes:
    """Decompress `stored` if it is gzip, and check that it is the pinned content.

    Args:
        stored: The bytes as they came.
        pinned: What the content must be.
        where: Where they came from, for errors.
        advice: What an error ends with.

    Raises:
        DataError: if the gzip is damaged or the content is another.
    """
    content = _gunzip(stored, pinned.size + 1, where, advice) if stored[:2] == b"\x1f\x8b" else stored
    found = hashlib.sha256(content).hexdigest()
    if found != pinned.sha256:
        length = f"more than {pinned.size}" if len(content) > pinned.size else str(len(content))
        raise DataError(
            f"{where} is not the published file: its content has {length} bytes and SHA-256 {found}, "
            f"expected {pinned.size} bytes and {pinned.sha256}{advice}"
        )
    return content


def _gunzip(stored: bytes, limit: int, where: str, advice: str) -> bytes:
    """At most `limit` decompressed bytes, so that a hostile file cannot fill the memory."""
    try:
        return gzip.GzipFile(fileobj=io.BytesIO(stored)).read(limit)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where} is a damaged or truncated gzip file ({error}){advice}") from None


def parse_idx(content: bytes, *, axes: int, where: str) -> NDArray[Any]:
    """The uint8 array of an IDX file.

    Args:
        content: The decompressed file.
        axes: How many axes the array must have.
        where: The file's name, for errors.

    Raises:
        DataError: if the magic number, the number of axes or the length is not right.
    """
    header = 4 + 4 * axes
    magic = bytes([0, 0, 8, axes])
    if len(content) < header or content[:4] != magic:
        raise DataError(
            f"{where} is not an IDX file of uint8 with {axes} axes: it begins with 0x{content[:4].hex()}, "
            f"expected 0x{magic.hex()} and a header of {header} bytes"
        )
    shape = struct.unpack(f">{axes}I", content[4:header])
    entries = len(content) - header
    if entries != int(np.prod(shape, dtype=object)):
        raise DataError(f"{where}: the header promises {list(shape)} entries, but {entries} bytes follow it")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
