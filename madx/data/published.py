"""Published sets in formats of their own: digits, CIFAR-10 and -100 (binary version), SVHN (cropped, .mat).

Whatever the file's order of axes, the source's pixels are uint8 [N, C, H, W] (digits: float32).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.classes import class_names
from madx.data.formats import open_arrays
from madx.data.places import BROKEN, HOW_TO_GET, find_folder, read_whole, require_files
from madx.data.rows import in_memory
from madx.data.sources import ArraySource, Reading, array_source
from madx.errors import DataError
from madx.recipe import DataConfig

CIFAR_SHAPE = (3, 32, 32)


def read_digits(config: DataConfig) -> Reading:  # noqa: ARG001 - a reader takes its configuration
    """scikit-learn's 1,797 handwritten digits, 1 x 8 x 8; there is no test set of its own."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return array_source(digits.images / 16, digits.target, where="digits", classes=10), None


@dataclass(frozen=True)
class Cifar:
    """Layout of a binary CIFAR: every record is label bytes, the last of which counts, then 3,072 pixels."""

    name: str
    """As in data.name."""
    subfolder: str
    """The folder inside the official archive."""
    python_folder: str
    """The one inside the archive of the Python version."""
    train: tuple[str, ...]
    test: str
    classes: int
    label_bytes: int
    """1 (CIFAR-10), or 2: coarse, then fine (CIFAR-100)."""
    train_records: int
    """Records in each training file."""
    test_records: int


CIFAR10 = Cifar(
    "cifar10",
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test_batch.bin",
    classes=10,
    label_bytes=1,
    train_records=10_000,
    test_records=10_000,
)
CIFAR100 = Cifar(
    "cifar100",
    "cifar-100-binary",
    "cifar-100-python",
    ("train.bin",),
    "test.bin",
    classes=100,
    label_bytes=2,
    train_records=50_000,
    test_records=10_000,
)


def read_cifar10(config: DataConfig) -> Reading:
    """CIFAR-10 (Krizhevsky 2009): 50,000 and 10,000 images of 3 x 32 x 32."""
    return read_cifar(config, CIFAR10)


def read_cifar100(config: DataConfig) -> Reading:
    """CIFAR-100 (Krizhevsky 2009) with its fine labels: 50,000 and 10,000 images of 3 x 32 x 32."""
    return read_cifar(config, CIFAR100)


def read_cifar(config: DataConfig, layout: Cifar) -> Reading:
    """A binary CIFAR, in the folder itself or in the archive's folder inside it.

    Raises:
        DataError: if a file is missing or has not its published size, or a label is out of range.
    """
    folder = find_folder(config)
    if (folder / layout.subfolder).is_dir():
        folder = folder / layout.subfolder
    elif not (folder / layout.test).is_file() and (found := _python_version(folder, layout)):
        return _of_python(config, layout, found)
    require_files(folder, (*layout.train, layout.test), hint=HOW_TO_GET[layout.name])
    parts = [_cifar_file(folder / name, layout, layout.train_records) for name in layout.train]
    pixels = np.concatenate([pixels for pixels, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    test_pixels, test_labels = _cifar_file(folder / layout.test, layout, layout.test_records)
    names = class_names(config)
    return (
        array_source(pixels, labels, where=f"{folder} (train)", classes=layout.classes, names=names),
        array_source(test_pixels, test_labels, where=f"{folder} (test)", classes=layout.classes, names=names),
    )


def _python_version(folder: Path, layout: Cifar) -> Path | None:
    """The folder of the files that torchvision unpacks, if they are there."""
    places = (folder / layout.python_folder, folder)
    test = layout.test.removesuffix(".bin")
    return next((place for place in places if (place / test).is_file()), None)


def _of_python(config: DataConfig, layout: Cifar, folder: Path) -> Reading:
    """The same from pickles, read without running what is in them."""
    arrays = open_arrays("pickles", folder).arrays
    names, images = class_names(config), {key: in_memory(arrays[key]()) for key in sorted(arrays)}
    counts = tuple(len(images.get(key, ())) for key in ("x_train", "x_test"))
    expected = (len(layout.train) * layout.train_records, layout.test_records)
    if counts != expected:
        raise DataError(
            f"{folder} has {counts[0]} training and {counts[1]} test images, and {layout.name} has {expected[0]} and "
            f"{expected[1]}: it is truncated or another set, which data.name: pickles reads as it is; or "
            f"{HOW_TO_GET[layout.name]} ({layout.train[0]} and so on)"
        )
    return tuple(  # type: ignore[return-value]
        array_source(
            images[f"x_{part}"], images[f"y_{part}"], where=f"{folder} ({part})", classes=layout.classes, names=names
        )
        for part in ("train", "test")
    )


def _cifar_file(path: Path, layout: Cifar, records: int) -> tuple[NDArray[Any], NDArray[Any]]:
    content = read_whole(path)
    size = layout.label_bytes + int(np.prod(CIFAR_SHAPE))
    if len(content) != records * size:
        raise DataError(
            f"{path} has {len(content)} bytes; expected {records * size} ({records} records of {size}); "
            f"it is truncated or another version; {HOW_TO_GET[layout.name]}"
        )
    table = np.frombuffer(content, np.uint8).reshape(records, size)
    return table[:, layout.label_bytes :].reshape(records, *CIFAR_SHAPE), table[:, layout.label_bytes - 1]


def read_svhn(config: DataConfig) -> Reading:
    """Street View House Numbers (Netzer et al. 2011), cropped digits, 3 x 32 x 32; label 10 means 0.

    Raises:
        DataError: if a file is missing, damaged, or not of that layout.
    """
    folder = find_folder(config)
    names = ("train_32x32.mat", "test_32x32.mat")
    if config.split == "test":
        require_files(folder, names[1:], hint=HOW_TO_GET["svhn"])
        return None, _svhn_file(folder / names[1])
    require_files(folder, names, hint=HOW_TO_GET["svhn"])
    training, test = (_svhn_file(folder / name) for name in names)
    return training, test


def _svhn_file(path: Path) -> ArraySource:
    pixels, labels = _load_mat(path)
    if pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3) or pixels.dtype != np.uint8:
        raise DataError(f"{path}: X is {pixels.dtype} of the shape {list(pixels.shape)}; expected uint8 [32, 32, 3, N]")
    if labels.size == 0 or labels.min() < 1 or labels.max() > 10:
        raise DataError(f"{path}: y must hold labels from 1 to 10, where 10 means the digit 0")
    images = pixels.transpose(3, 2, 0, 1)
    return array_source(images, labels % 10, where=str(path), classes=10)


def _load_mat(path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """X and y of a MATLAB file."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=("X", "y"))
    except (MatReadError, *BROKEN) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file ({error}); {HOW_TO_GET['svhn']}") from None
    if not {"X", "y"} <= content.keys():
        raise DataError(f"{path} lacks X or y, the images and labels of SVHN; {HOW_TO_GET['svhn']}")
    return content["X"], content["y"]
