"""Folders of image files, one folder per class, decoded when they are needed.

Layouts: path/train/<class>/* with path/test/<class>/* or path/val/<class>/* (ImageNet), or path/<class>/*,
which is divided by seed. Classes are numbered as the recipe lists them, or in the order of their sorted names.
Images become RGB, [3, S, S] in [0, 1].
"""

from __future__ import annotations

import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from madx.data.classes import class_names
from madx.data.sources import DIGEST, Reading, digest
from madx.errors import DataError
from madx.recipe import DataConfig

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image; any other visible file is an error, so that nothing is left out in silence."""

DECODERS = 8
"""Threads at most; Pillow decodes outside of Python's lock."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Pillow has no common error for a damaged file."""


PROBED = 64
"""Images of a choice whose pixels are part of its identity, evenly spaced, so that another decoding is another set."""

MOST_READ = 20_000, 2**28
"""Files and bytes of a set up to which every command reads all of it, to know its content."""


_LISTED = 5
"""Damaged files that are named."""
_END = 1024
"""Bytes at the end of a file in which its last marker is looked for: some programs write on behind it."""


@dataclass(frozen=True, slots=True)
class ImageFile:
    """A file as it was when the set was listed."""

    path: str
    target: str
    """Where its bytes really are if it, or the folder of its class, is a link; else empty."""
    size: int
    """Bytes."""
    modified: int
    """In nanoseconds."""

    def read(self) -> bytes:
        """Its bytes.

        Raises:
            DataError: it cannot be read, or was changed since it was listed.
        """
        try:
            with Path(self.path).open("rb") as file:
                status, content = os.fstat(file.fileno()), file.read()
        except OSError as error:
            raise DataError(f"the image {self.path} cannot be read ({error.strerror}); replace or remove it") from None
        if (status.st_size, status.st_mtime_ns) != (self.size, self.modified):
            raise _changed(self.path)
        return content

    def name_and(self, *facts: object) -> bytes:
        """Its class and name, which stay when the set is moved, and what else is to be told of it."""
        *_, folder, name = Path(self.path).parts
        return os.fsencode("\x1f".join([folder, name, *map(str, facts)]) + "\n")


def _changed(path: str) -> DataError:
    return DataError(f"the image {path} was changed while madx was at work; run the command again when the data rest")


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded on demand by several threads."""

    files: tuple[ImageFile, ...]
    labels: NDArray[np.int64]
    """[N], in [0, classes)."""
    names: tuple[str, ...]
    """Of the classes: of their folders, and of those that have none here."""
    size: int
    """Height and width of the images."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(3, size, size)."""
        return 3, self.size, self.size

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.names)

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, 3, size, size] in [0, 1].

        Raises:
            DataError: if a file is damaged, or is not the one that was listed; it names the file.
        """
        batch = np.empty((len(index), *self.shape), np.float32)
        with _pool() as pool:
            for image, pixels in zip(batch, pool.map(self._decoded, index), strict=True):
                np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=image)
        return batch

    def _decoded(self, position: int) -> NDArray[np.uint8]:
        file = self.files[position]
        content = file.read()
        if self._digests is not None and digest(content) != _whole(self._digests[position]):
            raise _changed(file.path)
        return decode(file.path, self.size, content)

    @cached_property
    def _digests(self) -> NDArray[np.bytes_] | None:
        if len(self.files) > MOST_READ[0] or sum(file.size for file in self.files) > MOST_READ[1]:
            return None
        with _pool() as pool:
            found = list(pool.map(self._examined, self.files))
        if damaged := [problem for _, problem in found if problem]:
            more = f"; and {len(damaged) - _LISTED} more" if len(damaged) > _LISTED else ""
            raise DataError("; ".join(damaged[:_LISTED]) + more)
        return np.array([content for content, _ in found], DIGEST)

    def _examined(self, file: ImageFile) -> tuple[bytes, str]:
        """The digest of a file, and what is wrong with it: one that seems to be cut short is decoded to know."""
        content = file.read()
        if _seems_whole(content):
            return digest(content), ""
        try:
            decode(file.path, self.size, content)
        except DataError as problem:
            return digest(content), str(problem)
        return digest(content), ""

    def digests(self, index: NDArray[np.int64]) -> NDArray[np.bytes_] | None:
        """Of the files' bytes; None where the set is too large to read all of it for a command."""
        return None if self._digests is None else self._digests[index]

    def identity(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """The files' bytes, or their names and sizes where those are too many; and the pixels of some."""
        digests = self.digests(index)
        if digests is None:
            yield from (self.files[position].name_and(self.files[position].size) for position in index)
        else:
            yield digests.tobytes()
        some = np.unique(np.linspace(0, len(index) - 1, PROBED).astype(np.int64)) if len(index) else index
        yield self.images(index[some]).tobytes()

    def stamps(self, index: NDArray[np.int64]) -> Iterator[bytes]:
        """Where each file's bytes are, how many, and when they were last written; nothing where all are read anyway."""
        if self._digests is not None:
            return
        for position in index:
            file = self.files[position]
            yield file.name_and(file.target, file.size, file.modified)


def _seems_whole(content: bytes) -> bool:
    """Whether the end is there: JPEG's or PNG's last marker, or as many bytes as the head of a WebP or BMP says.

    Of anything else there is no telling.
    """
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in content[-_END:]
    if content.startswith(b"\x89PNG"):
        return b"IEND" in content[-_END:]
    if content.startswith(b"RIFF"):
        return len(content) >= 8 + int.from_bytes(content[4:8], "little")
    if content.startswith(b"BM"):
        return len(content) >= int.from_bytes(content[2:6], "little")
    return False


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1))


def _whole(stored: bytes) -> bytes:
    """A digest with the zeros that NumPy drops at its end."""
    return bytes(stored).ljust(np.dtype(DIGEST).itemsize, b"\0")


def decode(path: Path | str, size: int, content: bytes | None = None) -> NDArray[np.uint8]:
    """The image as RGB uint8 [size, size, 3]: shorter side resized (bilinear, antialiased), centre cut out.

    The rounding of the longer side and of the cut follows torchvision's Resize and CenterCrop. Transparency
    is dropped and EXIF rotation is not applied, as there.

    Args:
        path: of the file.
        size: pixels.
        content: the file's bytes, if they were read already.

    Raises:
        DataError: if the file is damaged or has more than 8 bits a channel.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            if image.mode[0] in "IF":  # Pillow would clip 16-bit greys at 255 and call it RGB
                raise DataError(f"{path} has more than 8 bits a channel (Pillow mode {image.mode}); convert it to 8")
            return np.asarray(_centre(image.convert("RGB"), size))
    except UnidentifiedImageError:
        raise DataError(f"the image {path} cannot be decoded (no format that is known); replace or remove it") from None
    except DAMAGED as error:
        raise DataError(f"the image {path} cannot be decoded ({error}); replace or remove it") from None


def _centre(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    width, height = (int(size * side / shorter) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def read_folders(config: DataConfig) -> Reading:
    """The folders of data.path, in one of the two layouts above; test/ before val/ if both have classes.

    Raises:
        DataError: if the layout is another, a class is empty, a file is no image, or a folder's class is not known.
    """
    root, size, names = config.path, config.image_size, class_names(config)
    if root is None or size is None or not root.is_dir():
        raise DataError(f"data.path {root} is not a folder; imagefolder needs one, and data.image_size")
    if not (root / "train").is_dir():
        return read_folder(root, size, names), None
    test_root = next((root / name for name in ("test", "val") if _folder_names(root / name)), None)
    if test_root is None:
        raise DataError(f"{root} has train/ but neither test/ nor val/ with one folder per class beside it")
    training = read_folder(root / "train", size, names)
    return training, read_folder(test_root, size, training.names)


def read_folder(root: Path, size: int, names: tuple[str, ...] = ()) -> FolderSource:
    """All images of the class folders in `root`, class by class.

    Args:
        root: of the class folders.
        size: height and width of the images.
        names: of the classes, in the order of the network's outputs; without them, the folders' names, sorted.
    """
    found = _folder_names(root)
    if not found:
        raise DataError(f"{root} has no folders; expected one per class")
    names = names or tuple(found)
    if unknown := sorted(set(found) - set(names)):
        raise DataError(
            f"{root} has folders of other classes than the {len(names)} there are ({_few(list(names))}): "
            f"{_few(unknown)}; remove them, add them to the training images, or list all classes of the network in "
            "data.classes or data.class_map, in the order of its outputs"
        )
    present = [(label, name) for label, name in enumerate(names) if name in set(found)]
    files = [(label, file) for label, name in present for file in _image_files(root / name)]
    labels = np.array([label for label, _ in files], np.int64)
    return FolderSource(tuple(file for _, file in files), labels, names, size)


def _folder_names(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    if broken := [entry.path for entry in entries if entry.is_symlink() and not Path(entry.path).exists()]:
        raise DataError(f"{_few(sorted(broken))}: the link leads nowhere; mount or mend it, or remove it")
    return sorted(entry.name for entry in entries if entry.is_dir())


def _image_files(folder: Path) -> list[ImageFile]:
    linked = folder.is_symlink()
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    files = [_listed(entry, linked) for entry in entries if not entry.name.startswith(".")]
    if not files:
        raise DataError(f"the class folder {folder} is empty; remove it or fill it")
    return files


def _listed(entry: os.DirEntry[str], linked: bool) -> ImageFile:
    """One entry of a class folder, which may be a link itself."""
    if Path(entry.name).suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{entry.path} is not an image file ({', '.join(sorted(SUFFIXES))}); class folders hold images only, so "
            "move it elsewhere"
        )
    try:
        status = entry.stat()
    except OSError as error:
        raise DataError(f"the image {entry.path} cannot be read ({error.strerror}); replace or remove it") from None
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{entry.path} is not a file (a pipe, a device or a folder); move it elsewhere")
    target = os.path.realpath(entry.path) if linked or entry.is_symlink() else ""
    return ImageFile(entry.path, target, status.st_size, status.st_mtime_ns)


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
