"""Measurements as flat dictionaries of arrays, named with dots, as a .npz file without pickles holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError, MadxError

Arrays = dict[str, NDArray[Any]]
Bools = NDArray[np.bool_]
T = TypeVar("T")


def known(value: T | None, what: str) -> T:
    """What was measured; MadxError if it was not, because there was no `what`: nothing stands in for a number."""
    if value is None:
        raise MadxError(f"there was no {what} to measure, so nothing can be said about it; measure with one")
    return value


def check_shapes(what: str, expected: Sequence[tuple[NDArray[Any], tuple[int, ...]]]) -> None:
    """ArtifactError if an array of `what` does not have the shape that it is listed with."""
    for array, shape in expected:
        if array.shape != shape:
            raise ArtifactError(
                f"the {what} arrays do not fit together: {list(array.shape)} where {list(shape)} was due"
            )


def entry(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The array of that name; ArtifactError if there is none."""
    try:
        return arrays[name]
    except KeyError:
        raise ArtifactError(f"the measurements have no array {name!r}; they hold {sorted(arrays)}") from None


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    """The same arrays, named prefix.name."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def below(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """The arrays named prefix.name, by name: the inverse of `prefixed`."""
    return {name[len(prefix) + 1 :]: arrays[name] for name in arrays if name.startswith(prefix + ".")}
