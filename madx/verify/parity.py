"""Is the engine the network it was built from? The engine beside its torch twin, on clean and adversarial images.

Both are callables: images float32 [B, C, H, W] in [0, 1] -> logits float32 [B, K].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.errors import MadxError
from madx.verify.contract import Images, Logits, check_contract, check_images, logits_of
from madx.verify.measurements import EngineParity

_BATCH = 64
_CONTRACT_IMAGES = 16


def measure_parity(
    engine: Logits, twin: Logits, *, clean: Images, adversarial: Images, tolerance: float = 1e-3
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


def _compare(engine: Logits, twin: Logits, images: Images) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """(label flips [N], largest |logit difference| [N])."""
    check_images(images)
    ours, theirs = _in_batches(engine, images), _in_batches(twin, images)
    if ours.shape != theirs.shape:
        raise MadxError(f"the engine has {ours.shape[1]} classes and its twin {theirs.shape[1]}; expected as many")
    difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(axis=1)
    return ours.argmax(axis=1) != theirs.argmax(axis=1), difference


def _in_batches(callable_: Logits, images: Images) -> NDArray[np.float32]:
    """Small batches bound the memory of a large network."""
    return np.concatenate(
        [logits_of(callable_, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    )
