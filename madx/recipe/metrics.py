"""Every metric that a gate may ask for: what it is of, on which side of its bound it lies, and its words.

A row is all that recipes, plans, verdicts and reports need to know of a metric; they read it here and hold no list of
their own. How its number and its limits are found stands in `madx.verify`, under the same name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from madx.recipe.values import RowOf
from madx.tables import Table


@dataclass(frozen=True)
class Metric:
    """What kind of number a gate asks for."""

    direction: Literal["at_least", "at_most"]
    """The side of its bound: at_least where more is better."""
    unit: Literal["ratio", "share", "drop"]
    """A ratio may be required to be 1 or more, a share of images not; a drop, in shares too, is the only one that can
    be 0 or below."""
    rests_on: Literal["gate images", "parity images", "times", "bytes"]
    """What is sampled: images under attack, images on which an engine is held against its torch twin, timed calls; or
    counted: bytes."""
    title: str
    """As a release manager calls it."""
    meaning: str
    """As the recipe's reference defines it."""
    at_best: str
    """The best data that there could be, in words: ... cannot pass, even if `at_best`."""
    on_robustness: bool | None = None
    """Whether it is no better than the attacks: then every sign of false robustness forbids a PASS. A package's row has
    to say it; of madx's own, nothing said is no."""
    compares: bool = True
    """Whether it needs a reference; else it is of the candidate alone."""
    share_of: str = "images"
    """Of what a share is one."""
    find: Callable[[Any, Any, bool], Any] | None = None
    """Of a row that an installed package adds, which must be over the gate's images: (`madx.verify.Accuracy`,
    `GateConfig`, whether each chunk was looked at) -> `madx.verify.evidence.Finding`."""

    @property
    def over_images(self) -> bool:
        """Whether more images of the gate's split sharpen it, so that `verify.sequential` may stop early."""
        return self.rests_on == "gate images"

    @property
    def timed(self) -> bool:
        """Whether it rests on the timings."""
        return self.rests_on == "times"

    @property
    def needs_twin(self) -> bool:
        """Whether it compares an engine with its torch network."""
        return self.rests_on == "parity images"


_ALIKE = "all times were alike"
_NONE_LOST = "no image were lost and none gained"
_ALL_RIGHT = "every image were right"
METRICS: Table[Metric] = Table(
    "madx.metrics",
    Metric,
    {
        "speedup": Metric(
            "at_least",
            "ratio",
            "times",
            title="speed-up",
            meaning="latency of the reference / of the candidate",
            at_best=_ALIKE,
        ),
        "p99_ratio": Metric(
            "at_most",
            "ratio",
            "times",
            title="p99 latency against the reference",
            meaning="the candidate's p99 / the reference's, inconclusive where the calls do not carry a p99",
            at_best=_ALIKE,
        ),
        "robust_drop": Metric(
            "at_most",
            "drop",
            "gate images",
            title="robust accuracy lost",
            meaning="share of the gate images on which the reference is robust, minus the candidate's",
            at_best=_NONE_LOST,
            on_robustness=True,
        ),
        "clean_drop": Metric(
            "at_most",
            "drop",
            "gate images",
            title="clean accuracy lost",
            meaning="share of the gate images that the reference gets right, minus the candidate's",
            at_best=_NONE_LOST,
        ),
        "robust_accuracy": Metric(
            "at_least",
            "share",
            "gate images",
            title="robust accuracy",
            meaning="share of the gate images on which the candidate withstands every attack",
            at_best=_ALL_RIGHT,
            on_robustness=True,
            compares=False,
        ),
        "clean_accuracy": Metric(
            "at_least",
            "share",
            "gate images",
            title="clean accuracy",
            meaning="share of the gate images that the candidate gets right",
            at_best=_ALL_RIGHT,
            compares=False,
        ),
        "retention": Metric(
            "at_least",
            "share",
            "gate images",
            title="robust accuracy kept",
            meaning="robust accuracy, candidate / reference",
            at_best=_ALL_RIGHT,
            on_robustness=True,
            share_of="reference's robust accuracy",
        ),
        "worst_class_drop": Metric(
            "at_most",
            "drop",
            "gate images",
            title="robust accuracy lost in the worst class",
            meaning="the largest robust drop in one class",
            at_best=_NONE_LOST,
            on_robustness=True,
        ),
        "parity_flips": Metric(
            "at_most",
            "share",
            "parity images",
            title="labels the engine changed",
            meaning="share of images that the engine labels otherwise than its twin",
            at_best="no label changed",
            compares=False,
        ),
        "size_ratio": Metric(
            "at_most",
            "ratio",
            "bytes",
            title="file size against the reference",
            meaning="file of the candidate / of the reference",
            at_best="files were as small as can be",
        ),
    },
    runs=lambda metric: [module] if (module := getattr(metric.find, "__module__", None)) else [],
)
"""By the name that a recipe calls it; the order is that of the docs."""

MetricName = Annotated[str, RowOf(METRICS.group, tuple(METRICS.own))]


def about(name: str) -> Metric | None:
    """What is known of a metric in a verdict, which may be of a package that is not here, or of a later madx."""
    return METRICS.get(name)


def taking(direction: Literal["at_least", "at_most"]) -> str:
    """The metrics on that side of their bound, for the recipe's reference."""
    return ", ".join(name for name, metric in METRICS.own.items() if metric.direction == direction)


def meanings() -> str:
    """One line for each, for the recipe's reference."""
    return "; ".join(f"{name}: {metric.meaning}" for name, metric in METRICS.own.items())
