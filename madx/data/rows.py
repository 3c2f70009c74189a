"""An array whose images stay in a file and are read from there, a few at a time.

Nothing is mapped: a file that becomes shorter under a map kills the process, and a file system may have no maps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from madx.data.places import require_memory, shown
from madx.errors import DataError

Stamp: TypeAlias = tuple[int, int]
"""Bytes of a file, and when it was last written, in nanoseconds."""


@dataclass(frozen=True, eq=False)
class Rows:
    """[N, ...] in a file, the last axis running fastest there.

    The file is opened for each reading, so that processes share nothing and a file that took its place is noticed.
    """

    path: Path
    stamp: Stamp
    """Of the file when its header was read."""
    offset: int
    """Where the entries begin."""
    dtype: np.dtype[Any]
    stored: tuple[int, ...]
    """The shape as it is in the file."""
    axes: tuple[int, ...]
    """The order in which the file's axes are given; the first one stays the first."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is given."""
        return tuple(self.stored[axis] for axis in self.axes)

    @property
    def ndim(self) -> int:
        """How many axes there are."""
        return len(self.stored)

    @property
    def size(self) -> int:
        """Entries."""
        return math.prod(self.stored)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.stored[0]

    def transpose(self, *axes: int) -> Rows:
        """With other axes behind the first."""
        assert axes[0] == 0
        return replace(self, axes=tuple(self.axes[axis] for axis in axes))

    def with_channel(self) -> Rows:
        """[N, H, W] as [N, 1, H, W]."""
        assert self.axes == (0, 1, 2)
        return replace(self, stored=(self.stored[0], 1, *self.stored[1:]), axes=(0, 1, 2, 3))

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """The rows at these positions, in that order, in memory.

        Raises:
            DataError: the file is gone, or is not as it was when its header was read.
            IndexError: there is no such row.
        """
        index = np.arange(*rows.indices(len(self))) if isinstance(rows, slice) else rows
        if len(index) and not (index.min() >= 0 and index.max() < len(self)):
            raise IndexError(f"{self.path} has the rows 0 to {len(self) - 1}")
        found = np.empty((len(index), *self.stored[1:]), self.dtype)
        if found.nbytes:
            self._fill(found.reshape(-1).view(np.uint8).data, index)
        return found.transpose(self.axes)

    def whole(self) -> NDArray[Any]:
        """All of it in memory, if there is that much."""
        require_memory(self.path, self.nbytes)
        return self[:]

    def _fill(self, buffer: memoryview, index: NDArray[np.int64]) -> None:
        """Read the rows into the buffer; neighbours are read together."""
        size = self.nbytes // len(self)
        starts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
        try:
            with self.path.open("rb", buffering=0) as file:
                self._check(file)
                for start, stop in pairwise(starts):
                    file.seek(self.offset + int(index[start]) * size)
                    self._read(file, buffer[start * size : stop * size])
                self._check(file)
        except OSError as error:
            raise DataError(f"{shown(self.path)} cannot be read any more ({error.strerror}); put it back") from None

    def _read(self, file: IO[bytes], buffer: memoryview) -> None:
        """Fill the buffer, of which a system may give less at a time; at an end of the file somebody cut it off."""
        while len(buffer):
            count: int = file.readinto(buffer)  # type: ignore[attr-defined]
            if not count:
                raise changed_file(self.path)
            buffer = buffer[count:]

    def _check(self, file: IO[bytes]) -> None:
        if stamp_of(file) != self.stamp:
            raise changed_file(self.path)


Pixels: TypeAlias = NDArray[Any] | Rows
"""An array in memory, or in a file."""


def in_memory(pixels: Pixels) -> NDArray[Any]:
    """All of it, if there is that much memory."""
    return pixels.whole() if isinstance(pixels, Rows) else pixels


def stamp_of(file: IO[bytes]) -> Stamp:
    """Of an open file."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns


def changed_file(path: Path | str) -> DataError:
    """That somebody writes into the data while they are used."""
    return DataError(f"{shown(path)} was changed while madx was at work; run the command again when the data rest")
