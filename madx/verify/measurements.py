"""What was measured on one engine: raw samples, per image and per timing block, and nothing computed from them.

The reference is the dense engine, the candidate the pruned one. Layouts: per image [N]; per attack and image [A, N];
latency call by call in `timings`. Every value writes itself as a flat dictionary of arrays that
`np.load(..., allow_pickle=False)` reads back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import MadxError
from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix
from madx.verify.curve import Curve
from madx.verify.gallery import Gallery
from madx.verify.ladder import Ladder
from madx.verify.soundness import Soundness
from madx.verify.timings import Latency

FORMAT = 2
"""Of the files that measurements are kept in; a run whose files have another one is measured again."""
Kind = Literal["white-box", "engine in the loop", "query", "8-bit"]
"""What an attack knew: gradients of the twin; these and the engine's logits; the engine's logits alone; or nothing,
because it only rounds what the attacks before it made."""


@dataclass(frozen=True, eq=False)
class Accuracy:
    """Which images stand, clean and under every attack, on both engines."""

    index: NDArray[np.int64]
    """[N] positions in the source."""
    labels: NDArray[np.int64]
    """[N]"""
    clean_reference: Bools
    """[N] correct on the clean image."""
    clean_candidate: Bools
    """[N] correct on the clean image."""
    attacks: tuple[str, ...]
    """Names of the A attacks, in the order they were run."""
    kinds: tuple[Kind, ...]
    """[A] what each knew."""
    attacked: Bools
    """[A, N] an image that had fallen on both engines was not attacked again."""
    standing_reference: Bools
    """[A, N] correct on this attack's example; False where not attacked."""
    standing_candidate: Bools
    """[A, N] correct on this attack's example; False where not attacked."""
    overrun: NDArray[np.float64]
    """[A] how far the worst example lay outside the threat before it was projected back, in units of eps."""
    passes: NDArray[np.int64]
    """[A, 2] images that went through a network for it: forward only, and forward and backward."""
    gallery: Gallery
    """A few of the images on which the engines differ."""

    def __post_init__(self) -> None:
        n, a = len(self.index), len(self.attacks)
        rows = (self.index, self.labels, self.clean_reference, self.clean_candidate)
        tables = (self.attacked, self.standing_reference, self.standing_candidate)
        check_shapes("accuracy", [*((row, (n,)) for row in rows), *((table, (a, n)) for table in tables)])
        check_shapes("accuracy", [(self.overrun, (a,)), (self.passes, (a, 2)), (np.array(self.kinds), (a,))])
        if n == 0:
            raise MadxError("an accuracy was measured on no image; expected at least one")

    @property
    def images(self) -> int:
        """N."""
        return len(self.index)

    @property
    def robust_reference(self) -> Bools:
        """[N] correct on the clean image and on every attack's example: the reference."""
        return self.clean_reference & (self.standing_reference | ~self.attacked).all(axis=0)

    @property
    def robust_candidate(self) -> Bools:
        """[N] correct on the clean image and on every attack's example: the candidate."""
        return self.clean_candidate & (self.standing_candidate | ~self.attacked).all(axis=0)

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One value from those of the chunks, in their order.

        Raises:
            MadxError: if there is none, the attacks differ, or an image is in two of them.
        """
        if not parts:
            raise MadxError("there is no chunk to join; expected at least one")
        if len({part.attacks for part in parts}) > 1:
            raise MadxError(f"chunks were attacked differently: {sorted({part.attacks for part in parts})}")
        index = np.concatenate([part.index for part in parts])
        if len(np.unique(index)) < len(index):
            raise MadxError("an image is in two chunks, or twice in one; every image counts once")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
            for name in ("labels", *_BOOLEAN_FIELDS)
        }
        return cls(
            index=index,
            attacks=parts[0].attacks,
            kinds=parts[0].kinds,
            overrun=np.max([part.overrun for part in parts], axis=0),
            passes=np.sum([part.passes for part in parts], axis=0),
            gallery=Gallery.concatenate([part.gallery for part in parts]),
            **joined,
        )

    def to_arrays(self) -> Arrays:
        """Every field under its name; the attacks' names as text."""
        plain = {name: getattr(self, name) for name in _ACCURACY_FIELDS}
        words = {name: np.array(getattr(self, name), dtype=np.str_) for name in ("attacks", "kinds")}
        return {**plain, **words, **with_prefix("gallery", self.gallery.to_arrays())}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        plain: dict[str, Any] = {name: read_array(arrays, name) for name in _ACCURACY_FIELDS}
        words: dict[str, Any] = {
            name: tuple(str(word) for word in read_array(arrays, name)) for name in ("attacks", "kinds")
        }
        return cls(gallery=Gallery.from_arrays(without_prefix(arrays, "gallery")), **plain, **words)


_BOOLEAN_FIELDS = ("clean_reference", "clean_candidate", "attacked", "standing_reference", "standing_candidate")
_ACCURACY_FIELDS = ("index", "labels", "overrun", "passes", *_BOOLEAN_FIELDS)


@dataclass(frozen=True, eq=False)
class EngineParity:
    """One engine beside its torch twin on the same images."""

    flips_clean: Bools
    """[N] labelled otherwise than by the twin, clean."""
    flips_adversarial: Bools
    """[N] labelled otherwise than by the twin, on adversarial examples."""
    difference: NDArray[np.float64]
    """[N] largest |logit difference| of each image, clean or adversarial."""
    violations: tuple[str, ...]
    """What `check_contract` found on the engine."""

    def __post_init__(self) -> None:
        shape = (len(self.flips_clean),)
        check_shapes("parity", [(self.flips_adversarial, shape), (self.difference, shape)])

    @property
    def images(self) -> int:
        """N."""
        return len(self.flips_clean)

    @property
    def flips(self) -> Bools:
        """[N] labelled otherwise, clean or adversarial."""
        return self.flips_clean | self.flips_adversarial

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        plain = {name: getattr(self, name) for name in _PARITY_FIELDS}
        return {**plain, "violations": np.array(self.violations, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        plain = {name: read_array(arrays, name) for name in _PARITY_FIELDS}
        return cls(violations=tuple(str(text) for text in read_array(arrays, "violations")), **plain)


_PARITY_FIELDS = ("flips_clean", "flips_adversarial", "difference")


@dataclass(frozen=True, eq=False)
class Parity:
    """Both engines, each beside its own twin, on as many images."""

    reference: EngineParity
    candidate: EngineParity

    def __post_init__(self) -> None:
        check_shapes("parity", [(self.candidate.flips_clean, self.reference.flips_clean.shape)])

    def to_arrays(self) -> Arrays:
        """The arrays of both, named reference.* and candidate.*."""
        return {
            **with_prefix("reference", self.reference.to_arrays()),
            **with_prefix("candidate", self.candidate.to_arrays()),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`."""
        return cls(
            reference=EngineParity.from_arrays(without_prefix(arrays, "reference")),
            candidate=EngineParity.from_arrays(without_prefix(arrays, "candidate")),
        )


@dataclass(frozen=True)
class Sizes:
    """Bytes of the two engine files."""

    reference: int
    candidate: int


@dataclass(frozen=True, eq=False)
class Measurements:
    """All of one engine."""

    engine: str
    """Its name in the recipe, for example "ort-cpu-fp32"."""
    accuracy: Accuracy
    latency: Latency
    parity: Parity
    soundness: Soundness
    sizes: Sizes
    ladder: Ladder | None = None
    """Which step bought the speed-up, where the run has engines in between."""
    curve: Curve | None = None
    """None where it was not measured."""

    def to_arrays(self) -> Arrays:
        """Everything in one flat dictionary, for one .npz file."""
        return {
            "engine": np.array(self.engine),
            "sizes": np.array([self.sizes.reference, self.sizes.candidate], dtype=np.int64),
            **with_prefix("accuracy", self.accuracy.to_arrays()),
            **with_prefix("latency", self.latency.to_arrays()),
            **with_prefix("parity", self.parity.to_arrays()),
            **with_prefix("soundness", self.soundness.to_arrays()),
            **with_prefix("ladder", self.ladder.to_arrays() if self.ladder else {}),
            **with_prefix("curve", self.curve.to_arrays() if self.curve else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        reference, candidate = read_array(arrays, "sizes").tolist()
        ladder, curve = without_prefix(arrays, "ladder"), without_prefix(arrays, "curve")
        return cls(
            engine=str(read_array(arrays, "engine")),
            accuracy=Accuracy.from_arrays(without_prefix(arrays, "accuracy")),
            latency=Latency.from_arrays(without_prefix(arrays, "latency")),
            parity=Parity.from_arrays(without_prefix(arrays, "parity")),
            soundness=Soundness.from_arrays(without_prefix(arrays, "soundness")),
            sizes=Sizes(reference=reference, candidate=candidate),
            ladder=Ladder.from_arrays(ladder) if ladder else None,
            curve=Curve.from_arrays(curve) if curve else None,
        )
