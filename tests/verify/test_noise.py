"""Verdicts on latency next to bad neighbours: right, or INCONCLUSIVE, and wrong no more often than stated."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from noisy_machine import NEIGHBOURS, NoisyMachine, judged, kept

from madx.recipe import LatencyConfig
from madx.stats import hodges_lehmann
from madx.verify import Latency, Outcome, measure_latency
from madx.verify.latency import Timed
from madx.verify.noise import disturbed, ratio_limits, undisturbed

BOUND = 1.5
STRANGE = ("the whole run, on the reference alone",)
"""Neighbours without whom nothing was measured: there is nothing to compare with."""


NONE = np.zeros(4)
"""No spikes."""


def series(*values):
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("machine", "flagged"),
    [
        ({}, []),
        ({"load": series(0, 9, 9, 9), "others": series(0, 1, 1, 1)}, []),  # load that does not touch us is no harm
        ({"waiting": series(0.001, 0.02, 0.03, 0.4)}, [3]),
        ({"waiting": series(0.04, 0.05, 0.06, 0.5)}, [3]),  # waking up costs more on this machine
        ({"waiting": series(0.5, 0.5, 0.5, 0.5)}, [0, 1, 2, 3]),  # a neighbour all along is no norm
        ({"steal": series(0.0, 0.01, 0.2, 0.0)}, [2]),
        ({"cpu_mhz": series(3000, 2900, 2500, 3100)}, [2]),
        ({"gpu_mhz": series(1900, 1900, 1900, 1100)}, [3]),
        ({"cpu_celsius": series(60, 62, 75, 61)}, [2]),
        ({"gpu_celsius": series(60, math.nan, 75, 61)}, [2]),  # what did not answer flags nothing
        ({"steal": series(0.2, 0, 0, 0), "waiting": series(0, 0, 0, 0.2)}, [0, 3]),
    ],
)
def test_what_flags_a_pair(machine, flagged):
    assert np.flatnonzero(~undisturbed(machine, NONE)).tolist() == flagged
    hits = np.any(list(disturbed(machine, NONE).values()) or [np.zeros(4, bool)], axis=0)
    assert np.flatnonzero(hits).tolist() == flagged


@pytest.mark.parametrize(
    ("spike", "hit", "flagged"),
    [
        (1.0, 0, False),  # quiet
        (100.0, 1, False),  # one call in twenty was interrupted: the medians are what they were
        (2.0, 20, True),  # all were slowed alike: no call stands out, and the medians are of another machine
        (2.0, 15, True),
    ],
)
def test_waiting_counts_where_it_is_in_the_medians(spike, hit, flagged):
    """Pair 3 of 8: `hit` of the twenty calls of each block take `spike` times as long, and wait so much longer."""
    calls = np.ones((8, 2, 20), dtype=np.float32)
    calls[3, :, :hit] *= spike
    waiting = 1 - 40 / calls.sum(axis=(1, 2))
    sides = dict.fromkeys(("reference", "candidate", "control_a", "control_b"), calls)
    value = Latency(batch=1, timing="", order=("ABBA",) * 8, machine={"waiting": waiting}, facts={}, **sides)
    assert (~undisturbed(value.machine, value.spikes)).tolist() == [flagged and pair == 3 for pair in range(8)]


def test_limits_are_those_of_the_signed_ranks_and_only_ever_wider():
    generator = np.random.default_rng(0)
    values, everything, one = generator.normal(0.4, 0.05, 60), np.ones(60, dtype=bool), np.zeros(60, dtype=int)
    plain = hodges_lehmann(values, 0.95)
    assert ratio_limits(values, everything, one, confidence=0.95) == plain
    assert ratio_limits(values, ~everything, one, confidence=0.95) == plain, "no pair is left to compare with"
    for _ in range(20):
        calm = generator.random(60) < 0.7
        estimate, lower, upper = ratio_limits(values, calm, one, confidence=0.95)
        assert (estimate, lower <= plain[1], upper >= plain[2]) == (plain[0], True, True)
        alone = hodges_lehmann(values[calm], 0.95)
        assert lower <= alone[1] <= alone[2] <= upper


@pytest.mark.parametrize("neighbour", NEIGHBOURS)
@pytest.mark.parametrize("truth", [1.35, 1.65])
def test_no_neighbour_makes_a_verdict_wrong(neighbour, truth):
    wrong = Outcome.PASS if truth < BOUND else Outcome.FAIL
    outcomes = [
        judged(NoisyMachine(seed, **NEIGHBOURS[neighbour]).measure(truth, seed=seed), "speedup", BOUND)
        for seed in range(4)
    ]
    assert wrong not in outcomes
    if neighbour == "quiet":
        assert Outcome.INCONCLUSIVE not in outcomes
    if neighbour in STRANGE:
        assert set(outcomes) == {Outcome.INCONCLUSIVE}


@pytest.mark.slow
@pytest.mark.parametrize("neighbour", NEIGHBOURS)
def test_error_rates_with_the_truth_on_the_bound(neighbour):
    """A truth on the bound may pass, and may fail, in 5 % of 300 measurements each, and three standard errors."""
    outcomes = [
        judged(NoisyMachine(seed, **NEIGHBOURS[neighbour]).measure(BOUND, seed=seed), "speedup", BOUND)
        for seed in range(1000, 1300)
    ]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300)
    for outcome in (Outcome.PASS, Outcome.FAIL):
        assert outcomes.count(outcome) / 300 <= most, outcome


@pytest.mark.slow
def test_a_neighbour_that_sensors_cannot_see_is_why_they_are_read():
    """The known-bad twin: a neighbour that costs the reference alone, all the time, where nothing tells of it."""
    blind = {**NEIGHBOURS["the whole run, on the reference alone"], "sensors": False}
    seen = {**blind, "sensors": True}
    passes = {
        name: [
            judged(NoisyMachine(seed, **machine).measure(BOUND, seed=seed), "speedup", BOUND) for seed in range(15)
        ].count(Outcome.PASS)
        for name, machine in (("blind", blind), ("seen", seen))
    }
    assert passes["blind"] >= 2 > passes["seen"], passes


@pytest.mark.parametrize("neighbour", ["quiet", "heavy-tailed", "short bursts", "a rare burst of many pairs"])
@pytest.mark.parametrize("truth", [0.5, 1.5])
def test_no_neighbour_makes_a_verdict_on_the_tail_wrong(neighbour, truth):
    wrong = Outcome.FAIL if truth < 1 else Outcome.PASS
    for seed in range(3):
        machine = NoisyMachine(seed, **NEIGHBOURS[neighbour])
        latency = machine.measure(1 / truth, seed=seed, block_calls=20, tails=True, seconds=10)
        outcome = judged(latency, "p99_ratio", 1.0)
        assert outcome is not wrong
        if neighbour == "quiet":
            assert outcome is not Outcome.INCONCLUSIVE


@pytest.mark.slow
@pytest.mark.parametrize("neighbour", ["quiet", "heavy-tailed", "short bursts", "bursts of many pairs", "wandering"])
@pytest.mark.parametrize("tails", [False, True])
def test_error_rates_of_the_tail_with_the_truth_on_the_bound(neighbour, tails):
    outcomes = [
        judged(
            NoisyMachine(seed, **NEIGHBOURS[neighbour]).measure(2.0, seed=seed, block_calls=20, tails=tails, seconds=5),
            "p99_ratio",
            0.5,
        )
        for seed in range(100)
    ]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / 100)
    for outcome in (Outcome.PASS, Outcome.FAIL):
        assert outcomes.count(outcome) / 100 <= most, outcome


def test_a_tail_that_a_neighbour_made_is_not_judged():
    """Turns of a neighbour that interrupt a call in fifty leave the medians alone, and are all that the tail is."""
    seconds = np.full((60, 2, 40), 1e-3)
    seconds *= 1 + 1e-4 * np.random.default_rng(0).random(seconds.shape)
    seconds.reshape(60, -1)[:, ::50] += 10e-3
    slow, fast = seconds.astype(np.float32), (seconds - 0.5e-3).astype(np.float32)
    sides = {"reference": slow, "candidate": fast, "control_a": slow, "control_b": slow}
    waiting = np.full(60, 2 * 10e-3 / (2 * 10e-3 + 80e-3))
    for machine, tail in (({}, Outcome.FAIL), ({"waiting": waiting}, Outcome.INCONCLUSIVE)):
        latency = Latency(batch=1, timing="", order=("ABBA",) * 60, machine=machine, facts={}, **sides)
        assert judged(latency, "p99_ratio", 0.75) is tail
        assert judged(latency, "speedup", BOUND) is Outcome.PASS


def test_a_tail_that_the_calls_do_not_carry_is_not_judged():
    latency = NoisyMachine(0).measure(2.0, seed=0, block_calls=5)
    assert latency.reference.size < 662
    assert judged(latency, "p99_ratio", 0.9) is Outcome.INCONCLUSIVE


def work(loops):
    """Really spends the time that so many additions take, and says how long that was."""

    def run(_number=0):
        started, total = time.perf_counter(), 0
        for number in range(loops):
            total += number
        return time.perf_counter() - started

    return run


@pytest.mark.parametrize("burning", ["part", "whole"])
@pytest.mark.parametrize(("loops", "wrong"), [(6000, Outcome.FAIL), (10_500, Outcome.PASS)], ids=["2x", "1.14x"])
def test_a_real_neighbour_on_our_core_makes_no_verdict_wrong(burning, loops, wrong):
    """A process that spins on the same core, for the whole measurement or for a part of it."""
    script = "import time\ntime.sleep(0.2)\nwhile True: pass" if burning == "part" else "while True: pass"
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    neighbour = subprocess.Popen([sys.executable, "-c", script])
    try:
        config = LatencyConfig(pairs=30, block_calls=5, seconds=1.5)
        sides = kept(work(12_000)), kept(work(loops))
        value = measure_latency(*sides, config=config, seed=0, timed=Timed("additions"))
    finally:
        neighbour.kill()
        neighbour.wait()
        os.sched_setaffinity(0, allowed)
    assert judged(value, "speedup", BOUND) is not wrong
    if burning == "whole" and Path("/proc/self/schedstat").exists():
        assert np.median(value.machine["waiting"]) > 0.1
