"""Images that are files, or lie in files: decoded when they are needed, by several threads.

A set that is small enough is read whole by every command, so that its content is known and what is damaged or unclear
in it is told at once, before anything is done. Of a large one the listing and some pixels are its identity.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from madx.data.ahead import decoders
from madx.data.decoding import Decoding, UnclearError, decode, examine
from madx.data.places import shown
from madx.data.sources import DIGEST, digest
from madx.errors import DataError

PROBED = 64
"""Images of a choice whose pixels are part of its identity, evenly spaced, so that another decoding is another set."""
MOST_READ = 20_000, 2**28
"""Files and bytes of a set up to which every command reads all of it, to know its content."""
_LISTED = 5
"""Damaged files that are named."""


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
        try:
            with Path(self.path).open("rb") as file:
                status = os.fstat(file.fileno())
                if self.offset >= 0:
                    file.seek(self.offset)
                content = file.read(self.size if self.offset >= 0 else -1)
        except OSError as error:
            raise DataError(f"the image {self.title} cannot be read ({error.strerror}); replace or remove it") from None
        expected = self.whole if self.offset >= 0 else self.size
        if (status.st_size, status.st_mtime_ns) != (expected, self.modified):
            raise changed(self.title)
        return content

    def name_and(self, *facts: object) -> bytes:
        """Its class and name, which stay when the set is moved, and what else is to be told of it."""
        *_, folder, name = Path(self.path).parts
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

    def name_and(self, *facts: object) -> bytes:
        """Its digest, for it is in memory anyway."""
        return digest(self.content) + str(facts).encode()

    def stamp(self) -> bytes:
        """Its digest."""
        return digest(self.content)


class Mapped(NamedTuple):
    """A file that is mapped, as it was when it was opened."""

    path: str
    target: str
    """Where its bytes really are."""
    size: int
    modified: int
    """In nanoseconds."""


@dataclass(frozen=True, slots=True, eq=False)
class MappedCell:
    """An image file in a table that is mapped."""

    title: str
    column: Any
    """Of Arrow; of bytes, or of structures that have some."""
    row: int
    size: int
    """Bytes."""
    file: Mapped

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: the table was changed since it was opened.
        """
        try:
            status = Path(self.file.path).stat()
        except OSError as error:
            raise DataError(
                f"{shown(self.file.path)} cannot be read any more ({error.strerror}); put it back"
            ) from None
        if (status.st_size, status.st_mtime_ns) != (self.file.size, self.file.modified):
            raise changed(f"{shown(self.file.path)}: {self.title}")
        value = self.column[self.row].as_py()
        content: bytes = value["bytes"] if isinstance(value, dict) else value
        return content

    def name_and(self, *facts: object) -> bytes:
        """The table's name, its row, and what else is to be told of it."""
        return os.fsencode("\x1f".join([self.title, *map(str, facts)]) + "\n")

    def stamp(self) -> bytes:
        """Where the table's bytes are, how many, and when they were last written."""
        return self.name_and(*self.file[1:])


def changed(path: str) -> DataError:
    """That somebody writes into the data while they are used."""
    return DataError(f"the image {path} was changed while madx was at work; run the command again when the data rest")


@dataclass(frozen=True, eq=False)
class FileSource:
    """Image files, decoded on demand by several threads."""

    files: tuple[Stored, ...]
    labels: NDArray[np.int64]
    """[N], in [0, classes)."""
    names: tuple[str, ...]
    """Of the classes: of their folders, and of those that have none here."""
    how: Decoding
    """Of a known size."""
    classes: int
    """How many there are."""
    remarks: tuple[str, ...] = field(default=())
    """What was passed over, for whoever reads the verdict."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.how.shape

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, C, H, W] in [0, 1].

        Raises:
            DataError: if a file is damaged, or is not the one that was listed; it names the file.
        """
        batch, known = np.empty((len(index), *self.shape), np.float32), self._digests

        def decoded(row: int) -> None:
            file = self.files[index[row]]
            content = file.read()
            if known is not None and digest(content) != _whole(known[index[row]]):
                raise changed(file.title)
            pixels = decode(file.title, content, self.how).transpose(2, 0, 1)
            if pixels.dtype == np.uint8:
                np.divide(pixels, np.float32(255), out=batch[row])
            else:
                batch[row] = pixels

        for _ in decoders().map(decoded, range(len(index))):
            pass
        return batch

    @cached_property
    def _digests(self) -> NDArray[np.bytes_] | None:
        if len(self.files) > MOST_READ[0] or sum(file.size for file in self.files) > MOST_READ[1]:
            return None
        found = list(decoders().map(self._examined, self.files))
        problems = [problem for _, problem in found if problem]
        if problems:
            raise DataError(_told(problems, len(self.files)))
        return np.array([content for content, _ in found], DIGEST)

    def _examined(self, file: Stored) -> tuple[bytes, DataError | None]:
        """The digest of a file, and what is wrong with it."""
        content = file.read()
        return digest(content), _problem(file, content, self.how)

    def without_damaged(self) -> FileSource:
        """All of its images that can be decoded, and a remark about the others.

        Raises:
            DataError: none is left of a class that had some, so that the gate would be of other classes.
        """
        found = decoders().map(lambda file: _is_damaged(file, self.how), self.files)
        damaged = np.fromiter(found, bool, len(self.files))
        if not damaged.any():
            return self
        keep = np.flatnonzero(~damaged)
        if gone := np.setdiff1d(self.labels, self.labels[keep]).tolist():
            called = ", ".join(self.names[label] if self.names else str(label) for label in gone[:_LISTED])
            raise DataError(f"every image of {len(gone)} classes is damaged ({called}); replace the files")
        named = ", ".join(Path(self.files[row].title).name for row in np.flatnonzero(damaged)[:_LISTED])
        remark = f"{damaged.sum()} of {len(damaged)} image files are damaged and were left out: {named}"
        files = tuple(self.files[row] for row in keep)
        return replace(self, files=files, labels=self.labels[keep], remarks=(*self.remarks, remark))

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_] | None:
        """Of the files' bytes; None where the set is too large to read all of it for a command."""
        return None if self._digests is None else self._digests[index]

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """The files' bytes, or their names and sizes where those are too many; and the pixels of some."""
        digests = self.digests(index)
        if digests is None:
            yield from (self.files[position].name_and(self.files[position].size) for position in index)
        else:
            yield digests.tobytes()
        some = np.unique(np.linspace(0, len(index) - 1, PROBED).astype(np.int64)) if len(index) else index
        yield self.images(index[some]).tobytes()

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """Where each file's bytes are, how many, and when they were last written; nothing where all are read anyway."""
        if self._digests is not None:
            return
        for position in index:
            yield self.files[position].stamp()


def _problem(file: Stored, content: bytes, how: Decoding) -> DataError | None:
    try:
        examine(file.title, content, how)
    except DataError as problem:
        return problem
    return None


def _is_damaged(file: Stored, how: Decoding) -> bool:
    try:
        content = file.read()
    except DataError:
        return True
    problem = _problem(file, content, how)
    return problem is not None and not isinstance(problem, UnclearError)


def _told(problems: Sequence[DataError], total: int) -> str:
    """One message: what is damaged by name, then each question once, with how many images it is about."""
    unclear = [problem for problem in problems if isinstance(problem, UnclearError)]
    damaged = [str(problem) for problem in problems if not isinstance(problem, UnclearError)]
    told = damaged[:_LISTED]
    if len(damaged) > _LISTED:
        told.append(f"and {len(damaged) - _LISTED} more")
    if damaged:
        told.append(f"{len(damaged)} of {total} image files are damaged (data.skip_damaged: true leaves them out)")
    for advice in dict.fromkeys(problem.advice for problem in unclear):
        same = [problem for problem in unclear if problem.advice == advice]
        more = f" ({len(same)} of {total} images are such)" if len(same) > 1 else ""
        told.append(str(same[0]) + more)
    return "; ".join(told)


def file_source(
    files: Sequence[Stored],
    labels: NDArray[np.int64],
    names: tuple[str, ...],
    how: Decoding,
    *,
    classes: int | None = None,
    remarks: tuple[str, ...] = (),
) -> FileSource:
    """A source of these files; without a size in `how`, all are as large as the first that can be read."""
    how = _fitted(files, how)
    return FileSource(tuple(files), labels, names, how, len(names) if classes is None else classes, remarks)


def _fitted(files: Sequence[Stored], how: Decoding) -> Decoding:
    if how.size is not None:
        return how
    for file in files[:_LISTED]:
        try:
            return how.fitted(file.title, file.read())
        except DataError:
            continue  # it is told with all others that are damaged
    raise DataError(f"the size of the images cannot be told from {files[0].title}; give data.image_size")


def _whole(stored: bytes) -> bytes:
    """A digest with the zeros that NumPy drops at its end."""
    return bytes(stored).ljust(np.dtype(DIGEST).itemsize, b"\0")
