"""Weights that lie in files of their own beside an ONNX file: external data.

Both are the engine. Its identity is then a hash over all of them, and `Data` holds the bytes of each file by the
location that the ONNX file names, a relative path. Nothing is rewritten: runtimes read the files as they were given.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from madx.artifacts import sha256_bytes
from madx.errors import ExportError

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

Data = Mapping[str, bytes]
NONE: Data = {}
_REMEDY = "or save the model with its weights inside (torch.onnx.export(..., external_data=False))"


def identity(payload: bytes, data: Data = NONE) -> str:
    """SHA-256 of an engine: of its file, or, with external data, of the digests of all its files."""
    own = sha256_bytes(payload)
    if not data:
        return own
    lines = [own, *(f"{sha256_bytes(content)} {location}" for location, content in sorted(data.items()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def size(payload: bytes, data: Data = NONE) -> int:
    """Bytes of all files."""
    return len(payload) + sum(map(len, data.values()))


def read_beside(path: Path, payload: bytes) -> dict[str, bytes]:
    """The external data of an ONNX file that lies at `path`; nothing for one that is no ONNX file.

    Raises:
        ExportError: a location leads out of the file's folder, or there is no such file.
    """
    found = {}
    for location in locations(payload):
        relative = file_of(location)
        if "\0" in location:
            raise ExportError(f"{path} keeps weights in {location!r}, which can be no file's name; export it again")
        if relative.is_absolute() or ".." in relative.parts:
            raise ExportError(
                f"{path} keeps weights in {location!r}, outside its own folder; put that file beside it, {_REMEDY}"
            )
        try:
            found[location] = (path.parent / relative).read_bytes()
        except OSError as error:
            raise ExportError(
                f"{path} keeps its weights in a file of its own, and {path.parent / relative} cannot be read "
                f"({error.strerror}); put it beside the ONNX file, {_REMEDY}"
            ) from None
    return found


def locations(payload: bytes) -> list[str]:
    """Where an ONNX file says that its weights lie, without repeats; nothing for what is no ONNX file.

    Raises:
        ExportError: it is damaged.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from onnx import load_model_from_string

    from madx.deploy.graphs import damage_told

    try:
        model = load_model_from_string(payload)
    except DecodeError:
        return []
    with damage_told():
        return list(dict.fromkeys(_facts(tensor).get("location", "") for tensor in outside(model)))


def outside(model: ModelProto) -> list[TensorProto]:
    """The constants whose values are not in the model."""
    from onnx import TensorProto

    from madx.deploy.graphs import tensors

    return [tensor for _, tensor in tensors(model) if tensor.data_location == TensorProto.EXTERNAL]


def put_inside(model: ModelProto, data: Data) -> None:
    """Give every constant its values, in place.

    Raises:
        ExportError: the data is too short, or not there.
    """
    from onnx import TensorProto

    for tensor in outside(model):
        facts = _facts(tensor)
        content = data.get(facts.get("location", ""))
        if content is None:
            raise ExportError(
                f"the weight {tensor.name!r} lies outside the ONNX file, in {facts.get('location')!r}, which was not "
                f"given; put that file beside it, {_REMEDY}"
            )
        start, end = _span(tensor, facts)
        if end > len(content):
            raise ExportError(
                f"{facts['location']} ends after {len(content)} bytes, and the weight {tensor.name!r} goes up to "
                f"{end}; it is not the file that was written with this ONNX file, or not all of it: export both again"
            )
        tensor.raw_data = content[start:end]
        tensor.data_location = TensorProto.DEFAULT
        tensor.ClearField("external_data")


def _span(tensor: TensorProto, facts: Mapping[str, str]) -> tuple[int, int]:
    """From which byte to which the values of a tensor go; a file need not say how many there are.

    Raises:
        ExportError: it says so in what are no such numbers, or another number than its type and dimensions say.
    """
    wanted = _bytes_of(tensor)
    try:
        start, length = int(facts.get("offset", 0)), int(facts.get("length", 0))
    except ValueError:
        start, length = 0, -1
    if min(start, length) < 0:
        raise ExportError(
            f"the weight {tensor.name!r} says where it lies in other than whole numbers ({facts}); export again"
        )
    if length not in (0, wanted):  # runtimes take 0 for nothing said
        raise ExportError(
            f"the weight {tensor.name!r} has {length} bytes outside the ONNX file, and its type and dimensions "
            f"{list(tensor.dims)} make {wanted}; the file is damaged: export again"
        )
    return start, start + wanted


def _bytes_of(tensor: TensorProto) -> int:
    """How many its type and its dimensions make; types of less than a byte lie packed."""
    from onnx import TensorProto, helper

    known = {number: name for name, number in TensorProto.DataType.items()}
    name = known.get(tensor.data_type, f"number {tensor.data_type}")
    if name in ("UNDEFINED", "STRING") or name.startswith("number ") or min(tensor.dims, default=0) < 0:
        raise ExportError(
            f"the weight {tensor.name!r} is of type {name} and dimensions {list(tensor.dims)}, which cannot lie "
            "outside an ONNX file; export again"
        )
    packed = next((bits for bits in (4, 2) if name in (f"INT{bits}", f"UINT{bits}", f"FLOAT{bits}E2M1")), 0)
    each: int = packed or 8 * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    count: int = prod(tensor.dims)
    return -(-count * each // 8)


def file_of(location: str) -> PurePosixPath:
    """The file that a location names, below the folder of its ONNX file."""
    return PurePosixPath(location.replace("\\", "/"))


@contextmanager
def for_a_runtime(payload: bytes, data: Data) -> Iterator[str]:
    """The path of a file that a runtime loads, with its data beside it, until the block ends.

    Never the bytes alone: what a file names and nobody listed would be looked for in the current directory, and weights
    outside the engine's identity would be judged. In a folder of its own there is nothing else to be found.
    """
    with tempfile.TemporaryDirectory(prefix="madx-onnx-") as folder:
        for location, content in data.items():
            file = Path(folder, file_of(location))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        model = Path(folder, "model.onnx")
        if model.exists():  # a location of that very name
            model = Path(folder, "the-model-itself.onnx")
        model.write_bytes(payload)
        yield str(model)


def _facts(tensor: TensorProto) -> dict[str, str]:
    """location, offset and length, as text."""
    return {entry.key: entry.value for entry in tensor.external_data}
