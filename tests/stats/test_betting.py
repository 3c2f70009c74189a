"""The betting test against its definition, exact expectations, and error rates under looking after every image."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.errors import MadxError
from madx.stats import betting_drop, betting_retention, betting_share, planned_bets
from madx.stats.betting import drop_game, retention_game, share_game

RUNS = 2000
SPARE = 3 * math.sqrt(0.05 * 0.95 / RUNS)
"""Three standard errors of a rate of 5 % over RUNS simulations."""


def pairs(rng, shape, *, lost, gained, both=0.5):
    """(reference, candidate) bool, in which an image is lost, gained, right on both or wrong on both at random."""
    u = rng.random(shape, dtype=np.float32)
    reference = (u < lost) | ((u >= lost + gained) & (u < lost + gained + both))
    return reference, (u >= lost) & (u < lost + gained + both)


CELLS = {
    "drop": ((-1, 1), (0, 1), (1, 1)),
    "share": ((0, 1), (1, 1)),
    "retention": ((0, 0), (0, 1), (1, 0), (1, 1)),
}
"""Every (part, whole) of an image."""


def slow_capital(parts, wholes, *, cells, bound, distance, theta, below):
    """The module's text image by image and gambler by gambler, with its numbers written out."""
    sign = 1 if below else -1
    at_bound = [bound * whole - part for part, whole in cells]
    widest_variance = ((max(at_bound) - min(at_bound)) / 2) ** 2
    worst_at_bound = max(-sign * value for value in at_bound)
    worst = max(sign * (part - theta * whole) for part, whole in cells)
    capitals, squares, found = [0.6, 0.35, 0.05], widest_variance, []
    for seen, (part, whole) in enumerate(zip(parts, wholes, strict=True)):
        spread = squares / (seen + 1)
        for row, k in enumerate((2, 0.75, 0.25)):
            stake = k * distance / (spread + k * distance * worst_at_bound / 2)
            stake = min(stake, 0.9 / worst) if worst > 0 else stake
            capitals[row] *= 1 + stake * sign * (theta * whole - part)
        squares += (bound * whole - part) ** 2
        found.append(math.log(sum(capitals)))
    return found


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize(
    ("kind", "bound", "distance"),
    [
        ("drop", 0.03, 0.03),
        ("drop", -0.02, 0.02),
        ("drop", 0.0, 0.005),  # a bound that leaves no distance
        ("share", 0.3, 0.02),
        ("share", 0.01, 0.01),
        ("share", 0.99, 0.01),
        ("share", 0.002, 0.005),
        ("retention", 0.9, 0.05),
        ("retention", 1.1, 0.05),
        ("retention", 1.0, 0.005),
    ],
)
def test_the_capital_is_what_its_definition_says(kind, bound, distance, below):
    reference, candidate = pairs(np.random.default_rng(0), 40, lost=0.1, gained=0.2)
    one = np.ones(40)
    game, parts, wholes = {
        "drop": (lambda: drop_game(reference, candidate, bound=bound), 1.0 * reference - candidate, one),
        "share": (lambda: share_game(candidate, bound=bound), 1.0 * candidate, one),
        "retention": (lambda: retention_game(reference, candidate, bound=bound), 1.0 * candidate, 1.0 * reference),
    }[kind]
    for theta in (bound, bound + 0.02, bound + 0.5, -0.0):
        expected = slow_capital(
            parts, wholes, cells=CELLS[kind], bound=bound, distance=distance, theta=theta, below=below
        )
        assert game().log_capital(theta, below=below) == pytest.approx(expected)


def games(reference, candidate):
    yield drop_game(reference, candidate, bound=0.05)
    yield share_game(candidate, bound=0.3)
    yield retention_game(reference, candidate, bound=0.9)


@pytest.mark.parametrize("below", [True, False])
@pytest.mark.parametrize("kind", [0, 1, 2])
def test_every_bet_is_fair_on_the_bound_of_the_hypothesis(kind, below):
    """All 4^5 sequences of images with their probabilities: under E[part] = theta E[whole] the mean capital is 1."""
    chances = np.array([0.4, 0.15, 0.05, 0.4])  # right on both, lost, gained, right on none
    cells = np.array([[True, True], [True, False], [False, True], [False, False]])
    sequences = np.array(list(itertools.product(range(4), repeat=5)))
    probability = chances[sequences].prod(axis=1)
    game = list(games(cells[sequences, 0], cells[sequences, 1]))[kind]
    theta = (0.10, 0.45, 0.45 / 0.55)[kind]
    capital = np.exp(game.log_capital(theta, below=below))
    assert capital.min() > 0
    assert probability @ capital == pytest.approx(np.ones(5))
    assert (probability @ np.exp(game.log_capital(theta * (0.8 if below else 1.25), below=below)) < 1).all()


@pytest.mark.parametrize("below", [True, False], ids=["false accepts", "false rejects"])
@pytest.mark.parametrize(("lost", "gained"), [(0.01, 0.0), (0.02, 0.01), (0.055, 0.045)])
def test_error_rate_of_a_drop_holds_though_every_image_is_looked_at(lost, gained, below):
    """The true drop is the bound, the worst case of both hypotheses."""
    reference, candidate = pairs(np.random.default_rng(1), (RUNS, 2000), lost=lost, gained=gained)
    capital = drop_game(reference, candidate, bound=0.01).log_capital(0.01, below=below)
    assert np.mean(capital.max(axis=1) >= math.log(20)) <= 0.05 + SPARE


@pytest.mark.parametrize("below", [True, False], ids=["false accepts", "false rejects"])
@pytest.mark.parametrize("bound", [0.02, 0.5, 0.74])
def test_error_rate_of_a_share_holds_though_every_image_is_looked_at(bound, below):
    hits = np.random.default_rng(2).random((RUNS, 1000)) < bound
    capital = share_game(hits, bound=bound).log_capital(bound, below=below)
    assert np.mean(capital.max(axis=1) >= math.log(20)) <= 0.05 + SPARE


@pytest.mark.parametrize("below", [True, False], ids=["false rejects", "false accepts"])
@pytest.mark.parametrize("gained", [0.0, 0.02])
def test_error_rate_of_a_retention_holds_though_every_image_is_looked_at(gained, below):
    reference, candidate = pairs(np.random.default_rng(3), (RUNS, 1000), lost=0.05 + gained, gained=gained, both=0.45)
    truth = (0.45 + gained) / (0.50 + gained)
    capital = retention_game(reference, candidate, bound=truth).log_capital(truth, below=below)
    assert np.mean(capital.max(axis=1) >= math.log(20)) <= 0.05 + SPARE


@pytest.mark.parametrize(
    ("discordance", "images", "runs", "published"),
    [(0.01, 1500, 2000, 748), (0.03, 4000, 600, 2054), (0.10, 12000, 200, 8436)],
)
def test_half_of_the_sound_candidates_pass_no_later_than_simulated_elsewhere(discordance, images, runs, published):
    """One point of margin and no loss; `published` are medians of another implementation of the same test."""
    half = discordance / 2
    reference, candidate = pairs(np.random.default_rng(4), (runs, images), lost=half, gained=half)
    hit = drop_game(reference, candidate, bound=0.01).log_capital(0.01, below=True) >= math.log(20)
    stops = np.where(hit.any(axis=1), hit.argmax(axis=1) + 1, np.inf)
    assert np.median(stops) <= published


@pytest.mark.parametrize(("variance", "distance"), [(0.03, 0.02), (0.1, 0.03), (0.01, 0.01)])
def test_planned_images_end_most_tests(variance, distance):
    images = planned_bets(variance, distance, alpha=0.05)
    assert images == math.ceil(2.2 * 2 * math.log(20) * (variance + distance / 2) / distance**2)
    half = variance / 2
    reference, candidate = pairs(np.random.default_rng(5), (600, images), lost=half, gained=half)
    capital = drop_game(reference, candidate, bound=distance).log_capital(distance, below=True)
    assert np.mean(capital.max(axis=1) >= math.log(20)) == pytest.approx(0.88, abs=0.05)


@pytest.mark.parametrize(("share", "bound"), [(0.52, 0.5), (0.9, 0.85), (0.005, 0.02)])
def test_planned_images_end_most_tests_of_a_share(share, bound):
    images = planned_bets(share * (1 - share), abs(share - bound), alpha=0.05)
    hits = np.random.default_rng(10).random((300, images)) < share
    capital = share_game(hits, bound=bound).log_capital(bound, below=share < bound)
    assert 0.75 <= np.mean(capital.max(axis=1) >= math.log(20)) <= 0.97


LIMITS = {
    "drop": (lambda r, c, bound, confidence: betting_drop(r, c, bound=bound, confidence=confidence), drop_game),
    "share": (lambda _, c, bound, confidence: betting_share(c, bound=bound, confidence=confidence), None),
    "retention": (
        lambda r, c, bound, confidence: betting_retention(r, c, bound=bound, confidence=confidence),
        retention_game,
    ),
}


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("seed", range(3))
def test_test_and_limits_agree(kind, confidence, seed):
    reference, candidate = pairs(np.random.default_rng(seed), 600, lost=0.05, gained=0.03)
    for bound in (0.01, 0.1, 0.9, 0.97):
        lower, upper = LIMITS[kind][0](reference, candidate, bound, confidence)
        game = (
            share_game(candidate, bound=bound)
            if kind == "share"
            else LIMITS[kind][1](reference, candidate, bound=bound)
        )
        assert game.refuted(bound, below=True, confidence=confidence) == (upper <= bound)
        assert game.refuted(bound, below=False, confidence=confidence) == (lower >= bound)


@pytest.mark.parametrize("kind", LIMITS)
@pytest.mark.parametrize("seed", range(8))
def test_a_limit_is_the_first_number_that_the_test_refutes(kind, seed):
    """The very first: the float beside it is not refuted, and no limit claims a bit more than its test."""
    reference, candidate = pairs(np.random.default_rng(seed), 300, lost=0.05, gained=0.03)
    lower, upper = LIMITS[kind][0](reference, candidate, 0.9, 0.95)
    game = share_game(candidate, bound=0.9) if kind == "share" else LIMITS[kind][1](reference, candidate, bound=0.9)
    for limit, below in ((upper, True), (lower, False)):
        inside = math.nextafter(limit, -math.inf if below else math.inf)
        capitals = [float(game.log_capital(theta, below=below).max()) for theta in (limit, inside)]
        assert capitals[0] >= -math.log1p(-0.95) > capitals[1]


@pytest.mark.parametrize("kind", LIMITS)
def test_limits_only_narrow_as_images_come(kind):
    reference, candidate = pairs(np.random.default_rng(6), 800, lost=0.04, gained=0.04)
    seen = [LIMITS[kind][0](reference[:n], candidate[:n], 0.9, 0.95) for n in (1, 10, 50, 200, 400, 800)]
    for (lower, upper), (later_lower, later_upper) in itertools.pairwise(seen):
        assert lower <= later_lower < later_upper <= upper
    assert seen[0][0] == (-1 if kind == "drop" else 0)


@settings(max_examples=25)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60), st.floats(-0.5, 0.5))
def test_exchanging_the_engines_mirrors_the_drop(images, bound):
    reference, candidate = np.array(images).T
    lower, upper = betting_drop(reference, candidate, bound=bound, confidence=0.95)
    mirrored = betting_drop(candidate, reference, bound=-bound, confidence=0.95)
    assert mirrored == pytest.approx((-upper, -lower))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(LIMITS)), st.booleans())
def test_capital_rises_towards_the_refuted_side(seed, kind, below):
    """Or the refuted hypotheses would be no half line, and a bisection could miss the limit."""
    reference, candidate = pairs(np.random.default_rng(seed), 50, lost=0.2, gained=0.2)
    game = share_game(candidate, bound=0.4) if kind == "share" else LIMITS[kind][1](reference, candidate, bound=0.9)
    thetas = np.linspace(-1 if kind == "drop" else 0, 3 if kind == "retention" else 1, 41)
    capital = np.array([game.log_capital(float(theta), below=below) for theta in thetas])
    steps = np.diff(capital, axis=0)
    assert ((steps if below else -steps) >= -1e-9).all()


def test_limits_of_the_wrong_order_cross():
    """First all images that are kept, then all that are lost: what was shown at first is refuted later."""
    reference = np.ones(4000, dtype=bool)
    lower, upper = betting_drop(reference, np.arange(4000) < 2000, bound=0.03, confidence=0.95)
    assert upper < 0.03 < lower


@pytest.mark.parametrize("images", [1, 5])
def test_few_images_claim_nothing(images):
    right = np.ones(images, dtype=bool)
    assert betting_drop(right, right, bound=0.03, confidence=0.95)[1] > 0.5
    assert betting_retention(~right, right, bound=0.95, confidence=0.95)[0] < 0.95
    assert betting_retention(~right, ~right, bound=0.95, confidence=0.95) == (0, math.inf)


def test_a_share_may_be_held_against_nothing_and_a_plan_never_asks_for_less_than_an_image():
    hits = np.arange(1000) % 2 == 0
    assert 0 < betting_share(hits, bound=0, confidence=0.95)[0] < 0.5
    assert planned_bets(0, 1000, alpha=0.9) == 1
    assert planned_bets(0, 0.1, alpha=0.05) == math.ceil(2.2 * math.log(20) / 0.1)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda r: betting_drop(r[:0], r[:0], bound=0.03, confidence=0.95), "no image"),
        (lambda r: betting_drop(r, r[:5], bound=0.03, confidence=0.95), r"\[\[9\], \[5\]\]"),
        (lambda r: betting_drop(r * 1.0, r, bound=0.03, confidence=0.95), "float64"),
        (lambda r: betting_drop(r, r, bound=3, confidence=0.95), "between -1 and 1"),
        (lambda r: betting_share(r, bound=1, confidence=0.95), "below 1"),
        (lambda r: betting_retention(r, r, bound=0, confidence=0.95), "above 0"),
        (lambda r: betting_share(r, bound=math.nan, confidence=0.95), "nan"),
        (lambda r: betting_share(r, bound=0.5, confidence=95), "confidence is 95"),
        (lambda r: betting_share(r[None], bound=0.5, confidence=0.95), "one row"),
        (lambda r: betting_drop(r[:0], r, bound=0.03, confidence=0.95), "no image"),
        (lambda r: betting_drop(r, r[:0], bound=0.03, confidence=0.95), "no image"),
        (lambda _: betting_share(True, bound=0.03, confidence=0.95), "no image"),
        (lambda r: betting_drop(r, r, bound=1, confidence=0.95), "between -1 and 1"),
        (lambda r: betting_drop(r, r, bound=-1, confidence=0.95), "between -1 and 1"),
        (lambda r: betting_share(r, bound=-0.01, confidence=0.95), "from 0 on"),
        (lambda r: betting_retention(r, r, bound=1000, confidence=0.95), "below 1000"),
        (lambda r: betting_drop(r, r * 1.0, bound=0.03, confidence=0.95), "float64"),
        (lambda _: planned_bets(0.1, 0, alpha=0.05), "distance 0"),
        (lambda _: planned_bets(-0.1, 0.1, alpha=0.05), "variance -0.1"),
        (lambda _: planned_bets(0.1, 0.1, alpha=0), "alpha 0"),
        (lambda _: planned_bets(0.1, 0.1, alpha=1), "alpha 1"),
    ],
)
def test_impossible_arguments_are_named(call, said):
    with pytest.raises(MadxError, match=said):
        call(np.ones(9, dtype=bool))
