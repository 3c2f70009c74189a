"""Student's limits of a mean, and the distance from a bound that they show with a given chance."""

import math

import numpy as np
import pytest

from madx.errors import MadxError
from madx.stats import student_limits, student_reach


@pytest.mark.parametrize("draws", [2, 8, 30])
def test_limits_cover_the_mean_as_often_as_they_say(draws):
    values = np.random.default_rng(0).normal(3.0, 0.5, (4000, draws))
    lower, upper = np.array([student_limits(row, 0.95) for row in values]).T
    for missed in ((lower > 3.0).mean(), (upper < 3.0).mean()):
        assert missed == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 4000))


def test_one_draw_has_no_limits():
    assert student_limits([1.0], 0.95) == (-math.inf, math.inf)
    with pytest.raises(MadxError, match="not finite"):
        student_limits([1.0, math.nan], 0.95)


@pytest.mark.parametrize(("draws", "confidence", "power"), [(8, 0.95, 0.8), (8, 0.99, 0.8), (20, 0.95, 0.5)])
def test_a_mean_so_far_off_is_shown_with_that_chance(draws, confidence, power):
    reach = student_reach(draws, confidence, power=power)
    values = np.random.default_rng(1).normal(reach, 1.0, (4000, draws))
    shown = np.mean([student_limits(row, confidence)[0] > 0 for row in values])
    assert shown == pytest.approx(power, abs=3 * math.sqrt(power * (1 - power) / 4000))


def test_the_spread_of_one_draw_is_not_known():
    with pytest.raises(MadxError, match="1 draws"):
        student_reach(1, 0.95, power=0.8)


def test_two_draws_are_enough():
    """The fewest that have a spread: with one degree of freedom Student's t is Cauchy's, which has a closed form."""
    lower, upper = student_limits([1.0, 3.0], 0.95)
    reach = math.tan(math.pi * 0.45)  # times the standard error, 1
    assert (lower, upper) == (pytest.approx(2 - reach), pytest.approx(2 + reach))
    assert 0 < student_reach(3, 0.95, power=0.8) < student_reach(2, 0.95, power=0.8) < math.inf


def test_draws_of_few_digits_are_averaged_with_many():
    values = np.array([1e8, 1e8 + 8, 1e8 + 16], dtype=np.float32)
    assert student_limits(values, 0.95) == student_limits(values.astype(np.float64), 0.95)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 95, math.nan])
def test_what_is_no_confidence_is_refused(confidence):
    for call in (lambda: student_limits([1.0], confidence), lambda: student_reach(8, confidence, power=0.8)):
        with pytest.raises(MadxError, match="confidence is"):
            call()
