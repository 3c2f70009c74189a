"""The release gate: measurements in, verdict out, no file and no engine in between.

A gate PASSES when its one-sided limit at the gate's confidence is on the right side of the bound, FAILS when the
opposite limit is beyond the bound, and is INCONCLUSIVE otherwise. A threshold is never loosened. All gates must pass,
each at its own confidence; an intersection-union test needs no correction for their number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from madx.errors import MadxError
from madx.recipe import GateConfig
from madx.verify.evidence import Finding
from madx.verify.findings import finding
from madx.verify.lacking import doubtful_reference, lacking, remarks, said, unseen_by_gradients, weak_reference
from madx.verify.measurements import Measurements
from madx.verify.remedies import Doubt, Remedy, doubts, of_failure, of_indecision
from madx.verify.suspicions import suspicions
from madx.verify.verdict import GateResult, Outcome, Verdict

_NONE_MISSING: Mapping[str, str] = MappingProxyType({})


def judge(
    measurements: Sequence[Measurements],
    gates: Sequence[GateConfig],
    *,
    missing: Mapping[str, str] = _NONE_MISSING,
    sequential: bool = False,
) -> Verdict:
    """Hold every measured engine against every gate.

    Args:
        measurements: one per engine that was measured.
        gates: of the recipe.
        missing: engines that the recipe promises and that were not measured, with the reason; each of their gates is
            INCONCLUSIVE.
        sequential: whether the measuring could stop early because of what it saw (`verify.sequential`): metrics over
            images then take the limits of the betting test.

    Raises:
        MadxError: if an engine is given twice.
    """
    counts = Counter([*(measured.engine for measured in measurements), *missing])
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise MadxError(f"these engines were given to the gates more than once: {repeated}; expected each once")
    absolute = max((gate.bound for gate in gates if gate.metric == "robust_accuracy"), default=0.0)
    judged = [_judge_gate(measured, gate, sequential, absolute=absolute) for measured in measurements for gate in gates]
    absent = [
        _undecided(engine, gate, Doubt(f"The engine was not measured: {reason}", Remedy.INSTALL_ENGINE))
        for engine, reason in missing.items()
        for gate in gates
    ]
    warnings = [
        *(f"{measured.engine}: {sentence}" for measured in measurements for sentence in _known(measured)),
        *(f"{engine} was promised and not measured: {reason}" for engine, reason in missing.items()),
        *_no_gate_on_robustness(gates),
    ]
    return Verdict(gates=(*judged, *absent), warnings=tuple(warnings))


def _known(measured: Measurements) -> tuple[str, ...]:
    """What a reader must know of one engine."""
    return (*remarks(measured), *suspicions(measured))


def _no_gate_on_robustness(gates: Sequence[GateConfig]) -> tuple[str, ...]:
    if any(gate.on_robustness for gate in gates):
        return ()
    return ("no gate asks for robustness: this verdict says nothing about adversarial examples",)


def decide(lower: float, upper: float, *, bound: float, direction: Literal["at_least", "at_most"]) -> Outcome:
    """The rule of every gate, from the limits alone."""
    if direction == "at_least":
        passed, failed = lower >= bound, upper < bound
    else:
        passed, failed = upper <= bound, lower > bound
    if passed:
        return Outcome.PASS
    return Outcome.FAIL if failed else Outcome.INCONCLUSIVE


def _judge_gate(measured: Measurements, gate: GateConfig, sequential: bool, *, absolute: float) -> GateResult:
    """The gate on one engine; `absolute`: what another gate demands of the robust accuracy itself, 0 if none does."""
    if sentence := lacking(measured, gate):
        remedy = Remedy.GIVE_TWIN if gate.about.needs_twin else Remedy.GIVE_REFERENCE
        return _undecided(measured.engine, gate, Doubt(sentence, remedy))
    found = finding(measured, gate, sequential=sequential)
    unseen = doubts(unseen_by_gradients(measured, gate), Remedy.GIVE_TWIN)
    weak = doubts(weak_reference(measured, gate, absolute=absolute), Remedy.ROBUST_REFERENCE)
    misfed = doubts(doubtful_reference(measured, gate), Remedy.FEED_REFERENCE)
    found = replace(found, doubts=(*misfed, *found.doubts, *unseen, *weak))
    outcome = decide(found.lower, found.upper, bound=gate.bound, direction=gate.direction)
    compared = [*found.evidence, *said(measured, gate, absolute=absolute)]  # said whatever comes of it
    evidence, more = list(compared), None
    if outcome is Outcome.INCONCLUSIVE:
        more = found.more_images
        evidence += [
            f"The bound {gate.bound:g} lies between the limits: the evidence decides nothing.",
            *found.advice,
        ]
    if found.void:
        outcome, evidence, more = Outcome.INCONCLUSIVE, [*compared, *found.void, *found.doubts], None
    elif found.doubts:  # said in any case: what forbids a PASS also tells a reader how far to believe a FAIL
        outcome = Outcome.INCONCLUSIVE if outcome is Outcome.PASS else outcome
        evidence += found.doubts
    result = _result(measured.engine, gate, found, outcome=outcome, evidence=tuple(map(str, evidence)))
    return _with_remedy(replace(result, more_images=more), found)


def _with_remedy(result: GateResult, found: Finding) -> GateResult:
    """What would get the gate further: what voids it goes before what is doubted, and that before limits too wide."""
    if result.outcome is Outcome.PASS:
        return result
    if result.outcome is Outcome.FAIL:
        return replace(result, remedy=of_failure(result.metric))
    if keeps := (*found.void, *found.doubts):
        remedy = keeps[0].remedy if isinstance(keeps[0], Doubt) else of_failure(result.metric)
        return replace(result, remedy=remedy, reason=str(keeps[0]))
    advice = next(iter(found.advice), "")
    remedy = advice.remedy if isinstance(advice, Doubt) else of_indecision(result.metric)
    return replace(result, remedy=remedy, wanted_pairs=found.wanted_pairs, reason=str(advice))


def _result(
    engine: str, gate: GateConfig, found: Finding, *, outcome: Outcome, evidence: tuple[str, ...]
) -> GateResult:
    return GateResult(
        engine=engine,
        metric=gate.metric,
        bound=gate.bound,
        direction=gate.direction,
        estimate=_finite(found.estimate),
        lower=_finite(found.lower),
        upper=_finite(found.upper),
        confidence=gate.confidence,
        outcome=outcome,
        evidence=evidence,
        method=found.method,
    )


def _undecided(engine: str, gate: GateConfig, why: Doubt) -> GateResult:
    """Nothing was measured that the gate could judge."""
    nothing = Finding(estimate=math.nan, lower=-math.inf, upper=math.inf, evidence=())
    result = _result(engine, gate, nothing, outcome=Outcome.INCONCLUSIVE, evidence=(str(why),))
    return replace(result, remedy=why.remedy, reason=str(why))


def _finite(value: float) -> float | None:
    """JSON has no infinity, and a limit that does not exist is no number."""
    return float(value) if math.isfinite(value) else None
