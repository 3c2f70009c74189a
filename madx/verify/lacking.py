"""What a gate needs that was not measured: no number stands in for it, the gate is undecided and says what to give.

Without a reference engine nothing can be compared; without a torch twin there is no parity, and attacks have queries
only, which leave a robust accuracy higher than attacks with gradients would.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from madx.recipe import GateConfig
from madx.verify.arrays import known
from madx.verify.measurements import Measurements

UPPER_BOUND = (
    "query-only: no gradients were available; robust accuracy is an upper bound that white-box attacks would lower"
)


KEPT = 0.5
"""Share of its clean accuracy that a reference must keep under attack to be one without an absolute bound beside it."""


def lacking(measured: Measurements, gate: GateConfig) -> str:
    """What to give so that the gate can be judged at all; nothing if it has all it needs."""
    if gate.compares and measured.reference is None:
        return (
            f"{gate.metric} compares two engines and no reference was given: add --reference dense.onnx, or "
            "--baseline with the last release."
        )
    if gate.about.needs_twin and measured.parity.candidate.images == 0:
        return f"{gate.metric} compares the engine with its torch twin and none was given: add --twin WEIGHTS."
    return ""


def unseen_by_gradients(measured: Measurements, gate: GateConfig) -> Iterator[str]:
    """Why a gate on robustness must not pass on queries alone; nothing if it need not, or its recipe accepts that."""
    if not (measured.query_only and gate.on_robustness) or gate.query_only:
        return
    yield (
        f"This is {UPPER_BOUND}. Give the engine's torch twin, or accept it for this gate with query_only: true in the "
        "recipe."
    )


def doubtful_reference(measured: Measurements, gate: GateConfig) -> Iterator[str]:
    """Why nothing lost may be nothing gained: fed what it was not made for, a reference is worse than its network."""
    if gate.compares:
        yield from (
            f"{sentence} As long as that is open, what the candidate loses against it means little."
            for sentence in measured.reference_doubts
        )


def weak_reference(measured: Measurements, gate: GateConfig, *, absolute: float) -> Iterator[str]:
    """Why nothing lost may be nothing gained: the reference itself is hardly defended.

    Not where the recipe says how much robustness is enough: `absolute`, more than the most frequent class alone has.
    """
    if not (gate.compares and gate.on_robustness) or measured.reference is None:
        return
    clean, robust = known(measured.accuracy.clean_reference, "reference engine"), measured.accuracy.robust_reference
    if robust.sum() >= KEPT * clean.sum() or absolute > _chance(measured):
        return
    yield (
        f"The reference is robust on {robust.mean():.1%} of the images and right on {clean.mean():.1%}: attacks take "
        "more than half of what it knows, so losing nothing against it may leave next to nothing. Say how much "
        "robustness is enough, more than guessing has, with a gate on robust_accuracy."
    )


def _chance(measured: Measurements) -> float:
    """What the most frequent class alone has."""
    return float(np.bincount(measured.accuracy.labels).max()) / measured.accuracy.images


def said(measured: Measurements, gate: GateConfig, *, absolute: float) -> Iterator[str]:
    """What a reader of the gate must know of what was compared, and how; `absolute` as for `weak_reference`."""
    reference = measured.reference
    if gate.compares and reference is not None and reference.role != "dense":
        name = "baseline, the last release" if reference.role == "baseline" else "file that was given"
        yield f"The reference is the {name}, measured again beside this one: SHA-256 {reference.sha256}."
        if gate.on_robustness and absolute <= _chance(measured):
            share = measured.accuracy.robust_reference.mean()
            yield f"It is robust on {share:.1%} of the images; whether that is enough, only robust_accuracy asks."
    if measured.query_only and gate.on_robustness and gate.query_only:
        yield f"The recipe accepts for this gate that it is {UPPER_BOUND}."
    elif gate.query_only:
        yield "query_only: true was not needed here: there are torch twins, and the attacks had their gradients."


def remarks(measured: Measurements) -> Iterator[str]:
    """The same for the whole engine, as warnings."""
    if measured.reference is None:
        yield "no reference engine was given: nothing is compared, only what this engine does by itself"
    if measured.query_only:
        yield UPPER_BOUND
