"""How engines are timed, and the conditions of release."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from madx.recipe.metrics import METRICS, Metric, MetricName, meanings, taking
from madx.recipe.section import Section
from madx.recipe.values import Count, Integer, Number


class LatencyConfig(Section):
    """Interleaved timing of the reference and the candidate engine."""

    batch: Count = 1
    """Images a call."""
    seconds: Annotated[Number, Field(gt=0)] = 20
    """Time budget of one comparison; sampling stops earlier when the intervals that the gates need are tight enough."""
    pairs: Annotated[Integer, Field(ge=30)] | None = None
    """Block pairs at least, whatever they cost; a pair is one ABBA or BAAB schedule. Without it, 60 as far as `seconds`
    carries them, and 24 in any case. A p99 wants 662 independent calls of each engine
    (pairs x 2 x block_calls) on a machine without any rhythm of its own, and more on one with: with a gate on p99_ratio
    sampling goes on for it, up to `seconds`."""
    block_calls: Annotated[Integer, Field(ge=5)] | None = None
    """Calls a block; a block counts with its median. Without it, 20, or as few as it takes (2 at least) for 60 pairs to
    fit into `seconds`."""
    ladder: bool = True
    """Whether an engine that is more than one step away from dense fp32 is also timed step by step (channels removed,
    precision, 2:4), so that the report says which step bought what; no gate reads it. It costs an export and a build of
    each step that the recipe does not list, and up to `seconds` once more."""


_METRIC = (
    "The reference is the dense engine, or the last release or the file that was given in its place; the candidate is "
    f"what is judged. {meanings()}."
)


class GateConfig(Section):
    """One condition of release: a metric, a bound and the confidence it must hold with."""

    metric: Annotated[MetricName, Field(description=_METRIC)]
    at_least: Annotated[Number | None, Field(description=f"Lower bound, for {taking('at_least')}.")] = None
    at_most: Annotated[Number | None, Field(description=f"Upper bound, for {taking('at_most')}; 0.03 is 3 points.")] = (
        None
    )
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    """One-sided confidence of the decision."""
    query_only: bool = False
    """Whether a gate on robustness may pass where attacks had queries only, because an engine was given without its
    torch twin: robust accuracy is then an upper bound that attacks with gradients would lower."""

    @model_validator(mode="after")
    def _found(self) -> Self:
        if self.metric in METRICS.own:
            return self
        if not (self.about.find and self.about.over_images):
            raise ValueError(
                f"{self.metric} of an installed package has no `find`, or does not rest on the gate's images; only "
                "metrics that do can be added"
            )
        if self.about.on_robustness is None:
            raise ValueError(
                f"{self.metric} of an installed package does not say `on_robustness`; True if it rests on any attack"
            )
        return self

    @model_validator(mode="after")
    def _direction(self) -> Self:
        word = self.direction
        given, other = (self.at_least, self.at_most) if word == "at_least" else (self.at_most, self.at_least)
        if given is None or other is not None:
            raise ValueError(f"a gate on {self.metric} takes {word}, and only that")
        return self

    @model_validator(mode="after")
    def _decides(self) -> Self:
        """A gate that no measurement could fail, or none could pass, asks nothing."""
        given, unit = f"a gate on {self.metric} with {self.direction}: {self.bound:g}", self.about.unit
        if self.direction == "at_least" and self.bound <= 0:
            raise ValueError(f"{given} could not fail; give a bound above 0")
        if self.direction == "at_most" and self.bound <= 0 and unit != "drop":
            raise ValueError(f"{given} could not pass, as its limits are above 0; give a bound above 0")
        if self.bound < 0:
            raise ValueError(f"{given} would ask for a gain; the strictest bound of a drop is 0")
        if self.bound >= 1 and unit != "ratio":
            never = "pass" if self.direction == "at_least" else "fail"
            whole = self.about.share_of
            raise ValueError(
                f"{given} could not {never}: it is a share of the {whole}: {self.bound:g} is not below 1; 0.03 is 3 %"
            )
        return self

    @model_validator(mode="after")
    def _consent(self) -> Self:
        if self.query_only and not self.on_robustness:
            raise ValueError(f"query_only belongs to a gate on robustness; {self.metric} needs no attack")
        return self

    @property
    def about(self) -> Metric:
        """All that is known of the metric."""
        return METRICS[self.metric]

    @property
    def on_robustness(self) -> bool:
        """Whether the metric rests on attacks."""
        return bool(self.about.on_robustness)

    @property
    def compares(self) -> bool:
        """Whether the metric needs a reference."""
        return self.about.compares

    @property
    def bound(self) -> float:
        """The bound, whichever its direction."""
        bound = self.at_least if self.at_least is not None else self.at_most
        assert bound is not None  # the validator holds it
        return bound

    @property
    def direction(self) -> Literal["at_least", "at_most"]:
        """Which of the two bounds the metric takes."""
        return self.about.direction
