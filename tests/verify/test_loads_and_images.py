"""What is timed is what will be served: many loads, clean and perturbed images, and engines that look at them."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
from noisy_machine import NoisyMachine, judged, kept

from madx.recipe import GateConfig, LatencyConfig
from madx.sensors import Watch
from madx.verify import Latency, Outcome, measure_latency
from madx.verify.image_times import dependence
from madx.verify.latency import LOADS, Timed
from madx.verify.speed import speedup_found
from madx.verify.speed_limits import strata_limits

CLEAN = PERTURBED = 20
BOUND = 1.5


class Loaded(NoisyMachine):
    """Engines whose loads may differ, and whose time may depend on the number of the batch of images."""

    def choosing(self, seconds, name, by_image):
        timers = {}

        def run(number):
            factor = by_image(number)
            timers.setdefault(factor, self.timer(seconds * factor, name))
            return timers[factor](number)

        return run

    def compare(self, speedup, *, seed, by_image=None, pairs=60):
        candidate = self.load(1e-3 / speedup, "B")
        return measure_latency(
            self.load(1e-3, "A"),
            candidate if by_image is None else kept(self.choosing(1e-3 / speedup, "B", by_image)),
            config=LatencyConfig(pairs=pairs, block_calls=6, seconds=1.0),
            seed=seed,
            timed=Timed("simulated", CLEAN, PERTURBED),
            watch=Watch(clock=lambda: self.now, read=self.read),
        )


def found(latency: Latency):
    return speedup_found(latency, GateConfig(metric="speedup", at_least=BOUND))


def test_both_engines_are_shown_the_same_images_and_half_of_them_perturbed():
    shown = {"A": [], "B": []}

    def noting(name):
        def run(number):
            shown[name].append(number)
            return 1e-3

        return lambda: nullcontext(run)

    value = measure_latency(
        noting("A"),
        noting("B"),
        config=LatencyConfig(pairs=30, block_calls=6, seconds=0.01),
        seed=0,
        timed=Timed("", CLEAN, PERTURBED),
        watch=Watch(clock=iter(range(10**6)).__next__),
    )
    assert value.images is not None
    assert (value.perturbed.sum(axis=-1) == 3).all()
    assert set(np.unique(value.images)) == set(range(CLEAN + PERTURBED)), "all of them, sooner or later"
    warm_up = [0] * (2 * value.calls * len(np.unique(value.loads)))
    drawn = value.images.ravel().tolist()
    assert sorted(shown["B"]) == sorted(warm_up + drawn)
    assert sorted(shown["A"]) == sorted(2 * warm_up + 3 * drawn), "the reference, and twice as its own control"


def test_engines_are_loaded_anew_and_the_control_compares_two_loads():
    loads = []

    def loading(name):
        def load():
            loads.append(name)
            return nullcontext(lambda _number: 1e-3)

        return load

    value = measure_latency(
        loading("A"),
        loading("B"),
        config=LatencyConfig(pairs=30, block_calls=5, seconds=0.01),
        seed=0,
        timed=Timed(""),
        watch=Watch(clock=iter(range(10**6)).__next__),
    )
    assert len(np.unique(value.loads)) >= LOADS
    assert loads == ["A", "B", "A"] * len(np.unique(value.loads))


@pytest.mark.parametrize(
    "spread", [pytest.param(0.005, marks=pytest.mark.slow), 0.01, pytest.param(0.02, marks=pytest.mark.slow)]
)
def test_loads_that_differ_make_no_verdict_a_toss_of_a_coin(spread):
    """With limits over pairs alone more than a fifth of these pass; allowed are 5 % and the noise of 80 simulations."""
    outcomes = [judged(Loaded(seed, spread=spread).compare(BOUND, seed=seed), "speedup", BOUND) for seed in range(80)]
    most = 0.05 * 80 + 3 * math.sqrt(0.05 * 0.95 * 80)
    assert outcomes.count(Outcome.PASS) <= most
    assert outcomes.count(Outcome.FAIL) <= most


@pytest.mark.slow
def test_equal_engines_never_pass_a_bound_above_one():
    outcomes = [judged(Loaded(seed, spread=0.01).compare(1.0, seed=seed), "speedup", 1.05) for seed in range(60)]
    assert Outcome.PASS not in outcomes


@pytest.mark.parametrize("slow", ["perturbed", "clean"])
def test_the_sort_of_images_on_which_it_is_slower_decides(slow):
    """Three times as fast on one sort, no faster on the other."""

    def by_image(number):
        return 3.0 if (number >= CLEAN) is (slow == "perturbed") else 1.0

    latency = Loaded(0).compare(3.0, seed=0, by_image=by_image)
    strata = {name: math.exp(limits[0]) for name, limits in strata_limits(latency, 0.95).items()}
    other = {"clean", "perturbed"} - {slow}
    assert strata[slow] == pytest.approx(1.0, rel=0.05)
    assert strata[other.pop()] == pytest.approx(3.0, rel=0.05)
    assert judged(latency, "speedup", BOUND) is Outcome.FAIL


@pytest.mark.parametrize("fast", [1, 10, 30, 39])
def test_an_engine_that_knows_some_images_is_named_and_does_not_pass(fast):
    latency = Loaded(0).compare(1.0, seed=0, by_image=lambda number: 0.2 if number < fast else 1.0)
    assert dependence(latency, latency.candidate) is not None
    assert dependence(latency, latency.reference) is None
    finding = found(latency)
    assert any("depends on the image" in doubt for doubt in finding.doubts)


@pytest.mark.parametrize("seconds", [20e-3, 40e-3, 0.3])
@pytest.mark.parametrize(("each", "factor"), [(7, 3.0), (2, 0.5), (5, 0.3)])
def test_where_calls_are_long_and_few_it_is_seen_too(seconds, each, factor):
    """Blocks of two calls, one clean and one perturbed; one image in `each` takes another time."""
    machine = Loaded(0)
    latency = measure_latency(
        machine.load(seconds, "A"),
        kept(machine.choosing(seconds / 2, "B", lambda number: factor if number % each == 0 else 1.0)),
        config=LatencyConfig(seconds=20.0),
        seed=0,
        timed=Timed("simulated", CLEAN, PERTURBED),
        watch=Watch(clock=lambda: machine.now, read=machine.read),
    )
    assert latency.calls == 2
    assert dependence(latency, latency.candidate) is not None
    assert dependence(latency, latency.reference) is None
    assert not found(latency).void


@pytest.mark.parametrize(
    "neighbour",
    [{}, {"tail": 1.5}, {"burst": 0.02, "calm": 0.1, "slow": 3.0}, {"wander": 0.02}, {"noise": 0.2}],
    ids=str,
)
def test_no_neighbour_makes_an_honest_engine_look_as_if_it_knew_images(neighbour):
    for seed in range(12):
        latency = Loaded(seed, spread=0.01, **neighbour).compare(1.3, seed=seed)
        assert all(dependence(latency, calls) is None for calls in latency.all_calls)


def test_one_load_has_the_limits_it_always_had():
    latency = NoisyMachine(0).measure(2.0, seed=0)
    once = Latency(**{**latency.__dict__, "loads": None})
    assert found(once).lower >= found(latency).lower
