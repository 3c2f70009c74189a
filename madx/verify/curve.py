"""The security curve: which of the first M gate images still stand as the attacker is allowed more and more.

Radii run along the first axis, images along the second. It is measured with a cheaper attack than the gates are, for
people to look at: it shows where robustness ends, and that the attack gets through in the end. No gate reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError
from madx.verify.arrays import Arrays, Bools, check_shapes, read_array


@dataclass(frozen=True, eq=False)
class Curve:
    """Of both engines, each attacked through its own torch twin."""

    attack: str
    """What was tried at every radius, by name."""
    eps: NDArray[np.float64]
    """[E] radii, rising from 0 (the clean images), in the norm of the threat."""
    reference: Bools
    """[E, M] the reference is right at this radius and at every smaller one."""
    candidate: Bools
    """[E, M] the candidate is."""

    def __post_init__(self) -> None:
        shape = (len(self.eps), self.reference.shape[-1])
        check_shapes("curve", [(self.eps, shape[:1]), (self.reference, shape), (self.candidate, shape)])
        if len(self.eps) == 0 or self.eps[0] != 0 or not (np.diff(self.eps) > 0).all():
            raise ArtifactError(f"the curve's radii should rise from 0; they are {self.eps.tolist()}")
        if any((side[1:] & ~side[:-1]).any() for side in (self.reference, self.candidate)):
            raise ArtifactError("in the curve an image stands again at a larger radius than the one it fell at")

    @property
    def images(self) -> int:
        """M."""
        return int(self.reference.shape[1])

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        return {"attack": np.array(self.attack), **{name: getattr(self, name) for name in _CURVE_FIELDS}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        fields: dict[str, Any] = {name: read_array(arrays, name) for name in _CURVE_FIELDS}
        return cls(attack=str(read_array(arrays, "attack")), **fields)


_CURVE_FIELDS = ("eps", "reference", "candidate")
