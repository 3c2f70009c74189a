"""What the attacks did and cost, and how they fared where it is known what they must do, as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from madx.closeness import MOST_FLIPS, most_flips_of
from madx.report import words
from madx.verify import Accuracy, EngineParity, Measurements, SideSoundness, Soundness
from madx.verify.arrays import Bools
from madx.verify.contract import USUAL_CAUSE
from madx.verify.signs import ABOVE_TWIN, UNBOUNDED, UNDEFENDED, UNFINISHED

KNEW = {
    "white-box": "the twin's gradients",
    "engine in the loop": "the engine's answers and the twin's gradients",
    "query": "the engine's answers",
    "8-bit": "the last examples, which it rounds",
}
"""What an attack of a kind has at hand."""


@dataclass(frozen=True)
class AttackRow:
    """One attack; its examples were shown to both engines."""

    name: str
    kind: str
    knew: str
    attacked: int
    """Images that still stood on at least one engine."""
    turned_reference: int | None
    """Images that stood on the reference until then; None without one."""
    turned_candidate: int
    forward: int
    """Images through a network forward only."""
    gradient: int
    """Images through a network forward and backward."""


@dataclass(frozen=True)
class CheckRow:
    """One check of the attacks, with what a sound attack shows."""

    label: str
    wanted: str
    reference: str
    candidate: str


def attack_rows(accuracy: Accuracy) -> tuple[AttackRow, ...]:
    """In the order in which they were run."""
    candidate = _turned(accuracy.clean_candidate, accuracy.attacked, accuracy.standing_candidate)
    reference = None
    if accuracy.clean_reference is not None and accuracy.standing_reference is not None:
        reference = _turned(accuracy.clean_reference, accuracy.attacked, accuracy.standing_reference)
    return tuple(
        AttackRow(
            name=name,
            kind=kind,
            knew=KNEW[kind],
            attacked=int(accuracy.attacked[number].sum()),
            turned_reference=None if reference is None else reference[number],
            turned_candidate=candidate[number],
            forward=int(accuracy.passes[number, 0]),
            gradient=int(accuracy.passes[number, 1]),
        )
        for number, (name, kind) in enumerate(zip(accuracy.attacks, accuracy.kinds, strict=True))
    )


def total_cost(rows: tuple[AttackRow, ...], images: int) -> str:
    """All attacks together: "3,400 gradients and 1,000 forward passes, 3.4 and 1.0 an image"."""
    gradient, forward = sum(row.gradient for row in rows), sum(row.forward for row in rows)
    return (
        f"{gradient:,} gradients and {forward:,} forward passes on {images:,} images, on average "
        f"{gradient / images:,.1f} and {forward / images:,.1f} an image"
    )


def check_rows(sound: Soundness) -> tuple[CheckRow, ...]:
    """Each with its counts; what is clearly more than wanted is a sign (`madx.verify.signs`)."""
    return tuple(_checks(sound))


def parity_rows(measured: Measurements) -> tuple[CheckRow, ...]:
    """The engines beside the torch twins that examples are made on, and how far examples had to be put back."""
    parity, accuracy = measured.parity, measured.accuracy
    sides = (parity.reference, parity.candidate)

    def both(label: str, wanted: str, of: Callable[[EngineParity], str]) -> CheckRow:
        return CheckRow(label, wanted, *(words.ABSENT if side is None else of(side) for side in sides))

    bounds = {name: _at_most(most_flips_of(side.precision)) for name, side in parity.sides.items()}
    # Each side is held to its own: the larger would show a flip as allowed that keeps a gate from passing.
    allowed = ", ".join(f"{name} {bound}" for name, bound in bounds.items())
    allowed = bounds["candidate"] if len(set(bounds.values())) == 1 else allowed

    def flips(rows: Bools) -> str:
        return _count(rows) if len(rows) else words.ABSENT

    cause = both("what makes answers depend on the batch, if they do", "nothing", lambda side: side.cause)
    farthest = max((float(overrun) for overrun in accuracy.overrun), default=0.0)
    return (
        both("labelled otherwise than by the twin, clean", allowed, lambda side: flips(side.flips_clean)),
        both(
            "labelled otherwise than by the twin, under attack",
            allowed,
            lambda side: flips(side.flips_adversarial),
        ),
        both(
            "labelled otherwise than by the twin, changed by half a grey level or in 8-bit pixels",
            allowed,
            lambda side: flips(side.flips_changed),
        ),
        CheckRow(
            "answered otherwise at the served batch, clean or attacked",
            _at_most(MOST_FLIPS),
            *(
                _count(accuracy.answers[name].unsteady) if name in accuracy.answers else words.ABSENT
                for name in ("reference", "candidate")
            ),
        ),
        both(
            "largest difference of logits from the twin's, in units of what rounding explains",
            "at most 1",
            lambda side: f"{float(side.apart.max()):.2g}" if side.images else words.ABSENT,
        ),
        both(
            "largest difference of a logit from the twin's",
            "rounding",
            lambda side: words.scientific(float(side.difference.max())) if side.images else words.ABSENT,
        ),
        both("breaches of an engine's contract", "none", lambda side: "; ".join(side.violations) or "none"),
        CheckRow(
            "farthest example beyond the threat before it was put back, in eps",
            "rounding",
            words.scientific(farthest),
            "the same",
        ),
        both("numbers that rounding is judged by", "the file's", lambda side: side.precision),
        *((cause,) if any(side.cause != USUAL_CAUSE for side in parity.sides.values()) else ()),
    )


def trial_sentence(sound: Soundness) -> str:
    """What it means that the checks raised no sign; gradients can be checked only where there is a twin."""
    if sound.candidate is None:
        longer = " and on this engine with twice as many" if sound.doubled else ""
        return (
            "Without a torch twin little could be checked: the queries were tried on an undefended classifier, on "
            f"{sound.images} gate images{longer}. What gradients would find on this engine is not known."
        )
    return (
        f"Tried on {sound.images} gate images where it is known what an attack must do, on every engine that has a "
        "torch twin, they did it: no sign of masked gradients, of unfinished work, or of an attack that finds nothing "
        "anywhere."
    )


def _turned(clean: Bools, attacked: Bools, standing: Bools) -> list[int]:
    """How many images that had stood until then each attack turned."""
    left, counts = clean.copy(), []
    for shown, right in zip(attacked, standing, strict=True):
        fell = left & shown & ~right
        counts.append(int(fell.sum()))
        left &= ~fell
    return counts


def _checks(sound: Soundness) -> Iterator[CheckRow]:
    sides = (sound.reference, sound.candidate)

    def both(label: str, wanted: str, of: str) -> CheckRow:
        return CheckRow(label, wanted, *(words.ABSENT if side is None else _count(getattr(side, of)) for side in sides))

    yield both("with an input gradient of exactly zero", "none", "blind")
    doubled = (sound.doubled_reference, sound.doubled_candidate)
    yield CheckRow(
        f"that withstood everything and are turned by twice the {'steps' if sound.sides else 'queries'}",
        _at_most(UNFINISHED),
        *(words.ABSENT if rows is None else _count(rows) for rows in doubled),
    )
    yield both("that stand although any change is allowed", _at_most(UNBOUNDED), "unbounded")
    yield CheckRow(
        "right on the engine where its twin was turned, less the other way round",
        _at_most(ABOVE_TWIN),
        *(words.ABSENT if side is None else _above_twin(side) for side in sides),
    )
    if sound.elsewhere_clean is not None and sound.elsewhere_robust is not None:
        robust, clean = _count(sound.elsewhere_robust), int(sound.elsewhere_clean.sum())
        label = "outside the gate that stand, by the suite on the twin or by queries alone"
        yield CheckRow(label, "as in the gate", words.ABSENT, f"{robust}; clean: {clean}")
    yield CheckRow(
        "that stand on an undefended linear classifier",
        _at_most(UNDEFENDED),
        f"{_count(sound.undefended)}; clean: {int(sound.undefended_clean.sum())}",
        "the same",
    )


def _above_twin(side: SideSoundness) -> str:
    higher, lower = side.engine_right & ~side.twin_right, ~side.engine_right & side.twin_right
    return f"{int(higher.sum())} − {int(lower.sum())} of {len(higher)}"  # noqa: RUF001 - a true minus


def _count(rows: Bools) -> str:
    return f"{int(rows.sum())} of {len(rows)}"


def _at_most(share: float) -> str:
    return f"at most {words.level(share)}"
