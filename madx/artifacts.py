"""Files that appear whole or not at all, the run directory that holds them, and the manifest that vouches for them.

A run directory is self-describing: `manifest.json` lists for every stage its key, the recipe slice it was made with,
the SHA-256 of what it read and of every file it wrote, tool versions, device and time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from madx.errors import ArtifactError

MANIFEST_SCHEMA = 1

_UNREADABLE = (
    *(OSError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AssertionError),
    *(struct.error, zlib.error, zipfile.BadZipFile, pickle.UnpicklingError),
)
"""What zipfile and torch's tensors-only reader raise on damaged, foreign or malicious files."""


def sha256_bytes(payload: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(payload).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's content in hexadecimal.

    Raises:
        ArtifactError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write beside, fsync, rename: after a crash `path` holds the old content or the new, never a part.

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
        raise ArtifactError(_explain_write(path, error)) from None


def write_json(path: Path, content: Any) -> None:
    """`write_atomically` of indented JSON; NaN and infinity are refused, because JSON has none."""
    write_atomically(path, json.dumps(content, indent=2, sort_keys=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Content of a JSON file.

    Raises:
        ArtifactError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"there is no {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON ({error}); delete it to make it again") from None


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
        except _UNREADABLE:
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

    def clear(self) -> None:
        """Remove the file when the work is done."""
        self.path.unlink(missing_ok=True)


class RunDirectory:
    """The folder of one run: its files, its manifest, and the lock that keeps a second process out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Full path of the run's file `name` (posix, relative to the run directory)."""
        return self.root / name

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and hold it for this process; the lock vanishes with the process.

        Raises:
            ArtifactError: another process holds it, or it cannot be written.
        """
        lock = self.path(".lock")
        created = not self.root.exists()
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+")
        except OSError as error:
            raise ArtifactError(_explain_write(self.root, error)) from None
        with file:
            self._take(file)
            with contextlib.suppress(OSError):  # the number only serves the other process's message
                file.truncate(0)
                file.write(str(os.getpid()))
                file.flush()
            self._sweep()
            try:
                yield
            finally:
                if created and not self._holds_work():
                    # A run that failed before it wrote anything leaves nothing behind; tidying hides no error.
                    shutil.rmtree(self.root, ignore_errors=True)

    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one for a new run.

        Raises:
            ArtifactError: it is corrupt, or of a newer madx.
        """
        path = self.path("manifest.json")
        if not path.exists():
            return {"schema": MANIFEST_SCHEMA, "stages": {}}
        content: dict[str, Any] = read_json(path)
        if not _is_manifest(content):
            raise ArtifactError(f"{path} is not a madx manifest; choose another --run-dir, or delete it to start over")
        if content["schema"] > MANIFEST_SCHEMA:
            raise ArtifactError(f"{path} was written by a newer madx (schema {content['schema']}); update madx")
        return content

    def stage(self, name: str) -> dict[str, Any] | None:
        """The manifest's record of a stage, or None if it was never finished."""
        record: dict[str, Any] | None = self.manifest()["stages"].get(name)
        return record

    def record_stage(self, name: str, record: dict[str, Any], outputs: list[str]) -> None:
        """Enter a finished stage with the hashes of its `outputs`; from now on it counts as done."""
        manifest = self.manifest()
        files = {output: _file_entry(self.path(output)) for output in sorted(outputs)}
        manifest["stages"][name] = record | {"outputs": files}
        write_json(self.path("manifest.json"), manifest)

    def changed_outputs(self, name: str) -> list[str]:
        """Files of a finished stage that are gone or no longer have the bytes the manifest vouches for."""
        record = self.stage(name)
        outputs = record["outputs"] if record else {}
        return [
            output
            for output, entry in outputs.items()
            if not self.path(output).is_file() or sha256_file(self.path(output)) != entry["sha256"]
        ]

    def hashes(self, name: str) -> dict[str, str]:
        """SHA-256 of every file that a finished stage wrote."""
        record = self.stage(name)
        return {output: entry["sha256"] for output, entry in record["outputs"].items()} if record else {}

    def _take(self, file: IO[str]) -> None:
        """Take the lock, or say who has it."""
        try:
            held = _locks(file, self.path(".lock"))
        except OSError as error:
            raise ArtifactError(
                f"the run directory {self.root} cannot be locked: {error.strerror}; choose a --run-dir on a local disk"
            ) from None
        if not held:
            file.seek(0)
            raise ArtifactError(
                f"the run directory {self.root} is in use by another madx (process {file.read().strip() or '?'}); "
                "wait for it, or choose another --run-dir"
            )

    def _holds_work(self) -> bool:
        """Whether there is any file beside the lock."""
        return any(path.is_file() and path.name != ".lock" for path in self.root.rglob("*"))

    def _sweep(self) -> None:
        """Remove what killed processes left beside their targets."""
        for part in self.root.rglob(".*.[0-9]*.part"):
            with contextlib.suppress(OSError):  # what cannot be removed does no harm
                part.unlink()


def free_bytes(folder: Path) -> int:
    """Free space of the file system that `folder` (or its nearest existing parent) is on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _locks(file: IO[str], path: Path) -> bool:
    """Whether this process now has the lock, and `path` is still that file: a run that ended may have removed it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def _is_manifest(content: Any) -> bool:
    """Whether the JSON has the shape that the methods of `RunDirectory` rely on."""
    if not isinstance(content, dict) or type(content.get("schema")) is not int:
        return False
    if content["schema"] > MANIFEST_SCHEMA:
        return True  # of a newer shape; refused with a better message
    stages = content.get("stages")
    if not isinstance(stages, dict) or not all(isinstance(record, dict) for record in stages.values()):
        return False
    outputs = [record.get("outputs") for record in stages.values()]
    return all(isinstance(files, dict) and all(map(_is_file_entry, files.values())) for files in outputs)


def _is_file_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _file_entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}


def _sync_folder(folder: Path) -> None:
    """Make a rename durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain_write(path: Path, error: OSError) -> str:
    reason = {
        errno.ENOSPC: "the disk is full; free some space and run the command again, it continues where it stopped",
        errno.EROFS: "the file system is read-only; choose another --run-dir",
        errno.EACCES: "no permission to write there; choose another --run-dir",
        errno.EPERM: "no permission to write there; choose another --run-dir",
        errno.EDQUOT: "the disk quota is used up; free some space and run the command again",
    }.get(error.errno or 0, error.strerror or str(error))
    return f"{path} cannot be written: {reason}"
