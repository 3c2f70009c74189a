"""Images that are files, or lie in files: decoded when they are needed, by several threads.

Head and end of every file are looked at before anything is done, so that what is damaged or unclear is told at once. A
set that is small enough is read whole by every command, so that its content is known. Of a large one the listing, heads
and ends and some pixels are its identity.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from madx.data.decoding import Decoding, UnclearError, decode, examine
from madx.data.lookahead import decoders, spread
from madx.data.sources import DIGEST, digest
from madx.data.stored import Stored, changed, glance
from madx.errors import DataError

PROBED = 64
"""Images of a choice whose pixels are part of its identity, evenly spaced, so that another decoding is another set."""
MOST_READ = 20_000, 2**28
"""Files and bytes of a set up to which every command reads all of it, to know its content."""
_LISTED = 5
"""Damaged files that are named."""
LOOKING, COMPARING = "looking at image files", "comparing image files that look alike"
"""What the progress calls it."""


class _Look(NamedTuple):
    """What is known of each file, [N]."""

    glances: NDArray[np.bytes_]
    """Of sizes, heads and ends."""
    digests: NDArray[np.bytes_] | None
    """Of all bytes; None for a large set."""
    problems: dict[int, DataError]
    """By row."""

    def of(self, rows: NDArray[np.int64]) -> _Look:
        """That of some rows without problems."""
        return _Look(self.glances[rows], None if self.digests is None else self.digests[rows], {})


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
        batch, known = np.empty((len(index), *self.shape), np.float32), self._looked_at().digests

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
    def large(self) -> bool:
        """Whether the set is too large to read all of it for a command."""
        return len(self.files) > MOST_READ[0] or sum(file.size for file in self.files) > MOST_READ[1]

    @cached_property
    def _look(self) -> _Look:
        glances = np.empty(len(self.files), DIGEST)
        digests = None if self.large else np.empty(len(self.files), DIGEST)
        problems = {}
        looked = self._head_and_end if digests is None else self._whole
        for row, (at_a_glance, content, problem) in enumerate(spread(looked, self.files, LOOKING)):
            glances[row] = at_a_glance
            if digests is not None:
                digests[row] = content
            if problem is not None:
                problems[row] = problem
        return _Look(glances, digests, problems)

    def _whole(self, file: Stored) -> tuple[bytes, bytes, DataError | None]:
        """A glance at the file, its digest, and what is wrong with it."""
        try:
            content = file.read()
        except DataError as problem:
            return b"", b"", problem
        return glance(io.BytesIO(content)), digest(content), _problem(file, io.BytesIO(content), self.how)

    def _head_and_end(self, file: Stored) -> tuple[bytes, bytes, DataError | None]:
        """The same without a digest, of a file that is not read whole if head and end tell enough."""
        try:
            with file.open() as opened:
                return glance(opened), b"", _problem(file, opened, self.how, fast=True)
        except DataError as problem:
            return b"", b"", problem
        except OSError as error:
            return (
                b"",
                b"",
                DataError(f"the image {file.title} cannot be read ({error.strerror}); replace or remove it"),
            )

    def _looked_at(self) -> _Look:
        """What is known of files without problems.

        Raises:
            DataError: some are damaged, or the recipe has to say how they are meant.
        """
        if self._look.problems:
            raise DataError(_told(list(self._look.problems.values()), len(self.files)))
        return self._look

    def without_damaged(self) -> FileSource:
        """All of its images that can be decoded, and a remark about the others.

        Raises:
            DataError: none is left of a class that had some, so that the gate would be of other classes.
        """
        found = self._look.problems
        gone = np.array([row for row, problem in found.items() if not isinstance(problem, UnclearError)], np.int64)
        if not len(gone):
            return self
        keep = np.setdiff1d(np.arange(len(self.files)), gone)
        if lost := np.setdiff1d(self.labels, self.labels[keep]).tolist():
            called = ", ".join(self.names[label] if self.names else str(label) for label in lost[:_LISTED])
            raise DataError(f"every image of {len(lost)} classes is damaged ({called}); replace the files")
        named = ", ".join(Path(self.files[row].title).name for row in gone[:_LISTED])
        remark = f"{len(gone)} of {len(self.files)} image files are damaged and were left out: {named}"
        files = tuple(self.files[row] for row in keep)
        kept = replace(self, files=files, labels=self.labels[keep], remarks=(*self.remarks, remark))
        if len(gone) == len(found) and kept.large == self.large:
            vars(kept)["_look"] = self._look.of(keep)  # so that a million files are not looked at twice
        return kept

    def glances(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of the files' sizes, heads and ends."""
        return self._looked_at().glances[index]

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_]:
        """Of the files' bytes; where the set is large, they are read for it."""
        known = self._looked_at().digests
        if known is not None:
            return known[index]
        files = [self.files[position] for position in index]
        return np.array(list(spread(lambda file: digest(file.read()), files, COMPARING)), DIGEST)

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """The files' bytes, or names, sizes, heads and ends where those are too many; and the pixels of some."""
        if self.large:
            yield from (self.files[position].name_and(self.files[position].size) for position in index)
            yield self.glances(index).tobytes()
        else:
            yield self.digests(index).tobytes()
        some = np.unique(np.linspace(0, len(index) - 1, PROBED).astype(np.int64)) if len(index) else index
        yield self.images(index[some]).tobytes()

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """Where each file's bytes are, how many, and when they were last written; nothing where all are read anyway."""
        if not self.large:
            return
        for position in index:
            yield self.files[position].stamp()


def _problem(file: Stored, content: BinaryIO, how: Decoding, *, fast: bool = False) -> DataError | None:
    try:
        examine(file.title, content, how, fast=fast)
    except DataError as problem:
        return problem
    return None


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
