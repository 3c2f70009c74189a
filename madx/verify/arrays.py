"""How measurements become a flat dictionary of arrays for one .npz file, and what is said when one does not fit."""

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
    """Refuse arrays that do not fit together.

    Raises:
        ArtifactError: naming the shape that is wrong.
    """
    for array, shape in expected:
        if array.shape != shape:
            raise ArtifactError(
                f"the {what} arrays do not fit together: {list(array.shape)} where {list(shape)} was due"
            )


def read_array(arrays: Mapping[str, NDArray[Any]], name: str) -> NDArray[Any]:
    """The array of that name.

    Raises:
        ArtifactError: if there is none.
    """
    try:
        return arrays[name]
    except KeyError:
        raise ArtifactError(f"the measurements have no array {name!r}; they hold {sorted(arrays)}") from None


def with_prefix(prefix: str, arrays: Arrays) -> Arrays:
    """Every name behind `prefix` and a dot."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def without_prefix(arrays: Mapping[str, NDArray[Any]], prefix: str) -> Arrays:
    """The arrays that `with_prefix` named."""
    return {name[len(prefix) + 1 :]: arrays[name] for name in arrays if name.startswith(prefix + ".")}
