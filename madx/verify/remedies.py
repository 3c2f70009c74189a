"""What would get an outcome further: kinds of remedy, and doubts that each carry theirs.

Nothing here is a command: a verdict is read on other machines, and what to type is composed where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from madx.recipe import METRICS


class Remedy(StrEnum):
    """In the order in which they are due: before an earlier one is met, a later one decides nothing."""

    INSTALL_ENGINE = "install the engine"
    GIVE_REFERENCE = "give a reference"
    GIVE_TWIN = "give the torch twin"
    FEED_REFERENCE = "feed the reference what it was made for"
    MEND_ENGINE = "mend the engine"
    OTHER_IMAGES = "images that are independent of each other and of the training"
    ROBUST_REFERENCE = "a reference that has something to lose"
    STRONGER_ATTACK = "a stronger attack"
    ANOTHER_SEED = "another seed"
    MORE_IMAGES = "more images"
    QUIETER_MACHINE = "time again on a quieter machine"
    MORE_TIMING = "more timing"
    RECOVER_ACCURACY = "prune less or fine-tune longer"
    FASTER_CANDIDATE = "prune more"


class Doubt(str):
    """A reason not to believe a number, and what would settle it; everywhere else a sentence like any other."""

    remedy: Remedy

    def __new__(cls, sentence: str, remedy: Remedy) -> Doubt:
        """Bind the two."""
        doubt = super().__new__(cls, sentence)
        doubt.remedy = remedy
        return doubt


def doubts(sentences: Iterable[str], remedy: Remedy) -> tuple[Doubt, ...]:
    """Each sentence with the remedy of all; one that has its own keeps it."""
    return tuple(one if isinstance(one, Doubt) else Doubt(one, remedy) for one in sentences)


def of_failure(metric: str) -> Remedy:
    """What would make a failed gate pass: another candidate, as measuring more would only fail it more surely."""
    if METRICS[metric].needs_twin:
        return Remedy.MEND_ENGINE
    return Remedy.FASTER_CANDIDATE if METRICS[metric].unit == "ratio" else Remedy.RECOVER_ACCURACY


def of_indecision(metric: str) -> Remedy:
    """What would bring the limits of an undecided gate closer together."""
    return Remedy.MORE_TIMING if METRICS[metric].timed else Remedy.MORE_IMAGES
