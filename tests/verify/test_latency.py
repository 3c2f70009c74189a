"""The timing protocol on a simulated machine: its clock is a number, its noise has a seed, nothing is really timed."""

import gc
import math

import numpy as np
import pytest
from noisy_machine import kept

from madx.errors import EngineError
from madx.recipe import LatencyConfig
from madx.sensors import Watch
from madx.stats import hodges_lehmann
from madx.verify import measure_latency, sampling
from madx.verify.latency import LOADS, Timed
from madx.verify.timings import block_medians

ROUNDING = 1e-6
"""Of seconds that are kept in single precision."""


class Machine:
    """Calls take time, with noise that lasts, a drift and outliers; the clock stands still between calls."""

    def __init__(self, seed=0, *, noise=0.02, drift=0.0, outliers=0.0):
        self.now, self.calls, self.names = 0.0, 0, []
        self.rng = np.random.default_rng(seed)
        self.noise, self.drift, self.outliers = noise, drift, outliers
        self.weather = 0.0

    def timer(self, seconds, name=""):
        def run(_number=0):
            self.calls += 1
            self.names.append(name)
            self.weather = 0.99 * self.weather + self.rng.normal(0, self.noise / 10)  # autocorrelated
            slow = 1 + self.drift * self.now + abs(self.rng.normal(0, self.noise)) + self.weather
            if self.rng.random() < self.outliers:
                slow *= 20
            took = seconds * max(slow, 0.1)
            self.now += took
            return took

        return run

    def measure(self, reference=1e-3, candidate=5e-4, seed=1, **config):
        return measure_latency(
            kept(self.timer(reference, "A")),
            kept(self.timer(candidate, "B")),
            config=LatencyConfig(**{"pairs": 30, "block_calls": 5, "seconds": 5} | config),
            seed=seed,
            timed=Timed("simulated"),
            watch=Watch(clock=lambda: self.now),
        )


@pytest.mark.parametrize(
    "machine",
    [
        {"noise": 0.0},
        {"noise": 0.05},
        {"noise": 0.02, "drift": 0.2},
        {"noise": 0.02, "outliers": 0.05},
        {"noise": 0.05, "drift": 0.5, "outliers": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("speedup", [0.8, 1.0, 1.7])
def test_the_true_speedup_is_found(machine, speedup):
    value = Machine(**machine).measure(candidate=1e-3 / speedup)
    estimate, lower, upper = (math.exp(x) for x in hodges_lehmann(value.log_ratios, 0.999))
    assert lower <= speedup * (1 + ROUNDING)
    assert upper >= speedup * (1 - ROUNDING)
    assert estimate == pytest.approx(speedup, rel=0.03)
    _, lower, upper = hodges_lehmann(value.control_log_ratios, 0.999)
    assert lower <= ROUNDING
    assert upper >= -ROUNDING


def test_a_linear_drift_cancels_where_plain_alternation_would_not():
    machine = Machine(noise=0.0, drift=5.0)
    value = machine.measure(candidate=1e-3, pairs=60)
    as_alternation = np.log(block_medians(value.control_a) / block_medians(value.control_b))[:, 0]
    assert np.abs(value.log_ratios).max() < 0.1 * np.abs(as_alternation).max()


def test_blocks_follow_the_schedule_that_is_recorded():
    machine = Machine()
    value = machine.measure(pairs=30, seconds=1e-3)
    blocks = ["".join(machine.names[i : i + 5]) for i in range(0, len(machine.names), 5)]
    assert all(block in ("AAAAA", "BBBBB") for block in blocks)
    letters = "".join(block[0] for block in blocks)
    each, warming = 30 // LOADS, "ABA" * 2
    ordered = [value.order[start : start + each] for start in range(0, 30, each)]
    letters = letters[len(letters) - 8 * 30 - len(warming) * (len(ordered) - 1) :]  # the first load's warm-up is before
    for orders in ordered:
        for order in orders:
            eight, letters = letters[:8], letters[8:]
            assert eight in (order + "AAAA", "AAAA" + order)
        warmed, letters = letters[: len(warming)], letters[len(warming) :]
        assert warmed in (warming, "")
    assert set(value.order) == {"ABBA", "BAAB"}


def test_warm_up_is_not_recorded():
    class Cold(Machine):
        def timer(self, seconds, name=""):
            warm, cold = super().timer(seconds, name), super().timer(100 * seconds, name)
            left = [8]

            def run(_number=0):
                left[0] -= 1
                return cold() if left[0] >= 0 else warm()

            return run

    value = Cold(noise=0.0).measure()
    assert value.reference.max() < 2e-3


def test_the_seed_decides_the_order_and_nothing_else_does():
    orders = [Machine(noise=noise).measure(seed=seed).order[:30] for seed, noise in ((1, 0.0), (1, 0.05), (2, 0.0))]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(
    ("machine", "config", "expected"),
    [
        ({"noise": 0.0}, {"seconds": 100}, lambda pairs: pairs == 30),  # tight at once
        ({"noise": 0.3}, {"seconds": 1e-3}, lambda pairs: pairs == 30),  # the budget is gone, the minimum stays
        ({"noise": 0.3}, {"seconds": 4}, lambda pairs: 60 < pairs < 200),  # the budget ends it
        ({"noise": 0.3}, {"seconds": 1e3}, lambda pairs: 30 < pairs < 2000),  # tightness ends it
    ],
    ids=["tight", "minimum", "budget", "narrowed"],
)
def test_when_sampling_ends(machine, config, expected):
    candidate = 1e-3 / 1.2
    value = Machine(**machine).measure(candidate=candidate, **config)
    assert expected(len(value.order)), len(value.order)


def test_sampling_ends_at_the_most_pairs(monkeypatch):
    monkeypatch.setattr(sampling, "MAX_PAIRS", 50)
    assert len(Machine(noise=3.0).measure(seconds=1e3, candidate=1e-3).order) == 50


@pytest.mark.slow
def test_stopping_on_the_width_does_not_spoil_the_coverage():
    """Sequential stopping may cost a little coverage, not more than the noise of 60 measurements shows."""
    limits = []
    for seed in range(60):
        value = Machine(seed, noise=0.2).measure(candidate=1e-3 / 1.3, seconds=1e3, seed=seed)
        limits.append(hodges_lehmann(value.log_ratios, 0.95)[1:])
    lower, upper = np.array(limits).T
    truth = math.log(1.3)
    for covered in ((lower <= truth).mean(), (upper >= truth).mean()):
        assert covered >= 0.88  # 0.95 less 2.5 standard errors of 60 measurements


def test_garbage_collection_is_off_while_timing_and_on_again_after():
    states = []

    def timer(_number):
        states.append(gc.isenabled())
        if len(states) == 700:
            raise EngineError("the engine broke in the middle")
        return 1e-3

    with pytest.raises(EngineError, match="broke"):
        measure_latency(
            kept(timer),
            kept(timer),
            config=LatencyConfig(),
            seed=0,
            timed=Timed(""),
            watch=Watch(clock=lambda: 0.0 if len(states) < 200 else 99),
        )
    assert set(states) == {False}
    assert gc.isenabled()


@pytest.mark.parametrize("seconds", [0.0, -1.0, math.nan, math.inf])
def test_a_timer_that_returns_no_time_is_refused(seconds):
    with pytest.raises(EngineError, match="positive number"):
        measure_latency(
            kept(lambda _: seconds),
            kept(lambda _: 1.0),
            config=LatencyConfig(),
            seed=0,
            timed=Timed(""),
            watch=Watch(clock=lambda: 0.0),
        )


def test_facts_of_the_machine_are_kept():
    machine = Machine()
    value = measure_latency(
        kept(machine.timer(1e-3)),
        kept(machine.timer(1e-3)),
        config=LatencyConfig(pairs=30, block_calls=5, seconds=0.1, batch=4),
        seed=0,
        timed=Timed("host call"),
        watch=Watch(clock=lambda: machine.now),
    )
    assert (value.batch, value.timing, value.calls) == (4, "host call", 5)
    assert value.facts["machine"]["cpus"] >= 1


def test_the_machine_is_read_once_for_each_pair_and_gaps_stay_gaps():
    machine, readings = Machine(), []

    def read():
        readings.append(len(readings))
        return {"load": float(len(readings))} | ({"cpu_mhz": 2600.0} if len(readings) % 2 else {})

    config = LatencyConfig(pairs=30, block_calls=5, seconds=0.01)
    timers = kept(machine.timer(1e-3)), kept(machine.timer(5e-4))
    watch = Watch(clock=lambda: machine.now, read=read)
    value = measure_latency(*timers, config=config, seed=0, timed=Timed(""), watch=watch)
    each = 30 // LOADS
    expected = [2 + pair + pair // each for pair in range(30)]  # the first reading of a load only starts the shares
    assert value.machine["load"].tolist() == expected
    assert np.isnan(value.machine["cpu_mhz"]).tolist() == [number % 2 == 0 for number in expected]
    assert set(value.machine) == {"load", "cpu_mhz"}


def test_every_call_is_kept_in_its_place():
    machine, taken = Machine(), []

    def recorded(timer):
        def run(number):
            taken.append(timer(number))
            return taken[-1]

        return run

    config = LatencyConfig(pairs=30, block_calls=5, seconds=0.01)
    timers = kept(recorded(machine.timer(1e-3))), kept(recorded(machine.timer(5e-4)))
    value = measure_latency(*timers, config=config, seed=0, timed=Timed(""), watch=Watch(clock=lambda: machine.now))
    assert {calls.shape for calls in value.all_calls} == {(30, 2, 5)}
    loads = np.array(taken, dtype=np.float32).reshape(10, -1)[:, 2 * 3 * 5 :]  # each warms up with two blocks of each
    assert sorted(np.concatenate(value.all_calls, axis=None)) == sorted(loads.ravel())
    for pair, blocks in enumerate(loads.reshape(30, 8, 5)):
        for calls in value.all_calls:
            for block in calls[pair]:
                assert (blocks == block).all(axis=1).sum() == 1
