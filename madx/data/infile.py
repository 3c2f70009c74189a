"""Arrays that stay in their files: .npy, members of an .npz that are not compressed, IDX that is not packed.

Only the images that are looked at are read (`madx.data.rows`). What is packed, or has the images on the axis that runs
fastest, has to be taken into memory; how much it says that it is, is held against what there is before.
"""

from __future__ import annotations

import gzip
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from madx.data.nested import Load
from madx.data.places import BROKEN, require_memory
from madx.data.rows import Pixels, Rows, stamp_of
from madx.errors import DataError

_AT_ONCE = 2**20
"""Bytes that are read at a time to see whether a member is whole."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""By the version of .npy; the third is for records."""
_ENCRYPTED = 1
"""Bit of a member's flags."""
_LOCAL = 30
"""Bytes of a member's own header before its name."""


def open_npy(path: Path) -> Pixels:
    """The array of a .npy file, which stays there."""
    try:
        with path.open("rb") as file:
            stamp = stamp_of(file)
            shape, fortran, dtype = _header(file)
            place, claimed = file.tell(), math.prod(shape) * dtype.itemsize
            if claimed > stamp[0] - place:
                raise ValueError(f"it says {list(shape)} of {dtype}, and holds {stamp[0] - place} bytes")
            if claimed < stamp[0] - place:
                raise ValueError(
                    f"it holds {stamp[0] - place - claimed} bytes more than the {list(shape)} of {dtype} that it says: "
                    "several arrays in one file? Save each in a file of its own"
                )
            if _stays(shape, fortran, claimed):
                return Rows(path, stamp, place, dtype, shape, tuple(range(len(shape))))
            require_memory(path, claimed)
            file.seek(0)
            found: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            return found
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as .npy without pickled objects: {error}") from None


def _stays(shape: tuple[int, ...], fortran: bool, claimed: int) -> bool:
    """Whether there are rows, one behind the other."""
    return bool(claimed) and len(shape) > 0 and not (fortran and len(shape) > 1)


def open_npz(path: Path) -> Mapping[str, Load]:
    """The arrays of a .npz file; those that are not compressed stay there."""
    with _archive(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".npy")]
    return {name.removesuffix(".npy"): lambda name=name: _member(path, name) for name in names}  # type: ignore[misc]


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file:
            if file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX:
                raise DataError(f"{path} is a single array (.npy); expected a .npz file with images and labels")
            with zipfile.ZipFile(file) as archive:
                yield archive
    except BROKEN as error:
        raise DataError(f"{path} cannot be read as .npz without pickled objects: {error}") from None


def _member(path: Path, name: str) -> Pixels:
    with _archive(path) as archive:
        assert archive.fp is not None  # it is open
        stamp, member = stamp_of(archive.fp), archive.getinfo(name)
        with archive.open(member) as file:
            shape, fortran, dtype = _header(file)
            place, claimed = file.tell(), math.prod(shape) * dtype.itemsize
            if claimed > member.file_size - place:
                raise ValueError(f"{name} says {list(shape)} of {dtype}, and holds {member.file_size - place} bytes")
            plain = member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & _ENCRYPTED
            stays = plain and _stays(shape, fortran, claimed)
            while stays and file.read(_AT_ONCE):
                pass  # zipfile raises if the member's checksum is another
        if stays:
            return Rows(path, stamp, _start(path, member) + place, dtype, shape, tuple(range(len(shape))))
        require_memory(path, claimed)
        with archive.open(member) as file:
            found: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            if file.read(1):
                raise ValueError(f"{name} holds more than its header says")
        return found


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether the first axis runs fastest, and type."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of .npy is not for plain arrays")
    shape, fortran, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(
            "it holds Python objects, and reading them would run code; save names as text (labels.astype(str)), and "
            "images of one size as one array (np.stack)"
        )
    if any(size < 0 for size in shape) or dtype.subdtype is not None:
        raise ValueError(f"its header says {list(shape)} of {dtype}")
    return shape, fortran, dtype


def _start(path: Path, member: zipfile.ZipInfo) -> int:
    """Where in the file the bytes of a member begin."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        name, more = struct.unpack("<HH", file.read(_LOCAL)[-4:])
    return int(member.header_offset + _LOCAL + name + more)


_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_AXES = 8
"""More than any array of images or labels has."""


def open_idx(path: Path) -> Pixels:
    """IDX: two zero bytes, the type, the number of axes, each axis as a big-endian uint32, then the entries."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    return _unpacked_idx(path) if packed else _plain_idx(path)


def _plain_idx(path: Path) -> Pixels:
    try:
        with path.open("rb") as file:
            stamp = stamp_of(file)
            shape, dtype = _idx_header(path, file)
            place = file.tell()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    _check_entries(path, shape, dtype, stamp[0] - place)
    found = Rows(path, stamp, place, dtype, shape, tuple(range(len(shape))))
    return found if dtype.isnative else _native(path, found.whole())


def _unpacked_idx(path: Path) -> NDArray[Any]:
    """No more is unpacked than the header says, and one byte to see whether that is all."""
    try:
        with gzip.open(path) as file:
            shape, dtype = _idx_header(path, file)
            claimed = math.prod(shape) * dtype.itemsize
            require_memory(path, claimed)
            content = file.read(claimed + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged or truncated gzip file ({error})") from None
    _check_entries(path, shape, dtype, len(content))
    return _native(path, np.frombuffer(content, dtype).reshape(shape))


def _idx_header(path: Path, file: IO[bytes] | gzip.GzipFile) -> tuple[tuple[int, ...], np.dtype[Any]]:
    head = file.read(4)
    kind, axes = (head[2], head[3]) if len(head) == 4 and head[:2] == b"\0\0" else (0, 0)
    sizes = file.read(4 * axes)
    if kind not in _IDX_TYPES or not axes or len(sizes) < 4 * axes:
        raise DataError(f"{path} is not an IDX file: it begins with 0x{head.hex()}")
    return tuple(np.frombuffer(sizes, ">u4").tolist()), np.dtype(_IDX_TYPES[kind])


def _check_entries(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], size: int) -> None:
    """That as many entries as the header says follow in `size` bytes."""
    claimed = math.prod(shape) * dtype.itemsize
    if claimed != size:
        follow = f"more than {math.prod(shape)}" if size > claimed else str(size // dtype.itemsize)
        raise DataError(f"{path}: the header promises {list(shape)} entries, but {follow} follow it")
    if not size or len(shape) > _AXES:
        raise DataError(
            f"{path}: the header promises {list(shape)}; expected at least one entry, and at most {_AXES} axes"
        )


def _native(path: Path, entries: NDArray[Any]) -> NDArray[Any]:
    """In this machine's order of bytes."""
    if entries.dtype.isnative:
        return entries
    require_memory(path, entries.nbytes)
    return entries.astype(entries.dtype.newbyteorder("="))
