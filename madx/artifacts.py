"""Files that appear whole or not at all, their hashes, and checkpoints of long work."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import lzma
import math
import os
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from madx.errors import ArtifactError

UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError),
    *(struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pickle.UnpicklingError),
)
"""What zipfile, numpy and torch's tensors-only reader raise on damaged, foreign or malicious files."""


_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself: run git lfs pull where it came from"),
    (0, b"<", "a web page or another text, as a failed download leaves: download the file itself"),
    (0, b"{", "text (JSON), and no weights: give the file that it speaks of"),
    (0, b"\x1f\x8b", "packed by gzip: unpack it (gunzip) and give what was in it"),
    (0, b"BZh", "packed by bzip2: unpack it and give what was in it"),
    (0, b"\xfd7zXZ", "packed by xz: unpack it and give what was in it"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd: unpack it and give what was in it"),
    (0, b"7z\xbc\xaf", "a 7z archive: unpack it and give the file in it"),
    (0, b"Rar!", "a RAR archive: unpack it and give the file in it"),
    (257, b"ustar", "a tar archive: unpack it (tar -xf) and give the file in it"),
    (0, b"\x89HDF", "HDF5, as Keras saves: export the network from there"),
    (0, b"\x93NUMPY", "an array of numpy: save tensors, by name"),
    (4, b"TFL3", "TensorFlow Lite: export the network from where it was trained"),
    (4, b"ORTM", "ONNX Runtime's own format (.ort): give the .onnx file that it was made from"),
    (0, b"PK\x03\x04", "a zip archive, as torch.save writes them: give what torch.onnx.export wrote, or unpack it"),
    (0, b"\x80", "a pickle, as torch.save writes them: give what torch.onnx.export wrote"),
)
"""Place, bytes there, and what such a file is and what to do, of files that are often given for others."""
KIND_BYTES = 512
"""Of a file's beginning that tell what it is."""


def kind_of(head: bytes) -> str:
    """What a file is that was expected to be another, by its first `KIND_BYTES`, and what to do; or nothing."""
    text = head.lstrip() if head[:1].isspace() else head
    return next((told for place, mark, told in _KINDS if text[place : place + len(mark)] == mark), "")


def sha256_bytes(payload: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():  # a pipe would be waited for without end
            raise ArtifactError(f"{path} is no regular file; give one, not a pipe or a device")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None


ANOTHER_RUN_DIR = "choose another --run-dir"
"""What to do where a run's file cannot be written."""


def write_atomically(path: Path, content: bytes | str, *, remedy: str = ANOTHER_RUN_DIR) -> None:
    """Write beside, fsync, rename: after a crash `path` holds the old content or the new, never a part.

    Args:
        path: of the file; its folder is made if needed.
        content: text is written as UTF-8.
        remedy: what the user can do where this place is no good.

    Raises:
        ArtifactError: the disk is full or the folder cannot be written; what was there is unharmed.
    """
    payload = content.encode() if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise ArtifactError(explain_write(path, error, remedy=remedy)) from None


def write_json(path: Path, content: Any) -> None:
    """`write_atomically` of indented JSON; NaN and infinity are refused, because JSON has none."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ArtifactError: missing, unreadable, not JSON, or with a number that `write_json` would refuse.
    """
    try:
        payload = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"there is no {path}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); delete it to make it again") from None
    return parse_json(payload, str(path))


def parse_json(payload: bytes, name: str) -> Any:
    """Content of the JSON file of that name.

    Raises:
        ArtifactError: it is not JSON, or has a number that `write_json` would refuse.
    """
    try:
        return json.loads(payload.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is not readable JSON ({error}); delete it to make it again") from None


def parse_object(payload: bytes, name: str, keys: Sequence[str] = ()) -> dict[str, Any]:
    """The same of a file that holds an object with these keys, whoever has edited it.

    Raises:
        ArtifactError: it does not.
    """
    content = parse_json(payload, name)
    if not isinstance(content, dict):
        held = json.dumps(content)[:80]
        raise ArtifactError(f"{name} should hold an object and holds {held}; delete it to make it again")
    if missing := [key for key in keys if key not in content]:
        raise ArtifactError(f"{name} has no {missing[0]!r}; delete it to make it again")
    return content


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


class Checkpoint(Protocol):
    """Where long work keeps its state; a stage is handed one and never knows about files."""

    def load(self) -> dict[str, Any] | None:
        """The last saved state, or None at the start."""
        ...

    def save(self, state: dict[str, Any]) -> None:
        """Keep `state` (tensors, numbers, text, and lists and dicts of them) instead of the last one."""
        ...


class NoCheckpoint:
    """Work that starts at the beginning and keeps nothing."""

    def load(self) -> dict[str, Any] | None:
        """There is never an earlier state."""
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Forget the state."""


class FileCheckpoint:
    """A checkpoint in one file, bound to a key: a state that was saved under another key is not taken up."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key

    def load(self) -> dict[str, Any] | None:
        """The state saved under this key; None if there is none, or if it is of another key or unreadable."""
        import torch

        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip() is not None:  # torch itself does not look at the checksums
                    return None
            content = torch.load(self.path, weights_only=True, map_location="cpu")
        except UNREADABLE:
            return None  # a checkpoint only saves time: what cannot be read is made again
        if not isinstance(content, dict) or content.get("key") != self.key:
            return None
        state = content.get("state")
        return state if isinstance(state, dict) else None

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, whole or not at all."""
        import torch

        buffer = io.BytesIO()
        torch.save({"key": self.key, "state": state}, buffer)
        write_atomically(self.path, buffer.getvalue())


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def explain_write(path: Path, error: OSError, *, remedy: str = ANOTHER_RUN_DIR) -> str:
    """Why `path` cannot be written, and what to do: `remedy`, where another place would help."""
    reason = {
        errno.ENOSPC: "the disk is full; free some space and run the command again, it continues where it stopped",
        errno.EEXIST: f"a file stands where a folder is needed; {remedy}",
        errno.ENOTDIR: f"a file stands where a folder is needed; {remedy}",
        errno.EROFS: f"the file system is read-only; {remedy}",
        errno.EACCES: f"no permission to write there; {remedy}",
        errno.EPERM: f"no permission to write there; {remedy}",
        errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    }.get(error.errno or 0, f"{error.strerror or error}; {remedy}")
    return f"{path} cannot be written: {reason}"
