"""What withstood the attacks meets them twice as long: whether they had finished, by gradients and by queries."""

import numpy as np
import pytest
import torch
from nearest_cases import IMAGES, LABELS, THREAT, Nearest, nearest_withstands, side

from madx.attacks import Apgd, Pgd, Square, Victim, run_suite
from madx.pipeline.doubling import asks_queries_alone, survivors, turned
from madx.pipeline.examples import Trial
from madx.recipe import AttackConfig, GateConfig
from madx.seeds import torch_generator
from madx.verify import Soundness
from madx.verify.signs import unfinished

TOO_SHORT = Pgd(AttackConfig(steps=2, relative_step=0.8))
SEARCHES = [
    # what the suite does, whether it has the twin's gradients, whether it had finished
    (TOO_SHORT, True, False),
    (Apgd(steps=20), True, True),
    (Square(queries=200), False, False),
    pytest.param(Square(queries=1200), False, True, marks=pytest.mark.slow),
]


def stands(attack, *, with_twin):
    """What withstands the attack once."""
    network = Nearest()
    victim = Victim.of(network) if with_twin else Victim.query_only(network)
    generator = torch_generator(0, "once")
    outcome = run_suite(victim, IMAGES, LABELS, attacks=(attack,), threat=THREAT, generator=generator)
    return (network(outcome.points).argmax(1) == LABELS).numpy()


def spread(fell, left):
    """What fell of those that were left, among all images."""
    rows = left.copy()
    rows[left] = fell
    return rows


@pytest.mark.parametrize(("attack", "with_twin", "finished"), SEARCHES)
def test_a_search_that_had_not_finished_turns_more_when_it_takes_twice_as_long(attack, with_twin, finished):
    left = stands(attack, with_twin=with_twin)
    truth = nearest_withstands().numpy()
    assert 10 < truth.sum() < len(truth) - 10, "the case can tell: some fall, some stand"
    assert (truth & ~left).sum() == 0, "the closed form is the least that any attack leaves"
    here = side("engine", Nearest()) if with_twin else side("engine", None, Nearest())
    fell = turned(Trial(THREAT, 0, IMAGES[left], LABELS[left]), here, (attack,))
    assert not fell[truth[left]].any(), "an image that withstands everything was turned"
    found = Soundness(None, None, left, left, doubled_candidate=spread(fell, left))
    assert (unfinished(found) == ()) is finished, (fell.sum(), left.sum(), truth.sum())


@pytest.mark.parametrize("twin", [Nearest(), None], ids=["gradients", "queries"])
def test_where_nothing_withstood_nothing_is_turned(twin):
    none = Trial(THREAT, 0, IMAGES[:0], LABELS[:0])
    assert turned(none, side("engine", twin, Nearest()), (Square(queries=20),)).tolist() == []


def test_what_falls_on_the_twin_counts_only_where_the_engine_falls():
    """Robust accuracy is the engine's: one that withstands everything has lost nothing."""
    left = stands(TOO_SHORT, with_twin=True)

    def knows(images):
        distances = (images[:, None] - IMAGES[left][None]).flatten(2).abs().amax(2)
        return torch.nn.functional.one_hot(LABELS[left][distances.argmin(1)], 4).float()

    trial = Trial(THREAT, 0, IMAGES[left], LABELS[left])
    assert turned(trial, side("engine", Nearest()), (TOO_SHORT,)).any()
    assert not turned(trial, side("engine", Nearest(), knows), (TOO_SHORT,)).any()


@pytest.mark.parametrize(
    ("images", "robust_share", "wanted"),
    [(100, 0.5, 50), (1000, 0.5, 200), (4000, 0.7, 500), (3000, 0.7, 375), (10_000, 0.7, 500), (50, 0.0, 0)],
)
def test_the_first_survivors_are_taken_and_no_more_than_can_be_afforded(images, robust_share, wanted):
    robust = np.random.default_rng(0).permutation(images) < images * robust_share
    rows = survivors(robust)
    assert len(rows) == wanted
    assert robust[rows].all()
    np.testing.assert_array_equal(rows, np.flatnonzero(robust)[:wanted])


@pytest.mark.parametrize("consent", [False, True])
def test_queries_are_doubled_only_where_a_gate_may_rest_on_them(consent):
    gates = [
        GateConfig(metric="clean_accuracy", at_least=0.5),
        GateConfig(metric="robust_accuracy", at_least=0.5, query_only=consent),
    ]
    assert asks_queries_alone(gates) is consent
