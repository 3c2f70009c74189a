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

Logits = NDArray[np.floating[Any]]

ROUNDING: Mapping[str, float] = MappingProxyType({"fp32": 1e-3, "fp16": 0.02})
"""Difference that rounding explains in an engine of this precision, as a share of `reach`."""
MOST_OFFSET = 100.0
"""Times its reach that an image's logits may lie away from zero as a whole: beyond, float32 has few digits left for
what tells the classes apart."""
MOST_FLIPS = 0.01
"""Share of the images that may change their label by rounding."""


def reach_of_sorted(ordered: Any) -> Any:
    """[N] how far the best class stands above the middle one; `ordered` is [N, K], ascending, of numpy or torch."""
    return ordered[:, -1] - ordered[:, (ordered.shape[1] - 1) // 2]


def reach(logits: Logits) -> NDArray[np.float64]:
    """[N] the same, or the median over the images where that is larger: an undecided image is rounded like the rest."""
    own: NDArray[np.float64] = reach_of_sorted(np.sort(np.asarray(logits, dtype=np.float64), axis=1))
    return np.maximum(own, np.median(own))


def apart(found: Logits, expected: Logits, *, rounding: float) -> NDArray[np.float64]:
    """[N] largest difference in any class, in units of what rounding explains: up to 1 the two are the same.

    Args:
        found: [N, K].
        expected: [N, K], N >= 1.
        rounding: share of the reach, as in `ROUNDING`.
    """
    allowed = rounding * reach(expected)
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
