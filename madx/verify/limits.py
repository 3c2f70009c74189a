"""Where the limits of a metric over images come from: a test of a fixed number of images, or one for every look.

A gate that looks after every chunk and stops when it likes needs limits that hold however often one looks
(`sequential`): those of the betting test. A gate that looks once has sharper ones. Rows are images [n] bool in their
committed random order, which the betting test rests on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from madx.recipe import GateConfig
from madx.stats import (
    betting_drop,
    betting_retention,
    betting_share,
    clopper_pearson,
    drop_interval,
    planned_bets,
    planned_images,
    retention_interval,
)
from madx.verify.arrays import Bools

PLANNED_POWER = 0.8
"""Chance of a decision that the advice on more images aims at."""
_TANGO = "Tango's score test, widened for few images"
_NAM_BLACKWELDER = "Nam and Blackwelder's score test, widened for few images"
_CLOPPER_PEARSON = "Clopper-Pearson"
_BETTING = "betting test, valid at every look"
_LEAST_GROWTH = 1.0
"""A betting test that is not through although most would be wants as many images again, at least."""


@dataclass(frozen=True)
class Limits:
    """One-sided limits, and the name of the test that they belong to."""

    lower: float
    upper: float
    method: str

    @property
    def contradiction(self) -> tuple[str, ...]:
        """Only limits of every look can cross: each of them stays where it was once justified."""
        if self.lower <= self.upper:
            return ()
        return (
            "The limits contradict each other: what the first images showed, later ones refuted. The images did not "
            "come in random order, or a rare chance did it. Measure again with another seed.",
        )


def discordant(reference: Bools, candidate: Bools) -> tuple[int, int]:
    """(lost, gained): images that only the reference gets right, and that only the candidate does."""
    return int((reference & ~candidate).sum()), int((~reference & candidate).sum())


def drop_limits(
    reference: Bools, candidate: Bools, gate: GateConfig, *, sequential: bool, confidence: float | None = None
) -> Limits:
    """Of the share of images lost minus the share gained; at the gate's confidence unless another is given."""
    level = gate.confidence if confidence is None else confidence
    if sequential:
        return Limits(*betting_drop(reference, candidate, bound=gate.bound, confidence=level), _BETTING)
    lost, gained = discordant(reference, candidate)
    return Limits(*drop_interval(len(reference), lost, gained, confidence=level), _TANGO)


def share_limits(hits: Bools, gate: GateConfig, *, sequential: bool) -> Limits:
    """Of the share of hits."""
    if sequential:
        return Limits(*betting_share(hits, bound=gate.bound, confidence=gate.confidence), _BETTING)
    return Limits(*clopper_pearson(int(hits.sum()), len(hits), confidence=gate.confidence), _CLOPPER_PEARSON)


def retention_limits(reference: Bools, candidate: Bools, gate: GateConfig, *, sequential: bool) -> Limits:
    """Of the candidate's share of right images over the reference's."""
    if sequential:
        return Limits(*betting_retention(reference, candidate, bound=gate.bound, confidence=gate.confidence), _BETTING)
    lost, gained = discordant(reference, candidate)
    limits = retention_interval(int((reference & candidate).sum()), lost, gained, confidence=gate.confidence)
    return Limits(*limits, _NAM_BLACKWELDER)


def more_images(
    n: int, *, variance: float, distance: float, sequential: bool, alpha: float, power: float = PLANNED_POWER
) -> int | None:
    """About how many images beyond `n` would decide; None if the estimate lies on the bound itself.

    Args:
        n: images measured.
        variance: of the outcome of one image. One image that differs is assumed even where none was seen, or no image
            would seem to be needed.
        distance: between the estimate and the bound, in the same unit.
        sequential: which test decides.
        alpha: its error rate.
        power: of a test that looks once; the betting test's is that of `planned_bets`.
    """
    if not np.isfinite(distance) or distance == 0:
        return None
    least = max(variance, 1 / n)
    if sequential:
        return max(planned_bets(least, abs(distance), alpha=alpha) - n, round(_LEAST_GROWTH * n), 1)
    return max(planned_images(least, abs(distance), alpha=alpha, power=power) - n, 1)


def images_advice(n: int, more: int | None, *, sequential: bool) -> str:
    """The same in a sentence."""
    if more is None:
        return "The estimate lies on the bound itself: no number of images would decide it."
    chance = "more likely than not" if sequential else f"with a chance of {PLANNED_POWER:.0%}"
    return (
        f"If the rates stay as they are, about {n + more} images, {more} more than were measured, would decide it "
        f"{chance}."
    )
