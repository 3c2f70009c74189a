"""Which reader reads which data set: one row per data.name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.fashion import read_fashion
from madx.data.folders import read_folders
from madx.data.own import read_factory, read_npz
from madx.data.published import read_cifar10, read_cifar100, read_digits, read_svhn
from madx.data.sources import Reading, Source, require_fit
from madx.errors import DataError
from madx.recipe import DataConfig

READERS: Mapping[str, Callable[[DataConfig], Reading]] = MappingProxyType(
    {
        "fashion-mnist": read_fashion,
        "digits": read_digits,
        "cifar10": read_cifar10,
        "cifar100": read_cifar100,
        "svhn": read_svhn,
        "imagefolder": read_folders,
        "npz": read_npz,
        "factory": read_factory,
    }
)


def read(config: DataConfig) -> Reading:
    """The training set that the recipe names, and its test set if it has one of its own.

    Raises:
        DataError: if the set is missing, damaged, or holds values outside the contract of `Source`.
    """
    training, test = READERS[config.name](config)
    require_fit(training, test, where=f"data.name: {config.name}")
    if config.channel_order == "bgr":
        return _exchanged(training), None if test is None else _exchanged(test)
    return training, test


@dataclass(frozen=True, eq=False)
class Exchanged:
    """A source whose first and third channel are exchanged."""

    source: Source

    def __getattr__(self, name: str) -> Any:
        """All but the images is as it was."""
        if name == "source":  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self.source, name)

    def images(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The images at the positions `index`, in that order: [n, 3, H, W] in [0, 1]."""
        return np.ascontiguousarray(self.source.images(index)[:, ::-1])


def _exchanged(source: Source) -> Source:
    if source.shape[0] != 3:
        raise DataError(f"data.channel_order: bgr is for images of 3 channels; these have {source.shape[0]}")
    return Exchanged(source)
