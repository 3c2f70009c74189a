"""Checks of the attacks themselves, on the first of the gate's images: could they have found what there is?

An attack that fails where it must succeed makes every network look robust. What these checks mean for a verdict is
said in `madx.verify.signs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from numpy.typing import NDArray

from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix


@dataclass(frozen=True, eq=False)
class SideSoundness:
    """Of one engine and its torch twin; each [M]."""

    blind: Bools
    """The twin's input gradient is exactly zero, or not a number, at the clean image."""
    misled: Bools
    """A short step along that gradient raises the twin's loss no more than one against it."""
    twin_right: Bools
    """The twin is right on the worst example that the suite's part on the twin made."""
    engine_right: Bools
    """The engine is, on the same example."""
    unbounded: Bools
    """The twin stands although the attack may change the image into any other."""

    def __post_init__(self) -> None:
        shape = self.blind.shape
        check_shapes("soundness", [(getattr(self, field.name), shape) for field in fields(self)])

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        return cls(**{field.name: read_array(arrays, field.name) for field in fields(cls)})


@dataclass(frozen=True, eq=False)
class Soundness:
    """Of both engines, and of an undefended network under the same attacks."""

    reference: SideSoundness | None
    """None without a reference, or without its torch twin."""
    candidate: SideSoundness | None
    """None without a torch twin."""
    undefended_clean: Bools
    """[M] a linear classifier, fitted without any defence, is right on the clean image; for the record only."""
    undefended: Bools
    """[M] its own answer to the clean image outlives the same attacks; however little it knows, every image counts."""
    doubled_reference: Bools | None = None
    """[L] of the first L images: the reference withstood the whole suite, and not its attacks on the twin (without one:
    its queries) when they take twice as long; None if that was not tried."""
    doubled_candidate: Bools | None = None
    """[L'] the same of the candidate."""
    elsewhere_clean: Bools | None = None
    """[S] of images outside the gate: the candidate is right on the clean image; None if that was not tried."""
    elsewhere_robust: Bools | None = None
    """[S] and on the worst example that the suite's part on its twin (without one: its queries) made of it."""

    def __post_init__(self) -> None:
        rows = [self.undefended_clean, *(side.blind for side in self.sides.values())]
        check_shapes("soundness", [(row, self.undefended.shape) for row in rows])

    @property
    def images(self) -> int:
        """M."""
        return len(self.undefended)

    @property
    def sides(self) -> dict[str, SideSoundness]:
        """The engines that have a twin, as "reference" and "candidate"."""
        sides = {"reference": self.reference, "candidate": self.candidate}
        return {name: side for name, side in sides.items() if side is not None}

    @property
    def doubled(self) -> dict[str, Bools]:
        """Those of the engines on which it was tried, as "reference" and "candidate"."""
        tried = {"reference": self.doubled_reference, "candidate": self.doubled_candidate}
        return {name: rows for name, rows in tried.items() if rows is not None}

    def to_arrays(self) -> Arrays:
        """The sides' arrays, named reference.* and candidate.*, the undefended network's, and what was doubled."""
        own = {"undefended_clean": self.undefended_clean, "undefended": self.undefended}
        own |= with_prefix("doubled", self.doubled)
        if self.elsewhere_clean is not None and self.elsewhere_robust is not None:
            own |= {"elsewhere.clean": self.elsewhere_clean, "elsewhere.robust": self.elsewhere_robust}
        for name, side in self.sides.items():
            own |= with_prefix(name, side.to_arrays())
        return own

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`; ArtifactError if an array is missing or has the wrong shape."""
        sides = {name: without_prefix(arrays, name) for name in ("reference", "candidate")}
        found: dict[str, Any] = {name: SideSoundness.from_arrays(own) if own else None for name, own in sides.items()}
        doubled: dict[str, Any] = without_prefix(arrays, "doubled")
        elsewhere = without_prefix(arrays, "elsewhere")
        outside: dict[str, Any] = {name: read_array(elsewhere, name) for name in ("clean", "robust") if elsewhere}
        return cls(
            **found,
            **{f"doubled_{name}": rows for name, rows in doubled.items()},
            **{f"elsewhere_{name}": rows for name, rows in outside.items()},
            undefended_clean=read_array(arrays, "undefended_clean"),
            undefended=read_array(arrays, "undefended"),
        )
