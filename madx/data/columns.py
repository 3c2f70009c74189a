"""Images in columns: Parquet and Arrow files of Hugging Face's layout.

Arrow files are mapped, and an image is copied when it is decoded. Parquet files are packed, so their images are in
memory, a piece of the file at a time on the way there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madx.data.labelling import Written
from madx.data.naming import LABELS, words
from madx.data.places import few, require_memory
from madx.data.stored import Cell, Mapped, MappedCell, Stored
from madx.errors import DataError
from madx.machine import available_memory
from madx.recipe import DataConfig

if TYPE_CHECKING:
    import pyarrow as pa

_EXTRA = "needs the package pyarrow: pip install 'madx[datasets]'"
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
            return _in_memory(path, columns, file.iter_batches(_ROWS, columns=list(columns)), file.schema_arrow)
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
    available, held = available_memory(), 0
    for batch in batches:
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
            file = Mapped(str(path), os.path.realpath(path), path.stat().st_size, path.stat().st_mtime_ns)
            batches = opened(pa.memory_map(str(path)))
            return _mapped(file, _columns(batches.schema, path, config, part), batches)
        except (pa.ArrowException, OSError, ValueError) as error:
            problem = error
    raise DataError(f"{path} cannot be read as an Arrow file ({problem})")


def _open_file(mapped: pa.MemoryMappedFile) -> pa.RecordBatchReader:
    """An Arrow file that is no stream, as one."""
    import pyarrow as pa

    file = pa.ipc.open_file(mapped)
    every = (file.get_batch(number) for number in range(file.num_record_batches))
    return pa.RecordBatchReader.from_batches(file.schema, every)


def _mapped(file: Mapped, columns: tuple[str, str], batches: pa.RecordBatchReader) -> Shard:
    import pyarrow as pa

    path = Path(file.path)
    cells: list[Stored] = []
    labels: list[Any] = []
    available, before = available_memory(), pa.total_allocated_bytes()
    for batch in batches:
        require_memory(path, pa.total_allocated_bytes() - before, available)  # of packed ones; others take nothing
        labels += batch.column(columns[1]).to_pylist()
        column = batch.column(columns[0])
        for row, size in enumerate(_sizes(column)):
            if size is None:
                raise _no_image(path, columns[0], len(cells))
            cells.append(MappedCell(f"{path.name}, row {len(cells)}", column, row, size, file))
    return _shard(path, columns, cells, labels, batches.schema)


def _sizes(column: pa.Array) -> list[int | None]:
    """Bytes of each image; None where there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        if column.type.get_field_index("bytes") < 0:
            return [None] * len(column)
        column = pc.struct_field(column, "bytes")
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        return [None] * len(column)
    found: list[int | None] = pc.binary_length(column).to_pylist()
    return found


def _no_image(path: Path, column: str, row: int) -> DataError:
    return DataError(f"{path}: row {row} of the column {column} holds no bytes of an image (a path only?)")


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
    else:
        plain = [field.name for field in fields if kinds.is_integer(field.type) or kinds.is_string(field.type)]
        found = [name for name in plain if LABELS & set(words(name))] if len(plain) > 1 else plain
    if len(found) == 1:
        return str(found[0])
    what = "images" if kind == "x" else "labels"
    raise DataError(
        f"{path} has the columns {', '.join(schema.names)}, and {few(found)} could be the {what}; say which: "
        f"data.keys: {{x_train: NAME, y_train: NAME, x_test: NAME, y_test: NAME}}"
    )


def _label_names(schema: pa.Schema, label: str) -> tuple[str, ...]:
    """The names that Hugging Face keeps beside a column of class numbers."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(map(str, features[label]["names"]))
    except (KeyError, TypeError, ValueError, RecursionError):
        return ()
