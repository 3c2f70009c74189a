"""May a verification stop before all images are attacked? Pure: what was measured so far in, yes or no out.

Every gate over images must be decided either way by the limits of the betting test (`madx.verify.limits`), which hold
however often one looks; the rows of `Accuracy` are the images in their committed random order. The gates' verdict must
then be reached with the same limits: `judge(..., sequential=True)`.
"""

from __future__ import annotations

from collections.abc import Sequence

from madx.recipe import GateConfig
from madx.verify.gates import decide
from madx.verify.image_findings import over_images
from madx.verify.measurements import Accuracy
from madx.verify.verdict import Outcome


def decided(accuracy: Accuracy, gates: Sequence[GateConfig]) -> bool:
    """Whether further images could change no gate over images.

    A gate counts as decided when it fails, or passes without a doubt that further images might settle. Without a gate
    over images nothing says when it is enough, and all images are wanted.

    Args:
        accuracy: the images so far, from the first on, none left out.
        gates: of the recipe; those on speed, size and parity do not depend on these images.
    """
    compared = accuracy.clean_reference is not None
    waiting = [gate for gate in gates if gate.about.over_images and (compared or not gate.compares)]
    return bool(waiting) and all(_settled(accuracy, gate) for gate in waiting)


def _settled(accuracy: Accuracy, gate: GateConfig) -> bool:
    found = over_images(accuracy, gate, sequential=True)
    outcome = decide(found.lower, found.upper, bound=gate.bound, direction=gate.direction)
    if found.void or outcome is Outcome.INCONCLUSIVE:
        return False
    return outcome is Outcome.FAIL or not found.doubts
