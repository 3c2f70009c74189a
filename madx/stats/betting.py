"""Limits that hold however often one looks: the betting test for images that come one after the other.

Waudby-Smith and Ramdas, JRSS-B 86:1 (2024), arXiv 2010.09686. For a hypothesis about a mean, capital starts at 1 and
is multiplied by 1 + lambda_t Y_t, where Y_t has a mean of at most 0 under the hypothesis and lambda_t >= 0 was fixed
before image t was seen. The capital is then a non-negative supermartingale, and by Ville's inequality it EVER reaches
1 / alpha with a probability of at most alpha. A limit is the last hypothesis that the highest capital so far has not
refuted, so it only ever narrows, and whoever stops when it pleases has not cheated.

Layout: one row of outcomes per image, in the order in which they are looked at; that order must not depend on them.
All metrics are one quantity, theta = E[part] / E[whole], and Y = theta whole - part (to show that theta is smaller) or
its negative:

    metric      part             whole       theta
    drop        lost - gained    1           share lost - share gained
    share       hit              1           share of hits
    retention   candidate right  reference right  share kept, P(candidate) / P(reference)

The stakes: lambda_t = k g / (v_t + k g M / 2), Kelly's stake on a distance of k g between truth and bound to second
order, with v_t the mean of Y^2 over the images BEFORE t (one image of the widest variance before the first) and M the
largest possible loss. Three gamblers with k = 2, 0.75 and 0.25 share the capital; their sum is the test's capital. The
stakes are chosen at the gate's own bound and kept for every other theta, so the capital is monotone in theta and the
refuted hypotheses form a half line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from madx.errors import MadxError
from madx.stats.checks import check_confidence
from madx.stats.search import refuted_edge

Floats = NDArray[np.float64]

GAMBLERS = ((2.0, 0.6), (0.75, 0.35), (0.25, 0.05))
"""(k, share of the capital): by simulation the quickest at one point of margin that still decides at half a point."""
DEEPEST_STAKE = 0.9
"""Share of the capital that one image may cost at most: what is lost whole never comes back."""
SMALLEST_DISTANCE = 0.005
"""Distance that the stakes aim at where the bound leaves none, in shares of the images."""
USUAL_DISTANCE = 0.02
"""Distance that the stakes on a share aim at."""
PLANNED_FACTOR = 2.2
"""Images at which most tests have ended, in units of 2 ln(1 / alpha) variance / distance^2. Simulated: 85 to 90 % where
the distance is the one that the stakes aim at, 60 to 70 % at a third or a half of it."""
_LARGEST_RATIO = 1e3


@dataclass(frozen=True, eq=False)
class Game:
    """A row of outcomes (or several, in leading dimensions), and the bound that the stakes are chosen at."""

    part: Floats
    """[..., n]"""
    whole: Floats
    """[..., n], none negative."""
    cells: tuple[tuple[float, float], ...]
    """Every (part, whole) that an image can have, seen or not: no stake may exceed what the worst one leaves."""
    bound: float
    distance: float
    """g: how far from the bound the truth is expected, in units of E[part]."""

    def log_capital(self, theta: float, *, below: bool) -> Floats:
        """[..., n] ln of the capital after each image, against "the truth is at least theta" (or, not below, at most).

        Args:
            theta: the hypothesis.
            below: whether the bets are on a truth below theta.
        """
        sign = 1.0 if below else -1.0
        gains = sign * (theta * self.whole - self.part)
        deepest = self._largest_loss(theta, sign)
        ceiling = DEEPEST_STAKE / deepest if deepest > 0 else math.inf
        aimed_loss = self._largest_loss(self.bound, sign)
        capital = np.full(gains.shape, -np.inf)
        for factor, share in GAMBLERS:
            hoped = factor * self.distance
            stakes = np.minimum(hoped / (self._spread + hoped * aimed_loss / 2), ceiling)
            capital = np.logaddexp(capital, math.log(share) + np.cumsum(np.log1p(stakes * gains), axis=-1))
        return capital

    def refuted(self, theta: float, *, below: bool, confidence: float) -> bool:
        """Whether the capital against `theta` ever reached 1 / alpha in a single row of outcomes."""
        return bool(self.log_capital(theta, below=below).max() >= -math.log1p(-confidence))

    def _largest_loss(self, theta: float, sign: float) -> float:
        return max(sign * (part - theta * whole) for part, whole in self.cells)

    @cached_property
    def _spread(self) -> Floats:
        """v_t: the mean of Y^2 at the bound over the images before t, and over one imagined one."""
        squares = (self.bound * self.whole - self.part) ** 2
        values = [self.bound * whole - part for part, whole in self.cells]
        start = (max(values) - min(values)) ** 2 / 4
        before = np.cumsum(squares, axis=-1) - squares
        spread: Floats = (start + before) / np.arange(1, squares.shape[-1] + 1)
        return spread


def drop_game(reference: ArrayLike, candidate: ArrayLike, *, bound: float) -> Game:
    """The drop of a share from the reference to the candidate, both [..., n] bool on the same images.

    Raises:
        MadxError: if there is no image, the two differ in shape, or the bound is outside (-1, 1).
    """
    before, after = _outcomes(reference, candidate)
    _check_bound(bound, -1 < bound < 1, "between -1 and 1")
    cells = ((-1.0, 1.0), (0.0, 1.0), (1.0, 1.0))
    return Game(before - after, np.ones_like(before), cells, bound, max(abs(bound), SMALLEST_DISTANCE))


def share_game(hits: ArrayLike, *, bound: float) -> Game:
    """The share of hits, [..., n] bool.

    Raises:
        MadxError: if there is no image, or the bound is outside [0, 1).
    """
    (values,) = _outcomes(hits)
    _check_bound(bound, 0 <= bound < 1, "from 0 on and below 1")
    room = min(bound, 1 - bound, USUAL_DISTANCE)
    return Game(values, np.ones_like(values), ((0.0, 1.0), (1.0, 1.0)), bound, max(room, SMALLEST_DISTANCE))


def retention_game(reference: ArrayLike, candidate: ArrayLike, *, bound: float) -> Game:
    """The ratio of two shares, candidate / reference, both [..., n] bool on the same images.

    Raises:
        MadxError: if there is no image, the two differ in shape, or the bound is not above 0.
    """
    before, after = _outcomes(reference, candidate)
    _check_bound(bound, 0 < bound < _LARGEST_RATIO, f"above 0 and below {_LARGEST_RATIO:g}")
    cells = ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))
    return Game(after, before, cells, bound, max(abs(1 - bound) / 2, SMALLEST_DISTANCE))


def betting_drop(reference: ArrayLike, candidate: ArrayLike, *, bound: float, confidence: float) -> tuple[float, float]:
    """Limits of the drop P(reference right) - P(candidate right), each one-sided at `confidence`, at every look.

    The test refutes a drop exactly when it is at or above the upper limit. The limits are those of the running
    intersection and may cross (lower > upper) if the images come in an order that depends on their outcomes.

    Args:
        reference: [n] bool, in the order in which the images were looked at.
        candidate: [n] bool, the same images.
        bound: drop that the stakes are chosen at: the gate's. The limits hold whatever it is.
        confidence: of each limit, in (0.5, 1).

    Raises:
        MadxError: if an argument is out of range.
    """
    return _limits(drop_game(reference, candidate, bound=bound), -1.0, 1.0, confidence)


def betting_share(hits: ArrayLike, *, bound: float, confidence: float) -> tuple[float, float]:
    """Limits of a share, each one-sided at `confidence`, at every look; as `betting_drop`, of [n] bool.

    Raises:
        MadxError: if an argument is out of range.
    """
    return _limits(share_game(hits, bound=bound), 0.0, 1.0, confidence)


def betting_retention(
    reference: ArrayLike, candidate: ArrayLike, *, bound: float, confidence: float
) -> tuple[float, float]:
    """Limits of P(candidate right) / P(reference right), each one-sided at `confidence`, at every look.

    As `betting_drop`; the upper limit is inf where the images give none.

    Raises:
        MadxError: if an argument is out of range.
    """
    game = retention_game(reference, candidate, bound=bound)
    lower, upper = _limits(game, 0.0, _LARGEST_RATIO, confidence)
    return lower, upper if upper < _LARGEST_RATIO else math.inf


def planned_bets(variance: float, distance: float, *, alpha: float) -> int:
    """Images after which most betting tests have ended, rounded up.

    n = 2.2 * 2 ln(1 / alpha) (variance + distance / 2) / distance^2: Kelly's growth is distance^2 / (2 variance) per
    image; the second term is what a stake must leave for the worst image; the factor is simulated.

    Args:
        variance: of the outcome of one image; for a drop the share of discordant images.
        distance: between the bound and the truth, above 0.
        alpha: one-sided error rate of the test.

    Raises:
        MadxError: if an argument is out of range.
    """
    if not (variance >= 0 and distance > 0 and 0 < alpha < 1):
        raise MadxError(
            f"no sample size for variance {variance:g}, distance {distance:g}, alpha {alpha:g}; expected a variance "
            "from 0 on, a distance above 0 and alpha between 0 and 1"
        )
    growth = distance**2 / (2 * (variance + distance / 2))
    return max(1, math.ceil(PLANNED_FACTOR * math.log(1 / alpha) / growth))


def _limits(game: Game, lowest: float, highest: float, confidence: float) -> tuple[float, float]:
    """Of a single row of outcomes; an end of the range that is not refuted is the limit."""
    check_confidence(confidence)
    if game.part.ndim != 1:
        raise MadxError(f"limits are for one row of images, got an array of shape {list(game.part.shape)}")

    def too_high(theta: float) -> bool:
        return game.refuted(theta, below=True, confidence=confidence)

    def too_low(theta: float) -> bool:
        return game.refuted(theta, below=False, confidence=confidence)

    lower = refuted_edge(too_low, inside=highest, outside=lowest) if too_low(lowest) else lowest
    upper = refuted_edge(too_high, inside=lowest, outside=highest) if too_high(highest) else highest
    return lower, upper


def _outcomes(*rows: ArrayLike) -> tuple[Floats, ...]:
    values = tuple(np.asarray(row) for row in rows)
    if any(value.ndim == 0 or value.shape[-1] == 0 for value in values):
        raise MadxError("the betting test was given no image; expected at least one")
    if any(value.dtype != np.bool_ for value in values):
        raise MadxError(f"expected right or wrong (bool) per image, got {[str(value.dtype) for value in values]}")
    if len({value.shape for value in values}) > 1:
        raise MadxError(f"expected the same images on both sides, got {[list(value.shape) for value in values]}")
    return tuple(value.astype(np.float64) for value in values)


def _check_bound(bound: float, fits: bool, expected: str) -> None:
    if not fits:
        raise MadxError(f"the bound of the betting test is {bound:g}; expected a value {expected}")
