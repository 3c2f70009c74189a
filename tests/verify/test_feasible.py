"""Whether a gate can pass at all: what is found is held against closed forms and against the tests themselves."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from noisy_machine import NoisyMachine, judged

from madx.recipe import METRICS, GateConfig
from madx.stats import betting_drop, betting_share, clopper_pearson, drop_interval, planned_images, samples_needed
from madx.verify import Outcome
from madx.verify.feasible import Samples, best_latency, explain, feasible, undecidable
from madx.verify.p99 import p99_found
from madx.verify.speed import speedup_found

BALANCED = np.arange(10_000) % 10


def samples(images, *, pairs=60, block_calls=20, labels=BALANCED, **rest):
    return Samples(labels, images, min(images, 256), 256, pairs, block_calls, **rest)


def gate(metric, bound, **rest):
    return GateConfig(metric=metric, **{METRICS[metric].direction: bound}, **rest)


def without_a_single_miss(bound, confidence=0.95):
    """Images of which none may miss: (1 - bound)^n <= alpha."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - bound))


@pytest.mark.parametrize(
    ("metric", "bound", "misses", "confidence"),
    [
        ("parity_flips", 0.005, 0.005, 0.95),
        ("parity_flips", 0.02, 0.02, 0.99),
        ("robust_drop", 0.03, 0.03, 0.95),
        ("clean_drop", 0.01, 0.01, 0.9),
        ("robust_accuracy", 0.97, 0.03, 0.95),
        ("clean_accuracy", 0.9, 0.1, 0.999),
        ("retention", 0.95, 0.05, 0.95),
    ],
)
def test_the_images_needed_are_those_of_the_exact_test(metric, bound, misses, confidence):
    """Where nothing is lost, all these tests are Clopper and Pearson's, which has a closed form."""
    needed = without_a_single_miss(misses, confidence)
    asked = gate(metric, bound, confidence=confidence)
    for images in (needed - 1, needed, 3000):
        found = feasible(asked, samples(images))
        assert found.needs == needed
        has = min(images, 256) if metric == "parity_flips" else images
        assert (found.has, found.answer) == (has, "yes" if has >= needed else "no")


def test_the_issues_example():
    found = feasible(gate("parity_flips", 0.005), samples(60))
    assert (found.answer, found.has, found.needs, found.most) == ("no", 60, 598, 256)
    assert found.bound == pytest.approx(clopper_pearson(0, 60, confidence=0.95)[1], abs=1e-4)
    assert clopper_pearson(0, 60, confidence=0.95)[1] <= found.bound
    sentence = explain(found)
    assert all(word in sentence for word in ("parity_flips", "60 images", "598 images", "256", "at_most: 0.0488"))


@pytest.mark.parametrize(("metric", "bound"), [("robust_drop", 0.03), ("clean_accuracy", 0.9), ("retention", 0.9)])
def test_looking_early_needs_what_the_betting_test_needs(metric, bound):
    needed = feasible(gate(metric, bound), samples(50, sequential=True)).needs

    def passes(n):
        right = np.ones(n, dtype=bool)
        if metric == "robust_drop":
            return betting_drop(right, right, bound=bound, confidence=0.95)[1] <= bound
        return betting_share(right, bound=bound, confidence=0.95)[0] >= bound

    assert needed > without_a_single_miss(0.03 if metric == "robust_drop" else 0.1)
    if metric != "retention":
        assert (passes(needed - 1), passes(needed)) == (False, True)


@pytest.mark.parametrize("sequential", [False, True])
def test_the_worst_class_needs_its_images_in_the_smallest_class(sequential):
    labels = np.array([0, 0, 0, 1] * 1000)  # a quarter of the images
    asked = gate("worst_class_drop", 0.05)
    of_one = feasible(gate("robust_drop", 0.05), samples(400, sequential=sequential)).needs
    found = feasible(asked, samples(60, labels=labels, sequential=sequential))
    assert (found.answer, found.needs) == ("no", 4 * of_one)
    assert feasible(asked, samples(found.needs, labels=labels, sequential=sequential)).answer == "yes"
    assert feasible(asked, samples(found.needs - 1, labels=labels, sequential=sequential)).answer == "no"


def test_a_class_without_an_image_is_not_asked_for():
    labels = np.array([0, 1] * 200 + [2] * 100)
    assert feasible(gate("worst_class_drop", 0.05), samples(400, labels=labels)).answer == "yes"
    found = feasible(gate("worst_class_drop", 0.05), samples(420, labels=labels))
    assert (found.answer, found.needs) == ("no", 459)  # 59 of class 2


def test_a_drop_of_nothing_asks_for_a_gain():
    asked = gate("robust_drop", 0.0)
    found = feasible(asked, samples(60))
    gained = sum(-(-int((BALANCED[: found.needs] == label).sum()) // 5) for label in range(10))
    assert drop_interval(found.needs, 0, gained, confidence=0.95)[1] <= 0
    assert drop_interval(found.needs, 0, 0, confidence=0.95)[1] > 0
    assert (found.answer, feasible(asked, samples(found.needs - 1)).answer) == ("yes", "no")


def test_one_class_alone_can_show_no_robustness_worth_keeping():
    """The reference must know more than the most frequent class, which with a single one nobody can."""
    found = feasible(gate("robust_drop", 0.1), samples(500, labels=np.zeros(1000, dtype=np.int64)))
    assert (found.answer, found.needs, found.bound) == ("no", None, None)
    assert "nothing" in explain(found)


def test_what_few_images_carry_passes_and_nothing_stricter_does():
    few = samples(40)
    found = feasible(gate("robust_drop", 0.03), few)
    for bound, answer in ((found.bound, "yes"), (found.bound - 1e-4, "no")):
        assert feasible(gate("robust_drop", bound), few).answer == answer
    for confidence, answer in ((found.confidence, "yes"), (found.confidence + 1e-4, "no")):
        assert feasible(gate("robust_drop", 0.03, confidence=confidence), few).answer == answer


@settings(deadline=None, max_examples=25)
@given(images=st.integers(1, 400), bound=st.sampled_from([0.01, 0.03, 0.1]), sequential=st.booleans())
def test_more_images_are_never_worse(images, bound, sequential):
    found = feasible(gate("clean_drop", bound), samples(images, sequential=sequential))
    assert (found.answer == "yes") == (images >= found.needs)


def test_a_p99_needs_as_many_calls_as_carry_one_with_limits():
    """All calls alike: the least is what carries a p99, or what gives its limit; then Bonferroni over both."""
    asked = gate("p99_ratio", 1.1)
    found = feasible(asked, samples(60))
    assert found.answer == "yes"
    assert found.needs == math.ceil(max(samples_needed(0.99), math.log(0.025) / math.log(0.99)) / 40)
    assert feasible(asked, samples(60, pairs=30, block_calls=5)).answer == "perhaps"  # more while the seconds last
    assert feasible(asked, samples(60, pairs=30, block_calls=5)).needs * 10 >= samples_needed(0.99)


def test_how_fast_a_network_gets_is_not_foretold():
    assert feasible(gate("speedup", 500.0), samples(60)).answer == "yes"
    assert feasible(gate("size_ratio", 0.001), samples(60)).answer == "yes"


@pytest.mark.slow
def test_how_much_faster_than_its_bound_a_network_must_be_is():
    """Of simulated measurements on loads of that spread, four in five pass."""
    found = feasible(gate("speedup", 1.5), samples(60)).true_ratio
    assert list(found) == [0.005, 0.01, 0.02]
    outcomes = [
        judged(NoisyMachine(seed, noise=0.001, spread=0.02).measure(found[0.02], seed=seed, pairs=56), "speedup", 1.5)
        for seed in range(60)
    ]
    assert outcomes.count(Outcome.PASS) / 60 == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 60))


def test_no_number_of_pairs_carries_any_confidence():
    found = feasible(gate("speedup", 1.5, confidence=1 - 1e-15), samples(60, pairs=30))
    assert (found.answer, found.needs > 30) == ("perhaps", True)
    assert speedup_found(best_latency(found.gate, found.needs, 5), found.gate).lower >= 1.5
    assert not speedup_found(best_latency(found.gate, found.needs - 1, 5), found.gate).lower >= 1.5


@pytest.mark.parametrize("pairs", [16, 17])
def test_the_best_times_are_judged_by_the_gates_own_finding(pairs):
    asked = gate("p99_ratio", 1.0)
    assert (p99_found(best_latency(asked, pairs, 20), asked).upper <= 1.0) == (pairs == 17)


def test_likely_images_are_those_of_the_planning_formula_and_never_fewer_than_needed():
    found = feasible(gate("robust_drop", 0.01), samples(1000))
    assert found.likely[0.1] == planned_images(0.1, 0.01, alpha=0.05, power=0.8)
    assert feasible(gate("robust_drop", 0.03), samples(1000)).likely[0.01] == 99
    assert feasible(gate("worst_class_drop", 0.03), samples(1000)).likely[0.1] == pytest.approx(
        10 * feasible(gate("robust_drop", 0.03), samples(1000)).likely[0.1], rel=0.01
    )


def test_every_metric_has_an_answer():
    bounds = {"ratio": 1.5, "share": 0.5, "drop": 0.5}
    gates = [gate(metric, bounds[kind.unit]) for metric, kind in METRICS.items()]
    assert {feasible(one, samples(500)).answer for one in gates} == {"yes"}
    assert [one.gate.metric for one in undecidable(gates, samples(1))] == [
        metric for metric, kind in METRICS.items() if kind.unit != "ratio"
    ]
    assert all(explain(feasible(one, samples(500))) == "" for one in gates)
