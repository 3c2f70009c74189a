"""What neighbours and a hypervisor take costs margin, and not the verdict; and when the CPU's clock is not believed."""

import math
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from noisy_machine import NoisyMachine, judged

from madx.clocks import FINE, CallTime, clocked, cpu_clock_is_fine, step
from madx.recipe import GateConfig
from madx.verify import Outcome
from madx.verify.noise import ratio_limits
from madx.verify.remedies import Remedy
from madx.verify.speed import speedup
from madx.verify.speed_limits import clock_limits, cpu_clock, speedup_limits, stolen_margin, wall_clock

BOUND = 1.5
SHARED = {"turns": (3e-3, 6e-3), "taker": "neighbours"}
"""Four busy processes on two cores: two thirds of the time belongs to others."""


def stolen(share, turn=5e-3, **more):
    return {"turns": (turn * (1 - share) / share, turn), "taker": "hypervisor", **more}


def times(latency, clock):
    return math.exp(clock_limits(latency, clock, 0.95)[0])


def found(latency, bound=BOUND):
    return speedup(SimpleNamespace(latency=latency), GateConfig(metric="speedup", at_least=bound))


def spin(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.skipif(not cpu_clock_is_fine(), reason="this system counts CPU time in coarse steps")
def test_the_cpu_clock_stands_still_while_nothing_runs():
    asleep, busy = (clocked(call, one_thread=True) for call in (lambda: time.sleep(0.03), lambda: spin(0.03)))
    assert asleep.seconds >= 0.03 > 10 * asleep.cpu
    assert 0.03 <= busy.cpu <= 1.1 * busy.seconds
    assert math.isnan(clocked(lambda: None, one_thread=False).cpu)


def test_a_clock_is_as_fine_as_it_moves_and_not_as_it_says():
    readings = iter([0.0] * 5 + [15.6e-3] * 9 + [31.2e-3] * 3)
    assert step(lambda: next(readings)) == pytest.approx(15.6e-3)
    assert 0 < min(step(time.perf_counter) for _ in range(20)) < FINE


@pytest.mark.parametrize("calm", [0, 1, 3, 5])
def test_a_few_undisturbed_pairs_decide_no_more_than_none(calm):
    values = np.random.default_rng(0).normal(1.0, 0.02, 56)
    few = ratio_limits(values, np.arange(56) < calm, np.arange(56) // 7, confidence=0.95)
    assert few == ratio_limits(values, np.zeros(56, dtype=bool), np.arange(56) // 7, confidence=0.95)


@pytest.mark.parametrize("reference", [2e-3, 20e-3], ids=["shorter than a turn", "longer than a turn"])
def test_beside_busy_neighbours_one_thread_is_decided_and_right(reference):
    settings = {"reference": reference, "seconds": 12.0, "pairs": None, "block_calls": None}
    for seed in range(3):
        seen = NoisyMachine(seed, **SHARED, cpu=True).measure(3.8, seed=seed, **settings)
        assert np.median(seen.machine["waiting"]) > 0.5
        assert judged(seen, "speedup", BOUND) is Outcome.PASS
        assert times(seen, cpu_clock(seen)) == pytest.approx(3.8, rel=0.03)
        assert found(seen).estimate == pytest.approx(3.8, rel=0.03), "the wall clock was not alone"
        assert any("by CPU time: the more cautious limits decide" in sentence for sentence in found(seen).evidence)
        blind = replace(seen, cpu=None)
        assert judged(blind, "speedup", BOUND) is Outcome.INCONCLUSIVE


def test_an_engine_of_several_threads_is_told_what_would_decide():
    latency = replace(
        NoisyMachine(0, **SHARED).measure(3.8, seed=0, reference=20e-3),
        facts={"reference": {"intra_op_threads": 2}, "candidate": {"intra_op_threads": 2}},
    )
    assert "threads: 1 in export.engines" in found(latency).void[0]
    assert "threads: 1" not in found(replace(latency, facts={})).void[0]


def test_each_limit_is_the_more_cautious_of_the_two_clocks():
    """Calls of the reference outlast a turn and those of the candidate do not: the wall clock says twice the truth."""
    latency = NoisyMachine(0, **SHARED, cpu=True).measure(3.8, seed=0, reference=8e-3, seconds=5.0)
    wall, cpu = (clock_limits(latency, clock, 0.95) for clock in (wall_clock(latency), cpu_clock(latency)))
    assert wall[0] > cpu[0] + math.log(1.2), "the case can tell"
    assert speedup_limits(latency, 0.95) == (cpu[0], min(wall[1], cpu[1]), max(wall[2], cpu[2]))


@pytest.mark.parametrize(
    "spoiled",
    [
        lambda _, wall: 1.5 * wall,  # several threads ran, or one that goes round in circles
        lambda cpu, wall: np.where(np.arange(wall.shape[-1]) == 0, np.nan, cpu),
        lambda cpu, _: np.zeros_like(cpu),  # counted in steps that are longer than a call
    ],
    ids=["more than the wall's", "not of every call", "zero"],
)
def test_a_cpu_clock_that_makes_no_sense_is_not_believed(spoiled):
    latency = NoisyMachine(0, **SHARED, cpu=True).measure(3.8, seed=0, reference=20e-3)
    assert cpu_clock(latency) is not None
    wall = np.stack(latency.all_calls)
    doubtful = replace(latency, cpu=np.asarray(spoiled(latency.cpu, wall), dtype=np.float32))
    assert cpu_clock(doubtful) is None
    assert judged(doubtful, "speedup", BOUND) is Outcome.INCONCLUSIVE


def test_a_reference_that_only_waits_is_not_slow_by_the_cpu_clock():
    """Sleeping, reading from a disk: nothing that the engine under judgement is faster at."""
    machine = NoisyMachine(0, cpu=True)

    def padded(seconds, name, _timer=machine.timer):
        run = _timer(seconds, name)
        return lambda number=0: CallTime(run(number).seconds + (1e-3 if name == "A" else 0.0), seconds)

    machine.timer = padded
    latency = machine.measure(1.0, seed=0)
    assert times(latency, wall_clock(latency)) == pytest.approx(2.0, rel=0.05)
    assert judged(latency, "speedup", BOUND) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("charged", [False, True])
def test_a_fifth_of_the_time_stolen_costs_margin_and_not_the_verdict(charged):
    for seed in range(3):
        machine = NoisyMachine(seed, **stolen(0.2, charged=charged), cpu=True)
        latency = machine.measure(2.97, seed=seed, reference=2e-3, seconds=3.0, pairs=60)
        assert np.mean(latency.machine["steal"]) == pytest.approx(0.2, abs=0.06)
        result = found(latency)
        assert judged(latency, "speedup", BOUND) is Outcome.PASS
        assert result.lower < 2.97 / 1.4, "what was taken may have made the reference slow"
        assert any("the hypervisor took" in sentence for sentence in result.evidence)
        assert judged(latency, "speedup", 2.8) is Outcome.INCONCLUSIVE
        (advice,) = found(latency, 2.8).advice
        assert "More pairs would not decide it" in advice
        assert advice.remedy is Remedy.QUIETER_MACHINE


def test_of_engines_of_several_threads_stolen_time_says_too_little():
    """A call waits for its slowest thread, so a share of every CPU's time may be several times that of the call's."""
    latency = NoisyMachine(0, **stolen(0.2)).measure(2.97, seed=0, reference=2e-3, seconds=3.0, pairs=60)
    assert judged(latency, "speedup", BOUND) is Outcome.INCONCLUSIVE


@pytest.mark.parametrize("reference", [4e-3, 50e-3])
def test_a_quota_that_ends_in_every_long_call_and_in_no_short_one_passes_nothing(reference):
    """80 ms of its own, 20 ms of others, again and again: the medians are off by more than the fifth that was taken."""
    quota = {"turns": (80e-3, 20e-3), "regular": True, "taker": "hypervisor", "charged": True}
    for seed in range(8):
        latency = NoisyMachine(seed, **quota, cpu=True).measure(1.5, seed=seed, reference=reference, pairs=56)
        assert judged(latency, "speedup", 1.6) is not Outcome.PASS


def test_the_margin_is_that_of_the_pairs_and_not_of_their_mean_share():
    """Three pairs of four lost four fifths of their time, and the median call is one of theirs."""
    latency = NoisyMachine(0, cpu=True).measure(2.0, seed=0, pairs=56)
    uneven = replace(latency, machine={"steal": np.where(np.arange(56) % 4 < 3, 0.8, 0.0)})
    even = replace(latency, machine={"steal": np.full(56, 0.6)})
    assert stolen_margin(uneven) == pytest.approx(math.log1p(2 * 0.75 * 4))
    assert stolen_margin(uneven) > stolen_margin(even) == pytest.approx(math.log1p(2 * 0.6 / 0.4))
    assert stolen_margin(replace(latency, machine={"steal": np.full(56, -0.7)})) == 0, "a counter that fell"
    assert stolen_margin(replace(latency, machine={})) == 0


def test_what_nothing_accounts_for_is_asked_even_where_stolen_time_hit_most_pairs():
    """The CPU's clock fell in a third of the pairs, in which the candidate gained; those without it hold the limit."""
    latency = NoisyMachine(0, cpu=True).measure(1.4, seed=0, pairs=56)
    fell, stolen_there = np.arange(56) % 3 == 0, np.arange(56) % 3 == 1
    gained = latency.candidate * np.where(fell, 0.5, 1.0)[:, None, None].astype(np.float32)
    cpu = np.stack([latency.cpu[0], latency.cpu[1] * (gained / latency.candidate), *latency.cpu[2:]])
    machine = {"cpu_mhz": np.where(fell, 1000.0, 3000.0), "steal": np.where(stolen_there, 0.06, 0.0)}
    hit = replace(latency, candidate=gained, cpu=cpu, machine=machine)
    clock = cpu_clock(hit)
    assert not clock.alone
    assert clock.calm.tolist() == (~fell).tolist()


def test_clocks_on_either_side_of_the_bound_are_not_decided_by_more_pairs():
    latency = NoisyMachine(0, **SHARED, cpu=True).measure(3.8, seed=0, reference=8e-3, seconds=5.0)
    wall, cpu = (math.exp(clock_limits(latency, clock, 0.95)[0]) for clock in (wall_clock(latency), cpu_clock(latency)))
    result = found(latency, (wall + cpu) / 2)
    assert (result.wanted_pairs, result.advice[0].remedy) == (None, Remedy.QUIETER_MACHINE)
    assert "on either side of the bound" in result.advice[0]


def test_a_control_that_more_pairs_would_narrow_sends_nobody_to_another_machine():
    latency = NoisyMachine(0, noise=0.3).measure(1.55, seed=0, pairs=30)
    result = found(latency)
    assert not any("would not decide" in sentence for sentence in result.advice)


NOISES = {
    "neighbours": SHARED,
    **{f"{share:.0%} stolen": stolen(share) for share in (0.05, 0.2, 0.5)},
    "a quota": {"turns": (16e-3, 4e-3), "regular": True, "taker": "hypervisor", "charged": True},
    "20 % stolen and charged": stolen(0.2, charged=True),
    "moods": {"mood": 0.02},
    "loads and neighbours": {**SHARED, "spread": 0.01},
}


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("cpu", [False, True])
def test_error_rates_with_the_truth_on_the_bound(noise, cpu):
    """A truth on the bound may pass, and may fail, in 5 % of the measurements, and three standard errors."""
    runs = 100
    outcomes = [
        judged(
            NoisyMachine(seed, **NOISES[noise], cpu=cpu).measure(BOUND, seed=seed, reference=4e-3, pairs=56),
            "speedup",
            BOUND,
        )
        for seed in range(1000, 1000 + runs)
    ]
    most = 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    for outcome in (Outcome.PASS, Outcome.FAIL):
        assert outcomes.count(outcome) / runs <= most, outcome


@pytest.mark.parametrize("reference", [20e-3, 0.3], ids=["20 ms", "ResNet-50 at batch 8"])
def test_blocks_and_pairs_adapt_to_the_length_of_a_call(reference):
    machine = NoisyMachine(0, noise=0.01, spread=0.01)
    latency = machine.measure(2.0, seed=0, reference=reference, seconds=20.0, pairs=None, block_calls=None)
    assert latency.calls == 2
    assert len(np.unique(latency.loads)) >= 8
    assert len(latency.order) >= 24
    least = 24 * 2 * 2 * 3.5 * reference
    assert machine.now < max(1.2 * 20.0, 1.3 * least)
    assert judged(latency, "speedup", BOUND) is Outcome.PASS


def test_short_calls_have_the_blocks_they_always_had():
    latency = NoisyMachine(0).measure(2.0, seed=0, reference=1e-3, seconds=20.0, pairs=None, block_calls=None)
    assert (latency.calls, len(latency.order)) == (20, 60)
