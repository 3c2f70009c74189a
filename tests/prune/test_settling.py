"""What two halves agree on: against brute force, against what the numbers are said to predict, on known-bad input."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import spearmanr
from small_networks import plain
from torch import Tensor, nn

from madx.prune import Round, Settling, batches_needed, unstructured_masks
from madx.prune.layers import scored_parameters
from madx.prune.settling import correlation, has_settled, looks_at, overlap
from madx.seeds import torch_generator


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


def random_scores(network: nn.Module, *words: str | int) -> dict[str, Tensor]:
    generator = torch_generator(0, *words)
    return {
        name: torch.randn(parameter.shape, generator=generator)
        for name, parameter in scored_parameters(network).items()
    }


def whole(name: str, *values: int) -> dict[str, Tensor]:
    return {name: torch.tensor(values, dtype=torch.bool)}


def test_when_it_looks() -> None:
    assert [count for count in range(101) if looks_at(count)] == [2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96]


@pytest.mark.parametrize(
    ("overlaps", "settled"),
    [
        ([], False),
        ([0.95], False),
        ([0.9, 0.9], True),
        ([0.95, 0.89], False),
        ([0.89, 0.95], False),
        ([0.95, 0.89, 0.9, 0.91], True),
    ],
)
def test_it_has_settled_when_two_looks_in_a_row_agree(overlaps: list[float], settled: bool) -> None:
    assert has_settled([Round(2, None, value, 0.1) for value in overlaps], 0.9) == settled


@pytest.mark.parametrize(
    ("one", "other", "expected", "chance"),
    [
        (whole("a", 1, 1, 0, 0), whole("a", 1, 1, 0, 0), 1, 1 / 3),
        (whole("a", 1, 1, 0, 0), whole("a", 0, 0, 1, 1), 0, 1 / 3),
        (whole("a", 1, 1, 0, 0), whole("a", 1, 0, 1, 0), 1 / 3, 1 / 3),
        # little is removed: what is removed is compared, since nearly all is kept by both anyway
        (whole("a", 1, 1, 1, 0), whole("a", 1, 1, 0, 1), 0, 1 / 7),
        # a parameter that both keep whole says nothing
        (whole("a", 1, 0) | whole("b", 1, 1, 1), whole("a", 0, 1) | whole("b", 1, 1, 1), 0, 1 / 3),
        (whole("a", 1, 1), whole("a", 1, 1), 1, 1),
        ({}, {}, 1, 1),
        # shares differ between parameters, and chance knows it
        (
            whole("a", 1, 0, 0, 0) | whole("b", 1, 1, 0, 0),
            whole("a", 0, 1, 0, 0) | whole("b", 1, 1, 0, 0),
            1 / 2,
            1.25 / 4.75,
        ),
    ],
)
def test_overlap_by_hand(one: dict[str, Tensor], other: dict[str, Tensor], expected: float, chance: float) -> None:
    assert overlap(one, other) == pytest.approx((expected, chance))
    assert overlap(other, one) == pytest.approx((expected, chance))


def test_correlation_by_brute_force(network: nn.Module) -> None:
    """Convolutions in one pool, each row of the linear layer with its bias in one of its own, weighted by size."""
    one, other = random_scores(network, "one"), random_scores(network, "two")
    other = {name: score + one[name].round() for name, score in other.items()}
    weight, bias = "4.weight", "4.bias"
    convolutions = [name for name in one if name not in (weight, bias)]
    pools = [tuple(torch.cat([scores[name].flatten() for name in convolutions]) for scores in (one, other))]
    pools += [
        tuple(torch.cat([scores[weight][row], scores[bias][row : row + 1]]) for scores in (one, other))
        for row in range(len(one[bias]))
    ]
    sizes = [len(first) for first, _ in pools]
    expected = sum(spearmanr(*pool).statistic * size for pool, size in zip(pools, sizes, strict=True)) / sum(sizes)
    assert sum(sizes) == sum(score.numel() for score in one.values())
    assert correlation(network, one, other) == pytest.approx(expected, rel=1e-12)
    assert correlation(network, one, {name: -score for name, score in one.items()}) == pytest.approx(-1)
    assert correlation(network, one, {name: 3 * score for name, score in one.items()}) == pytest.approx(1)


def test_nothing_is_ranked_where_all_is_tied(network: nn.Module) -> None:
    flat = {name: torch.zeros_like(score) for name, score in random_scores(network).items()}
    assert correlation(network, flat, random_scores(network)) is None


def test_a_large_network_is_ranked_by_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    network = nn.Sequential(nn.Conv2d(20, 100, 3), nn.Flatten(), nn.Linear(900, 20))
    one = random_scores(network, "one")
    other = {name: score + 0.5 * random_scores(network, "two")[name] for name, score in one.items()}
    exact = correlation(network, one, other)
    monkeypatch.setattr("madx.prune.settling._RANKED", 8000)
    sampled = correlation(network, one, other)
    assert exact is not None
    assert sampled is not None
    assert sampled != exact
    assert sampled == pytest.approx(exact, abs=0.02)


def test_ties_count_as_chance(network: nn.Module) -> None:
    """Without scores any rule keeps the first or the last entries: the same in both halves, and it says nothing."""
    settling = Settling(keep=lambda scores: unstructured_masks(network, scores, 0.5), enough=0.9)
    zeros = {name: torch.zeros_like(score) for name, score in random_scores(network).items()}
    found = settling.measure(network, (zeros, zeros), 2)
    assert found.correlation is None
    assert found.overlap == pytest.approx(1 / 3, abs=0.1)
    assert found.chance == pytest.approx(1 / 3, abs=0.02)


def test_breaking_ties_changes_no_order(network: nn.Module) -> None:
    scores = {name: torch.where(score > 1, score, 0.0) for name, score in random_scores(network).items()}
    given: list[dict[str, Tensor]] = []

    def keep(half: dict[str, Tensor]) -> dict[str, Tensor]:
        given.append(half)
        return {}

    Settling(keep=keep, enough=0.9).measure(network, (scores, {name: -s for name, s in scores.items()}), 2)
    for half, sign in zip(given, (1, -1), strict=True):
        noise = torch.cat([half[name][score == 0] for name, score in scores.items()]).abs()
        least = min(float(score[score != 0].min()) for score in scores.values() if score.any())
        assert 0 < noise.max() < least
        assert noise.unique().numel() > 0.9 * noise.numel()
        for name, score in scores.items():
            assert torch.equal(half[name][score != 0], sign * score[score != 0])


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("batches", [64, 256])
def test_the_whole_is_wrong_about_half_as_often_as_the_halves_disagree(batches: int, sparsity: float) -> None:
    """True scores under noise of known size, so that what infinitely many batches would keep is known."""
    network = nn.Sequential(nn.Conv2d(64, 256, 3))
    truth = random_scores(network, "truth")
    noise = [random_scores(network, "half", number) for number in (0, 1)]
    halves = [{name: score + (2 / batches) ** 0.5 * own[name] for name, score in truth.items()} for own in noise]
    mean = {name: (halves[0][name] + halves[1][name]) / 2 for name in truth}
    kept = [unstructured_masks(network, scores, sparsity) for scores in (*halves, mean, truth)]
    disagree = sum(int((kept[0][name] & ~kept[1][name]).sum()) for name in truth)
    wrong = sum(int((kept[2][name] & ~kept[3][name]).sum()) for name in truth)
    assert wrong / disagree == pytest.approx(0.5, abs=0.06)
    again = {name: score + batches**-0.5 * random_scores(network, "again")[name] for name, score in truth.items()}
    r = correlation(network, *halves)
    assert r is not None
    assert correlation(network, mean, again) == pytest.approx(2 * r / (1 + r), abs=0.005)


@pytest.mark.parametrize(("overlap_now", "enough", "needed"), [(0.9, 0.9, 64), (0.95, 0.9, 64), (1 / 3, 0.6, 64 * 4)])
def test_batches_needed_by_hand(overlap_now: float, enough: float, needed: int) -> None:
    """One third is a disagreement of 1/2, 0.6 of 1/4: half the noise takes four times the batches."""
    assert batches_needed(Round(64, 0.5, overlap_now, 0.1), enough) == pytest.approx(needed, abs=1)


def test_batches_needed_comes_true() -> None:
    network = nn.Sequential(nn.Conv2d(64, 256, 3))
    truth = random_scores(network, "truth")

    def at(batches: int) -> Round:
        noise = [random_scores(network, "half", batches, number) for number in (0, 1)]
        one, other = ({name: s + (2 / batches) ** 0.5 * own[name] for name, s in truth.items()} for own in noise)
        return Settling(keep=lambda scores: unstructured_masks(network, scores, 0.5), enough=1).measure(
            network, (one, other), batches
        )

    early = at(64)
    assert at(batches_needed(early, 0.95)).overlap == pytest.approx(0.95, abs=0.005)
    assert at(batches_needed(at(4), 0.95)).overlap < 0.955, "from far off it is a lower limit"
