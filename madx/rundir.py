"""The run directory: its files, the manifest that vouches for them, and the lock that keeps a second process out.

A run directory is self-describing: `manifest.json` lists for every stage its key, what the key was made from, the
SHA-256 of what it read and of every file it wrote, tool versions, machine and time; and how often what was tried, which
outlives the stages. What is nobody's business but madx's, the lock and the checkpoints of unfinished work, lies in
`.madx/`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from madx.artifacts import explain_write, read_json, sha256_bytes, sha256_file, write_json
from madx.errors import ArtifactError

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
PRIVATE = ".madx"
LOCK = f"{PRIVATE}/lock"
CHECKPOINTS = f"{PRIVATE}/checkpoints"


class RunDirectory:
    """The folder of one run: its files, its manifest, and the lock that keeps a second process out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Full path of the run's file `name` (posix, relative to the run directory)."""
        return self.root / name

    @property
    def begun(self) -> bool:
        """Whether the folder is that of a run, finished or not."""
        return self.path(MANIFEST).is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder if needed and hold it for this process; the lock vanishes with the process.

        Raises:
            ArtifactError: another process holds it, or it cannot be written.
        """
        lock = self.path(LOCK)
        created = not self.root.exists()
        try:
            self._refuse_foreign()
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+")
        except OSError as error:
            raise ArtifactError(explain_write(self.root, error)) from None
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
        path = self.path(MANIFEST)
        if not path.exists():
            return {"schema": MANIFEST_SCHEMA, "stages": {}}
        content: dict[str, Any] = read_json(path)
        if not _is_manifest(content):
            raise ArtifactError(f"{path} is not a madx manifest; choose another --run-dir, or delete it to start over")
        if content["schema"] > MANIFEST_SCHEMA:
            raise ArtifactError(f"{path} was written by a newer madx (schema {content['schema']}); update madx")
        return content

    @property
    def maker(self) -> str:
        """The command that fills this directory; `madx run` alone knows nothing of files from outside."""
        stages = self.manifest()["stages"]
        if "take" not in stages:
            return "`madx run`"
        own = "train" in stages
        return f"`madx {'run --baseline' if own else 'verify --engine'}`, with the files that were given before"

    def stage(self, name: str) -> dict[str, Any] | None:
        """The manifest's record of a stage, or None if it was never finished."""
        record: dict[str, Any] | None = self.manifest()["stages"].get(name)
        return record

    def record_stage(self, name: str, record: dict[str, Any], outputs: list[str]) -> None:
        """Enter a finished stage with the hashes of its `outputs`; from now on it counts as done.

        Files that an earlier run of the stage wrote and this one did not are removed.
        """
        manifest = self.manifest()
        files = {output: _file_entry(self.path(output)) for output in sorted(outputs)}
        before = manifest["stages"].get(name, {"outputs": {}})["outputs"]
        for leftover in before.keys() - files.keys():
            self.path(leftover).unlink(missing_ok=True)
        manifest["stages"][name] = record | {"outputs": files}
        write_json(self.path(MANIFEST), manifest)

    def forget_stage(self, name: str) -> None:
        """Drop a stage that no longer speaks of the files before it.

        What it wrote goes first: a record without its files is done again, files without a record would stay for good.
        """
        manifest = self.manifest()
        record = manifest["stages"].pop(name, None)
        if record is None:
            return
        for output in record["outputs"]:
            self.path(output).unlink(missing_ok=True)
        write_json(self.path(MANIFEST), manifest)

    def attempts(self) -> dict[str, dict[str, Any]]:
        """What `keep_attempts` kept, by subject."""
        kept: dict[str, dict[str, Any]] = self.manifest().get("attempts", {})
        return kept

    def keep_attempts(self, subject: str, record: Mapping[str, Any]) -> None:
        """Keep how often something was tried; no stage that is done again or forgotten takes it back."""
        manifest = self.manifest()
        manifest.setdefault("attempts", {})[subject] = dict(record)
        write_json(self.path(MANIFEST), manifest)

    def probes(self) -> dict[str, dict[str, Any]]:
        """What `keep_probe` kept, by subject."""
        kept: dict[str, dict[str, Any]] = self.manifest().get("probes", {})
        return kept

    def keep_probe(self, subject: str, record: Mapping[str, Any]) -> None:
        """Keep in which formats a network was timed and what they came to; a resumed run goes on with the same."""
        manifest = self.manifest()
        manifest.setdefault("probes", {})[subject] = dict(record)
        write_json(self.path(MANIFEST), manifest)

    def read(self, name: str) -> bytes:
        """Bytes of a file that a finished stage wrote, checked against the manifest at this moment.

        Raises:
            ArtifactError: no stage vouches for the file, or it has other bytes.
        """
        records = self.manifest()["stages"].values()
        vouched = {file: entry["sha256"] for record in records for file, entry in record["outputs"].items()}
        try:
            payload = self.path(name).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{self.path(name)} cannot be read: {error.strerror}") from None
        if vouched.get(name) != sha256_bytes(payload):
            raise ArtifactError(
                f"{self.path(name)} is not what the stage that made it wrote; the command that made it makes it again: "
                f"{self.maker}"
            )
        return payload

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
            held = _locks(file, self.path(LOCK))
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
        return any(path.is_file() and path != self.path(LOCK) for path in self.root.rglob("*"))

    def _refuse_foreign(self) -> None:
        """A folder that madx did not make may hold the user's own dense/ or report.html: it is not written to."""
        if not self.root.is_dir() or self.path(PRIVATE).exists() or self.begun:
            return
        if any(self.root.iterdir()):
            raise ArtifactError(
                f"{self.root} is not empty and not a madx run directory; nothing in it was touched: "
                "choose a new --run-dir"
            )

    def _sweep(self) -> None:
        """Remove what killed processes left beside their targets."""
        for part in self.root.rglob(".*.[0-9]*.part"):
            with contextlib.suppress(OSError):  # what cannot be removed does no harm
                part.unlink()


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
    for counted in (content.get("attempts", {}), content.get("probes", {})):
        if not isinstance(counted, dict) or not all(isinstance(record, dict) for record in counted.values()):
            return False
    outputs = [record.get("outputs") for record in stages.values()]
    return all(isinstance(files, dict) and all(map(_is_file_entry, files.values())) for files in outputs)


def _is_file_entry(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("sha256"), str)


def _file_entry(path: Path) -> dict[str, Any]:
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size}
