"""The attribution ladder on simulated machines: steps that multiply to the whole, and limits that hold the truth."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from noisy_machine import NEIGHBOURS, NoisyMachine

from madx.errors import ArtifactError, EngineError
from madx.recipe import LatencyConfig
from madx.sensors import Watch
from madx.verify import Ladder, measure_ladder

RUNGS = {"dense": 1e-3, "channels": 5e-4, "fp16": 4e-4, "2:4": 4e-4}
"""True seconds: the last step buys nothing, as 2:4 does on a CPU."""


def measured(machine, seed=0, *, rungs=None, **config):
    timers = {name: machine.timer(seconds, name) for name, seconds in (rungs or RUNGS).items()}
    settings = LatencyConfig(**{"pairs": 30, "block_calls": 5, "seconds": 0.5} | config)
    return measure_ladder(timers, config=settings, seed=seed, timing="", watch=Watch(clock=lambda: machine.now))


@pytest.mark.parametrize("neighbour", ["quiet", "heavy-tailed", "drifting", "wandering"])
def test_steps_multiply_to_the_whole_and_hold_the_truth(neighbour):
    ladder = measured(NoisyMachine(1, **NEIGHBOURS[neighbour]))
    steps, whole = ladder.steps(), ladder.whole()
    assert [(step.start, step.end) for step in steps] == list(pairwise(RUNGS))
    assert math.prod(step.estimate for step in steps) == pytest.approx(whole.estimate, rel=1e-12)
    for step in (*steps, whole):
        truth = RUNGS[step.start] / RUNGS[step.end]
        assert step.lower <= step.estimate <= step.upper
        assert step.estimate == pytest.approx(truth, rel=0.03)


@pytest.mark.slow
def test_the_limits_of_a_step_hold_the_truth_as_often_as_they_say():
    outside = np.zeros(2)
    for seed in range(40):
        for step in measured(NoisyMachine(seed, noise=0.05), seed, seconds=0.01).steps():
            truth = RUNGS[step.start] / RUNGS[step.end]
            outside += (step.lower > truth, step.upper < truth)
    assert (outside / 120 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 120)).all(), outside


def test_a_linear_drift_cancels_and_order_is_random():
    machine, order = NoisyMachine(0, noise=0.0, drift=5.0), []

    def named(name, timer):
        return lambda number: order.append(name) or timer(number)

    timers = {name: named(name, machine.timer(1e-3, name)) for name in "ABC"}
    config = LatencyConfig(pairs=30, block_calls=5, seconds=0.01)
    ladder = measure_ladder(timers, config=config, seed=3, timing="", watch=Watch(clock=lambda: machine.now))
    assert all(step.estimate == pytest.approx(1, abs=2e-3) for step in ladder.steps())
    blocks = "".join(order[-30 * 6 * 5 :: 5])
    rounds = [blocks[place : place + 6] for place in range(0, len(blocks), 6)]
    assert all(there == there[::-1] and set(there) == set("ABC") for there in rounds)
    assert len(set(rounds)) == 6, "thirty rounds of three rungs come in all six orders"


@pytest.mark.parametrize(
    ("noise", "config", "expected"),
    [
        (0.0, {"seconds": 100}, lambda rounds: rounds == 30),  # tight at once
        (1.0, {"seconds": 1e-3}, lambda rounds: rounds == 30),  # the budget is gone, the minimum stays
        (0.2, {"seconds": 1e3}, lambda rounds: 30 < rounds < 2000),  # tightness ends it
    ],
)
def test_when_sampling_ends(noise, config, expected):
    rounds = len(measured(NoisyMachine(0, noise=noise), **config).seconds)
    assert expected(rounds), rounds


def test_a_ladder_gives_back_what_was_put_in():
    given = replace(measured(NoisyMachine(0)), missing={"dense, fp16": "it cannot be built"})
    back = Ladder.from_arrays(given.to_arrays())
    assert (back.rungs, back.batch, back.timing) == (given.rungs, given.batch, given.timing)
    assert back.missing == given.missing
    np.testing.assert_array_equal(back.seconds, given.seconds)


def test_a_typical_call_is_the_median_of_the_blocks():
    assert measured(NoisyMachine(0, noise=0.0)).medians() == pytest.approx(tuple(RUNGS.values()))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seconds": np.ones((30, 2, 3, 5), np.float32)}, "for 4 rungs"),
        ({"seconds": np.zeros((30, 2, 4, 5), np.float32)}, "positive number"),
        ({"rest": np.array("{")}, "not written by madx"),
        ({"rest": np.array("{}")}, "rungs"),
        ({"rest": np.array("[]")}, "not written by madx"),
        ({"rest": np.array('{"rungs": ["dense"], "batch": 1, "timing": ""}')}, "missing"),
        ({"rest": np.array('{"rungs": ["dense"], "batch": 1, "timing": "", "missing": {}}')}, "at least two"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, said):
    arrays = measured(NoisyMachine(0)).to_arrays()
    with pytest.raises(ArtifactError, match=said):
        Ladder.from_arrays(arrays | changes)


def test_one_rung_is_no_ladder():
    with pytest.raises(EngineError, match="two rungs at least"):
        measured(NoisyMachine(0), rungs={"dense": 1e-3})
