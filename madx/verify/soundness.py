"""Checks of the attacks themselves, on the first M of the gate's images: could they have found what there is?

An attack that fails where it must succeed makes every network look robust. What these checks mean for a verdict is
said in `madx.verify.signs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix


@dataclass(frozen=True, eq=False)
class SideSoundness:
    """Of one engine and its torch twin; each [M]."""

    blind: Bools
    """The twin's input gradient is exactly zero at the clean image."""
    twin_right: Bools
    """The twin is right on the worst example that the suite's part on the twin made."""
    engine_right: Bools
    """The engine is, on the same example."""
    fell_when_doubled: Bools
    """The twin stands against the suite's part on it, and falls when every attack takes twice the steps."""
    unbounded: Bools
    """The twin stands although the attack may change the image into any other."""

    def __post_init__(self) -> None:
        shape = self.blind.shape
        check_shapes("soundness", [(getattr(self, name), shape) for name in _SIDE_FIELDS])

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        return {name: getattr(self, name) for name in _SIDE_FIELDS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        return cls(**{name: read_array(arrays, name) for name in _SIDE_FIELDS})


_SIDE_FIELDS = ("blind", "twin_right", "engine_right", "fell_when_doubled", "unbounded")


@dataclass(frozen=True, eq=False)
class Soundness:
    """Of both engines, and of an undefended network under the same attacks."""

    reference: SideSoundness
    candidate: SideSoundness
    undefended_clean: Bools
    """[M] a linear classifier, fitted without any defence, is right on the clean image."""
    undefended: Bools
    """[M] and still under the suite's part on the twin."""

    def __post_init__(self) -> None:
        shape = self.reference.blind.shape
        rows = (self.candidate.blind, self.undefended_clean, self.undefended)
        check_shapes("soundness", [(row, shape) for row in rows])

    @property
    def images(self) -> int:
        """M."""
        return len(self.undefended)

    def to_arrays(self) -> Arrays:
        """Both sides' arrays, named reference.* and candidate.*, and the undefended network's."""
        return {
            "undefended_clean": self.undefended_clean,
            "undefended": self.undefended,
            **with_prefix("reference", self.reference.to_arrays()),
            **with_prefix("candidate", self.candidate.to_arrays()),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        return cls(
            reference=SideSoundness.from_arrays(without_prefix(arrays, "reference")),
            candidate=SideSoundness.from_arrays(without_prefix(arrays, "candidate")),
            undefended_clean=read_array(arrays, "undefended_clean"),
            undefended=read_array(arrays, "undefended"),
        )
