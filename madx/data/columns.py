"""Images in columns: Parquet and Arrow files of Hugging Face's layout.

Images of Arrow files stay there and are read when they are decoded; only while the table is listed it is mapped.
Parquet files are packed, so their images are in memory, a piece of the file at a time on the way there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from madx.data.labelling import Written
from madx.data.naming import LABELS, parts_of, words
from madx.data.places import few, require_memory
from madx.data.sources import digest
from madx.data.stored import Cell, FiledCell, Stored, Table, changed
from madx.errors import DataError
from madx.machine import available_memory
from madx.recipe import DataConfig

if TYPE_CHECKING:
    import pyarrow as pa

_EXTRA = "needs the package pyarrow: pip install 'madx[datasets]'"
_PART_COLUMNS = ("split", "subset", "partition", "part", "set")
"""What a column is called that says of which part a row is."""
_ROWS = 64
"""That are unpacked at a time: a column may say in a few bytes that one image is there a million times."""


@dataclass(frozen=True)
class Shard:
    """The images of one file, with labels as they are written there."""

    files: Sequence[Stored]
    written: Written


def read_parquet(path: Path, config: DataConfig, part: str) -> Shard:
    """The images and labels of a Parquet file, in memory."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"data.name: parquet {_EXTRA} (or convert the set to image folders or .npz)") from None
    try:
        with pq.ParquetFile(path) as file:
            columns = _columns(file.schema_arrow, path, config, part)
            require_memory(path, _claimed(file.metadata, columns))
            read = [*columns, *(name for name in file.schema_arrow.names if name.lower() in _PART_COLUMNS)]
            return _in_memory(path, columns, file.iter_batches(_ROWS, columns=read), file.schema_arrow)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as parquet ({error})") from None


def _claimed(metadata: Any, columns: tuple[str, str]) -> int:
    """Bytes that the columns have when they are unpacked, as the file says."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _in_memory(path: Path, columns: tuple[str, str], batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Shard:
    cells: list[Stored] = []
    labels: list[Any] = []
    available, held, parts = available_memory(), 0, set[str]()
    for batch in batches:
        _check_one_part(path, batch, parts)
        held += batch.nbytes
        require_memory(path, held, available)
        labels += batch.column(columns[1]).to_pylist()
        for value in batch.column(columns[0]).to_pylist():
            content = value.get("bytes") if isinstance(value, dict) else value
            if not isinstance(content, bytes):
                raise _no_image(path, columns[0], len(cells))
            cells.append(Cell(f"{path.name}, row {len(cells)}", content))
    return _shard(path, columns, cells, labels, schema)


def read_arrow(path: Path, config: DataConfig, part: str) -> Shard:
    """The images of an Arrow file, which stay there, and their labels."""
    try:
        import pyarrow as pa
    except ImportError:
        raise DataError(f"data.name: arrow {_EXTRA} (or convert the set to image folders or .npz)") from None
    for opened in (pa.ipc.open_stream, _open_file):
        try:
            table = Table(str(path), path.stat().st_size, path.stat().st_mtime_ns)
            mapped = pa.memory_map(table.path)
            whole = mapped.read_buffer()  # where it lies; nothing of it is read for that
            mapped.seek(0)
            batches = opened(mapped)
            if opened is not _open_file:
                _check_end(path, whole)
            return _listed(_Listing(table, whole), _columns(batches.schema, path, config, part), batches)
        except (pa.ArrowException, OSError, ValueError) as error:
            problem = error
    raise DataError(f"{path} cannot be read as an Arrow file ({problem})")


_GOES_ON, _NOTHING = b"\xff" * 4, bytes(4)
"""Before a message of a stream, and for the length of one that there is not: together its end."""


def _check_end(path: Path, whole: pa.Buffer) -> None:
    """That a stream has its end; pyarrow takes one that was cut off between two messages for a shorter one.

    Raises:
        DataError: it has none.
    """
    marked = whole[:4].to_pybytes() == _GOES_ON  # not so in streams of before 2019
    end = _GOES_ON + _NOTHING if marked else _NOTHING
    if whole[-len(end) :].to_pybytes() != end:
        raise DataError(
            f"{path} has no end of a stream: it is cut off, or its writer was not closed, and images would be missing; "
            "copy or write it again"
        )


def _open_file(mapped: pa.MemoryMappedFile) -> pa.RecordBatchReader:
    """An Arrow file that is no stream, as one."""
    import pyarrow as pa

    file = pa.ipc.open_file(mapped)
    every = (file.get_batch(number) for number in range(file.num_record_batches))
    return pa.RecordBatchReader.from_batches(file.schema, every)


class _Listing(NamedTuple):
    """A table that is mapped while its rows are listed."""

    table: Table
    whole: pa.Buffer
    """All bytes of the file."""

    def offset(self, content: pa.Buffer) -> int | None:
        """Where in the file these bytes lie; None if they were unpacked into memory."""
        place = content.address - self.whole.address
        return place if 0 <= place <= self.whole.size - content.size else None


def _listed(listing: _Listing, columns: tuple[str, str], batches: pa.RecordBatchReader) -> Shard:
    """The rows, whose images are read once, in order and through the file, for their digests.

    Raises:
        DataError: a row has no image, more is packed than there is memory for, or the file changes meanwhile.
    """
    import pyarrow as pa

    path = Path(listing.table.path)
    cells: list[Stored] = []
    labels: list[Any] = []
    available, before, held, parts = available_memory(), pa.total_allocated_bytes(), 0, set[str]()
    with path.open("rb") as file:
        for batch in batches:
            _check_one_part(path, batch, parts)
            require_memory(path, held + pa.total_allocated_bytes() - before, available)  # of packed ones
            labels += batch.column(columns[1]).to_pylist()
            for content in _contents(batch.column(columns[0])):
                if content is None:
                    raise _no_image(path, columns[0], len(cells))
                title, offset = f"{path.name}, row {len(cells)}", listing.offset(content)
                if offset is None:
                    cells.append(Cell(title, content.to_pybytes()))
                    held += content.size
                    continue
                file.seek(offset)
                if len(stored := file.read(content.size)) != content.size:
                    raise changed(f"{path}: {title}")
                cells.append(FiledCell(title, listing.table, offset, content.size, digest(stored)))
    return _shard(path, columns, cells, labels, batches.schema)


def _contents(column: pa.Array) -> Iterator[pa.Buffer | None]:
    """The bytes of each image, where they lie (of views, copied); None where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        there = column.type.get_field_index("bytes") >= 0
        column = pc.struct_field(column, "bytes") if there else pa.nulls(len(column))
    if not _holds_bytes(column.type):
        return iter([None] * len(column))
    if not (places := _places(column)):
        return (value.as_buffer() for value in column)  # pyarrow copies what it gives by itself
    content, starts = places
    there = column.is_valid().to_pylist()
    return (
        content.slice(start, stop - start) if valid else None
        for valid, (start, stop) in zip(there, pairwise(starts), strict=True)
    )


def _places(column: pa.Array) -> tuple[pa.Buffer, list[int]] | None:
    """What holds the bytes of all rows one behind the other, and where each row begins and the last one ends."""
    import pyarrow as pa

    rows, kind = slice(column.offset, column.offset + len(column) + 1), column.type
    if not len(column):
        return None
    if pa.types.is_fixed_size_binary(kind):
        content, starts = column.buffers()[1], np.arange(rows.start, rows.stop) * kind.byte_width
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        _, places, content = column.buffers()
        starts = np.frombuffer(places, np.int64 if pa.types.is_large_binary(kind) else np.int32)[rows]
    else:
        return None
    content = pa.py_buffer(b"") if content is None else content
    if len(starts) <= len(column) or starts[0] < 0 or (np.diff(starts) < 0).any() or starts[-1] > content.size:
        raise ValueError("a column says that its bytes lie where there are none")
    return content, starts.tolist()


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type has bytes, however they are laid out."""
    import pyarrow.types as kinds

    tests = ("is_binary", "is_large_binary", "is_fixed_size_binary", "is_binary_view")
    return any(getattr(kinds, test, _never)(kind) for test in tests)  # the last one is of newer versions


def _holds_labels(kind: pa.DataType) -> bool:
    """Whether a column of this type has whole numbers or text, however they are laid out (categories, too)."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(kind):
        return _holds_labels(kind.value_type)
    tests = ("is_integer", "is_string", "is_large_string", "is_string_view")
    return any(getattr(kinds, test, _never)(kind) for test in tests)


def _never(_kind: object) -> bool:
    return False


def _no_image(path: Path, column: str, row: int) -> DataError:
    return DataError(
        f"{path}: row {row} of the column {column} holds no bytes of an image; if it holds a path only, read the "
        "files with data.name: imagefolder, or write the table with the files' bytes in it"
    )


def _shard(
    path: Path, columns: tuple[str, str], cells: Sequence[Stored], labels: list[Any], schema: pa.Schema
) -> Shard:
    if any(value is None or value == -1 for value in labels):
        raise DataError(f"{path}: some rows have no {columns[1]}; a part without labels cannot be measured")
    return Shard(cells, Written(str(path), labels, _label_names(schema, columns[1])))


def _columns(schema: pa.Schema, path: Path, config: DataConfig, part: str) -> tuple[str, str]:
    """What images and labels are called."""
    keys: dict[Any, str] = dict(config.keys or {})
    image, label = (keys.get(f"{kind}_{part}") or _column(schema, path, kind) for kind in ("x", "y"))
    if missing := sorted({image, label} - set(schema.names)):
        raise DataError(f"{path} has no column {missing[0]}; there are {', '.join(schema.names)}")
    return image, label


def _column(schema: pa.Schema, path: Path, kind: str) -> str:
    """The only column that can be the images (x) or the labels (y)."""
    import pyarrow.types as kinds

    fields = list(schema)
    if kind == "x":
        found = [field.name for field in fields if kinds.is_struct(field.type) or kinds.is_binary(field.type)]
        found = found or [field.name for field in fields if _holds_bytes(field.type)]
    else:
        plain = [field.name for field in fields if _holds_labels(field.type)]
        found = [name for name in plain if LABELS & set(words(name))] if len(plain) > 1 else plain
    if len(found) == 1:
        return str(found[0])
    what = "images" if kind == "x" else "labels"
    there = ", ".join(f"{field.name} ({_kind(field.type)})" for field in fields)
    needed = (
        "bytes of image files; arrays of numbers are to be kept as .npz (data.name: npz)"
        if kind == "x"
        else "whole numbers or names, one for each image (several labels for an image are not supported)"
    )
    raise DataError(
        f"{path} has the columns {there}, and {few(found)} could be the {what}; say which: "
        "data.keys: {x_train: NAME, y_train: NAME, x_test: NAME, y_test: NAME}. "
        f"They are {needed}"
    )


def _kind(kind: pa.DataType) -> str:
    """Of a column, in a word or two."""
    return str(kind).split("<")[0]


def _check_one_part(path: Path, batch: pa.RecordBatch, seen: set[str]) -> None:
    """That no column says that the rows are of several parts; those that were `seen` count.

    Raises:
        DataError: one does; training images would be in the gate.
    """
    for name in batch.schema.names:
        if name.lower() in _PART_COLUMNS and _holds_labels(batch.schema.field(name).type):
            seen.update(part for value in batch.column(name).unique().to_pylist() for part in parts_of(str(value)))
            if len(seen) > 1:
                raise DataError(
                    f"{path}: the column {name} says that rows are of several parts ({', '.join(sorted(seen))}); write "
                    "a file for each and name it by its part (train.parquet, test.parquet)"
                )


def _label_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names that Hugging Face keeps beside a column of class numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
