"""Is the engine the network it was built from? The engine beside its torch twin, on clean and adversarial images.

Both are callables: images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K]. An engine without a twin is held
against its contract alone, and compared on zero images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.errors import MadxError
from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix
from madx.verify.contract import Classifier, Images, check_contract, check_images, logits_of

_BATCH = 64
_CONTRACT_IMAGES = 16


PARITY_IMAGES = 256
"""As many gate images at most are compared with the twin."""


@dataclass(frozen=True, eq=False)
class EngineParity:
    """One engine beside its torch twin on the same images."""

    flips_clean: Bools
    """[N] labelled otherwise than by the twin, clean; N = 0 if there was no twin."""
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
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {"violations": np.array(self.violations, dtype=np.str_)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        found: dict[str, Any] = {field.name: read_array(arrays, field.name) for field in fields(cls)}
        return cls(**found | {"violations": tuple(str(text) for text in found["violations"])})


@dataclass(frozen=True, eq=False)
class Parity:
    """Both engines, each beside its own twin, on as many images."""

    reference: EngineParity | None
    """None without a reference."""
    candidate: EngineParity

    def __post_init__(self) -> None:
        if self.reference is not None:
            check_shapes("parity", [(self.candidate.flips_clean, self.reference.flips_clean.shape)])

    @property
    def sides(self) -> dict[str, EngineParity]:
        """The engines that there are, as "reference" and "candidate"."""
        reference = {} if self.reference is None else {"reference": self.reference}
        return reference | {"candidate": self.candidate}

    def to_arrays(self) -> Arrays:
        """The arrays of both, named reference.* and candidate.*."""
        return {
            name: array
            for side, value in self.sides.items()
            for name, array in with_prefix(side, value.to_arrays()).items()
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`."""
        reference = without_prefix(arrays, "reference")
        return cls(
            reference=EngineParity.from_arrays(reference) if reference else None,
            candidate=EngineParity.from_arrays(without_prefix(arrays, "candidate")),
        )


def measure_parity(
    engine: Classifier, twin: Classifier, *, clean: Images, adversarial: Images, tolerance: float = 1e-3
) -> EngineParity:
    """Label flips and logit differences of the engine against its twin, and the engine's contract.

    Args:
        engine: the engine under test.
        twin: the torch network it was built from.
        clean: [N, C, H, W], N >= 3.
        adversarial: [N, C, H, W], examples made on the twin from the same images.
        tolerance: as in `check_contract`.

    Raises:
        DataError: if the images are not images in [0, 1] or fewer than 3.
        EngineError: if a callable returns something other than finite logits.
        MadxError: if the two sets do not fit together, or the numbers of classes differ.
    """
    if clean.shape != adversarial.shape:
        raise MadxError(f"parity wants as many adversarial as clean images, got {adversarial.shape} for {clean.shape}")
    flips_clean, clean_difference = _compare(engine, twin, clean)
    flips_adversarial, adversarial_difference = _compare(engine, twin, adversarial)
    return EngineParity(
        flips_clean=flips_clean,
        flips_adversarial=flips_adversarial,
        difference=np.maximum(clean_difference, adversarial_difference),
        violations=tuple(check_contract(engine, clean[:_CONTRACT_IMAGES], tolerance=tolerance)),
    )


def contract_alone(engine: Classifier, *, clean: Images, tolerance: float = 1e-3) -> EngineParity:
    """The contract of an engine that has no twin: compared on zero images.

    Raises:
        DataError: if the images are not images in [0, 1] or fewer than 3.
        EngineError: if the engine returns something other than finite logits.
    """
    none = np.zeros(0, dtype=bool)
    violations = tuple(check_contract(engine, clean[:_CONTRACT_IMAGES], tolerance=tolerance))
    return EngineParity(none, none, np.zeros(0), violations)


def _compare(engine: Classifier, twin: Classifier, images: Images) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(label flips [N], largest |logit difference| [N])."""
    check_images(images)
    ours, theirs = _in_batches(engine, images), _in_batches(twin, images)
    if ours.shape != theirs.shape:
        raise MadxError(f"the engine has {ours.shape[1]} classes and its twin {theirs.shape[1]}; expected as many")
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(axis=1)
    return ours.argmax(axis=1) != theirs.argmax(axis=1), difference


def _in_batches(classifier: Classifier, images: Images) -> NDArray[np.float32]:
    """Small batches bound the memory of a large network."""
    return np.concatenate(
        [logits_of(classifier, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
