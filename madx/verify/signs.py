"""Signs that a robust accuracy cannot be trusted: each one a sentence, and each one forbids a PASS.

They speak of the attacks, not of the engines' quality: a network under a broken attack looks robust. Thresholds follow
the literature where it has any (AutoAttack flags 0.2 points gained by Square); else they are set so that sampling
alone does not raise them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from madx.stats import clopper_pearson, tango_interval
from madx.verify.arrays import Bools
from madx.verify.measurements import Accuracy, Measurements
from madx.verify.soundness import SideSoundness, Soundness

MASKING_GAIN = 0.002
"""Share of the images that queries alone may turn after the gradients have had their turn ..."""
MASKING_IMAGES = 3
"""... and fewer images than these say nothing, whatever their share."""
UNFINISHED = 0.01
"""Share of the images that attacks twice as long may turn beyond those that the suite turned."""
MISLED = 0.05
"""Share on which a short step along the gradient may lead no higher than one against it."""
UNBOUNDED = 0.02
"""Share that may stand although every image is allowed."""
UNDEFENDED = 0.1
"""Share that an undefended classifier may keep."""
ABOVE_TWIN = 0.005
"""Share by which an engine may be right more often than its twin, on examples made on that twin."""
ELSEWHERE = 0.05
"""Share by which an engine may do better on the gate's images than on others, beyond chance."""
_ACCUSED = 0.9995
"""One-sided, each of two limits that accuse an engine of knowing the gate's images."""
CONFIDENCE = 0.95
"""One-sided, of every "clearly more" below."""


def signs(measured: Measurements, *, alone: bool = False) -> tuple[str, ...]:
    """What forbids a PASS of gates on robustness, one sentence each; empty when the attacks held up.

    Args:
        measured: all of one engine.
        alone: for a gate on the candidate by itself: what is wrong with the reference is no matter.
    """
    return (*masking(measured.accuracy, alone=alone), *signs_of_attacks(measured.soundness, alone=alone))


def by_heart(measured: Measurements, *, robust: bool) -> tuple[str, ...]:
    """That the candidate does far better on the gate's images than on others of the same kind.

    Two one-sided limits, each at half of the error, must be apart by more than `ELSEWHERE`. The images outside were
    there to choose the network by, so an honest one is no worse on them.
    """
    sound, accuracy = measured.soundness, measured.accuracy
    outside = sound.elsewhere_robust if robust else sound.elsewhere_clean
    if outside is None:
        return ()
    inside = accuracy.robust_candidate if robust else accuracy.clean_candidate
    least, _ = clopper_pearson(int(inside.sum()), len(inside), confidence=_ACCUSED)
    _, most = clopper_pearson(int(outside.sum()), len(outside), confidence=_ACCUSED)
    if least - most <= ELSEWHERE:
        return ()
    return (
        f"The candidate engine is {'robust' if robust else 'right'} on {inside.mean():.1%} of the gate's "
        f"{len(inside)} images, and on {outside.mean():.1%} of {len(outside)} selection images: it knows the gate's "
        "images, or these were chosen for it, and its accuracy elsewhere is another.",
    )


def masking(accuracy: Accuracy, *, alone: bool = False) -> tuple[str, ...]:
    """Those that the outcomes of the attacks themselves show."""
    clean, standing = accuracy.clean_reference, accuracy.standing_reference
    return (
        *(() if alone or clean is None or standing is None else _masking("reference", accuracy, clean, standing)),
        *_masking("candidate", accuracy, accuracy.clean_candidate, accuracy.standing_candidate),
    )


def signs_of_attacks(sound: Soundness, *, alone: bool = False) -> tuple[str, ...]:
    """Those that show where the attacks were tried out."""
    return (
        *(
            sentence
            for name, side in sound.sides.items()
            if not (alone and name == "reference")
            for sentence in _of_side(name, side)
        ),
        *(
            f"{_doubled(name, sound)}: the attacks had not finished. Take a stronger verify.attack."
            for name in unfinished(sound)
            if not (alone and name == "reference")
        ),
        *_no_sensitivity(sound),
    )


def unfinished(sound: Soundness) -> tuple[str, ...]:
    """The engines of which attacks twice as long turn clearly more than UNFINISHED."""
    return tuple(name for name, rows in sound.doubled.items() if _clearly_more(rows, UNFINISHED))


def left_over(sound: Soundness, *, alone: bool = False) -> tuple[str, ...]:
    """What is no sign and still to be told of: that attacks twice as long turn a few more images."""
    return tuple(
        f"{_doubled(name, sound)}."
        for name, rows in sound.doubled.items()
        if rows.any() and name not in unfinished(sound) and not (alone and name == "reference")
    )


def _doubled(side: str, sound: Soundness) -> str:
    """What attacks twice as long would take from the robust accuracy, with its upper limit."""
    rows = sound.doubled[side]
    fell, n = int(rows.sum()), len(rows)
    _, upper = clopper_pearson(fell, n, confidence=CONFIDENCE)
    word = "steps" if side in sound.sides else "queries"
    return (
        f"Twice the {word} turn {fell} more of {n} images of the {side} engine, {fell / n:.1%} and at most {upper:.1%} "
        f"(one-sided {CONFIDENCE:g})"
    )


def _masking(side: str, accuracy: Accuracy, clean: Bools, standing: Bools) -> Iterator[str]:
    """Queries need no gradient: what only they can turn, gradients did not see."""
    kinds = np.array(accuracy.kinds)
    query = kinds == "query"
    if not query.any() or query[kinds != "8-bit"].all():
        return  # no gradient had its turn, so none is masked
    fell = accuracy.attacked & ~standing
    before = fell[: int(np.argmax(query))].any(axis=0)
    gained = int((clean & ~before & fell[query].any(axis=0)).sum())
    if gained >= MASKING_IMAGES and gained / accuracy.images > MASKING_GAIN:
        yield (
            f"Queries alone (Square) turned {gained} of {accuracy.images} images of the {side} engine that no gradient "
            "had turned: its gradients are masked, and its robust accuracy is not to be believed."
        )


def _of_side(side: str, sound: SideSoundness) -> Iterator[str]:
    n = len(sound.blind)
    if blind := int(sound.blind.sum()):
        yield (
            f"The {side}'s input gradient is exactly zero on {blind} of {n} images or no number (masked gradients), so "
            "attacks by gradient see nothing there."
        )
    if _clearly_more(sound.misled, MISLED):
        yield (
            f"On {int(sound.misled.sum())} of {n} images a short step along the {side}'s input gradient raises the "
            "loss no more than one against it: its gradients are masked and lead no attack."
        )
    if _clearly_more(sound.unbounded, UNBOUNDED):
        yield (
            f"Allowed to change the images at will, the attack still leaves {int(sound.unbounded.sum())} of {n} "
            f"standing on the {side}'s twin: its gradients lead nowhere."
        )
    higher = int((sound.engine_right & ~sound.twin_right).sum())
    lower = int((~sound.engine_right & sound.twin_right).sum())
    least, _ = tango_interval(n, higher, lower, confidence=CONFIDENCE)
    if least > ABOVE_TWIN:
        yield (
            f"The {side} engine is right on {higher} of {n} adversarial examples that turned its own twin (and wrong "
            f"on {lower} that did not): rounding hides it from its twin's attacks, which is no robustness."
        )


def _no_sensitivity(sound: Soundness) -> Iterator[str]:
    """An assay that finds nothing in a sample known to be bad finds nothing anywhere."""
    if _clearly_more(sound.undefended, UNDEFENDED):
        remedy = "Is threat.eps in the unit of images in [0, 1]?"
        if not sound.sides:  # queries were all there was
            remedy = "Take verify.attack: standard or paranoid, which ask more queries."
        yield (
            f"An undefended linear classifier keeps {int(sound.undefended.sum())} of its {sound.images} answers under "
            "the same attacks: at this threat they could not tell a defended network from an undefended one. "
            f"{remedy}"
        )


def _clearly_more(rows: Bools, share: float) -> bool:
    lower, _ = clopper_pearson(int(rows.sum()), len(rows), confidence=CONFIDENCE)
    return lower > share
