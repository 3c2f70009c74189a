"""How one engine answers where it is deployed: at the batch that the recipe serves, beside other neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.verify.arrays import Arrays, Bools, check_shapes, read_array


@dataclass(frozen=True, eq=False)
class Answers:
    """Of one engine, image by image."""

    classes: NDArray[np.int64]
    """[N] what it takes the clean image for, at the batch of the attacks."""
    served: Bools
    """[N] at the served batch it is right on the clean image, and on the worst example if it withstood that."""
    unsteady: Bools
    """[N] its logits there, clean or on the worst example, differ by more than rounding explains."""

    flat: Bools
    """[N] its probabilities on the clean image are rounded to one class, so that queries see no way to another; all
    False where it gives logits."""

    def __post_init__(self) -> None:
        check_shapes("answers", [(row, self.classes.shape) for row in (self.served, self.unsteady, self.flat)])

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One value from those of the chunks, in their order."""
        rows: dict[str, Any] = {
            one.name: np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(cls)
        }
        return cls(**rows)

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        return cls(**{one.name: read_array(arrays, one.name) for one in fields(cls)})
