"""The gate on measurements made up for the purpose: what must pass, what must fail, and what must not be decided."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from accuracy_cases import compared, sound
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from madx.errors import ArtifactError, ExitCode, MadxError
from madx.recipe import METRICS, GateConfig
from madx.stats import clopper_pearson, drop_interval, hodges_lehmann, tango_interval
from madx.verify import (
    Accuracy,
    EngineParity,
    GateResult,
    Latency,
    Measurements,
    Outcome,
    Parity,
    Sizes,
    Verdict,
    judge,
)
from madx.verify.answers import Answers
from madx.verify.contract import DYNAMIC, ManyAnswers
from madx.verify.gates import decide
from madx.verify.remedies import Remedy

PASS, FAIL, INCONCLUSIVE = Outcome.PASS, Outcome.FAIL, Outcome.INCONCLUSIVE


def bits(n, true):
    return np.arange(n) < true


def accuracy(n=2000, kept=1000, lost=0, gained=0, **rest):
    """`kept` images robust on both engines, `lost` on the reference only, `gained` on the candidate only."""
    rows = np.arange(n)
    reference = rows < kept + lost
    candidate = (rows < kept) | ((rows >= kept + lost) & (rows < kept + lost + gained))
    return compared(reference, candidate, kinds=("white-box", "query"), **rest)


def latency(speedup=2.0, *, noise=0.01, pairs=60, control=1.0, control_noise=None, waiting=0.0):
    rng = np.random.default_rng(0)
    jitter = np.random.default_rng(1)
    quiet = noise if control_noise is None else control_noise

    def blocks(seconds, spread):
        calls = 1 + np.abs(jitter.normal(0, 1e-3, size=(pairs, 2, 20)))
        return (seconds * np.exp(rng.normal(0, spread, size=(pairs, 2, 1))) * calls).astype(np.float32)

    return Latency(
        batch=1,
        timing="simulated",
        order=("ABBA",) * pairs,
        reference=blocks(1e-3, noise),
        candidate=blocks(1e-3 / speedup, noise),
        control_a=blocks(1e-3, quiet),
        control_b=blocks(1e-3 / control, quiet),
        machine={"waiting": np.full(pairs, waiting)},
        facts={},
    )


def parity(flips=0, n=500, violations=()):
    none = np.zeros(n, dtype=bool)
    return EngineParity(bits(n, flips), none, none, np.zeros(n), np.zeros(n), violations)


def measured(engine="ort-cpu-fp32", **fields):
    parts = {
        "accuracy": accuracy(),
        "latency": latency(),
        "parity": Parity(reference=parity(), candidate=parity()),
        "soundness": sound(),
        "sizes": Sizes(reference=1000, candidate=400),
    }
    return Measurements(engine=engine, **(parts | fields))


def gate(metric, bound, confidence=0.95):
    lower = metric in ("speedup", "robust_accuracy", "clean_accuracy", "retention")
    return GateConfig(metric=metric, confidence=confidence, **{"at_least" if lower else "at_most": bound})


def result(gate_config, **fields):
    (only,) = judge([measured(**fields)], [gate_config]).gates
    return only


CASES = [
    # metric, bound, what was measured, outcome, a word of the evidence
    ("speedup", 1.5, {"latency": latency(2.0)}, PASS, "Hodges-Lehmann over 60"),
    ("speedup", 1.5, {"latency": latency(1.3)}, FAIL, "simulated"),
    ("speedup", 1.5, {"latency": latency(0.8)}, FAIL, "0.80"),  # slower than the reference
    ("speedup", 1.5, {"latency": latency(1.0)}, FAIL, "1.0"),  # no gain at all: the control must still let it fail
    ("speedup", 1.5, {"latency": latency(1.5, noise=0.05, control_noise=0.01)}, INCONCLUSIVE, "decides nothing"),
    # what the control leaves open, or proves, is margin that a verdict must do without
    ("speedup", 1.5, {"latency": latency(2.0, control_noise=0.5)}, PASS, "the A/A control leaves open"),
    ("speedup", 1.5, {"latency": latency(2.0, control_noise=2.0)}, INCONCLUSIVE, "the A/A control leaves open"),
    ("speedup", 1.5, {"latency": latency(2.0, control=1.05)}, PASS, "5.3% in favour of the candidate"),
    ("speedup", 1.5, {"latency": latency(1.53, control=1.05)}, INCONCLUSIVE, "decides nothing"),
    ("speedup", 1.5, {"latency": latency(3.0, control=1.6)}, INCONCLUSIVE, "does not contain 1"),
    # so many quiet blocks that the control's tiny bias is significant, and far too small to move the verdict
    ("speedup", 1.5, {"latency": latency(2.0, control=1.002, noise=0.002, pairs=900)}, PASS, "2.0"),
    (
        "speedup",
        1.5,
        {"latency": latency(1.0, control=1.3)},
        FAIL,
        "in favour of the candidate and 0.0%",
    ),  # it favoured the candidate
    ("speedup", 1.5, {"latency": latency(1.45, control=0.95)}, INCONCLUSIVE, "decides nothing"),
    ("speedup", 1.02, {"latency": latency(1.04, noise=0.005, control_noise=0.2)}, INCONCLUSIVE, "decides nothing"),
    ("speedup", 1.5, {"latency": latency(2.0, pairs=3)}, INCONCLUSIVE, ": anything, so few"),
    ("speedup", 1.5, {"latency": latency(2.0, waiting=0.4)}, INCONCLUSIVE, "disturbed in 60 of 60 pairs"),
    ("speedup", 1.5, {"latency": latency(1.3, waiting=0.4)}, INCONCLUSIVE, "Quieten the machine"),
    ("p99_ratio", 0.8, {"latency": latency(2.0, noise=1e-4)}, PASS, "order statistics of both"),
    ("p99_ratio", 0.8, {"latency": latency(0.8, noise=1e-4)}, FAIL, "1.2"),
    ("p99_ratio", 0.5, {"latency": latency(2.0, noise=1e-4)}, INCONCLUSIVE, "more than were timed, would decide it"),
    ("p99_ratio", 0.8, {"latency": latency(2.0, noise=1e-4, control=1.02)}, INCONCLUSIVE, "does not contain 1"),
    ("p99_ratio", 0.8, {"latency": latency(0.8, noise=1e-4, control=0.98)}, INCONCLUSIVE, "favours one side"),
    ("p99_ratio", 0.8, {"latency": latency(2.0, pairs=12)}, INCONCLUSIVE, "a p99 needs 662"),
    ("p99_ratio", 0.8, {"latency": latency(2.0, pairs=3)}, INCONCLUSIVE, "many times as many"),
    ("p99_ratio", 0.8, {"latency": latency(2.0, noise=1e-4, waiting=0.4)}, INCONCLUSIVE, "disturbed in 60"),
    ("robust_drop", 0.03, {"accuracy": accuracy(lost=30, gained=20)}, PASS, "30 lost, 20 gained"),
    ("robust_drop", 0.03, {"accuracy": accuracy(lost=120, gained=20)}, FAIL, "5.00 points"),
    ("robust_drop", 0.03, {"accuracy": accuracy(lost=70, gained=20)}, INCONCLUSIVE, "more than were measured"),
    ("robust_drop", 0.03, {"accuracy": accuracy(n=60, kept=30)}, INCONCLUSIVE, "more than were measured"),
    ("robust_drop", 0.03, {"accuracy": accuracy()}, PASS, "0 lost, 0 gained"),  # zero cells
    ("robust_drop", 0.03, {"accuracy": accuracy(lost=60)}, INCONCLUSIVE, "no number of images"),
    ("robust_drop", 0.03, {"accuracy": accuracy(kept=40, lost=5)}, INCONCLUSIVE, "could not fail"),
    ("clean_drop", 0.02, {"accuracy": accuracy(lost=10)}, PASS, "1010 correct"),
    ("clean_drop", 0.02, {"accuracy": accuracy(lost=200)}, FAIL, "200 lost"),
    ("robust_accuracy", 0.45, {"accuracy": accuracy()}, PASS, "1000 of 2000 images (50.00%) robust"),
    ("robust_accuracy", 0.55, {"accuracy": accuracy()}, FAIL, "50.00%"),
    ("robust_accuracy", 0.5, {"accuracy": accuracy()}, INCONCLUSIVE, "no number of images"),
    ("robust_accuracy", 0.51, {"accuracy": accuracy()}, INCONCLUSIVE, "more than were measured"),
    ("clean_accuracy", 0.45, {"accuracy": accuracy()}, PASS, "(50.00%) correct"),
    ("retention", 0.95, {"accuracy": accuracy(lost=30, gained=20)}, PASS, "1030 robust and this one 1020"),
    ("retention", 0.95, {"accuracy": accuracy(lost=120, gained=20)}, FAIL, "91.07% of the robustness kept"),
    ("retention", 0.95, {"accuracy": accuracy(lost=60, gained=20)}, INCONCLUSIVE, "more than were measured"),
    ("retention", 0.95, {"accuracy": accuracy(kept=0)}, INCONCLUSIVE, "robust on no image"),
    ("retention", 0.95, {"accuracy": accuracy(kept=0, gained=900)}, INCONCLUSIVE, "robust on no image"),
    ("retention", 0.95, {"accuracy": accuracy(kept=200)}, INCONCLUSIVE, "nothing to keep"),
    ("worst_class_drop", 0.05, {"accuracy": accuracy(lost=30, gained=20)}, PASS, "Of 10 classes of 200 to 200"),
    ("worst_class_drop", 0.05, {"accuracy": accuracy(lost=300)}, FAIL, "Bonferroni"),
    ("worst_class_drop", 0.05, {"accuracy": accuracy(lost=60)}, INCONCLUSIVE, "the least certain: 200 images"),
    ("worst_class_drop", 0.05, {"accuracy": accuracy(n=200, kept=100)}, INCONCLUSIVE, "more than were measured"),
    ("worst_class_drop", 0.05, {"accuracy": accuracy(kept=0)}, INCONCLUSIVE, "nothing to keep"),
    ("parity_flips", 0.02, {}, PASS, "0 of 500"),
    ("parity_flips", 0.02, {"parity": Parity(parity(), parity(40))}, FAIL, "worse (candidate) engine"),
    ("parity_flips", 0.02, {"parity": Parity(parity(40), parity())}, FAIL, "worse (reference) engine"),
    ("parity_flips", 0.02, {"parity": Parity(parity(0, n=20), parity(0, n=20))}, INCONCLUSIVE, "0 of 20"),
    ("size_ratio", 0.5, {}, PASS, "0.400"),
    ("size_ratio", 0.4, {}, PASS, "0.400"),
    ("size_ratio", 0.39, {}, FAIL, "400 bytes against 1,000"),
]


@pytest.mark.parametrize(("metric", "bound", "fields", "outcome", "word"), CASES)
def test_outcome_and_evidence(metric, bound, fields, outcome, word):
    judged = result(gate(metric, bound), **fields)
    assert judged.outcome is outcome, judged
    assert any(word in sentence for sentence in judged.evidence), judged.evidence


OVER_IMAGES = ("robust_drop", "clean_drop", "robust_accuracy", "clean_accuracy", "retention", "worst_class_drop")
GOOD = {"accuracy": accuracy(n=4000, kept=3000)}


def easy(metric):
    return gate(metric, 0.2 if "drop" in metric else 0.5)


@pytest.mark.parametrize("metric", OVER_IMAGES)
def test_images_that_are_no_sample_forbid_a_pass(metric):
    assert result(easy(metric), **GOOD).outcome is PASS
    doubted = result(easy(metric), **GOOD, image_doubts=("They are twenty images.",))
    assert (doubted.outcome, doubted.remedy) == (INCONCLUSIVE, Remedy.OTHER_IMAGES)
    assert "They are twenty images." in doubted.evidence


@pytest.mark.parametrize(("right", "known"), [(150, False), (110, False), (75, True), (0, True)])
def test_an_engine_that_does_far_worse_outside_the_gate_knows_its_images(right, known):
    """It is right on 75 % of the gate's images."""
    outside = np.arange(150) < right
    checks = replace(sound(), elsewhere_clean=outside, elsewhere_robust=outside)
    for metric in OVER_IMAGES:
        assert (result(easy(metric), **GOOD, soundness=checks).outcome is PASS) is not known


@pytest.mark.parametrize(("apart", "passes"), [(0, True), (5, True), (6, False)])
def test_an_engine_whose_logits_are_not_its_twins_is_another_network(apart, passes):
    """Its labels may agree: what only says which class hides all that attacks climb."""
    other = replace(parity(), apart=np.where(bits(500, apart), 3.0, 0.1))
    for metric in OVER_IMAGES:
        judged = result(easy(metric), **GOOD, parity=Parity(parity(), other))
        assert (judged.outcome is PASS) is passes, metric


def answers(unsteady, n=4000, *, flat=0):
    return Answers(np.zeros(n, dtype=np.int64), np.ones(n, dtype=bool), np.arange(n) < unsteady, np.arange(n) < flat)


@pytest.mark.parametrize(("unsteady", "passes"), [(0, True), (40, True), (41, False), (4000, False)])
def test_an_engine_that_answers_otherwise_as_it_is_served_passes_nothing(unsteady, passes):
    asked = replace(GOOD["accuracy"], answers_candidate=answers(unsteady), answers_reference=answers(0))
    for metric in (*OVER_IMAGES, "speedup"):
        bound = 1.5 if metric == "speedup" else easy(metric).bound
        judged = result(gate(metric, bound), accuracy=asked, latency=latency(2.0))
        assert (judged.outcome is PASS) is passes, metric


@pytest.mark.parametrize(
    ("precision", "cause", "void"),
    [("fp32", "", True), ("int8", "", True), ("fp64", "", False), ("fp64", DYNAMIC, True)],
)
@pytest.mark.parametrize("metric", [*OVER_IMAGES, "speedup"])
def test_differences_that_no_rounding_is_known_for_forbid_a_pass_and_no_fail(metric, precision, cause, void):
    """An engine of numbers without a row that answers otherwise at the served batch, by more than float32 rounds."""
    side = replace(parity(), precision=precision, cause=cause)
    bad = {"accuracy": accuracy(n=4000, kept=100, lost=1500), "latency": latency(1.1)}
    for fields, allowed in ((GOOD, INCONCLUSIVE), (bad, INCONCLUSIVE if void else FAIL)):
        asked = replace(fields["accuracy"], answers_candidate=answers(4000), answers_reference=answers(0))
        known = {"accuracy": asked, "latency": fields.get("latency", latency(2.0)), "parity": Parity(parity(), side)}
        bound = 1.5 if metric == "speedup" else easy(metric).bound
        if fields is bad and metric not in ("robust_drop", "robust_accuracy", "speedup"):
            continue
        assert result(gate(metric, bound), **known).outcome is allowed


@pytest.mark.parametrize("remedy", [Remedy.GIVE_TWIN, Remedy.GIVE_REFERENCE])
def test_a_reference_that_its_numbers_may_slow_down_passes_no_timed_gate(remedy):
    for speed, outcome in ((2.0, INCONCLUSIVE), (1.2, FAIL)):
        told = replace(latency(speed), facts={"doubts": {"The reference computes in fp16.": remedy.value}})
        judged = result(gate("speedup", 1.5), latency=told)
        assert (judged.outcome, judged.remedy is remedy) == (outcome, outcome is INCONCLUSIVE)
        assert "The reference computes in fp16." in judged.evidence


@pytest.mark.parametrize(("flat", "passes"), [(0, True), (40, True), (41, False), (4000, False)])
def test_probabilities_that_are_rounded_to_one_class_pass_no_gate_on_robustness(flat, passes):
    """What asks such an engine sees a plain; how often it is right on clean images is known all the same."""
    asked = replace(GOOD["accuracy"], answers_candidate=answers(0, flat=flat), answers_reference=answers(0))
    for metric in OVER_IMAGES:
        judged = result(easy(metric), accuracy=asked)
        robust = METRICS[metric].on_robustness
        assert (judged.outcome is PASS) is (passes or not robust), metric
        assert passes or not robust or judged.remedy is Remedy.MEND_ENGINE


@pytest.mark.parametrize(("robust", "clean", "passes"), [(1500, 2000, True), (1000, 2000, True), (990, 2000, False)])
def test_nothing_lost_against_a_reference_that_is_hardly_defended_needs_an_absolute_bound(robust, clean, passes):
    n = 2000
    right, stands = np.arange(n) < clean, np.arange(n) < robust
    defended = replace(compared(right, right), standing_reference=stands[None], standing_candidate=stands[None])
    drop, absolute = gate("robust_drop", 0.03), gate("robust_accuracy", 0.4)
    alone = result(drop, accuracy=defended)
    assert (alone.outcome is PASS) is passes
    assert passes or (alone.remedy is Remedy.ROBUST_REFERENCE and "gate on robust_accuracy" in " ".join(alone.evidence))
    assert judge([measured(accuracy=defended)], [drop, absolute]).gates[0].outcome is PASS
    trifle = gate("robust_accuracy", 0.1)
    assert judge([measured(accuracy=defended)], [drop, absolute, trifle]).gates[0].outcome is PASS
    assert judge([measured(accuracy=defended)], [drop, trifle, absolute]).gates[0].outcome is PASS
    assert (judge([measured(accuracy=defended)], [drop, trifle]).gates[0].outcome is PASS) is passes


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_the_numbers_are_those_of_the_statistics(confidence):
    fields = {"accuracy": accuracy(lost=30, gained=20), "latency": latency(1.7)}

    def numbers(metric, bound=0.5):
        judged = result(gate(metric, bound, confidence), **fields)
        assert judged.confidence == confidence
        return judged.lower, judged.estimate, judged.upper

    lower, upper = drop_interval(2000, 30, 20, confidence=confidence)
    assert numbers("robust_drop", 0.03) == numbers("clean_drop", 0.03) == (lower, 10 / 2000, upper)
    lower, upper = clopper_pearson(1020, 2000, confidence=confidence)
    assert numbers("robust_accuracy") == numbers("clean_accuracy") == (lower, 0.51, upper)
    estimate, lower, upper = hodges_lehmann(fields["latency"].log_ratios, confidence)
    assert numbers("speedup") == pytest.approx(np.exp([lower, estimate, upper]))


@pytest.mark.parametrize("bound", [1.5, 6.0])
@pytest.mark.parametrize(
    ("control", "noise", "widened"),
    [
        (1.05, 0.01, (True, False)),  # it favoured the candidate: only what is claimed for it is less
        (0.95, 0.01, (False, True)),
        (1.0, 0.9, (True, True)),  # it is too blunt to tell
        (1.0, 0.01, (False, False)),
    ],
)
def test_what_the_control_shows_or_leaves_open_is_taken_off_the_limits(control, noise, widened, bound):
    """Shown: as far as its limits reach. Left open: what an eighth of the gain at stake does not cover."""
    timed = latency(2.0, control=control, control_noise=noise)
    estimate, lower, upper = hodges_lehmann(timed.log_ratios, 0.95)
    _, least, most = hodges_lehmann(timed.control_log_ratios, 0.995)
    covered = 0.0 if least > 0 or most < 0 else max(estimate, math.log(bound)) / 8
    below, above = max(most - covered, 0.0), max(-least - covered, 0.0)
    assert (below > 0, above > 0) == widened
    judged = result(gate("speedup", bound), latency=timed)
    assert (judged.lower, judged.upper) == pytest.approx((math.exp(lower - below), math.exp(upper + above)), rel=1e-3)


def test_the_advice_on_images_is_honest():
    """Measured again at the advised size with the same rates, the gate decides in about 80 % of draws."""
    judged = result(gate("robust_drop", 0.03), accuracy=accuracy(n=1000, kept=500, lost=30, gained=10))
    (advice,) = [sentence for sentence in judged.evidence if "more than were measured" in sentence]
    n = int(advice.split("about ")[1].split(" images")[0])
    draws = np.random.default_rng(1).multinomial(n, [0.03, 0.01, 0.96], size=400)
    decided = np.mean([tango_interval(n, int(b), int(c), confidence=0.95)[1] <= 0.03 for b, c, _ in draws])
    assert decided == pytest.approx(0.8, abs=0.08)


@given(st.floats(-1, 2), st.floats(-1, 2), st.floats(-1, 2), st.sampled_from(["at_least", "at_most"]))
def test_deciding_is_three_valued_and_mirrors(one, other, bound, direction):
    lower, upper = sorted((one, other))
    outcome = decide(lower, upper, bound=bound, direction=direction)
    mirrored = decide(-upper, -lower, bound=-bound, direction="at_most" if direction == "at_least" else "at_least")
    assert outcome is mirrored
    if lower < bound < upper:
        assert outcome is INCONCLUSIVE


@pytest.mark.parametrize(
    ("lower", "upper", "at_least", "at_most"),
    [
        (0.5, 0.7, PASS, INCONCLUSIVE),  # a limit on the bound keeps it ...
        (0.3, 0.5, INCONCLUSIVE, PASS),
        (0.5, 0.5, PASS, PASS),
        (0.51, 0.7, PASS, FAIL),
        (0.3, 0.49, FAIL, PASS),  # ... and only one beyond it breaks it
        (0.3, 0.7, INCONCLUSIVE, INCONCLUSIVE),
        (-math.inf, math.inf, INCONCLUSIVE, INCONCLUSIVE),
        (math.nan, math.nan, INCONCLUSIVE, INCONCLUSIVE),  # a number that is none decides nothing
    ],
)
def test_a_limit_on_the_bound_itself_is_on_its_right_side(lower, upper, at_least, at_most):
    assert decide(lower, upper, bound=0.5, direction="at_least") is at_least
    assert decide(lower, upper, bound=0.5, direction="at_most") is at_most


def test_a_gate_that_names_no_confidence_errs_once_in_twenty():
    """By the definition of the limits, and not by the number that the recipe holds."""
    judged = judge([measured()], [GateConfig(metric="robust_accuracy", at_least=0.4)]).gates[0]
    assert binom.sf(999, 2000, judged.lower) == pytest.approx(0.05)
    assert binom.cdf(1000, 2000, judged.upper) == pytest.approx(0.05)
    assert judged.confidence == 0.95


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize(
    "metric",
    ["robust_drop", "robust_accuracy", "clean_drop", "clean_accuracy", "retention", "worst_class_drop", "speedup"],
)
def test_a_broken_contract_keeps_gates_from_passing(side, metric):
    """The reference's is no matter to a gate on the candidate alone; and files may always be counted."""
    sides = {"reference": parity(), "candidate": parity()} | {side: parity(violations=("it looks like softmax",))}
    bound = {"speedup": 1.5}.get(metric, 0.03 if metric.endswith("drop") else 0.4)
    verdict = judge([measured(parity=Parity(**sides))], [gate(metric, bound), gate("size_ratio", 0.5)])
    spared = side == "reference" and metric in ("robust_accuracy", "clean_accuracy")
    assert [judged.outcome for judged in verdict.gates] == [PASS if spared else INCONCLUSIVE, PASS]
    told = f"The {side} engine breaks its contract: it looks like softmax." in verdict.gates[0].evidence
    assert told is not spared
    assert any("softmax" in warning for warning in verdict.warnings)


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("lost", [0, 200])
@pytest.mark.parametrize("metric", ["robust_drop", "robust_accuracy", "clean_drop", "clean_accuracy", "speedup"])
def test_an_engine_with_many_answers_neither_passes_nor_fails(side, lost, metric):
    """Better or worse than the bound: what is measured is not what is served. Bytes stay bytes."""
    many = parity(violations=(ManyAnswers("logits at batch 1 differ"),))
    sides = {"reference": parity(), "candidate": parity()} | {side: many}
    bound = {"speedup": 1.5 if lost == 0 else 30}.get(metric, 0.03 if metric.endswith("drop") else 0.4)
    fields = {"parity": Parity(**sides), "accuracy": accuracy(lost=lost)}
    gates = [gate(metric, bound), gate("size_ratio", 0.5 if lost == 0 else 0.001)]
    judged, counted = judge([measured(**fields)], gates).gates
    plain = judge([measured(accuracy=fields["accuracy"])], gates).gates[0].outcome
    spared = side == "reference" and metric in ("robust_accuracy", "clean_accuracy")
    assert judged.outcome is (plain if spared else INCONCLUSIVE)
    assert counted.outcome is (PASS if lost == 0 else FAIL)
    assert (judged.remedy is Remedy.MEND_ENGINE) is not spared
    told = f"The {side} engine breaks its contract: logits at batch 1 differ." in judged.evidence
    assert told is not spared


@pytest.mark.parametrize(
    ("precision", "flips", "apart", "outcome"),
    [
        ("fp32", 2, 0.5, PASS),
        ("fp32", 4, 0.5, INCONCLUSIVE),  # float32 tips next to none
        ("fp16", 4, 0.5, PASS),
        ("bf16", 4, 0.5, PASS),
        ("fp16", 4, 1.5, INCONCLUSIVE),  # beyond what the precision explains
        ("fp16", 2, 1.5, PASS),
        ("fp16", 20, 0.5, INCONCLUSIVE),  # whatever explains them, it is another classifier
        ("int8", 4, 0.5, PASS),
        ("int8", 4, 1.5, INCONCLUSIVE),
        ("unknown numbers", 4, 0.5, INCONCLUSIVE),  # no room without a row
    ],
)
@pytest.mark.parametrize("metric", ["robust_drop", "clean_accuracy"])
def test_flips_void_a_gate_beyond_what_the_precision_explains(metric, precision, flips, apart, outcome):
    side = parity(flips, n=256)
    off = np.where(side.flips, apart, 0.1)
    strange = Parity(parity(n=256), replace(side, apart=off, precision=precision))
    bound = 0.03 if metric == "robust_drop" else 0.3
    assert result(gate(metric, bound), parity=strange).outcome is outcome


def test_a_broken_contract_saves_no_one_from_failing():
    broken = Parity(reference=parity(), candidate=parity(violations=("it looks like softmax",)))
    judged = result(gate("robust_drop", 0.03), parity=broken, accuracy=accuracy(lost=200))
    assert judged.outcome is FAIL


@pytest.mark.parametrize(
    ("side", "lost", "outcome"),
    [
        ("reference", 200, INCONCLUSIVE),
        ("reference", 35, INCONCLUSIVE),
        ("candidate", 200, FAIL),
        ("candidate", 35, INCONCLUSIVE),
    ],
)
def test_a_reference_that_looks_too_robust_fails_nobody(side, lost, outcome):
    """Attacks that had not finished on it make the loss look larger; on the candidate they make it look smaller."""
    sound_but = replace(sound(), **{f"doubled_{side}": np.arange(300) < 30})
    judged = result(gate("robust_drop", 0.03), soundness=sound_but, accuracy=accuracy(lost=lost))
    assert judged.outcome is outcome
    assert judged.more_images is None or side == "candidate"
    assert any(f"of the {side} engine" in word and "had not finished" in word for word in judged.evidence)


@pytest.mark.parametrize("metric", ["robust_drop", "clean_accuracy"])
@pytest.mark.parametrize(("flips", "outcome"), [(0, PASS), (2, PASS), (30, INCONCLUSIVE), (256, INCONCLUSIVE)])
def test_examples_made_on_a_twin_say_nothing_of_an_engine_that_is_another(metric, flips, outcome):
    bound = 0.03 if metric == "robust_drop" else 0.3
    strange = Parity(reference=parity(n=256), candidate=parity(flips, n=256))
    assert result(gate(metric, bound), parity=strange).outcome is outcome


@pytest.mark.parametrize(("kept", "outcome"), [(1000, PASS), (300, PASS), (200, INCONCLUSIVE), (100, INCONCLUSIVE)])
@pytest.mark.parametrize("metric", ["robust_drop", "clean_drop"])
def test_a_reference_at_chance_has_nothing_to_keep(metric, kept, outcome):
    """Ten classes of equal size: a constant answer is right on 200 of 2,000 images, attack or not."""
    assert result(gate(metric, 0.01), accuracy=accuracy(kept=kept)).outcome is outcome


def test_a_verdict_without_a_gate_on_robustness_says_so():
    assert "says nothing about adversarial examples" in judge([measured()], [gate("size_ratio", 0.9)]).warnings[0]


@pytest.mark.parametrize("metric", ["robust_drop", "robust_accuracy", "retention", "worst_class_drop"])
def test_a_gate_on_robustness_is_one_however_it_is_asked(metric):
    assert judge([measured()], [gate(metric, 0.3)]).warnings == ()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"accuracy": accuracy(lost=5, gained=60)}, "ROSE by 2.75 points"),
        ({"accuracy": accuracy(overrun=np.array([0.5, 0]))}, "left its threat by 0.5 eps"),
        ({"parity": Parity(parity(violations=("it drifts",)), parity())}, "it drifts"),
    ],
)
def test_suspicions_become_warnings(fields, said):
    (warning,) = judge([measured(**fields)], [gate("robust_drop", 0.5)]).warnings
    assert said in warning
    assert warning.startswith("ort-cpu-fp32")


def test_a_clean_measurement_warns_of_nothing():
    assert judge([measured(accuracy=accuracy(lost=20, gained=25))], [gate("robust_drop", 0.03)]).warnings == ()


def test_a_rise_warns_but_does_not_fail():
    assert result(gate("robust_drop", 0.03), accuracy=accuracy(gained=60)).outcome is PASS


def test_a_missing_engine_is_inconclusive_and_says_why():
    gates = [gate("speedup", 1.5), gate("robust_drop", 0.03)]
    verdict = judge([measured()], gates, missing={"tensorrt-fp16": "no NVIDIA GPU"})
    assert (verdict.outcome, verdict.exit_code) == (INCONCLUSIVE, ExitCode.INCONCLUSIVE)
    absent = [judged for judged in verdict.gates if judged.engine == "tensorrt-fp16"]
    assert [(judged.outcome, judged.estimate, judged.lower, judged.upper) for judged in absent] == [
        (INCONCLUSIVE, None, None, None)
    ] * 2
    assert "no NVIDIA GPU" in absent[0].evidence[0]
    assert verdict.warnings == ("tensorrt-fp16 was promised and not measured: no NVIDIA GPU",)


@pytest.mark.parametrize(
    ("speedups", "outcome", "code"),
    [
        ((2.0, 2.0), PASS, ExitCode.PASSED),
        ((2.0, 1.0), FAIL, ExitCode.FAILED),
        ((1.0, None), FAIL, ExitCode.FAILED),  # a failure outweighs what is missing
        ((2.0, None), INCONCLUSIVE, ExitCode.INCONCLUSIVE),
        ((), INCONCLUSIVE, ExitCode.INCONCLUSIVE),  # nothing judged is nothing passed
    ],
)
def test_the_verdict_is_its_worst_gate(speedups, outcome, code):
    present = [measured(engine=f"e{i}", latency=latency(s)) for i, s in enumerate(speedups) if s is not None]
    missing = {f"e{i}": "gone" for i, s in enumerate(speedups) if s is None}
    verdict = judge(present, [gate("speedup", 1.5)], missing=missing)
    assert (verdict.outcome, verdict.exit_code) == (outcome, code)


@pytest.mark.parametrize("gates", [1, 2, 3])
def test_a_failure_outweighs_what_is_undecided_and_that_what_passes_in_any_order(gates):
    one = result(gate("size_ratio", 0.5))
    for outcomes in itertools.product(Outcome, repeat=gates):
        verdict = Verdict(tuple(replace(one, outcome=outcome) for outcome in outcomes))
        code = 1 if FAIL in outcomes else 3 if INCONCLUSIVE in outcomes else 0
        assert (int(verdict.exit_code), verdict.outcome) == (code, {0: PASS, 1: FAIL, 3: INCONCLUSIVE}[code])


def test_an_engine_counts_once():
    with pytest.raises(MadxError, match=r"more than once: \['ort-cpu-fp32'\]"):
        judge([measured()], [gate("speedup", 1.5)], missing={"ort-cpu-fp32": "gone"})


def a_verdict():
    return judge(
        [measured(), measured(engine="other", latency=latency(1.2, pairs=3))],
        [gate("speedup", 1.5), gate("robust_drop", 0.03)],
        missing={"tensorrt-fp16": "no GPU"},
    )


def test_a_verdict_survives_json():
    verdict = a_verdict()
    words = {"PASS": PASS, "FAIL": FAIL, "INCONCLUSIVE": INCONCLUSIVE}
    assert {str(outcome): outcome for outcome in Outcome} == words, "pipelines look for these"
    text = json.dumps(verdict.to_json(), allow_nan=False)
    assert json.loads(text)["schema"] == 3
    assert Verdict.from_json(json.loads(text)) == verdict


def test_a_result_says_by_which_test_and_how_many_images_are_missing():
    undecided = result(gate("robust_drop", 0.03), accuracy=accuracy(n=60, kept=30))
    assert undecided.method.startswith("Tango's score test")
    assert f" {undecided.more_images} more than were measured" in undecided.evidence[-1]
    assert result(gate("robust_drop", 0.03)).more_images is None
    assert result(gate("size_ratio", 0.5)).method == "counted"


def test_an_undecided_gate_says_what_keeps_it_and_what_would_decide_it():
    undecided = result(gate("p99_ratio", 0.5), latency=latency(2.0, noise=1e-4))
    assert (undecided.outcome, undecided.remedy) == (INCONCLUSIVE, Remedy.MORE_TIMING)
    assert undecided.reason == undecided.evidence[-1]
    assert f"about {undecided.wanted_pairs:,} pairs" in undecided.reason
    passed = result(gate("p99_ratio", 0.8), latency=latency(2.0, noise=1e-4))
    assert (passed.remedy, passed.reason, passed.wanted_pairs) == (None, "", None)
    failed = result(gate("robust_drop", 0.03), accuracy=accuracy(lost=200))
    assert (failed.remedy, failed.reason) == (Remedy.RECOVER_ACCURACY, "")
    (absent,) = judge([], [gate("speedup", 1.5)], missing={"tensorrt": "no GPU"}).gates
    assert (absent.remedy, absent.reason) == (Remedy.INSTALL_ENGINE, absent.evidence[0])


def test_what_voids_a_gate_goes_before_what_is_doubted():
    """Two doubts and a void: all are told, the first of the strongest kind is the reason."""
    many = parity(violations=("it drifts", ManyAnswers("logits at batch 1 differ")))
    fields = {"parity": Parity(parity(), many), "image_doubts": ("They are twenty images.",)}
    judged = result(gate("robust_drop", 0.03), **fields)
    drifts, differ = (f"The candidate engine breaks its contract: {word}." for word in many.violations)
    told = [judged.evidence.index(word) for word in (differ, drifts, "They are twenty images.")]
    assert told == sorted(told)
    assert (judged.outcome, judged.reason) == (INCONCLUSIVE, differ)
    assert judged.more_images is None
    doubted = result(gate("robust_drop", 0.03), image_doubts=("They are twenty images.", "They are one film."))
    assert doubted.reason == "They are twenty images."
    assert doubted.evidence[-2:] == ("They are twenty images.", "They are one film.")


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize("metric", [*OVER_IMAGES, "speedup", "size_ratio"])
def test_an_engine_that_answers_otherwise_concerns_the_gates_that_look_at_it(side, metric):
    """A gate on the candidate alone has nothing to do with the reference, and one on bytes with neither."""
    asked = {f"answers_{name}": answers(4000 if name == side else 0) for name in ("reference", "candidate")}
    bound = {"speedup": 1.5, "size_ratio": 0.5}.get(metric) or easy(metric).bound
    judged = result(gate(metric, bound), accuracy=replace(GOOD["accuracy"], **asked), latency=latency(2.0))
    spared = metric == "size_ratio" or (side == "reference" and metric in ("robust_accuracy", "clean_accuracy"))
    assert (judged.outcome is PASS) is spared


@pytest.mark.parametrize(("apart", "passes"), [(1.0, True), (1.01, False)])
def test_what_rounding_explains_to_the_last_bit_is_explained(apart, passes):
    """On every image, and on those whose label it turned."""
    side = replace(parity(3, n=256), apart=np.full(256, apart), precision="fp16")
    for metric in OVER_IMAGES:
        judged = result(easy(metric), **GOOD, parity=Parity(parity(n=256), side))
        assert (judged.outcome is PASS) is passes, metric


def test_label_flips_are_counted_by_a_test_of_one_look_whoever_looks_early():
    config = gate("parity_flips", 0.02)
    (judged,) = judge([measured()], [config], sequential=True).gates
    assert (judged.method, judged.upper) == ("Clopper-Pearson", clopper_pearson(0, 500, confidence=0.95)[1])


def test_numbers_that_are_void_say_what_would_give_others():
    nothing = result(gate("retention", 0.95), accuracy=accuracy(kept=0))
    assert nothing.remedy is Remedy.ROBUST_REFERENCE
    crossed = compared(np.ones(4000, dtype=bool), np.arange(4000) < 2000)
    (contradicting,) = judge([measured(accuracy=crossed)], [gate("robust_drop", 0.03)], sequential=True).gates
    assert (contradicting.outcome, contradicting.remedy) == (INCONCLUSIVE, Remedy.ANOTHER_SEED)
    disturbed = result(gate("speedup", 1.5), latency=latency(2.0, waiting=0.4))
    assert disturbed.remedy is Remedy.QUIETER_MACHINE


@pytest.mark.parametrize("metric", ["robust_drop", "robust_accuracy", "retention"])
def test_who_may_stop_early_pays_with_wider_limits(metric):
    rng = np.random.default_rng(3)
    order = rng.permutation(2000)
    values = accuracy(lost=30, gained=20).to_arrays()
    shuffled = {name: array[..., order] if array.shape[-1] == 2000 else array for name, array in values.items()}
    fields = {"accuracy": Accuracy.from_arrays(shuffled)}
    config = gate(metric, 0.9 if metric == "retention" else 0.1)
    ((once,), (often,)) = (judge([measured(**fields)], [config], sequential=at).gates for at in (False, True))
    assert often.estimate == once.estimate
    assert often.lower < once.lower < once.upper < often.upper
    assert (once.outcome, often.outcome) == (PASS, PASS)
    assert "valid at every look" in often.method
    assert often.method in often.evidence[0]


@pytest.mark.parametrize("metric", ["speedup", "parity_flips", "size_ratio"])
def test_what_nobody_looks_at_early_is_judged_as_ever(metric):
    config = gate(metric, 1.5 if metric == "speedup" else 0.5)
    assert judge([measured()], [config], sequential=True) == judge([measured()], [config])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda content: content.update(schema=4), "schema 4; this madx reads schema 3"),
        (lambda content: content.update(schema=2), "schema 2; this madx reads schema 3"),
        (lambda content: content.pop("schema"), "schema None"),
        (lambda content: content.pop("gates"), "gates"),
        (lambda content: content["gates"][0].pop("bound"), "bound"),
        (lambda content: content["gates"][0].update(outcome="MAYBE"), "MAYBE"),
        (lambda content: content["gates"][0].update(extra=1), "extra"),
        (lambda content: content.update(outcome="PASS"), "edited"),
    ],
)
def test_a_verdict_that_was_not_written_by_us_is_refused(spoil, said):
    content = json.loads(json.dumps(a_verdict().to_json()))
    spoil(content)
    with pytest.raises(ArtifactError, match=said):
        Verdict.from_json(content)


def test_a_limit_that_does_not_exist_is_null():
    judged = result(gate("speedup", 1.5), latency=latency(2.0, pairs=3))
    assert (judged.lower, judged.upper) == (None, None)
    assert judged.estimate is not None
    assert math.isfinite(judged.estimate)
    assert isinstance(judged, GateResult)
