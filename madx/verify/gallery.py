"""The few images that people look at: what one engine kept and the other did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from madx.verify.arrays import Arrays, Bools, check_shapes, read_array


@dataclass(frozen=True, eq=False)
class Gallery:
    """A few images that only one of the engines kept, for people to look at: G of them."""

    LIMIT: ClassVar[int] = 8
    """At most so many lost, and so many won."""

    index: NDArray[np.int64]
    """[G] positions in the source."""
    labels: NDArray[np.int64]
    """[G] the true classes."""
    taken_for: NDArray[np.int64]
    """[G] what the engine that it turned sees in the example."""
    lost: Bools
    """[G] the reference kept it and the candidate did not; else the other way round."""
    clean: NDArray[np.float32]
    """[G, C, H, W] in [0, 1]."""
    adversarial: NDArray[np.float32]
    """[G, C, H, W] the example that turned it; the clean image where that was wrong already."""

    def __post_init__(self) -> None:
        n = len(self.index)
        check_shapes("gallery", [(row, (n,)) for row in (self.labels, self.taken_for, self.lost)])
        check_shapes("gallery", [(self.adversarial, self.clean.shape)])
        check_shapes("gallery", [(self.clean, (n, *self.clean.shape[1:]))])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """The first of each sort."""
        names = [field.name for field in fields(cls)]
        joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        sorts = [np.flatnonzero(joined["lost"] == lost)[: cls.LIMIT] for lost in (True, False)]
        rows = np.concatenate(sorts)
        return cls(**{name: array[rows] for name, array in joined.items()})

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        return cls(**{field.name: read_array(arrays, field.name) for field in fields(cls)})
