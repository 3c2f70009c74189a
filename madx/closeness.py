"""When two answers of classifiers are the same but for rounding: one measure for contract, parity, attacks and export.

Logits are float [N, K]. What softmax and argmax see counts, and nothing else: a constant that is added to all classes
of an image is taken away first, and a difference is judged by how far the best class stands above the middle one.
Neither a large offset nor a class far below the others makes a difference look small.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.precisions import FEW_FLIPS, PRECISIONS

Logits = NDArray[np.floating[Any]]

LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""Probabilities below it are taken for it: the logarithm of zero is no number."""
ROUNDING: Mapping[str, float] = MappingProxyType({name: row.rounding for name, row in PRECISIONS.items()})
"""Difference that rounding explains in an engine of this precision, as a share of `reach`."""
MOST_OFFSET = 100.0
"""Times its reach that an image's logits may lie away from zero as a whole: beyond, float32 has few digits left for
what tells the classes apart."""
_FEW = 3
MOST_FLIPS = FEW_FLIPS
"""Share of the images that may change their label by rounding."""


def most_flips_of(precision: str) -> float:
    """Share of the images that may be labelled otherwise than by the twin while no logit differs by more than rounding.

    What a file computes in that has no row of `PRECISIONS` gets the strictest.
    """
    return PRECISIONS.get(precision, PRECISIONS["fp32"]).flips


def rounding_of(precision: str) -> float:
    """The row of `ROUNDING` of what a file computes in; without one of its own, the strictest.

    Its doubts then say too much, which forbids a PASS and never makes one.
    """
    return ROUNDING.get(precision, ROUNDING["fp32"])


def between_batches_of(precision: str) -> float:
    """What rounding explains between two answers of one engine; as `rounding_of`."""
    return PRECISIONS.get(precision, PRECISIONS["fp32"]).between_batches


def reach_of_sorted(ordered: Any) -> Any:
    """[N] how far the best class stands above the middle one; `ordered` is [N, K], ascending, of numpy or torch.

    Of two or three classes the last is taken: the second best is no measure near a border.
    """
    classes = ordered.shape[1]
    return ordered[:, -1] - ordered[:, (classes - 1) // 2 if classes > _FEW else 0]


def reach(logits: Logits) -> NDArray[np.float64]:
    """[N] the same, or the median over the images where that is larger: an undecided image is rounded like the rest."""
    own: NDArray[np.float64] = reach_of_sorted(np.sort(np.asarray(logits, dtype=np.float64), axis=1))
    return np.maximum(own, np.median(own))


def apart(found: Logits, expected: Logits, *, rounding: float, usual: Logits | None = None) -> NDArray[np.float64]:
    """[N] largest difference in any class, in units of what rounding explains: up to 1 the two are the same.

    Args:
        found: [N, K].
        expected: [N, K], N >= 1.
        rounding: share of the reach, as in `ROUNDING`.
        usual: [M, K] logits of clean images: rounding is also measured by their median reach, as attacked images lie
            near the border, where the best class stands out little.
    """
    least = 0.0 if usual is None else float(np.median(reach(usual)))
    allowed = rounding * np.maximum(reach(expected), least)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(differences(found, expected) / allowed, nan=0.0)


def differences(found: Logits, expected: Logits) -> NDArray[np.float64]:
    """[N] largest |difference| in any class, once the mean over the classes is taken away."""
    off = np.asarray(found, dtype=np.float64) - np.asarray(expected, dtype=np.float64)
    largest: NDArray[np.float64] = np.abs(off - off.mean(axis=1, keepdims=True)).max(axis=1)
    return largest


def offset(logits: Logits) -> NDArray[np.float64]:
    """[N] how far the middle class lies from zero, in units of the reach."""
    ordered = np.sort(np.asarray(logits, dtype=np.float64), axis=1)
    middle = ordered[:, (ordered.shape[1] - 1) // 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.abs(middle) / reach(logits), nan=0.0)
