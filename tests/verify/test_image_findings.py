"""Metrics over images: their error rates as whole gates, their advice, and when a look may end the measuring."""

import itertools
import math

import numpy as np
import pytest
from accuracy_cases import compared

from madx.recipe import GateConfig
from madx.stats import betting_drop, drop_interval, planned_bets, planned_images, retention_interval
from madx.verify import Accuracy, Outcome, decided
from madx.verify.gates import decide
from madx.verify.image_findings import over_images
from madx.verify.limits import Limits, images_advice, more_images

DROP = GateConfig(metric="robust_drop", at_most=0.03)
CLASSES = GateConfig(metric="worst_class_drop", at_most=0.10)
KEPT = GateConfig(metric="retention", at_least=0.9)


def drawn(rng, n, *, lost, gained, both=0.5, classes=10):
    """Images at random; lost and gained are shares, one or one per class."""
    labels, u = rng.integers(0, classes, n), rng.random(n)
    b, c = np.broadcast_to(lost, classes)[labels], np.broadcast_to(gained, classes)[labels]
    stands = (u >= b + c) & (u < b + c + both)
    return compared((u < b) | stands, ((u >= b) & (u < b + c)) | stands, labels=labels)


def cut(value, n):
    """The first n images."""
    arrays = value.to_arrays()
    images = value.images
    kept = {name: array[..., :n] if array.shape[-1] == images else array for name, array in arrays.items()}
    return Accuracy.from_arrays(kept)


def outcome(value, gate, *, sequential=False):
    found = over_images(value, gate, sequential=sequential)
    return decide(found.lower, found.upper, bound=gate.bound, direction=gate.direction)


def test_limits_are_those_of_the_statistics():
    value = drawn(np.random.default_rng(0), 900, lost=0.06, gained=0.02)
    reference, candidate = value.robust_reference, value.robust_candidate
    lost, gained = int((reference & ~candidate).sum()), int((candidate & ~reference).sum())
    found = over_images(value, DROP, sequential=False)
    assert (found.lower, found.upper) == drop_interval(900, lost, gained, confidence=0.95)
    found = over_images(value, DROP, sequential=True)
    assert (found.lower, found.upper) == betting_drop(reference, candidate, bound=0.03, confidence=0.95)
    found = over_images(value, KEPT, sequential=False)
    both = int((reference & candidate).sum())
    assert (found.lower, found.upper) == retention_interval(both, lost, gained, confidence=0.95)


def test_the_worst_class_is_each_class_beside_the_others():
    """Brute force over the classes, from the definition in the module."""
    value = drawn(np.random.default_rng(1), 1500, lost=np.linspace(0, 0.2, 10), gained=0.02)
    lowers, uppers, drops = [], [], []
    for label in range(10):
        here = value.labels == label
        b = int((value.robust_reference & ~value.robust_candidate)[here].sum())
        c = int((value.robust_candidate & ~value.robust_reference)[here].sum())
        uppers.append(drop_interval(int(here.sum()), b, c, confidence=0.95)[1])
        lowers.append(drop_interval(int(here.sum()), b, c, confidence=1 - 0.05 / 10)[0])
        drops.append((b - c) / here.sum())
    found = over_images(value, CLASSES, sequential=False)
    assert (found.lower, found.estimate, found.upper) == (max(lowers), max(drops), max(uppers))
    assert f"class {int(np.argmax(drops))} loses most" in found.evidence[0]


@pytest.mark.parametrize(
    ("lost", "wrong"),
    [
        (np.r_[0.12, np.full(9, 0.02)], Outcome.PASS),  # one class lies exactly on the bound: it must not pass
        (np.full(10, 0.12), Outcome.FAIL),  # all lie on the bound: ten chances of a false alarm
    ],
)
def test_error_rates_of_the_worst_class(lost, wrong):
    rng, runs = np.random.default_rng(2), 150
    found = [outcome(drawn(rng, 2000, lost=lost, gained=0.02, both=0.7), CLASSES) for _ in range(runs)]
    assert np.mean([one is wrong for one in found]) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / runs)


def test_limits_of_the_worst_class_for_every_look_are_those_of_the_betting_test():
    value = drawn(np.random.default_rng(12), 900, lost=0.1, gained=0.02, classes=3)
    limits = {0.95: [], 1 - 0.05 / 3: []}
    for label, confidence in itertools.product(range(3), limits):
        sides = value.robust_reference[value.labels == label], value.robust_candidate[value.labels == label]
        limits[confidence].append(betting_drop(*sides, bound=0.1, confidence=confidence))
    found = over_images(value, CLASSES, sequential=True)
    assert found.upper == max(upper for _, upper in limits[0.95])
    assert found.lower == max(lower for lower, _ in limits[1 - 0.05 / 3])


def test_a_class_that_is_given_up_fails_although_the_average_is_kept():
    value = drawn(np.random.default_rng(3), 4000, lost=np.r_[0.4, np.zeros(9)], gained=np.r_[0, np.full(9, 0.04)])
    assert outcome(value, DROP) is Outcome.PASS
    assert outcome(value, CLASSES) is Outcome.FAIL


def test_a_small_class_keeps_the_gate_undecided_and_says_how_many_images_it_needs():
    rng = np.random.default_rng(4)
    large = drawn(rng, 5000, lost=0.01, gained=0.01, both=0.8, classes=4)
    labels = np.where(np.arange(5000) < 20, 9, large.labels)
    value = compared(large.robust_reference, large.robust_candidate, labels=labels)
    found = over_images(value, CLASSES, sequential=False)
    assert outcome(value, CLASSES) is Outcome.INCONCLUSIVE
    assert "Class 9 is the least certain: 20 images" in found.advice[1]
    assert 1000 < found.more_images < 200_000


def test_a_class_without_robustness_is_named_and_all_of_them_are_a_doubt():
    robust = np.arange(4000) % 10 > 0
    found = over_images(compared(robust, robust), CLASSES, sequential=False)
    assert "could not fail: 0." in found.evidence[1]
    assert found.doubts == ()
    found = over_images(compared(~robust & False, ~robust & False), CLASSES, sequential=False)
    assert any("every single class" in doubt for doubt in found.doubts)


@pytest.mark.parametrize("gate", [DROP, CLASSES, KEPT, GateConfig(metric="clean_drop", at_most=0.03)])
@pytest.mark.parametrize(("robust", "enough"), [(80, False), (110, False), (140, True)])
def test_a_reference_of_many_classes_needs_some_robustness_to_keep(gate, robust, enough):
    """4 % is far more than chance with a hundred classes, and hardly anything; for clean images chance is the floor."""
    right, labels = np.arange(2000) < robust, np.random.default_rng(0).permutation(2000) % 100
    doubts = over_images(compared(right, right, labels=labels), gate, sequential=False).doubts
    doubted = any("hardly any robustness to keep" in doubt for doubt in doubts)
    assert doubted is (gate.metric != "clean_drop" and not enough)


ADVISED = [
    (GateConfig(metric="robust_accuracy", at_least=0.5), 0.02, 0.02, 0.52),
    (GateConfig(metric="retention", at_least=0.92), 0.04, 0.02, 0.5),
    (GateConfig(metric="worst_class_drop", at_most=0.06), 0.04, 0.02, 0.5),
]


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(("gate", "lost", "gained", "both"), ADVISED, ids=[row[0].metric for row in ADVISED])
def test_the_advice_on_images_is_honest(gate, lost, gained, both, sequential):
    """Measured again at the advised size with the true rates, the gate decides as often as it says, and not always."""
    labels = np.arange(100) % 2
    reference, candidate = np.zeros(100, dtype=bool), np.zeros(100, dtype=bool)
    for label in (0, 1):  # a small sample whose rates are exactly the true ones, in each of two classes
        rows = np.flatnonzero(labels == label)
        b, c, a = (round(50 * share) for share in (lost, gained, both))
        reference[rows[: a + b]] = True
        candidate[rows[:a]] = candidate[rows[a + b : a + b + c]] = True
    small = compared(reference, candidate, labels=labels)
    found = over_images(small, gate, sequential=sequential)
    rates = {"lost": round(50 * lost) / 50, "gained": round(50 * gained) / 50, "both": round(50 * both) / 50}
    rng, n = np.random.default_rng(5), 100 + found.more_images
    runs = 40 if sequential else 150
    outcomes = [outcome(drawn(rng, n, classes=2, **rates), gate, sequential=sequential) for _ in range(runs)]
    share = np.mean([one is not Outcome.INCONCLUSIVE for one in outcomes])
    if sequential:
        assert 0.5 < share < 1
    else:
        assert share == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("n", [1, 100, 3000])
def test_images_that_are_missing_are_those_of_the_plan_less_those_there_are(n):
    """One that differs is assumed even where none was seen, and who asks for more asks for one at least."""
    for variance, distance in ((0.0, 0.5), (0.0, 0.02), (0.2, 0.05), (0.2, -0.05)):
        fields = {"variance": variance, "distance": distance, "alpha": 0.05}
        seen = max(variance, 1 / n)
        planned = planned_images(seen, abs(distance), alpha=0.05, power=0.8)
        assert more_images(n, sequential=False, **fields) == max(planned - n, 1)
        planned = planned_images(seen, abs(distance), alpha=0.05, power=0.95)
        assert more_images(n, sequential=False, power=0.95, **fields) == max(planned - n, 1)
        # one that looks often wants as many again at least, or it would be through
        bets = planned_bets(seen, abs(distance), alpha=0.05)
        assert more_images(n, sequential=True, **fields) == max(bets - n, n)


@pytest.mark.parametrize("distance", [0.0, math.inf, math.nan])
def test_where_the_estimate_lies_on_the_bound_no_number_is_named(distance):
    for sequential in (False, True):
        assert more_images(100, variance=0.1, distance=distance, sequential=sequential, alpha=0.05) is None


def test_advice_says_how_sure_it_is():
    assert "about 150 images, 50 more than" in images_advice(100, 50, sequential=False)
    assert "chance of 80%" in images_advice(100, 50, sequential=False)
    assert "more likely than not" in images_advice(100, 50, sequential=True)
    assert "no number of images" in images_advice(100, None, sequential=True)


def test_limits_that_meet_do_not_contradict_each_other():
    assert Limits(0.5, 0.5, "").contradiction == ()
    assert Limits(0.5, 0.4, "").contradiction != ()


def test_looking_after_every_chunk_decides_sooner_and_stays_decided():
    gates = [GateConfig(metric="robust_drop", at_most=0.015), KEPT]
    value = drawn(np.random.default_rng(6), 6000, lost=0.03, gained=0.03)
    looks = [decided(cut(value, n), gates) for n in range(500, 6001, 500)]
    assert looks[0] is False
    assert looks == sorted(looks)
    assert looks.index(True) < len(looks) - 4
    stopped = cut(value, 500 * (looks.index(True) + 1))
    assert {outcome(stopped, gate, sequential=True) for gate in gates} == {Outcome.PASS}


def test_a_failure_stops_too():
    value = drawn(np.random.default_rng(7), 3000, lost=0.15, gained=0.01)
    assert decided(value, [DROP])
    assert outcome(value, DROP, sequential=True) is Outcome.FAIL


@pytest.mark.parametrize(
    ("gates", "value"),
    [
        ([], drawn(np.random.default_rng(8), 3000, lost=0, gained=0)),
        ([GateConfig(metric="speedup", at_least=1.5)], drawn(np.random.default_rng(8), 3000, lost=0, gained=0)),
        # one gate is through, the other waits
        ([DROP, CLASSES], drawn(np.random.default_rng(8), 3000, lost=0.16, gained=0.16)),
        # it would pass, but the reference is at chance and no share of nothing is kept
        ([DROP], drawn(np.random.default_rng(8), 3000, lost=0, gained=0, both=0.1)),
        ([KEPT], drawn(np.random.default_rng(8), 3000, lost=0, gained=0, both=0.0)),
    ],
    ids=["no gate", "none over images", "one undecided", "chance", "nothing"],
)
def test_no_stop(gates, value):
    assert not decided(value, gates)


def test_limits_that_contradict_each_other_decide_nothing():
    reference, candidate = np.ones(4000, dtype=bool), np.arange(4000) < 2000
    value = compared(reference, candidate)
    found = over_images(value, DROP, sequential=True)
    assert "contradict" in found.void[0]
    assert not decided(value, [DROP])
    assert over_images(value, DROP, sequential=False).void == ()


def test_the_gate_as_a_whole_stops_early_at_its_error_rate():
    """The true drop on the bound. What was once decided stays so: the last look holds every earlier one."""
    rng, runs = np.random.default_rng(9), 100
    found = [outcome(drawn(rng, 1000, lost=0.05, gained=0.02), DROP, sequential=True) for _ in range(runs)]
    for wrong in (Outcome.PASS, Outcome.FAIL):
        assert np.mean([one is wrong for one in found]) <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / runs)
