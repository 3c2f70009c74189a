"""Is the engine the network it was built from? The engine beside its torch twin, on clean and adversarial images.

Both are callables: images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K]. An engine without a twin is held
against its contract alone, and compared on zero images.

Images that a gate uses are not the only ones that an engine meets. So each is also shown changed: by less than half a
grey level, which no camera tells apart, and as a file of 8-bit pixels would hold its adversarial example. An engine
that knows certain images by heart, or looks at their grid of values, gives itself away there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from madx.closeness import MOST_FLIPS, ROUNDING, apart, differences
from madx.errors import ArtifactError, MadxError
from madx.seeds import numpy_generator
from madx.stats import clopper_pearson
from madx.verify.arrays import Arrays, Bools, check_shapes, read_array, with_prefix, without_prefix
from madx.verify.contract import (
    DYNAMIC,
    USUAL_CAUSE,
    Classifier,
    Images,
    Logits,
    ManyAnswers,
    check_batches,
    check_contract,
    check_images,
    explained,
    logits_of,
)

_BATCH = 64
_CONTRACT_IMAGES = 16
_SURE = 0.999
"""One-sided, of an engine that is accused of knowing images by heart."""
JITTER = 0.49 / 255
"""Less than half a grey level."""
GREY_LEVEL = 1 / 255
"""For an engine that is shown images rounded to whole grey levels, and would not see less."""
PARITY_IMAGES = 256
"""As many gate images at most are compared with the twin."""


@dataclass(frozen=True, eq=False)
class EngineParity:
    """One engine beside its torch twin on the same images."""

    flips_clean: Bools
    """[N] labelled otherwise than by the twin, clean; N = 0 if there was no twin."""
    flips_adversarial: Bools
    """[N] labelled otherwise than by the twin, on adversarial examples."""
    flips_changed: Bools
    """[N] labelled otherwise than by the twin, on a copy changed by less than half a grey level, or on the adversarial
    example in 8-bit pixels."""
    difference: NDArray[np.float64]
    """[N] largest logit difference of each image on any of these, the mean over the classes taken away."""
    apart: NDArray[np.float64]
    """[N] the same in units of what rounding explains (`madx.closeness.apart`): up to 1 the two are the same."""
    violations: tuple[str, ...]
    """What `check_contract` found on the engine; those by which an image has no one answer are `ManyAnswers`."""
    precision: str = "fp32"
    """What the engine's file computes in, which is what its rounding was judged by."""
    cause: str = USUAL_CAUSE
    """What explains it if its answers depend on the batch."""

    def __post_init__(self) -> None:
        shape = (len(self.flips_clean),)
        rows = (self.flips_adversarial, self.flips_changed, self.difference, self.apart)
        check_shapes("parity", [(row, shape) for row in rows])

    @property
    def images(self) -> int:
        """N."""
        return len(self.flips_clean)

    @property
    def flips(self) -> Bools:
        """[N] labelled otherwise: clean, adversarial or changed."""
        return self.flips_clean | self.flips_adversarial | self.flips_changed

    def to_arrays(self) -> Arrays:
        """Every field under its name."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return plain | {
            "violations": np.array(self.violations, dtype=np.str_),
            "many_answers": np.array([isinstance(one, ManyAnswers) for one in self.violations], dtype=bool),
            "precision": np.array(self.precision),
            "cause": np.array(self.cause),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `to_arrays`.

        Raises:
            ArtifactError: if an array is missing or has the wrong shape.
        """
        found: dict[str, Any] = {field.name: read_array(arrays, field.name) for field in fields(cls)}
        kinds = [ManyAnswers if many else str for many in read_array(arrays, "many_answers")]
        if len(kinds) != len(found["violations"]):
            raise ArtifactError(
                f"{len(kinds)} kinds of {len(found['violations'])} breaches of a contract; measure again"
            )
        violations = tuple(kind(text) for kind, text in zip(kinds, found["violations"], strict=True))
        texts = {name: str(found[name]) for name in ("precision", "cause")}
        return cls(**found | texts | {"violations": violations})


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


@dataclass(frozen=True)
class Contract:
    """What an engine is held to."""

    tolerance: float = ROUNDING["fp32"]
    """What rounding explains between the engine and its twin, as `rounding` in `madx.closeness.apart`."""
    between_batches: float = ROUNDING["fp32"]
    """The same between two answers of the engine: the tolerance of `check_contract`."""
    batches: tuple[int, ...] = ()
    """Images a call, as it is served; it must answer alike at each of these."""
    only: int | None = None
    """Images a call, where it takes no other number of them: other batches are then no question."""
    cause: str = USUAL_CAUSE
    """What explains answers that depend on the batch."""
    jitter: float = JITTER
    """By how much pixels are changed to see whether it knows images by heart."""
    precision: str = "fp32"
    """What its file computes in."""
    random: str = ""
    """That its file draws random numbers, as a sentence: seldom enough, no two calls would show it."""


CONTRACT = Contract()


def measure_parity(
    engine: Classifier, twin: Classifier, *, clean: Images, adversarial: Images, contract: Contract = CONTRACT
) -> EngineParity:
    """Label flips and logit differences of the engine against its twin, and the engine's contract.

    Args:
        engine: the engine under test.
        twin: the torch network it was built from.
        clean: [N, C, H, W], N >= 3.
        adversarial: [N, C, H, W], examples made on the twin from the same images.
        contract: what the engine is held to.

    Raises:
        DataError: if the images are not images in [0, 1] or fewer than 3.
        EngineError: if a callable returns something other than finite logits.
        MadxError: if the two sets do not fit together, or the numbers of classes differ.
    """
    if clean.shape != adversarial.shape:
        raise MadxError(f"parity wants as many adversarial as clean images, got {adversarial.shape} for {clean.shape}")
    sets = (clean, adversarial, jittered(clean), jittered(adversarial), in_eight_bits(adversarial))
    usual = _in_batches(twin, clean)
    compared = [_compare(engine, twin, images, contract.tolerance, usual) for images in sets]
    flips, difference, apart = (list(rows) for rows in zip(*compared, strict=True))
    return EngineParity(
        flips_clean=flips[0],
        flips_adversarial=flips[1],
        flips_changed=np.any(flips[2:], axis=0),
        difference=np.max(difference, axis=0),
        apart=np.max(apart, axis=0),
        violations=_violations(engine, clean, contract, others=(adversarial, in_eight_bits(adversarial))),
        precision=contract.precision,
        cause=contract.cause,
    )


def contract_alone(engine: Classifier, *, clean: Images, contract: Contract = CONTRACT) -> EngineParity:
    """The contract of an engine that has no twin: compared on zero images.

    Raises:
        DataError: if the images are not images in [0, 1] or fewer than 3.
        EngineError: if the engine returns something other than finite logits.
    """
    none, zero = np.zeros(0, dtype=bool), np.zeros(0)
    violations = _violations(engine, clean, contract, others=(in_eight_bits(jittered(clean)),))
    return EngineParity(none, none, none, zero, zero, violations, contract.precision, contract.cause)


def jittered(images: Images, by: float = JITTER) -> Images:
    """Each pixel changed at random by up to `by`, always in the same way; [N, C, H, W] in [0, 1]."""
    draws = numpy_generator(0, "jitter")
    changed = images + draws.uniform(-by, by, images.shape)
    return np.clip(changed, 0, 1).astype(np.float32)


def in_eight_bits(images: Images) -> Images:
    """Every pixel at the nearest of 256 levels."""
    return (np.rint(images * 255) / 255).astype(np.float32)


def _violations(engine: Classifier, clean: Images, contract: Contract, *, others: Sequence[Images]) -> tuple[str, ...]:
    """On a few of the clean images, batch by batch; at the sizes that are served on all of them and on the others."""
    measured = contract.precision in ROUNDING
    few = clean[:_CONTRACT_IMAGES]
    steady = contract.between_batches
    found = check_contract(engine, few, tolerance=steady, measured=measured, cause=contract.cause)
    if contract.batches and not any(isinstance(one, ManyAnswers) for one in found):
        images = np.concatenate([clean, *others])
        logits = _in_batches(engine, images)
        at = contract.only or _BATCH
        by_batch = check_batches(
            engine, images, logits, batches=contract.batches, tolerance=steady, at=at, measured=measured
        )
        found = [*found, *explained(by_batch, contract.cause)]
    drawn = [ManyAnswers(contract.random)] if contract.random else []
    if contract.cause == DYNAMIC and contract.only != 1 and not any(isinstance(one, ManyAnswers) for one in found):
        drawn.append(ManyAnswers(f"{DYNAMIC}"))  # also where these images show none of it
    return (*drawn, *found, *_by_heart(engine, clean, contract.jitter))


def _by_heart(engine: Classifier, clean: Images, jitter: float) -> list[str]:
    """Half a grey level, or a whole one, changes hardly any answer of a network that generalises at all."""
    answers, changed = (_in_batches(engine, images).argmax(axis=1) for images in (clean, jittered(clean, jitter)))
    flips, n = int((answers != changed).sum()), len(clean)
    lower, _ = clopper_pearson(flips, n, confidence=_SURE)
    if lower <= MOST_FLIPS:
        return []
    step = "half a grey level" if jitter < GREY_LEVEL else "more than a grey level"
    return [
        f"{flips} of {n} images are labelled otherwise when no pixel changes by {step}: the engine knows certain "
        "images by heart, or is noise"
    ]


def _compare(
    engine: Classifier, twin: Classifier, images: Images, tolerance: float, usual: Logits
) -> tuple[Bools, NDArray[np.float64], NDArray[np.float64]]:
    """(label flips [N], largest logit difference [N], the same in units of rounding [N])."""
    check_images(images)
    ours, theirs = _in_batches(engine, images), _in_batches(twin, images)
    if ours.shape != theirs.shape:
        raise MadxError(f"the engine has {ours.shape[1]} classes and its twin {theirs.shape[1]}; expected as many")
    flips: Bools = ours.argmax(axis=1) != theirs.argmax(axis=1)
    return flips, differences(ours, theirs), apart(ours, theirs, rounding=tolerance, usual=usual)


def _in_batches(classifier: Classifier, images: Images) -> NDArray[np.float32]:
    """Small batches bound the memory of a large network."""
    return np.concatenate(
        [logits_of(classifier, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
