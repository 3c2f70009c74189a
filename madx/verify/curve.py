"""The security curve: which of the first M gate images still stand as the attacker is allowed more and more.

Radii run along the first axis, images along the second. At the threat's radius it is what the gates' suite left; at
the others it is measured with a cheaper attack, for people to look at: it shows where robustness ends, and that the
attack gets through in the end. No gate reads it.
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
    """Of both engines, each attacked through its own torch twin; or of the candidate alone."""

    attack: str
    """What was tried at every radius but the threat's, by name."""
    eps: NDArray[np.float64]
    """[E] radii, rising from 0 (the clean images), in the norm of the threat."""
    reference: Bools | None
    """[E, M] the reference is right at this radius and at every smaller one; None without a reference."""
    candidate: Bools
    """[E, M] the candidate is."""

    def __post_init__(self) -> None:
        sides = [self.candidate] if self.reference is None else [self.reference, self.candidate]
        shape = (len(self.eps), sides[0].shape[-1])
        check_shapes("curve", [(self.eps, shape[:1]), *((side, shape) for side in sides)])
        if len(self.eps) == 0 or self.eps[0] != 0 or not (np.diff(self.eps) > 0).all():
            raise ArtifactError(f"the curve's radii should rise from 0; they are {self.eps.tolist()}")
        if any((side[1:] & ~side[:-1]).any() for side in sides):
            raise ArtifactError("in the curve an image stands again at a larger radius than the one it fell at")

    @property
    def images(self) -> int:
        """M."""
        return int(self.candidate.shape[1])

    def to_arrays(self) -> Arrays:
        """Every field that was measured under its name."""
        arrays = {"attack": np.array(self.attack), "eps": self.eps, "candidate": self.candidate}
        return arrays if self.reference is None else arrays | {"reference": self.reference}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], *, compared: bool) -> Self:
        """The inverse of `to_arrays`; `compared` says whether there was a reference.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        return cls(
            attack=str(read_array(arrays, "attack")),
            eps=read_array(arrays, "eps"),
            reference=read_array(arrays, "reference") if compared else None,
            candidate=read_array(arrays, "candidate"),
        )
