"""Where the bytes of an image file lie: in a file of their own, an archive, a table, or in memory."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, cast

from madx.data.places import shown
from madx.data.sources import digest
from madx.errors import DataError

_ENDS = 1024
"""Bytes of head and end that a glance takes in: compressed pixels differ there."""


class Stored(Protocol):
    """The bytes of one image file, wherever they lie."""

    @property
    def title(self) -> str:
        """What it is called in messages."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def read(self) -> bytes:
        """Its bytes; DataError if they cannot be read or are not those that were listed."""
        ...

    def open(self) -> BinaryIO:
        """The same, where only some of them are to be read."""
        ...

    def name_and(self, *facts: object) -> bytes:
        """What it is called in its set, which stays when the set is moved, and what else is to be told of it."""
        ...

    def stamp(self) -> bytes:
        """What on this machine tells at a glance that it was touched."""
        ...


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file as it was when the set was listed."""

    path: str
    target: str
    """Where its bytes really are if it, or the folder of its class, is a link; else empty."""
    size: int
    """Bytes."""
    modified: int
    """In nanoseconds."""
    offset: int = -1
    """Where the image begins in the file, if that holds many (`name` says which it is); else -1."""
    name: str = ""
    whole: int = 0
    """Bytes of a file that holds many."""

    @property
    def title(self) -> str:
        """Its path, and its name inside of a file that holds many."""
        return shown(f"{self.path}: {self.name}" if self.name else self.path)

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: it cannot be read, or was changed since it was listed.
        """
        with self.open() as file:
            try:
                return file.read()
            except OSError as error:
                raise self._unreadable(error) from None

    def open(self) -> BinaryIO:
        """Its bytes, with the same errors."""
        try:
            file = Path(self.path).open("rb")  # noqa: SIM115 - whoever asked closes it
        except OSError as error:
            raise self._unreadable(error) from None
        status = os.fstat(file.fileno())
        expected = self.whole if self.offset >= 0 else self.size
        if (status.st_size, status.st_mtime_ns) != (expected, self.modified):
            file.close()
            raise changed(self.title)
        return file if self.offset < 0 else cast(BinaryIO, io.BufferedReader(_Part(file, self.offset, self.size)))

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"the image {self.title} cannot be read ({error.strerror}); replace or remove it")

    def name_and(self, *facts: object) -> bytes:
        """Its class and name, which stay when the set is moved, and what else is to be told of it."""
        above, name = os.path.split(self.path)
        folder = os.path.basename(above)  # noqa: PTH119 - a Path takes ten times as long, for a million files
        return os.fsencode("\x1f".join([folder, name, self.name, *map(str, facts)]) + "\n")

    def stamp(self) -> bytes:
        """Where its bytes are, how many, and when they were last written."""
        return self.name_and(self.target, self.size, self.modified)


@dataclass(frozen=True, slots=True)
class Cell:
    """An image file in memory, out of a table."""

    title: str
    content: bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.content)

    def read(self) -> bytes:
        """Its bytes."""
        return self.content

    def open(self) -> BinaryIO:
        """The same."""
        return io.BytesIO(self.content)

    def name_and(self, *facts: object) -> bytes:
        """Its digest, for it is in memory anyway."""
        return digest(self.content) + str(facts).encode()

    def stamp(self) -> bytes:
        """Its digest."""
        return digest(self.content)


class Table(NamedTuple):
    """A file of many images, as it was when it was opened."""

    path: str
    size: int
    modified: int
    """In nanoseconds."""


@dataclass(frozen=True, slots=True)
class FiledCell:
    """An image file in a table, which stays there; its digest was taken when the table was read."""

    title: str
    table: Table
    offset: int
    """Where its bytes begin in the table's file."""
    size: int
    """Bytes."""
    known: bytes
    """Their digest."""

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: the table cannot be read, or holds others there than when it was opened.
        """
        with self.open() as file:
            try:
                content = file.read()
            except OSError as error:
                raise self._unreadable(error) from None
        if digest(content) != self.known:
            raise changed(self._title)
        return content

    def open(self) -> BinaryIO:
        """The same, of which only what is asked for is read from the table, and not held against the digest."""
        try:
            file = Path(self.table.path).open("rb")  # noqa: SIM115 - whoever asked closes it
        except OSError as error:
            raise self._unreadable(error) from None
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != self.table[1:]:
            file.close()
            raise changed(self._title)
        return cast(BinaryIO, io.BufferedReader(_Part(file, self.offset, self.size)))

    def name_and(self, *facts: object) -> bytes:
        """Its digest, and what else is to be told of it."""
        return self.known + str(facts).encode()

    def stamp(self) -> bytes:
        """Its digest."""
        return self.known

    @property
    def _title(self) -> str:
        return f"{shown(self.table.path)}: {self.title}"

    def _unreadable(self, error: OSError) -> DataError:
        return DataError(f"{shown(self.table.path)} cannot be read any more ({error.strerror}); put it back")


def changed(path: str) -> DataError:
    """That somebody writes into the data while they are used."""
    return DataError(f"the image {path} was changed while madx was at work; run the command again when the data rest")


class _Part(io.RawIOBase):
    """Some bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = file, start, size, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As files do."""
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        """As files do, up to the end of the part."""
        self._file.seek(self._start + self._place)
        found = self._file.read(min(len(buffer), max(0, self._size - self._place)))
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)

    def close(self) -> None:
        """The whole file, too."""
        self._file.close()
        super().close()


def glance(file: BinaryIO) -> bytes:
    """16 bytes that exact copies share, of the size, the head and the end; others hardly ever do."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ENDS))
    end = file.read(_ENDS)
    file.seek(0)
    return digest(size.to_bytes(8, "little") + file.read(_ENDS) + end)
