"""What lies in a folder: image files, what operating systems leave there, and what has no business there.

Nothing is left out in silence: litter and notes are counted, and everything else that is no image is one of the
problems, which are told all at once.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from madx.data.places import shown
from madx.data.stored import ImageFile
from madx.data.unread import remedy_for
from madx.errors import DataError
from madx.progress import listener

SUFFIXES = frozenset(
    {
        ".bmp",
        ".gif",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""What counts as an image."""
NOTES = frozenset({".csv", ".html", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml"})
"""What people write about images and lay beside them: passed over and counted."""
LITTER = frozenset(
    {
        "__macosx",
        "$recycle.bin",
        "@eadir",
        "desktop.ini",
        "ehthumbs.db",
        "icon\r",
        "lost+found",
        "system volume information",
        "thumbs.db",
    }
)
"""What operating systems and their zip programs leave, in small letters; besides, all that is hidden by a dot."""
_SAID = 100_000
"""Files after which it is said how many there are so far."""
_TOLD = 5
"""Problems that are told in full."""


class Scans(dict[str, list[os.DirEntry[str]]]):
    """What lies in the folders that were looked into, sorted: one may hold a million files and be asked about often."""

    def __missing__(self, folder: str) -> list[os.DirEntry[str]]:
        self[folder] = found = scanned(folder)
        return found


def scanned(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder, sorted by name."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"the folder {shown(folder)} cannot be read ({error.strerror})") from None


@dataclass
class Listing:
    """What was found so far, besides the images."""

    scans: Scans = field(default_factory=Scans)
    """Of the folders that are asked about more than once."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files are litter or notes, by their names (by their endings, if they have many)."""
    problems: list[str] = field(default_factory=list)
    inner: Counter[str] = field(default_factory=Counter)
    """How many of the folders whose images were asked for have a folder of that name."""
    listed: int = 0
    """Image files."""

    def folders(self, root: Path) -> dict[str, str]:
        """The names of its folders as they are there, sorted, by what they are called in text.

        Raises:
            DataError: two are called the same, so that the images of one would be left out.
        """
        found: dict[str, str] = {}
        for entry in self._kept(self.scans[str(root)]):
            if entry.is_symlink() and not Path(entry.path).exists():
                self.problems.append(f"{shown(entry.path)}: the link leads nowhere; mount or mend it, or remove it")
            elif entry.is_dir() and (other := found.setdefault(called(entry.name), entry.name)) != entry.name:
                raise DataError(
                    f"{shown(root)} has two folders that are both called {called(entry.name)}, with their accents "
                    f"written in two ways ({other!a} and {entry.name!a}); move the files of one to the other"
                )
        return found

    def images(self, folder: str, linked: bool = False, above: tuple[str, ...] = ()) -> list[ImageFile]:
        """All image files in a folder and below, sorted by name."""
        real = os.path.realpath(folder)
        if real in above:
            self.problems.append(f"{shown(folder)}: the link leads back to a folder above it; remove it")
            return []
        linked = linked or Path(folder).is_symlink()
        files: list[ImageFile] = []
        entries = self._kept(self.scans[folder] if folder in self.scans else scanned(folder))
        for entry in entries:
            if entry.is_dir() and not _ends(entry.name, SUFFIXES):
                self.inner[entry.name] += not above
                files += self.images(entry.path, linked, (*above, real))
            elif _ends(entry.name, SUFFIXES):
                files += self._listed(entry, linked)
            elif _ends(entry.name, NOTES):
                self.passed_over[f"*{Path(entry.name).suffix.lower()}"] += 1
            else:
                remedy = remedy_for(entry.name)
                new = remedy and not any(remedy in problem for problem in self.problems[-_TOLD:])
                self.problems.append(f"{shown(entry.path)} is not an image file{f' ({remedy})' if new else ''}")
        return files

    def check(self) -> None:
        """Raise one DataError with all problems, if there are any."""
        if not self.problems:
            return
        more = len(self.problems) - _TOLD
        told = [*self.problems[:_TOLD], *([f"and {more} more such problems"] if more > 0 else [])]
        known = ", ".join(sorted(SUFFIXES))
        raise DataError(f"{'; '.join(told)}; class folders hold images only ({known}), so move anything else elsewhere")

    def remarks(self, root: Path) -> tuple[str, ...]:
        """What was passed over, in one sentence."""
        if not self.passed_over:
            return ()
        named = ", ".join(f"{count} {name}" for name, count in self.passed_over.most_common(_TOLD))
        total = self.passed_over.total()
        return (f"{total} files and folders in {shown(root.name)} are no images and were passed over: {named}",)

    def _kept(self, entries: Iterable[os.DirEntry[str]]) -> list[os.DirEntry[str]]:
        """Those that are neither hidden nor litter."""
        kept = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                self.passed_over["hidden" if entry.name.startswith(".") else entry.name.strip()] += 1
            else:
                kept.append(entry)
        return kept

    def _listed(self, entry: os.DirEntry[str], linked: bool) -> list[ImageFile]:
        """One entry that is called an image."""
        try:
            status = entry.stat()
        except OSError as error:
            self.problems.append(f"the image {shown(entry.path)} cannot be read ({error.strerror})")
            return []
        if not stat.S_ISREG(status.st_mode):
            self.problems.append(f"{shown(entry.path)} is not a file (a pipe, a device or a folder)")
            return []
        target = os.path.realpath(entry.path) if linked or entry.is_symlink() else ""
        self.listed += 1
        if self.listed % _SAID == 0:
            listener().say(
                f"{self.listed:,} image files found so far, the last one in {shown(os.path.split(entry.path)[0])}"
            )
        return [ImageFile(entry.path, target, status.st_size, status.st_mtime_ns)]


def called(name: str) -> str:
    """A folder's name as people and recipes write it: composed letters, and bytes that are no text by their numbers."""
    return unicodedata.normalize("NFC", shown(name))


def has_images(folder: Path, scans: Scans) -> bool:
    """Whether image files lie in the folder itself."""
    return any(_ends(entry.name, SUFFIXES) and not entry.name.startswith(".") for entry in scans[str(folder)])


def _ends(name: str, suffixes: frozenset[str]) -> bool:
    return os.path.splitext(name)[1].lower() in suffixes  # noqa: PTH122 - a Path takes ten times as long
