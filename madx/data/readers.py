"""Which reader reads which data set: one row per data.name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from madx.data.fashion import read_fashion
from madx.data.folders import read_folders
from madx.data.own import read_factory, read_npz
from madx.data.published import read_cifar10, read_cifar100, read_digits, read_svhn
from madx.data.sources import Reading, require_fit
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
    return training, test
