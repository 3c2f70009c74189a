"""Which reader reads which data set: one row per data.name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.checks import require_fit
from madx.data.fashion import read_fashion
from madx.data.files import FileSource
from madx.data.folders import read_folders
from madx.data.formats import FORMATS
from madx.data.own import read_arrays, read_factory
from madx.data.published import read_cifar10, read_cifar100, read_digits, read_svhn
from madx.data.shards import read_shards
from madx.data.sources import Reading, Source
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
        "parquet": read_shards,
        "arrow": read_shards,
        "webdataset": read_shards,
        "arrays": read_arrays,
        **dict.fromkeys(FORMATS, read_arrays),
        "factory": read_factory,
    }
)


def read(config: DataConfig) -> Reading:
    """The training set that the recipe names, and its test set if it has one of its own.

    Raises:
        DataError: if the set is missing, damaged, or holds values outside the contract of `Source`.
    """
    training, test = READERS[config.name](config)
    if config.split == "test" and training is not None:
        training, test = None, training if test is None else test
    require_fit(training, test, where=f"data.name: {config.name}")
    return _as_said(training, config), _as_said(test, config)


def _as_said(source: Source | None, config: DataConfig) -> Source | None:
    """Without damaged files and with the channels exchanged, if the recipe says so."""
    if source is None:
        return None
    if config.skip_damaged and isinstance(source, FileSource):
        source = source.without_damaged()
    return _exchanged(source) if config.channel_order == "bgr" else source


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
