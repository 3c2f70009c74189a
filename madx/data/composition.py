"""What a gate is made of, for whoever reads its verdict: the order of the classes, how many images each has, copies."""

from __future__ import annotations

import numpy as np

from madx.data.splits import GATE_SHARE, Split, Splits

_SKEWED = 0.8
"""A share of one class from which it is said: its answer alone has that accuracy."""
_LISTED = 20
"""Classes that are named."""


def describe(splits: Splits) -> list[str]:
    """One sentence for everything that the numbers of a verdict depend on and do not show."""
    return [
        *splits.remarks,
        *_alone(splits),
        *_order(splits.gate),
        *splits.copies.sentences(),
        *_large(splits),
        *_counts(splits.gate),
    ]


def _large(splits: Splits) -> list[str]:
    if not splits.large:
        return []
    return [
        "the set is too large to decode all of it beforehand: of each file head and end were looked at, exact copies "
        "were looked for and near copies were not; its owner must know of those"
    ]


def _alone(splits: Splits) -> list[str]:
    if splits.divided:
        return [
            f"there is no test part: {len(splits.gate)} images, {GATE_SHARE:.0%} of every class, are the gate; if all "
            "are test images of a finished network, say data.split: test"
        ]
    if not splits.test_alone:
        return []
    return [
        f"there are test images only: all {len(splits.gate)} are the gate, and what is tried beside it is tried on "
        "some of them, so an engine that knows them by heart is not noticed"
    ]


def _order(gate: Split) -> list[str]:
    names = gate.source.names
    if not names:
        return []
    return [f"classes, in the order of the network's outputs: {_listed(list(names), gate.classes)}"]


def _counts(gate: Split) -> list[str]:
    """Classes that are nearly all, or not there."""
    counts = np.bincount(gate.source.labels[gate.index], minlength=gate.classes)
    most, found = int(counts.argmax()), []
    if counts[most] >= _SKEWED * max(1, len(gate)):
        found.append(
            f"{counts[most]} of {len(gate)} gate images are of one class ({_called(gate, most)}): a network that "
            f"always answers it has {counts[most] / len(gate):.0%} clean and robust accuracy"
        )
    if len(absent := np.flatnonzero(counts == 0)):
        named = _listed([_called(gate, int(label)) for label in absent], len(absent))
        found.append(
            f"the gate has no image of {len(absent)} of {gate.classes} classes: {named}; nothing is said of them"
        )
    return found


def _called(gate: Split, label: int) -> str:
    names = gate.source.names
    return names[label] if names else str(label)


def _listed(names: list[str], total: int) -> str:
    more = f", ... ({total} in all)" if total > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
