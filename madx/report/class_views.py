"""What became of each class, and what an engine takes its images for instead: rows for the reports and `inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madx.report import words
from madx.report.gallery_views import class_name
from madx.verify import Accuracy
from madx.verify.arrays import Bools

MOST = 40
"""Classes that are shown; of more, those whose images are most often wrong."""
_CONFUSED = 3
"""Other classes that are named for a class."""


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    images: int
    reference: tuple[str, str] | None
    """Shares that are right clean, and robust; None without a reference."""
    candidate: tuple[str, str]
    taken_for: str
    """The classes that the candidate takes its clean images for instead, the most frequent one first."""


def class_rows(accuracy: Accuracy, names: Sequence[str]) -> tuple[ClassRow, ...]:
    """Every class that the gate has, in order; of more than `MOST` the least accurate ones."""
    classes = np.unique(accuracy.labels)
    if len(classes) > MOST:
        shares = [float(accuracy.clean_candidate[accuracy.labels == one].mean()) for one in classes]
        classes = np.sort(classes[np.argsort(shares, kind="stable")[:MOST]])
    return tuple(_class_row(accuracy, int(one), tuple(names)) for one in classes)


def _class_row(accuracy: Accuracy, number: int, names: tuple[str, ...]) -> ClassRow:
    rows, reference = accuracy.labels == number, accuracy.clean_reference

    def shares(clean: Bools, robust: Bools) -> tuple[str, str]:
        return words.percent(float(clean[rows].mean())), words.percent(float(robust[rows].mean()))

    return ClassRow(
        name=class_name(number, names),
        images=int(rows.sum()),
        reference=None if reference is None else shares(reference, accuracy.robust_reference),
        candidate=shares(accuracy.clean_candidate, accuracy.robust_candidate),
        taken_for=_confusions(accuracy, number, rows, names),
    )


def _confusions(accuracy: Accuracy, number: int, rows: Bools, names: tuple[str, ...]) -> str:
    if accuracy.answers_candidate is None:
        return words.ABSENT
    said = accuracy.answers_candidate.classes[rows]
    others, counts = np.unique(said[said != number], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_CONFUSED]
    return ", ".join(f"{class_name(int(others[one]), names)}: {int(counts[one])}" for one in order) or "none"
