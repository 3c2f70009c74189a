"""Whether a gate can be decided at all by what a verification will have to go on, before anything is measured.

The very test that will judge the gate is asked about the best data that there could be: no image lost, none gained,
no label changed, every image robust, times without spread. A gate that does not pass even then cannot pass, whatever
the network; what it would need is found by asking the same test about more images. A gate on a drop of 0 asks for a
gain, so there every `GAINED`th image is gained.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from madx.recipe import GateConfig
from madx.stats import planned_bets, planned_images, student_reach
from madx.verify.evidence import Finding
from madx.verify.gallery import Gallery
from madx.verify.gates import decide
from madx.verify.image_findings import over_images, share_finding
from madx.verify.latency import LOADS
from madx.verify.limits import PLANNED_POWER, drop_limits
from madx.verify.measurements import Accuracy
from madx.verify.p99 import p99_found
from madx.verify.speed import speedup_found
from madx.verify.timings import MAX_PAIRS, Latency
from madx.verify.verdict import Outcome

LARGEST = 1_000_000
"""Images beyond which nobody looks for what a gate needs."""
GAINED = 5
"""Every so manieth image of a class is gained, where a gate asks for a gain."""
DISCORDANCE = (0.01, 0.03, 0.1)
"""Shares of images on which two engines may plausibly differ."""
LOAD_SPREAD = (0.005, 0.01, 0.02)
"""Shares of its time by which an engine may plausibly differ from load to load, standard deviations."""
_BETTER = 4.0
"""How many times better than its bound the best times are."""
_STEP = 1e-4
"""Bounds and confidences are named to this."""

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """What a verification will have to go on."""

    labels: Labels
    """Of all images of the gate's split, in their order."""
    images: int
    """How many of these are attacked: the first ones."""
    parity: int
    """Images on which an engine is compared with its torch network."""
    most_parity: int
    """The largest number of these, however many images there are."""
    pairs: int
    """Block pairs that are timed at least, whatever they cost."""
    block_calls: int
    """Calls a block."""
    sequential: bool = False
    """Whether the gates may look after every chunk (`verify.sequential`)."""


@dataclass(frozen=True)
class Feasibility:
    """Whether one gate can pass, and what it needs."""

    gate: GateConfig
    answer: Literal["yes", "perhaps", "no"]
    """perhaps: it needs more block pairs than are timed for sure, and the budget of seconds may carry them."""
    unit: Literal["images", "block pairs", "bytes"]
    """What it rests on; bytes are counted, not sampled."""
    has: int
    needs: int | None
    """The smallest number with which it can pass; None if no number up to `LARGEST` (`MAX_PAIRS` of pairs) would do."""
    most: int | None = None
    """More of them than this are never measured; None if nothing but the data limits them."""
    bound: float | None = None
    """The strictest bound that could pass with what there is, for a gate that cannot."""
    confidence: float | None = None
    """The highest confidence at which it could, likewise."""
    likely: Mapping[float, int] = field(default_factory=dict)
    """For gates on drops: by share of images on which the engines differ, about how many images pass an engine that
    loses nothing on average with a chance of 80 %."""
    true_ratio: Mapping[float, float] = field(default_factory=dict)
    """For gates on the speed-up: by the spread of an engine's time from load to load, the least true speed-up that
    passes with a chance of 80 % on the fewest loads."""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "metric": self.gate.metric,
            self.gate.direction: self.gate.bound,
            "confidence": self.gate.confidence,
            "can_pass": self.answer,
            "unit": self.unit,
            "has": self.has,
            "needs": self.needs,
            "at_most_measured": self.most,
            "could_pass": {"bound": self.bound, "confidence": self.confidence} if self.answer == "no" else None,
            "likely_images": {f"{share:g}": images for share, images in self.likely.items()},
            "likely_speedup": {f"{spread:g}": round(ratio, 4) for spread, ratio in self.true_ratio.items()},
        }


def feasible(gate: GateConfig, samples: Samples) -> Feasibility:
    """Whether the gate can pass with these samples; what no data can show is left open, such as a speed-up's size."""
    if gate.about.over_images:
        return _over_images(gate, samples)
    if gate.about.needs_twin:
        found = _searched(gate, samples.parity, _parity_passes)
        return replace(found, most=samples.most_parity)
    if gate.about.rests_on == "bytes":
        return Feasibility(gate, "yes", "bytes", has=1, needs=1)
    return _of_times(gate, samples)


def undecidable(gates: Sequence[GateConfig], samples: Samples) -> list[Feasibility]:
    """The gates that cannot pass."""
    found = [feasible(gate, samples) for gate in gates]
    return [one for one in found if one.answer == "no"]


def explain(found: Feasibility) -> str:
    """Why a gate cannot pass and what would do, in a sentence; nothing if it can."""
    if found.answer != "no":
        return ""
    gate = found.gate
    asked = f"{gate.metric} {gate.direction} {gate.bound:g} at confidence {gate.confidence:g}"
    text = f"{asked} cannot pass with {found.has:,} {found.unit}, even if {_best(gate)}"
    ways = [_more(found)]
    if found.bound is not None:
        ways.append(f"{gate.direction}: {found.bound:g}")
    if found.confidence is not None:
        ways.append(f"confidence: {found.confidence:g}")
    return f"{text}; what could pass: {', or '.join(way for way in ways if way) or 'nothing with so few'}"


def _more(found: Feasibility) -> str:
    """How many images, or pairs, would do."""
    if found.needs is None:
        return ""
    if found.most is not None and found.needs > found.most:
        return f"{found.needs:,} {found.unit}, more than the {found.most:,} that are ever measured for it"
    return f"{found.needs:,} {found.unit}"


def _best(gate: GateConfig) -> str:
    """The best data, in words; whoever gains images may pass with fewer."""
    asks_for_a_gain = gate.about.unit == "drop" and gate.bound == 0
    return f"every {GAINED}th image were gained" if asks_for_a_gain else gate.about.at_best


def _over_images(gate: GateConfig, samples: Samples) -> Feasibility:
    """Of more images than the split has, the class shares are taken to be the split's."""
    labels, sequential = samples.labels, samples.sequential

    def passes(asked: GateConfig, n: int) -> bool:
        accuracy = best_accuracy(np.resize(labels, n), gains=asked.bound == 0)
        return _passes(over_images(accuracy, asked, sequential=sequential), asked)

    classes = np.unique(labels)

    def smallest_class_passes(asked: GateConfig, n: int) -> bool:
        """What `passes` asks of all classes, without doing it for each: with many of them that takes seconds."""
        chosen = np.resize(labels, n)
        size = min(int((chosen == label).sum()) for label in classes)
        if size == 0:
            return False
        one = best_accuracy(np.zeros(size, dtype=np.int64), gains=asked.bound == 0)
        limits = drop_limits(one.robust_reference, one.robust_candidate, asked, sequential=sequential)
        return limits.upper <= asked.bound

    asked_of = smallest_class_passes if gate.metric == "worst_class_drop" else passes
    found = _searched(gate, samples.images, asked_of)
    if (found.answer == "yes") != (whole := passes(gate, samples.images)):  # a class may have no image among the first
        answer: Literal["yes", "no"] = "yes" if whole else "no"
        found = Feasibility(gate, answer, "images", samples.images, samples.images if whole else None)
    return replace(found, likely=_likely(found, labels, sequential))


def _parity_passes(gate: GateConfig, n: int) -> bool:
    flips = np.zeros(n, dtype=bool)
    return _passes(share_finding(flips, gate, word="changed", sequential=False), gate)


def _of_times(gate: GateConfig, samples: Samples) -> Feasibility:
    """More pairs than the least are timed only while the budget of seconds lasts, so what these carry is open."""
    judge = _OF_TIMES[gate.metric]

    def passes(asked: GateConfig, pairs: int) -> bool:
        return _passes(judge(best_latency(asked, pairs, samples.block_calls), asked), asked)

    most = max(MAX_PAIRS, samples.pairs)
    needs = _smallest(lambda pairs: passes(gate, pairs), samples.pairs, most)
    if needs is None:
        confidence = _highest_confidence(gate, samples.pairs, passes)
        return Feasibility(gate, "no", "block pairs", samples.pairs, None, most=most, confidence=confidence)
    answer: Literal["yes", "perhaps"] = "yes" if needs <= samples.pairs else "perhaps"
    found = Feasibility(gate, answer, "block pairs", samples.pairs, needs, most=most)
    return replace(found, true_ratio=_true_ratio(gate)) if gate.metric == "speedup" else found


_OF_TIMES: Mapping[str, Callable[[Latency, GateConfig], Finding]] = {"speedup": speedup_found, "p99_ratio": p99_found}


def _true_ratio(gate: GateConfig) -> dict[float, float]:
    """As Student's t over the loads of both engines has it; the spread within a load is taken to be no matter."""
    reach = student_reach(LOADS, gate.confidence, power=PLANNED_POWER)
    return {spread: gate.bound * math.exp(reach * math.sqrt(2) * spread) for spread in LOAD_SPREAD}


Passes = Callable[[GateConfig, int], bool]
"""(gate, images or pairs) -> whether the best data pass."""


def _searched(gate: GateConfig, has: int, passes: Passes) -> Feasibility:
    """The answer, and what would do where it is no."""
    needs = _smallest(lambda n: passes(gate, n), has, LARGEST)
    if passes(gate, has):
        return Feasibility(gate, "yes", "images", has, needs)
    bound, confidence = _strictest_bound(gate, has, passes), _highest_confidence(gate, has, passes)
    return Feasibility(gate, "no", "images", has, needs, bound=bound, confidence=confidence)


def _passes(found: Finding, gate: GateConfig) -> bool:
    """As `madx.verify.gates` judges it."""
    outcome = decide(found.lower, found.upper, bound=gate.bound, direction=gate.direction)
    return outcome is Outcome.PASS and not found.void and not found.doubts


def _smallest(passes: Callable[[int], bool], start: int, most: int) -> int | None:
    """The smallest number that passes, found from `start`; more of the best data are never worse."""
    low, high = 0, min(max(start, 1), most)
    while not passes(high):
        if high >= most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def _strictest_bound(gate: GateConfig, has: int, passes: Passes) -> float | None:
    """In whole steps of 0.01 points; None if no bound would pass."""
    steps = round(1 / _STEP)
    rises = gate.direction == "at_most"

    def loosened(step: int) -> GateConfig:
        at = math.floor(gate.bound / _STEP) + step if rises else math.ceil(gate.bound / _STEP) - step
        return gate.model_copy(update={gate.direction: round(at * _STEP, 10)})

    room = math.ceil(steps * (1 - gate.bound if rises else gate.bound)) - 1
    found = _smallest(lambda step: passes(loosened(step), has), room, room) if room > 0 else None
    return None if found is None else loosened(found).bound


def _highest_confidence(gate: GateConfig, has: int, passes: Passes) -> float | None:
    """In whole steps of 0.0001; None if not even a coin's would do."""
    top = math.ceil(gate.confidence / _STEP)

    def lowered(step: int) -> GateConfig:
        return gate.model_copy(update={"confidence": round((top - step) * _STEP, 10)})

    room = top - round(0.5 / _STEP) - 1
    found = _smallest(lambda step: passes(lowered(step), has), room, room) if room > 0 else None
    return None if found is None else lowered(found).confidence


def _likely(found: Feasibility, labels: Labels, sequential: bool) -> dict[float, int]:
    """By the planning formulas of the advice on undecided gates; for the worst class by its smallest class."""
    gate = found.gate
    if gate.about.unit != "drop" or gate.bound == 0:
        return {}
    share = 1.0
    if gate.metric == "worst_class_drop":
        share = float(np.unique(labels, return_counts=True)[1].min()) / len(labels)
    alpha, likely = 1 - gate.confidence, {}
    for discordance in DISCORDANCE:
        if sequential:
            images = planned_bets(discordance, gate.bound, alpha=alpha)
        else:
            images = planned_images(discordance, gate.bound, alpha=alpha, power=PLANNED_POWER)
        likely[discordance] = max(math.ceil(images / share), found.needs or 0)
    return likely


def best_accuracy(labels: Labels, *, gains: bool) -> Accuracy:
    """Every image right on both engines; or, with `gains`, some of every class on the candidate only."""
    n = len(labels)
    reference = np.ones(n, dtype=bool)
    if gains:
        for label in np.unique(labels):
            reference[np.flatnonzero(labels == label)[::GAINED]] = False
    none = np.zeros((0, n), dtype=bool)
    return Accuracy(
        index=np.arange(n),
        labels=labels,
        clean_reference=reference,
        clean_candidate=np.ones(n, dtype=bool),
        attacks=(),
        kinds=(),
        attacked=none,
        standing_reference=none,
        standing_candidate=none,
        overrun=np.zeros(0),
        passes=np.zeros((0, 2), dtype=np.int64),
        gallery=_no_gallery(),
    )


def best_latency(gate: GateConfig, pairs: int, calls: int) -> Latency:
    """Times without any spread, the candidate's far on the right side of the bound, on a quiet machine."""
    better = gate.bound * _BETTER if gate.direction == "at_least" else _BETTER / gate.bound
    seconds = np.ones((pairs, 2, calls), dtype=np.float32)
    return Latency(
        batch=1,
        timing="imagined",
        order=("ABBA",) * pairs,
        reference=seconds,
        candidate=seconds / np.float32(better),
        control_a=seconds,
        control_b=seconds,
        machine={},
        facts={},
    )


def _no_gallery() -> Gallery:
    none, images = np.zeros(0, dtype=np.int64), np.zeros((0, 1, 1, 1), dtype=np.float32)
    return Gallery(none, none, none, np.zeros(0, dtype=bool), images, images)
