"""What was measured on one engine: raw samples, per image and per timing block, and nothing computed from them.

The reference is the dense engine or the last release, the candidate the one that is judged. What was not measured,
because there was no reference or no torch twin, is None or counts zero images, never a number. Layouts: per image [N];
per attack and image [A, N]; latency call by call in `timings`. Every value writes itself as a flat dictionary of arrays
that `np.load(..., allow_pickle=False)` reads back.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError, MadxError
from madx.verify.answers import Answers
from madx.verify.arrays import Arrays, Bools, check_shapes, known, read_array, with_prefix, without_prefix
from madx.verify.curve import Curve
from madx.verify.gallery import Gallery
from madx.verify.ladder import Ladder
from madx.verify.parity import Parity
from madx.verify.soundness import Soundness
from madx.verify.timings import Latency

FORMAT = 10
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
    clean_reference: Bools | None
    """[N] correct on the clean image; None without a reference."""
    clean_candidate: Bools
    """[N] correct on the clean image."""
    attacks: tuple[str, ...]
    """Names of the A attacks, in the order they were run."""
    kinds: tuple[Kind, ...]
    """[A] what each knew."""
    attacked: Bools
    """[A, N] an image that had fallen on both engines was not attacked again."""
    standing_reference: Bools | None
    """[A, N] correct on this attack's example; False where not attacked; None without a reference."""
    standing_candidate: Bools
    """[A, N] correct on this attack's example; False where not attacked."""
    overrun: NDArray[np.float64]
    """[A] how far the worst example lay outside the threat before it was projected back, in units of eps."""
    passes: NDArray[np.int64]
    """[A, 2] images that went through a network for it: forward only, and forward and backward."""
    gallery: Gallery
    """A few of the images on which the engines differ."""
    answers_reference: Answers | None = None
    """How the reference answers as it is served; None without one, or if nobody asked."""
    answers_candidate: Answers | None = None
    """The same of the candidate."""

    def __post_init__(self) -> None:
        n, a = len(self.index), len(self.attacks)
        rows = (self.index, self.labels, self.clean_candidate)
        tables = (self.attacked, self.standing_candidate)
        check_shapes("accuracy", [*((row, (n,)) for row in rows), *((table, (a, n)) for table in tables)])
        if (self.clean_reference is None) != (self.standing_reference is None):
            raise MadxError("an accuracy has the reference clean or attacked, but not both; expected both or neither")
        if self.clean_reference is not None and self.standing_reference is not None:
            check_shapes("accuracy", [(self.clean_reference, (n,)), (self.standing_reference, (a, n))])
        check_shapes("accuracy", [(answers.classes, (n,)) for answers in self.answers.values()])
        check_shapes("accuracy", [(self.overrun, (a,)), (self.passes, (a, 2)), (np.array(self.kinds), (a,))])
        if n == 0:
            raise MadxError("an accuracy was measured on no image; expected at least one")

    @property
    def images(self) -> int:
        """N."""
        return len(self.index)

    @property
    def answers(self) -> dict[str, Answers]:
        """Of the engines that were asked, as "reference" and "candidate"."""
        asked = {"reference": self.answers_reference, "candidate": self.answers_candidate}
        return {name: value for name, value in asked.items() if value is not None}

    @property
    def robust_reference(self) -> Bools:
        """[N] correct on the clean image and on every attack's example, also as it is served: the reference.

        Raises:
            MadxError: there was none.
        """
        standing = known(self.standing_reference, "reference engine")
        clean = known(self.clean_reference, "reference engine")
        return self._served(clean & (standing | ~self.attacked).all(axis=0), self.answers_reference)

    @property
    def robust_candidate(self) -> Bools:
        """[N] the same of the candidate."""
        standing = (self.standing_candidate | ~self.attacked).all(axis=0)
        return self._served(self.clean_candidate & standing, self.answers_candidate)

    @staticmethod
    def _served(robust: Bools, answers: Answers | None) -> Bools:
        return robust if answers is None else robust & answers.served

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """One value from those of the chunks, in their order.

        Raises:
            MadxError: if there is none, the attacks or the engines differ, or an image is in two of them.
        """
        if not parts:
            raise MadxError("there is no chunk to join; expected at least one")
        if len({part.attacks for part in parts}) > 1:
            raise MadxError(f"chunks were attacked differently: {sorted({part.attacks for part in parts})}")
        names = _boolean_fields(parts[0])
        if any(_boolean_fields(part) != names for part in parts):
            raise MadxError("some chunks were measured on a reference and some without; expected all or none")
        index = np.concatenate([part.index for part in parts])
        if len(np.unique(index)) < len(index):
            raise MadxError("an image is in two chunks, or twice in one; every image counts once")
        joined: dict[str, Any] = {
            name: np.concatenate([getattr(part, name) for part in parts], axis=-1) for name in ("labels", *names)
        }
        return cls(
            index=index,
            attacks=parts[0].attacks,
            kinds=parts[0].kinds,
            overrun=np.max([part.overrun for part in parts], axis=0),
            passes=np.sum([part.passes for part in parts], axis=0),
            gallery=Gallery.concatenate([part.gallery for part in parts]),
            **_NO_REFERENCE | joined,
            **_joined_answers(parts),
        )

    def to_arrays(self) -> Arrays:
        """Every field that was measured under its name; the attacks' names as text."""
        plain = {name: getattr(self, name) for name in (*_COUNTED_FIELDS, *_boolean_fields(self))}
        words = {name: np.array(getattr(self, name), dtype=np.str_) for name in ("attacks", "kinds")}
        own = with_prefix("gallery", self.gallery.to_arrays())
        for side, answers in self.answers.items():
            own |= with_prefix(f"answers_{side}", answers.to_arrays())
        return {**plain, **words, **own}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        needed = (*_COUNTED_FIELDS, *(name for name in _BOOLEAN_FIELDS if name not in _NO_REFERENCE))
        plain: dict[str, Any] = {name: read_array(arrays, name) for name in needed}
        compared = any(name in arrays for name in _NO_REFERENCE)
        plain |= {name: read_array(arrays, name) for name in _NO_REFERENCE} if compared else _NO_REFERENCE
        words: dict[str, Any] = {
            name: tuple(str(word) for word in read_array(arrays, name)) for name in ("attacks", "kinds")
        }
        asked = {f"answers_{side}": without_prefix(arrays, f"answers_{side}") for side in ("reference", "candidate")}
        answers: dict[str, Any] = {name: Answers.from_arrays(own) for name, own in asked.items() if own}
        return cls(gallery=Gallery.from_arrays(without_prefix(arrays, "gallery")), **plain, **words, **answers)


_BOOLEAN_FIELDS = ("clean_reference", "clean_candidate", "attacked", "standing_reference", "standing_candidate")
_COUNTED_FIELDS = ("index", "labels", "overrun", "passes")
_NO_REFERENCE: dict[str, None] = {"clean_reference": None, "standing_reference": None}


def _boolean_fields(accuracy: Accuracy) -> tuple[str, ...]:
    """Those that were measured."""
    return tuple(name for name in _BOOLEAN_FIELDS if getattr(accuracy, name) is not None)


def _joined_answers(parts: Sequence[Accuracy]) -> dict[str, Any]:
    """Of each engine that was asked; MadxError if only some of the parts asked it."""
    if any(part.answers.keys() != parts[0].answers.keys() for part in parts):
        raise MadxError("of some chunks it is known how the engines answer as they are served, of others not")
    return {f"answers_{side}": Answers.concatenate([part.answers[side] for part in parts]) for side in parts[0].answers}


@dataclass(frozen=True)
class Sizes:
    """Bytes of the two engine files."""

    reference: int | None
    """None without a reference."""
    candidate: int


@dataclass(frozen=True)
class Subject:
    """One of the two engines, as a report names it, and the bytes that were measured."""

    role: str
    """dense, baseline (the last release) or reference (a file that was given); pruned, or engine (a file given)."""
    sha256: str | None = None
    """Of the engine file; None if that is not recorded."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """All of one engine."""

    engine: str
    """Its name in the recipe, for example "ort-cpu-fp32"."""
    accuracy: Accuracy
    latency: Latency | None
    """None without a reference: only ratios of interleaved timings mean anything."""
    parity: Parity
    soundness: Soundness
    sizes: Sizes
    reference: Subject | None = Subject("dense")
    """None if the candidate was compared with nothing."""
    candidate: Subject = Subject("pruned")
    ladder: Ladder | None = None
    """Which step bought the speed-up, where the run has engines in between."""
    curve: Curve | None = None
    """None where it was not measured: an engine has no twin."""
    image_doubts: tuple[str, ...] = ()
    """Why the gate's images are no sample that limits may be computed from, one sentence each."""
    reference_doubts: tuple[str, ...] = ()
    """Why a reference from outside may be fed what it was not made for, one sentence each."""

    def __post_init__(self) -> None:
        parts = {
            "accuracy": self.accuracy.clean_reference,
            "latency": self.latency,
            "parity": self.parity.reference,
            "sizes": self.sizes.reference,
        } | ({"curve": self.curve.reference} if self.curve else {})
        if odd := [name for name, part in parts.items() if (part is None) != (self.reference is None)]:
            raise ArtifactError(
                f"the measurements name {'a' if self.reference else 'no'} reference engine, and their "
                f"{', '.join(odd)} say otherwise; measure again"
            )

    @property
    def query_only(self) -> bool:
        """Whether no attack had a gradient: there was no torch twin."""
        return not {"white-box", "engine in the loop"} & set(self.accuracy.kinds)

    def to_arrays(self) -> Arrays:
        """Everything in one flat dictionary, for one .npz file."""
        return {
            "engine": np.array(self.engine),
            "rest": np.array(json.dumps({name: _json(getattr(self, name)) for name in _REST})),
            "image_doubts": np.array(self.image_doubts, dtype=np.str_),
            "reference_doubts": np.array(self.reference_doubts, dtype=np.str_),
            **with_prefix("accuracy", self.accuracy.to_arrays()),
            **with_prefix("latency", self.latency.to_arrays() if self.latency else {}),
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
        rest = json.loads(str(read_array(arrays, "rest")))
        latency, ladder, curve = (without_prefix(arrays, name) for name in ("latency", "ladder", "curve"))
        return cls(
            engine=str(read_array(arrays, "engine")),
            accuracy=Accuracy.from_arrays(without_prefix(arrays, "accuracy")),
            latency=Latency.from_arrays(latency) if latency else None,
            parity=Parity.from_arrays(without_prefix(arrays, "parity")),
            soundness=Soundness.from_arrays(without_prefix(arrays, "soundness")),
            sizes=Sizes(**rest["sizes"]),
            reference=Subject(**rest["reference"]) if rest["reference"] else None,
            candidate=Subject(**rest["candidate"]),
            ladder=Ladder.from_arrays(ladder) if ladder else None,
            curve=Curve.from_arrays(curve, compared=rest["reference"] is not None) if curve else None,
            image_doubts=tuple(str(sentence) for sentence in read_array(arrays, "image_doubts")),
            reference_doubts=tuple(str(sentence) for sentence in read_array(arrays, "reference_doubts")),
        )


_REST = ("sizes", "reference", "candidate")


def _json(value: Sizes | Subject | None) -> dict[str, Any] | None:
    return None if value is None else asdict(value)
