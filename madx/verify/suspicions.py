"""Signs that a number is too good or was come by wrongly: warnings on the verdict, one sentence each.

A warning changes no outcome by itself. What forbids a PASS is said by the findings and by `madx.verify.signs`.
"""

from __future__ import annotations

from collections.abc import Iterator

from madx.stats import tango_interval
from madx.verify.limits import discordant
from madx.verify.measurements import Accuracy, Measurements
from madx.verify.parity import Parity

RISE_CONFIDENCE = 0.95


def suspicions(measured: Measurements) -> tuple[str, ...]:
    """What a reader must know before believing the gates of this engine."""
    return (
        *(() if measured.reference is None else _rise(measured.accuracy)),
        *_with_itself(measured),
        *_no_queries(measured.accuracy),
        *_overruns(measured.accuracy),
        *_violations(measured.parity),
    )


def _with_itself(measured: Measurements) -> Iterator[str]:
    """Nothing is lost against oneself: a forgotten build, or the run itself as --baseline, looks like a success."""
    reference, candidate = measured.reference, measured.candidate
    if reference is not None and candidate.sha256 is not None and reference.sha256 == candidate.sha256:
        yield (
            f"the {reference.role} engine and the {candidate.role} engine are the same file (SHA-256 "
            f"{candidate.sha256[:12]}...): it was compared with itself, so gates on drops say nothing of a change"
        )


def _rise(accuracy: Accuracy) -> Iterator[str]:
    """Pruning does not make a network more robust; an attack that fails on it makes it look so."""
    lost, gained = discordant(accuracy.robust_reference, accuracy.robust_candidate)
    _, upper = tango_interval(accuracy.images, lost, gained, confidence=RISE_CONFIDENCE)
    if upper < 0:
        yield (
            f"robust accuracy ROSE by {100 * (gained - lost) / accuracy.images:.2f} points ({gained} images gained, "
            f"{lost} lost), more than chance explains. Suspect the attack before you believe it: take a stronger "
            "verify.attack."
        )


def _no_queries(accuracy: Accuracy) -> Iterator[str]:
    """A check that was left out must not look like one that found nothing."""
    if "query" not in accuracy.kinds:
        yield (
            "no attack by queries was made, so masked gradients could have gone unseen; verify.attack: quick, standard "
            "and paranoid make some"
        )


def _overruns(accuracy: Accuracy) -> Iterator[str]:
    for name, overrun in zip(accuracy.attacks, accuracy.overrun, strict=True):
        if overrun > 0:
            yield (
                f"the attack {name!r} left its threat by {overrun:.2g} eps; its examples were projected back and "
                "scored again, but an attack that does so is faulty."
            )


def _violations(parity: Parity) -> Iterator[str]:
    for name, side in parity.sides.items():
        for sentence in side.violations:
            yield f"the {name} engine breaks its contract: {sentence}."
