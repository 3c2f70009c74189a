"""`madx data fetch`: get Fashion-MNIST, check it, and put it in place; files appear whole or not at all.

Ways, in order: the Debian package where apt-get is (it uses the machine's own mirror, often the only door to
the outside, and fails fast), then the official files over the network. What they bring is believed only when
its SHA-256 is right.
"""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from madx.artifacts import explain_write, write_atomically
from madx.data.fashion import FILES, Pinned, checked_content
from madx.data.places import HOW_TO_GET
from madx.errors import ArtifactError, DataError
from madx.progress import Progress

PACKAGE = "dataset-fashion-mnist"
SITES = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
)
"""The authors' own: the repository and the bucket it links to."""

CONNECT_SECONDS = 20
COMMAND_SECONDS = 300
MOST_BYTES = 1 << 26
"""No file of a set is larger; a site that sends more is not the right one."""
_REMEDY = "choose another folder with --to"

Run = Callable[[Sequence[str], Path], str]
"""Runs a command in a folder; returns an empty text, or why it failed."""


@dataclass(frozen=True)
class Way:
    """One way to get a set's files."""

    name: str
    obtain: Callable[[Sequence[str], Progress], Mapping[str, bytes]]
    """From the file names to their bytes; raises a DataError saying why it cannot."""


def fetch(name: str, folder: Path, progress: Progress) -> Path:
    """Get the data set `name` into `folder`/`name`, which is where `data_root()` lets readers look.

    Args:
        name: Only fashion-mnist can be fetched.
        folder: Folder of data sets; created if needed.
        progress: Told what is tried and what was found.

    Returns:
        The folder that holds the files.

    Raises:
        DataError: if the set cannot be fetched; it lists every way tried and why it failed.
    """
    if name != "fashion-mnist":
        advice = f"; for {name}, {HOW_TO_GET[name]}" if name in HOW_TO_GET else ""
        raise DataError(f"madx can fetch fashion-mnist only, not {name!r}{advice}")
    files = {f"{plain}.gz": pinned for plain, pinned in FILES.items()}
    return fetch_files(files, folder / name, progress, ways=_ways())


def fetch_files(files: Mapping[str, Pinned], target: Path, progress: Progress, *, ways: Sequence[Way]) -> Path:
    """Put `files` into `target` by the first of `ways` that brings them all, unless they are there already.

    Raises:
        DataError: if no way does, or `target` cannot be written.
    """
    if _complete(files, target):
        progress.say(f"{target} already holds all {len(files)} files, and their SHA-256 is right")
        return target
    _check_place(target)
    failures = []
    for way in ways:
        progress.say(f"trying {way.name}")
        try:
            obtained = way.obtain(list(files), progress)
            for name, pinned in files.items():
                checked_content(obtained[name], pinned, where=f"{name} from {way.name}")
        except DataError as error:
            progress.say(f"that failed: {error}")
            failures.append(f"{way.name}: {error}")
            continue
        _put(obtained, target)
        progress.say(f"{target} holds {len(files)} files; their SHA-256 was checked")
        return target
    tried = "; ".join(f"({number}) {failure}" for number, failure in enumerate(failures, start=1))
    raise DataError(
        f"nothing could be fetched: {tried}. Put {', '.join(files)} into {target} by hand, "
        "from https://github.com/zalandoresearch/fashion-mnist"
    )


def _complete(files: Mapping[str, Pinned], target: Path) -> bool:
    try:
        for name, pinned in files.items():
            checked_content((target / name).read_bytes(), pinned, where=name)
    except (OSError, DataError):
        return False  # whatever is wrong with it, it is fetched anew
    return True


def _check_place(target: Path) -> None:
    """A file where a folder is needed is told before anything is downloaded.

    Raises:
        DataError: `target` cannot become a folder.
    """
    nearest = next(place for place in (target, *target.parents) if place.exists())
    if not nearest.is_dir():
        error = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        raise DataError(explain_write(target, error, remedy=_REMEDY))


def _put(obtained: Mapping[str, bytes], target: Path) -> None:
    try:
        for name, content in obtained.items():
            write_atomically(target / name, content, remedy=_REMEDY)
    except ArtifactError as error:
        raise DataError(str(error)) from None


def _ways() -> list[Way]:
    sites = [site(address) for address in SITES]
    return [debian(), *sites] if shutil.which("apt-get") and shutil.which("dpkg") else sites


def site(address: str) -> Way:
    """The files one by one from a web address that ends with a slash."""

    def obtain(names: Sequence[str], progress: Progress) -> dict[str, bytes]:
        tracked = progress.track(names, f"downloading from {address}", total=len(names))
        return {name: _download(address + name) for name in tracked}

    return Way(f"the site {address}", obtain)


def _download(address: str) -> bytes:
    try:
        with urllib.request.urlopen(address, timeout=CONNECT_SECONDS) as response:
            content: bytes = response.read(MOST_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:  # URLError and timeouts are OSErrors
        raise DataError(f"{address.rpartition('/')[2]} cannot be downloaded ({error})") from None
    if len(content) > MOST_BYTES:
        raise DataError(f"{address} sends more than {MOST_BYTES} bytes; that is not the file")
    return content


def run_command(command: Sequence[str], folder: Path) -> str:
    """Run `command` in `folder`; an empty text, or the reason of the failure."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else lines[-1]


def debian(run: Run = run_command, *, root: bool | None = None) -> Way:
    """The Debian package, unpacked into a temporary folder; nothing is installed.

    Args:
        run: Runs a command; tests put their own here.
        root: Whether package lists may be updated; without it, whether this process is root's.
    """

    def obtain(names: Sequence[str], progress: Progress) -> dict[str, bytes]:
        with tempfile.TemporaryDirectory(prefix="madx-fetch-") as name:
            folder = Path(name)
            _download_package(run, folder, progress, root=os.geteuid() == 0 if root is None else root)
            return _unpack(run, folder, names)

    return Way(f"the Debian package {PACKAGE}", obtain)


def _download_package(run: Run, folder: Path, progress: Progress, *, root: bool) -> None:
    """`apt-get download`; a fresh machine has to update its package lists first, which only root may."""
    download = ["apt-get", "download", PACKAGE]
    problem = run(download, folder)
    if problem and root:
        progress.say("the package lists may be missing or old; running apt-get update")
        problem = run(["apt-get", "update"], folder) or run(download, folder)
    if problem:
        advice = "" if root else "; if its lists are old, `sudo apt-get update` helps"
        raise DataError(f"apt-get download {PACKAGE} failed ({problem}){advice}")


def _unpack(run: Run, folder: Path, names: Sequence[str]) -> dict[str, bytes]:
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise DataError("apt-get download left no .deb file")
    if problem := run(["dpkg", "-x", str(packages[0]), str(folder / "unpacked")], folder):
        raise DataError(f"dpkg -x {packages[0].name} failed ({problem})")
    inside = folder / "unpacked" / "usr" / "share" / "datasets" / "fashion-mnist"
    missing = [name for name in names if not (inside / name).is_file()]
    if missing:
        raise DataError(f"the package lacks {', '.join(missing)}")
    return {name: (inside / name).read_bytes() for name in names}
