"""What the measurements say about one metric: estimate, one-sided limits, and reasons to distrust them.

One function per metric of `madx.recipe.METRICS`, in a table here or, for those over the gate's images, in
`image_findings`. The
speed-up is reference time / candidate time, the size ratio candidate bytes / reference bytes; flips are shares of the
images that parity was measured on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace

from madx.closeness import MOST_FLIPS, ROUNDING, most_flips_of
from madx.recipe import GateConfig
from madx.verify.arrays import known
from madx.verify.contract import DYNAMIC, ManyAnswers
from madx.verify.evidence import Finding
from madx.verify.image_findings import over_images, share_finding
from madx.verify.measurements import Accuracy, Measurements
from madx.verify.p99 import p99_ratio
from madx.verify.parity import EngineParity
from madx.verify.remedies import Doubt, Remedy, doubts
from madx.verify.signs import by_heart, left_over, signs
from madx.verify.speed import speedup

TWIN_FLIPS = 0.01
"""Share of images on which an engine may disagree with its twin, beyond what its precision explains, before examples
made on the twin say too little."""

MOST_FLAT = 0.01
"""Share of the images on which an engine's probabilities may be rounded to one class."""


def finding(measured: Measurements, gate: GateConfig, *, sequential: bool = False) -> Finding:
    """The finding on the gate's metric, with limits at the gate's confidence.

    Args:
        measured: all of one engine.
        gate: metric, bound and confidence.
        sequential: whether the number of images was decided by looking at them, see `madx.verify.limits`.
    """
    alone = not gate.compares and not gate.about.needs_twin
    sides = {name: side for name, side in measured.parity.sides.items() if not (alone and name == "reference")}
    if not gate.about.over_images:
        found = _METRICS[gate.metric](measured, gate)
        if gate.about.rests_on == "bytes":
            return found
        broken = doubts((*_broken(sides), *_unsteady(measured.accuracy, sides, many=False)), Remedy.MEND_ENGINE)
        void = (*_many_answers(measured.accuracy, sides), *doubts(found.void, Remedy.QUIETER_MACHINE))
        return replace(found, doubts=(*broken, *found.doubts), void=void)
    found = over_images(measured.accuracy, gate, sequential=sequential)
    void = (*_many_answers(measured.accuracy, sides), *_voids(found))
    found = replace(found, doubts=doubts(found.doubts, Remedy.ROBUST_REFERENCE), void=void)
    if not gate.on_robustness:
        own_doubts = _contract_doubts(measured.accuracy, sides)
        return replace(found, doubts=(*own_doubts, *_of_images(measured), *found.doubts))
    own = {name: side for name, side in sides.items() if name != "reference"}
    of_own, of_all = (
        (*_contract_doubts(measured.accuracy, which), *doubts(signs(measured, alone=without), Remedy.STRONGER_ATTACK))
        for which, without in ((own, True), (sides, alone))
    )
    return replace(
        found,
        evidence=(*found.evidence, *left_over(measured.soundness, alone=alone)),
        doubts=(*of_own, *_flat(measured.accuracy), *_of_images(measured), *found.doubts),
        # A reference that looks better than it is makes any loss look larger: such a gate may not fail either.
        void=(*found.void, *(sentence for sentence in of_all if sentence not in of_own)),
    )


def _voids(found: Finding) -> tuple[Doubt, ...]:
    """Over images, numbers are void where there is nothing to compare with, or where limits contradict each other."""
    return doubts(found.void, Remedy.ROBUST_REFERENCE if math.isnan(found.estimate) else Remedy.ANOTHER_SEED)


def _parity_flips(measured: Measurements, gate: GateConfig) -> Finding:
    """The worse of the two engines: a comparison is as good as the worse of its sides."""
    name, worse = max(measured.parity.sides.items(), key=lambda item: float(item[1].flips.mean()))
    where = f", on the worse ({name}) engine" if measured.reference else ""
    word = f"labelled otherwise than by the torch twin, clean or adversarial{where}"
    # These images are as many whatever the gates decide on the others, so nobody looks early.
    return share_finding(worse.flips, gate, word=word, sequential=False)


def _size_ratio(measured: Measurements, _gate: GateConfig) -> Finding:
    """Files are counted, not sampled: the limits are the estimate."""
    sizes = measured.sizes
    reference = known(sizes.reference, "reference engine")
    ratio = sizes.candidate / reference
    evidence = f"{sizes.candidate:,} bytes against {reference:,} of the reference: {ratio:.3f} of its size."
    return Finding(estimate=ratio, lower=ratio, upper=ratio, evidence=(evidence,), method="counted")


def _broken(sides: Mapping[str, EngineParity]) -> tuple[str, ...]:
    """An engine that breaks its contract is none: neither its speed nor its labels mean anything."""
    return tuple(
        _breach(name, sentence)
        for name, side in sides.items()
        for sentence in side.violations
        if not isinstance(sentence, ManyAnswers)
    )


def _many_answers(accuracy: Accuracy, sides: Mapping[str, EngineParity]) -> tuple[Doubt, ...]:
    """Why an image has no one answer on an engine: neither a PASS nor a FAIL would be of anything that is served."""
    told = [
        _breach(name, sentence)
        for name, side in sides.items()
        for sentence in side.violations
        if isinstance(sentence, ManyAnswers)
    ]
    return doubts((*told, *_unsteady(accuracy, sides, many=True)), Remedy.MEND_ENGINE)


def _breach(name: str, sentence: str) -> str:
    return f"The {name} engine breaks its contract: {sentence}."


def _of_images(measured: Measurements) -> tuple[Doubt, ...]:
    """The gate's images themselves are no sample of what the engine will meet."""
    known = {sentence: None for robust in (False, True) for sentence in by_heart(measured, robust=robust)}
    return (
        *doubts(known, Remedy.MEND_ENGINE),
        *doubts(measured.image_doubts, Remedy.OTHER_IMAGES),
    )


def _unsteady(accuracy: Accuracy, sides: Mapping[str, EngineParity], *, many: bool) -> tuple[str, ...]:
    """An engine that is another one at the batch that is served: it was not the served one that was attacked.

    Where nothing says how much rounding explains, as of float64, that is a doubt and no proof of `many` answers.
    """
    return tuple(
        f"The {name} engine answers otherwise at the served batch: on {int(answers.unsteady.sum())} of "
        f"{accuracy.images} images, clean or attacked, its logits differ by more than rounding explains from those at "
        f"the batch that was attacked: {sides[name].cause}."
        for name, answers in accuracy.answers.items()
        if name in sides and float(answers.unsteady.mean()) > MOST_FLIPS and _is_proof(sides[name]) is many
    )


def _is_proof(side: EngineParity) -> bool:
    """Whether differences between batches show that an image has many answers: beyond rounding, or by design."""
    return side.precision in ROUNDING or side.cause == DYNAMIC


def _flat(accuracy: Accuracy) -> tuple[Doubt, ...]:
    """Where probabilities are rounded to one class, what withstands a query was not attacked by it."""
    answers = accuracy.answers_candidate
    if answers is None or float(answers.flat.mean()) <= MOST_FLAT:
        return ()
    sentence = (
        f"On {int(answers.flat.sum())} of {accuracy.images} clean images the engine's probabilities are rounded to one "
        "class and say nothing of the others, so attacks that ask the engine have nothing to climb. Export the scores "
        "before the softmax."
    )
    return (Doubt(sentence, Remedy.MEND_ENGINE),)


def _contract_doubts(accuracy: Accuracy, sides: Mapping[str, EngineParity]) -> tuple[Doubt, ...]:
    """An engine that breaks its contract, or is not its twin, has no accuracy that deserves the name."""
    compared = {name: side for name, side in sides.items() if side.images}
    strange = [
        f"The {name} engine labels {int(side.flips.sum())} of {side.images} images otherwise than the torch twin that "
        "the adversarial examples were made on, so these examples do not attack the engine."
        for name, side in compared.items()
        if _too_many(side)
    ]
    apart = [
        f"The {name} engine's logits differ from its torch twin's by more than rounding explains on "
        f"{int((side.apart > 1).sum())} of {side.images} images, by up to {float(side.apart.max()):.2g} times as much, "
        f"so what was learned on the twin is not known to hold for the engine.{_without_a_row(side.precision)}"
        for name, side in compared.items()
        if float((side.apart > 1).mean()) > MOST_FLIPS
    ]
    otherwise = _unsteady(accuracy, sides, many=False)
    return doubts((*_broken(sides), *otherwise, *strange, *apart), Remedy.MEND_ENGINE)


def _too_many(side: EngineParity) -> bool:
    """Flips void a gate beyond what the precision explains: of logits that are apart, or of too many images in all."""
    unexplained = float((side.flips & (side.apart > 1)).mean())
    return unexplained > TWIN_FLIPS or float(side.flips.mean()) > most_flips_of(side.precision)


def _without_a_row(precision: str) -> str:
    if precision in ROUNDING:
        return ""
    return f" The file computes in {precision}, for which madx has no measure of rounding yet: it is held to float32's."


_METRICS: dict[str, Callable[[Measurements, GateConfig], Finding]] = {
    "speedup": speedup,
    "p99_ratio": p99_ratio,
    "parity_flips": _parity_flips,
    "size_ratio": _size_ratio,
}
