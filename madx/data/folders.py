"""Folders of image files, one folder per class, decoded when they are needed.

Layouts: path/train/<class>/* with path/test/<class>/* or path/val/<class>/* (ImageNet), or path/<class>/*,
which is divided by seed. Classes are numbered in the order of their sorted names. Images become RGB,
[3, S, S] in [0, 1].
"""

from __future__ import annotations

import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from madx.data.sources import Reading
from madx.errors import DataError
from madx.recipe import DataConfig

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as an image; any other visible file is an error, so that nothing is left out in silence."""

DECODERS = 8
"""Threads at most; Pillow decodes outside of Python's lock."""

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""Pillow has no common error for a damaged file."""


@dataclass(frozen=True, eq=False)
class FolderSource:
    """Image files, decoded on demand by several threads."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    """[N], in [0, classes)."""
    names: tuple[str, ...]
    """Folder name of each class."""
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
            DataError: if a file is damaged; it names the file.
        """
        batch = np.empty((len(index), *self.shape), np.float32)
        with ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as pool:
            decoded = pool.map(lambda position: decode(self.files[position], self.size), index)
            for image, pixels in zip(batch, decoded, strict=True):
                np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=image)
        return batch


def decode(path: Path, size: int) -> NDArray[np.uint8]:
    """The image as RGB uint8 [size, size, 3]: shorter side resized (bilinear, antialiased), centre cut out.

    The rounding of the longer side and of the cut follows torchvision's Resize and CenterCrop. Transparency
    is dropped and EXIF rotation is not applied, as there.

    Raises:
        DataError: if the file is damaged or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # Pillow would clip 16-bit greys at 255 and call it RGB
                raise DataError(f"{path} has more than 8 bits a channel (Pillow mode {image.mode}); convert it to 8")
            return np.asarray(_centre(image.convert("RGB"), size))
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
        DataError: if the layout is another, a class is empty, a file is no image, or the classes differ.
    """
    root, size = config.path, config.image_size
    if root is None or size is None or not root.is_dir():
        raise DataError(f"data.path {root} is not a folder; imagefolder needs one, and data.image_size")
    if not (root / "train").is_dir():
        return read_folder(root, size), None
    test_root = next((root / name for name in ("test", "val") if _class_names(root / name)), None)
    if test_root is None:
        raise DataError(f"{root} has train/ but neither test/ nor val/ with one folder per class beside it")
    training, test = read_folder(root / "train", size), read_folder(test_root, size)
    if training.names != test.names:
        only_train = sorted(set(training.names) - set(test.names))
        only_test = sorted(set(test.names) - set(training.names))
        raise DataError(
            f"the classes of {root / 'train'} and {test_root} differ: {_few(only_train)} only in the first, "
            f"{_few(only_test)} only in the second"
        )
    return training, test


def read_folder(root: Path, size: int) -> FolderSource:
    """All images of the class folders in `root`, class by class, in the order of their names."""
    names = _class_names(root)
    if not names:
        raise DataError(f"{root} has no folders; expected one per class")
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = _image_files(root / name)
        files += found
        labels += [label] * len(found)
    return FolderSource(tuple(files), np.array(labels, np.int64), tuple(names), size)


def _class_names(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    names = sorted(entry.name for entry in os.scandir(folder) if not entry.name.startswith("."))
    for name in names:
        if Path(name).suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{folder / name} is not an image file ({', '.join(sorted(SUFFIXES))}); "
                "class folders hold images only, so move it elsewhere"
            )
    if not names:
        raise DataError(f"the class folder {folder} is empty; remove it or fill it")
    return [folder / name for name in names]


def _few(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
