"""Tango's test and interval against brute force, other programs' numbers, Newcombe and exact error rates."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import ndtri
from scipy.stats import binom, norm

from madx.errors import MadxError
from madx.stats import clopper_pearson, drop_interval, planned_images, tango_interval, tango_statistic
from madx.stats.paired import _spread

TABLES = [
    (50, 1, 0),
    (50, 0, 0),
    (100, 8, 2),
    (500, 15, 15),
    (1000, 0, 7),
    (1000, 31, 19),
    (30, 30, 0),
    (7, 3, 4),
]


@st.composite
def tables(draw):
    n = draw(st.integers(1, 3000))
    b = draw(st.integers(0, n))
    return n, b, draw(st.integers(0, n - b))


def brute_force_z(n, b, c, d):
    """The definition: maximise the constrained likelihood numerically, then standardise."""

    def minus_log_likelihood(q):
        cells = [(b, q + d), (c, q), (n - b - c, 1 - 2 * q - d)]
        return -sum(count * math.log(p) for count, p in cells if count)

    low, high = max(0.0, -d), (1 - d) / 2
    q = minimize_scalar(minus_log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (n * d - (b - c)) / math.sqrt(n * (2 * q + d * (1 - d)))


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("margin", [-0.2, -0.01, 0.01, 0.03, 0.3])
def test_statistic_is_the_score_of_the_constrained_likelihood(table, margin):
    # 1e-4: the bounded search stops a little inside an optimum that sits on the boundary
    assert tango_statistic(*table, margin=margin) == pytest.approx(brute_force_z(*table, margin), rel=1e-4, abs=1e-4)


def test_at_margin_zero_it_is_mcnemar():
    assert tango_statistic(400, 18, 7, margin=0) == pytest.approx(-(18 - 7) / math.sqrt(18 + 7))


@pytest.mark.parametrize(
    ("table", "confidence", "expected", "digits"),
    [
        ((618, 28, 25), 0.95, (-0.0148, 0.0247), 4),  # R's PropCIs::scoreci.mp(25, 28, 618, 0.90)
        ((21, 1, 7), 0.975, (-0.517, -0.026), 3),  # airway data of Bentur et al. 2009, R's ratesci and PropCIs
    ],
)
def test_interval_is_the_one_other_programs_print(table, confidence, expected, digits):
    limits = tango_interval(*table, confidence=confidence)
    assert tuple(round(limit, digits) for limit in limits) == expected


@pytest.mark.parametrize("n", [10, 100, 1000])
def test_without_discordant_images_the_limit_has_a_closed_form(n):
    z = norm.ppf(0.95)
    expected = z * z / (n + z * z)  # Z = sqrt(n d / (1 - d)) when b = c = 0
    assert tango_interval(n, 0, 0, confidence=0.95) == (pytest.approx(-expected), pytest.approx(expected))


def newcombe_10(n, b, c, confidence):
    """Newcombe's method 10 (Stat Med 17:2635, 1998): squared and added Wilson limits, with phi."""
    from statsmodels.stats.proportion import proportion_confint

    both = (n - b - c) // 2
    e, f, g, h = both, b, c, n - b - c - both
    p1, p2 = (e + f) / n, (e + g) / n
    level = 2 * (1 - confidence)
    (l1, u1), (l2, u2) = (proportion_confint(k, n, level, method="wilson") for k in (e + f, e + g))
    product = (e + f) * (g + h) * (e + g) * (f + h)
    numerator = e * h - f * g
    numerator = max(numerator - n / 2, 0) if numerator > 0 else numerator
    phi = numerator / math.sqrt(product)
    down = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    up = math.sqrt((p2 - l2) ** 2 - 2 * phi * (p2 - l2) * (u1 - p1) + (u1 - p1) ** 2)
    return p1 - p2 - down, p1 - p2 + up


@pytest.mark.parametrize("table", [(500, 15, 15), (1000, 31, 19), (1000, 80, 40), (4000, 100, 140)])
def test_interval_is_near_newcombes_method_10(table):
    ours, theirs = tango_interval(*table, confidence=0.95), newcombe_10(*table, 0.95)
    width = theirs[1] - theirs[0]
    assert ours == pytest.approx(theirs, abs=0.05 * width)  # two different methods: they agree to a few % of the width


@given(tables(), st.sampled_from([0.8, 0.95, 0.99]))
def test_interval_contains_the_estimate(table, confidence):
    n, b, c = table
    lower, upper = tango_interval(n, b, c, confidence=confidence)
    assert -1 <= lower <= (b - c) / n <= upper <= 1
    assert lower < upper


@given(tables(), st.floats(-0.99, 0.99), st.floats(-0.99, 0.99))
def test_statistic_rises_with_the_margin(table, one, other):
    low, high = sorted((one, other))
    assert tango_statistic(*table, margin=low) <= tango_statistic(*table, margin=high) + 1e-9


@given(tables(), st.floats(-0.99, 0.99))
def test_exchanging_the_engines_mirrors_everything(table, margin):
    n, b, c = table
    assert tango_statistic(n, b, c, margin=margin) == pytest.approx(
        -tango_statistic(n, c, b, margin=-margin), abs=1e-12
    )
    lower, upper = tango_interval(n, b, c, confidence=0.95)
    assert tango_interval(n, c, b, confidence=0.95) == (-upper, -lower)


@given(tables(), st.floats(0.001, 0.9), st.sampled_from([0.9, 0.95]))
def test_test_and_interval_agree(table, margin, confidence):
    rejected = tango_statistic(*table, margin=margin) >= norm.ppf(confidence)
    assert rejected == (tango_interval(*table, confidence=confidence)[1] <= margin)


@pytest.mark.parametrize("table", TABLES)
def test_a_limit_is_the_first_margin_that_the_test_refutes(table):
    """The very first: the float beside it is not refuted, and no limit claims a bit more than its test."""
    n, b, c = table
    for confidence in (0.8, 0.9, 0.95, 0.99):
        lower, upper = tango_interval(n, b, c, confidence=confidence)
        for limit, sides in ((upper, (b, c)), (-lower, (c, b))):
            if limit < 1:  # else all are lost, and no drop is refuted
                margins = (math.nextafter(limit, -1), limit)
                inside, outside = (tango_statistic(n, *sides, margin=margin) for margin in margins)
                assert inside < ndtri(confidence) <= outside


def test_nothing_seen_is_nothing_claimed():
    assert tango_statistic(50, 0, 0, margin=0) == 0


def exact_error_rate(n, margin, gained, *, limits, passing, confidence=0.95):
    """Sum the probabilities of all tables that are wrongly decided at p_b - p_c = margin: no simulation noise."""
    lost = margin + gained
    total = 0.0
    for discordant in range(int(binom.ppf(1 - 1e-7, n, lost + gained)) + 1):
        b = np.arange(discordant + 1)
        chance = binom.pmf(discordant, n, lost + gained) * binom.pmf(b, discordant, lost / (lost + gained))
        for k in np.flatnonzero(chance > 1e-7):
            lower, upper = limits(n, int(k), int(discordant - k), confidence=confidence)
            total += float(chance[k]) * (upper <= margin if passing else lower >= margin)
    return total


@pytest.mark.parametrize("gained", [0.0, 0.001, 0.01, 0.03])
@pytest.mark.parametrize(("n", "margin"), [(26, 0.1), (60, 0.1), (90, 0.03), (95, 0.03), (200, 0.03), (500, 0.03)])
def test_exact_rate_of_wrong_passes_holds(n, margin, gained):
    assert exact_error_rate(n, margin, gained, limits=drop_interval, passing=True) <= 0.05


@pytest.mark.parametrize("gained", [0.0, 0.001, 0.01, 0.03])
@pytest.mark.parametrize(("n", "margin"), [(26, 0.1), (60, 0.1), (80, 0.05), (90, 0.03), (200, 0.03), (500, 0.03)])
def test_exact_rate_of_wrong_failures_holds(n, margin, gained):
    assert exact_error_rate(n, margin, gained, limits=drop_interval, passing=False) <= 0.05


def test_exact_rate_of_wrong_failures_holds_far_out_in_the_tail():
    """Where the worst of ten classes is judged."""
    case = {"limits": drop_interval, "passing": False, "confidence": 0.995}
    assert exact_error_rate(200, 0.10, 0.02, **case) <= 0.005


@pytest.mark.parametrize(("n", "margin", "passing"), [(26, 0.1, True), (90, 0.03, True), (100, 0.03, False)])
def test_tango_alone_is_too_sure_of_few_images_and_no_gain(n, margin, passing):
    """Why the gate's limits are not Tango's alone."""
    assert exact_error_rate(n, margin, 0.0, limits=tango_interval, passing=passing) > 0.064


@given(tables(), st.sampled_from([0.9, 0.95, 0.995]))
def test_the_gates_limits_are_never_sharper_than_tangos(table, confidence):
    lower, upper = drop_interval(*table, confidence=confidence)
    tango_lower, tango_upper = tango_interval(*table, confidence=confidence)
    assert lower <= tango_lower
    assert tango_upper <= upper
    n, b, c = table
    assert drop_interval(n, c, b, confidence=confidence) == (-upper, -lower)


def test_skewness_is_that_of_the_outcomes():
    """By the definition, from the shares that make the likelihood largest, here known: b and c as they are."""
    n, b, c = 1000, 60, 20
    values, shares = np.array([1, -1, 0]), np.array([0.06, 0.02, 0.92])
    centred = values - shares @ values
    expected = (shares @ centred**3) / (shares @ centred**2) ** 1.5 / math.sqrt(n)
    deviation = math.sqrt(n * (shares @ centred**2))
    assert _spread(n, b, c, 0.04) == pytest.approx((deviation, expected))
    assert _spread(n, c, b, -0.04) == pytest.approx((deviation, -expected))


def test_limits_of_empty_cells_are_exact_ones():
    assert drop_interval(90, 0, 0, confidence=0.95)[1] == pytest.approx(1 - 0.05 ** (1 / 90))
    lower, upper = drop_interval(300, 4, 0, confidence=0.95)
    assert upper == clopper_pearson(4, 300, confidence=0.95)[1]
    assert drop_interval(300, 0, 4, confidence=0.95) == (-upper, -lower)


def test_simulated_type_one_error_and_power():
    rng = np.random.default_rng(20240501)
    null = rng.multinomial(500, [0.05, 0.02, 0.93], size=2000)
    rate = np.mean([tango_statistic(500, int(b), int(c), margin=0.03) >= norm.ppf(0.95) for b, c, _ in null])
    assert rate == pytest.approx(0.05, abs=0.015)  # three standard errors of 2000 draws


@pytest.mark.parametrize(
    ("n", "power"), [(1000, {0.01: 0.88, 0.03: 0.55, 0.10: 0.25}), (10_000, {0.01: 1.0, 0.03: 1.0, 0.10: 0.94})]
)
def test_power_is_that_of_an_independent_simulation(n, power):
    """One point of margin and no true loss, at 1, 3 and 10 % discordant images."""
    rng = np.random.default_rng(20240502)
    for discordance, expected in power.items():
        draws = rng.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], size=2000)
        passed = np.mean([tango_statistic(n, int(b), int(c), margin=0.01) >= norm.ppf(0.95) for b, c, _ in draws])
        assert passed == pytest.approx(expected, abs=0.04)


def test_what_does_not_vary_is_decided_by_one_image():
    assert planned_images(0, 0.02, alpha=0.05, power=0.8) == 1


def test_planned_images_reach_their_power():
    n = planned_images(0.03, 0.02, alpha=0.05, power=0.8)
    assert n == math.ceil((norm.ppf(0.95) + norm.ppf(0.8)) ** 2 * 0.03 / 0.02**2)
    draws = np.random.default_rng(7).multinomial(n, [0.015, 0.015, 0.97], size=1500)
    passed = np.mean([tango_statistic(n, int(b), int(c), margin=0.02) >= norm.ppf(0.95) for b, c, _ in draws])
    assert passed == pytest.approx(0.8, abs=0.06)  # a normal approximation, and the noise of 1500 draws


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tango_statistic(0, 0, 0, margin=0.03), "at least one image"),
        (lambda: tango_statistic(10, 11, 0, margin=0.03), "lost images is 11"),
        (lambda: tango_statistic(10, 6, 6, margin=0.03), "discordant images is 12"),
        (lambda: tango_statistic(10, 1, -1, margin=0.03), "gained images is -1"),
        (lambda: tango_statistic(10, 1, 1, margin=3), "margin is 3"),
        (lambda: tango_interval(10, 1, 1, confidence=95), "confidence is 95"),
        (lambda: tango_interval(10, 1, 1, confidence=0.05), "confidence is 0.05"),
        (lambda: tango_statistic(10, 1, 1, margin=1), "margin is 1"),
        (lambda: tango_statistic(10, 1, 1, margin=-1), "margin is -1"),
        (lambda: tango_interval(10, 1, 1, confidence=0.5), "confidence is 0.5"),
        (lambda: tango_interval(10, 1, 1, confidence=1), "confidence is 1"),
        (lambda: tango_interval(10, 11, 1, confidence=0.95), "lost images is 11"),
        (lambda: drop_interval(10, 1, 1, confidence=95), "confidence is 95"),
        (lambda: drop_interval(10, 11, 1, confidence=0.95), "lost images is 11"),
        (lambda: planned_images(0.1, 0, alpha=0.05, power=0.8), "distance 0"),
        (lambda: planned_images(-0.1, 0.1, alpha=0.05, power=0.8), "variance -0.1"),
        (lambda: planned_images(0.1, 0.1, alpha=0, power=0.8), "alpha 0"),
        (lambda: planned_images(0.1, 0.1, alpha=1, power=0.8), "alpha 1"),
        (lambda: planned_images(0.1, 0.1, alpha=0.05, power=0), "power 0"),
        (lambda: planned_images(0.1, 0.1, alpha=0.05, power=1), "power 1"),
    ],
)
def test_impossible_arguments_are_named(call, said):
    with pytest.raises(MadxError, match=said):
        call()
