"""The gate on the p99: its own control, how long it is measured for, and what it says is needed to decide it."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from noisy_machine import NEIGHBOURS, NoisyMachine, judged

from madx.recipe import GateConfig
from madx.stats import planned_images
from madx.verify import Latency, Outcome
from madx.verify.gates import decide
from madx.verify.latency import CONTROL_CONFIDENCE
from madx.verify.p99 import p99_ratio
from madx.verify.speed import speedup
from madx.verify.tails import pairs_advice, pairs_to_carry, pairs_to_decide, tail

TAIL = {"tail": 4.0}
"""Slow calls that a p99 settles on after some thousand calls; those of the neighbours in the table take far more."""
GATE = GateConfig(metric="p99_ratio", at_most=0.9)


def found(latency, bound=0.9):
    return p99_ratio(SimpleNamespace(latency=latency), GATE.model_copy(update={"at_most": bound}))


def lopsided(place, seed=0, pairs=60):
    """Equal engines, and one call in fifty interrupted: only in the place of A, of B, or wherever it strikes."""
    rng = np.random.default_rng(seed)
    sides = {}
    for name, letter in {"reference": "A", "candidate": "B", "control_a": "A", "control_b": "B"}.items():
        seconds = 1e-3 * (1 + 1e-3 * rng.random((pairs, 2, 40)))
        if letter in place:
            seconds += 5e-4 * (rng.random(seconds.shape) < 0.02)
        sides[name] = seconds.astype(np.float32)
    return Latency(batch=1, timing="", order=("ABBA",) * pairs, machine={}, facts={}, **sides)


@pytest.mark.parametrize(("place", "wrong"), [("A", Outcome.PASS), ("B", Outcome.FAIL)])
def test_a_machine_that_favours_one_side_in_the_tail_decides_nothing(place, wrong):
    """The medians and their control see nothing of it; without the tail's own control the verdict would be wrong."""
    latency = lopsided(place)
    result = found(latency)
    assert decide(result.lower, result.upper, bound=0.9, direction="at_most") is wrong
    assert [sentence.partition(":")[0] for sentence in result.void] == ["The A/A control of the p99 does not contain 1"]
    fast = GateConfig(metric="speedup", at_least=1.1)
    assert not any("contain 1" in sentence for sentence in speedup(SimpleNamespace(latency=latency), fast).void)


def test_interruptions_that_strike_anywhere_void_nothing():
    result = found(lopsided("AB"))
    assert result.void == ()
    assert decide(result.lower, result.upper, bound=0.9, direction="at_most") is Outcome.FAIL
    assert any(sentence.startswith("A/A control: the reference's p99 against itself") for sentence in result.evidence)


def test_a_control_that_is_not_carried_leaves_the_gate_undecided():
    latency = lopsided("")
    rare = np.zeros(latency.control_b.shape, dtype=np.float32)
    rare[:2] = 1e-3  # all slow calls in two of sixty pairs: worth few independent ones
    whole = {name: getattr(latency, name) for name in ("reference", "candidate", "control_a")}
    clumped = Latency(
        batch=1, timing="", order=latency.order, machine={}, facts={}, control_b=latency.control_b + rare, **whole
    )
    result = found(clumped)
    assert math.isnan(result.estimate)
    assert "the A/A control" in result.evidence[0]
    assert "would carry it" in result.advice[0]


@pytest.mark.parametrize("neighbour", ["quiet", "heavy-tailed", "short bursts"])
def test_the_control_of_the_tail_is_seldom_wrong(neighbour):
    void = [
        sentence
        for seed in range(6)
        for sentence in found(
            NoisyMachine(seed, **NEIGHBOURS[neighbour], sensors=False).measure(2.0, seed=seed, block_calls=20)
        ).void
        if "of the p99" in sentence
    ]
    assert len(void) <= 1, "promised in one measurement of a hundred at most"


def test_with_a_gate_on_the_tail_sampling_goes_on_until_it_is_carried_and_narrow():
    """The speed-up is known long before the p99."""
    kinds = {}
    for wanted in (False, True):
        machine = NoisyMachine(3, **TAIL)
        kinds[wanted] = machine.measure(2.0, seed=3, tails=wanted, seconds=60.0)
    assert len(kinds[True].order) > 2 * len(kinds[False].order)
    assert kinds[False].reference.size < 662
    ratio, lower, upper = tail(kinds[True].reference, kinds[True].candidate, 0.95).limits
    assert lower < 0.5 < upper
    assert math.log(upper / lower) / 2 <= max(0.03, 0.05 * abs(math.log(ratio)))
    assert judged(kinds[True], "p99_ratio", 0.6) is Outcome.PASS


def test_the_budget_ends_it_all_the_same():
    machine = NoisyMachine(3, **NEIGHBOURS["heavy-tailed"])
    short = machine.measure(2.0, seed=3, tails=True, seconds=1.0)
    assert len(short.order) < 400
    assert machine.now < 1.5


def test_the_plan_is_that_of_a_mean_on_the_log_scale():
    limits = (0.8, 0.72, 0.8 * math.exp(0.1))
    wanted = pairs_to_decide(60, limits, 0.84, alpha=0.05)
    deviation = 0.1 * math.sqrt(60) / 1.6448536
    assert wanted == planned_images(deviation**2, math.log(0.84 / 0.8), alpha=0.05, power=0.8)
    assert wanted > pairs_to_decide(60, limits, 0.88, alpha=0.05) > 60


@pytest.mark.parametrize(
    ("limits", "bound"),
    [((0.8, 0.7, 0.9), 0.8), ((0.8, -math.inf, math.inf), 0.85), ((math.nan, -math.inf, math.inf), 0.85)],
)
def test_where_no_number_can_be_named_none_is(limits, bound):
    assert pairs_to_decide(60, limits, bound, alpha=0.05) is None
    assert "no number of pairs" in pairs_advice(lopsided(""), None, end="decide it")


def test_the_advice_is_what_it_takes():
    """Measured again with as many pairs as were advised, most gates are decided, and the right way."""
    outcomes = []
    for seed in range(6):
        first = NoisyMachine(seed, **TAIL).measure(2.0, seed=seed, block_calls=20)
        limits = tail(first.reference, first.candidate, 0.95).limits
        bound = 0.52
        if decide(*limits[1:], bound=bound, direction="at_most") is not Outcome.INCONCLUSIVE:
            continue
        wanted = min(pairs_to_decide(30, limits, bound, alpha=0.025) or 600, 600)
        again = NoisyMachine(100 + seed, **TAIL)
        outcomes.append(judged(again.measure(2.0, seed=seed, block_calls=20, pairs=wanted), "p99_ratio", bound))
    assert len(outcomes) >= 3, "the case can tell"
    assert outcomes.count(Outcome.PASS) >= len(outcomes) / 2
    assert Outcome.FAIL not in outcomes


def test_more_pairs_than_can_be_compared_are_asked_for_as_longer_blocks():
    assert "verify.latency: {pairs: 2000, block_calls: 100}" in pairs_advice(lopsided(""), 5000, end="decide it")


def test_pairs_that_would_carry_it_follow_from_what_the_calls_are_worth():
    few = NoisyMachine(0).measure(2.0, seed=0, block_calls=5)
    found_tail = tail(few.reference, few.candidate, 0.95)
    control = tail(few.control_a, few.control_b, CONTROL_CONFIDENCE)
    wanted = pairs_to_carry(len(few.order), found_tail, control)
    assert wanted == math.ceil(30 * 662 / min(one.worth for one in (found_tail.a, found_tail.b, control.a, control.b)))
    assert f"verify.latency: {{pairs: {wanted}}}." in found(few).advice[0]
