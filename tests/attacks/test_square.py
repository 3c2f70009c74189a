"""Square against brute force over all corners, the paper's formulas, and networks that show no gradient."""

from __future__ import annotations

import itertools
import math

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import NORMS, Watched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from madx.attacks import Apgd, Passes, Square, TargetedApgd, Victim, Worst, norm_named, run_suite
from madx.attacks.square import share_left
from madx.attacks.square_moves import L2Moves, LinfMoves, bump
from madx.errors import MadxError

MOVES = {"linf": LinfMoves(), "l2": L2Moves()}


def watched(
    module: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float, attack: Square
) -> tuple[Watched, Passes]:
    worst, passes = Watched(x, y), Passes()
    victim = passes.counting(Victim.query_only(Victim.of(module).forward))
    attack(victim, worst, threat=attack_cases.threat(norm, eps), generator=attack_cases.generator(5))
    return worst, passes


def two_classes(shape: tuple[int, int, int], *, low: float, high: float) -> tuple[Tensor, nn.Module, Tensor]:
    """The slope w of the wrong class, a linear network on which no image is ever turned, and images."""
    draws = attack_cases.generator(3)
    w = torch.randn(math.prod(shape), generator=draws)
    x = torch.rand(6, *shape, generator=draws) * (high - low) + low
    return w, attack_cases.linear(torch.stack([torch.zeros_like(w), w]), torch.tensor([0.0, -50.0])), x


@pytest.mark.parametrize("shape", [(1, 2, 4), (2, 2, 2), (1, 3, 3)])
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.0, 1.0)])
def test_in_linf_it_finds_the_best_of_all_corners(shape: tuple[int, int, int], low: float, high: float) -> None:
    w, module, x = two_classes(shape, low=low, high=high)
    y = torch.zeros(len(x), dtype=torch.int64)
    worst, _ = watched(module, x, y, norm="linf", eps=0.1, attack=Square(queries=500))
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(w))))
    corners = (x.flatten(1)[:, None] + 0.1 * signs).clamp(0, 1)
    torch.testing.assert_close(worst.margins, (corners @ w).amax(1) - 50, rtol=0, atol=1e-5)


def test_in_l2_it_comes_most_of_the_way_to_the_worst_case_of_a_linear_network() -> None:
    """The slope is white noise, which bumps of three by three pixels cannot follow to the end."""
    w, module, x = two_classes((1, 6, 6), low=0.3, high=0.7)
    y = torch.zeros(len(x), dtype=torch.int64)
    worst, _ = watched(module, x, y, norm="l2", eps=0.1, attack=Square(queries=500))
    gain = (worst.margins + 50).double() - x.double().flatten(1) @ w.double()
    share = gain / (0.1 * w.double().norm())
    assert float(share.max()) <= 1 + 1e-4
    assert float(share.min()) > 0.65
    starts = torch.stack([walk[0] for walk in worst.walks]).double() - x.double()
    assert float((starts.flatten(1) @ w.double() / (0.1 * w.double().norm())).max()) < 0.5


class Staircase(nn.Module):
    """The same classes as the network inside, in logits that have no slope: gradient masking."""

    def __init__(self, inner: nn.Module, height: float = 0.1) -> None:
        super().__init__()
        self.inner, self.height = inner, height

    def forward(self, images: Tensor) -> Tensor:
        return torch.round(self.inner(images) / self.height) * self.height


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.3)])
def test_a_network_that_masks_its_gradients_is_turned_by_it_and_by_nothing_white_box(norm: str, eps: float) -> None:
    """The honest network's fate under white-box attacks is the oracle; on the staircase those see only their starts."""
    honest, x = attack_cases.wavy(), attack_cases.images(40)
    masked, threat = Staircase(honest), attack_cases.threat(norm, eps)
    y = honest(x).argmax(1)

    def left(module: nn.Module, *attacks: Apgd | TargetedApgd | Square) -> int:
        victim, draws = Victim.of(module), attack_cases.generator(1)
        return int(run_suite(victim, x, y, attacks=attacks, threat=threat, generator=draws).robust.sum())

    white_box = (Apgd(steps=20), TargetedApgd(steps=20, targets=2))
    possible, seen, found = left(honest, *white_box), left(masked, *white_box), left(masked, Square(queries=300))
    assert seen - possible > 8, "the staircase masks nothing, and this test shows nothing"
    assert possible - 2 <= found <= possible + (seen - possible) / 3


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 5), (1, 7, 3), (2, 2, 2), (3, 12, 12)])
def test_every_point_is_in_the_ball_and_in_the_box_whatever_the_shape(norm: str, shape: tuple[int, int, int]) -> None:
    _, module, _ = two_classes(shape, low=0, high=1)
    x = torch.rand(5, *shape, generator=attack_cases.generator(7))
    x[0], x[1] = 0.0, 1.0
    worst, _ = watched(module, x, torch.zeros(5, dtype=torch.int64), norm=norm, eps=0.3, attack=Square(queries=40))
    for image, walk in zip(x, worst.walks, strict=True):
        points = torch.stack(walk)
        assert len(walk) == 40
        assert points.dtype == torch.float32
        assert float(points.min()) >= 0
        assert float(points.max()) <= 1
        assert float(norm_named(norm).size(points.double() - image.double()).max()) <= 0.3 * (1 + 1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_only_what_stands_is_asked_and_every_query_is_counted(norm: str) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(30)
    y = module(x).argmax(1)
    attack = Square(queries=30, restarts=2)
    worst, passes = watched(module, x, y, norm=norm, eps=0.12 if norm == "linf" else 0.4, attack=attack)
    assert passes.gradient == 0
    assert passes.forward == sum(len(walk) for walk in worst.walks)
    assert 3 < int(worst.fallen.sum()) < 27
    for fallen, walk, margins in zip(worst.fallen, worst.walks, worst.margins_seen, strict=True):
        assert len(walk) <= attack.most.forward == 60
        assert fallen or len(walk) == 60
        assert all(margin < 0.2 for margin in margins[:-1]), "asked again after it had fallen"
    sizes = [len(rows) for rows in worst.batches]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("norm", NORMS)
def test_nothing_is_asked_when_nothing_stands(norm: str) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(4)
    worst, passes = Worst(x, torch.zeros(4, dtype=torch.int64)), Passes()
    worst.fallen[:] = True
    victim = passes.counting(Victim.of(module))
    Square(5)(victim, worst, threat=attack_cases.threat(norm), generator=attack_cases.generator())
    assert passes == Passes()


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_neighbours_in_the_batch(norm: str) -> None:
    module, ends = attack_cases.wavy().double(), []
    for seed in (1, 2):
        x = attack_cases.images(5, seed=seed).double()
        x[3] = attack_cases.images(1, seed=9)[0]
        y = module(x).argmax(1)
        y[:3] = (y[:3] + seed) % 3  # misclassified from the start
        ends.append(watched(module, x, y, norm=norm, eps=0.02, attack=Square(queries=40))[0].points)
    torch.testing.assert_close(ends[0][3], ends[1][3], rtol=0, atol=1e-6)
    assert not torch.equal(ends[0][4], ends[1][4])


def test_what_follows_does_not_depend_on_how_long_it_searched() -> None:
    module, x = attack_cases.wavy(), attack_cases.images(5)
    y, global_state, states = module(x).argmax(1), torch.get_rng_state(), []
    for queries in (2, 9):
        draws = attack_cases.generator()
        Square(queries)(Victim.of(module), Worst(x, y), threat=attack_cases.threat("linf"), generator=draws)
        states.append(draws.get_state())
    assert torch.equal(*states)
    assert torch.equal(torch.get_rng_state(), global_state)


def test_restarts_are_different_searches() -> None:
    module, x = attack_cases.wavy(), attack_cases.images(3)
    y = module(x).argmax(1)
    worst, _ = watched(module, x, y, norm="linf", eps=1e-3, attack=Square(queries=2, restarts=2))
    assert all(not torch.equal(walk[0], walk[2]) for walk in worst.walks)


def test_images_without_height_and_width_are_refused() -> None:
    worst = Worst(torch.zeros(2, 8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(MadxError, match=r"\[B, C, H, W\].*\[2, 8\]"):
        Square(2)(
            Victim.of(nn.Linear(8, 2)),
            worst,
            threat=attack_cases.threat("linf"),
            generator=attack_cases.generator(),
        )


@pytest.mark.parametrize(
    ("proposal", "queries", "halvings"),
    # section 5 of the paper at 10,000 queries; then the same schedule stretched
    [
        *[(0, 10000, 0), (10, 10000, 0), (11, 10000, 1), (50, 10000, 1), (51, 10000, 2), (201, 10000, 3)],
        *[(501, 10000, 4), (1001, 10000, 5), (2001, 10000, 6), (4001, 10000, 7), (6001, 10000, 8), (8001, 10000, 9)],
        *[(9999, 10000, 9), (1, 1000, 0), (2, 1000, 1), (100, 1000, 4), (101, 1000, 5), (999, 1000, 9), (0, 1, 0)],
    ],
)
def test_squares_shrink_as_in_the_paper(proposal: int, queries: int, halvings: int) -> None:
    assert share_left(proposal, queries) == 0.5**halvings


def bump_of_the_paper(side: int) -> Tensor:
    """Its equation, entry by entry: sums of 1 / (n + 1 - k)^2 over the nested squares that hold the entry."""

    def half(height: int, width: int) -> Tensor:
        values, n = torch.zeros(height, width, dtype=torch.float64), max(height // 2, width // 2)
        for r, s in itertools.product(range(height), range(width)):
            inner = n - max(abs(r - height // 2), abs(s - width // 2))
            values[r, s] = sum(1 / (n + 1 - k) ** 2 for k in range(inner + 1))
        return values / values.norm()

    whole = torch.cat([half(side // 2, side), -half(side - side // 2, side)])
    return whole / whole.norm()


@pytest.mark.parametrize("side", [2, 3, 5, 8, 25])
def test_the_bump_is_the_papers(side: int) -> None:
    torch.testing.assert_close(bump(side).double(), bump_of_the_paper(side), rtol=1e-5, atol=1e-7)


def test_the_smallest_bump_is_one_pixel() -> None:
    assert bump(1).abs().tolist() == [[1.0]]


def drawing(count: int, seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    """Images well inside the box, and best points within 0.1 of them in L2."""
    draws = attack_cases.generator(seed)
    images = torch.rand(count, 2, 9, 7, generator=draws) * 0.4 + 0.3
    change = torch.randn(images.shape, generator=draws)
    return images, images + 0.08 * change / change.flatten(1).norm(dim=1).view(-1, 1, 1, 1), draws


@given(seed=st.integers(0, 10**6), share=st.floats(0.001, 1.0))
@settings(max_examples=30)
def test_a_proposal_in_linf_is_a_square_of_one_sign_a_channel(seed: int, share: float) -> None:
    images, _, draws = drawing(6, seed)
    best = images + 0.1 * torch.randn(images.shape, generator=draws).sign()
    proposal = LinfMoves().propose(
        images, best, share=share, eps=0.1, draw=lambda *shape: torch.rand(6, *shape, generator=draws)
    )
    side = min(max(round((share * 63) ** 0.5), 1), 7)
    for before, after, image in zip(best, proposal, images, strict=True):
        changed = (before != after).any(0).nonzero()
        assert len(changed) > 0, "a query was wasted"
        low, high = changed.amin(0), changed.amax(0)
        assert bool((high - low < side).all())
        signs = [set((after - image)[c][(before != after)[c]].sign().tolist()) for c in range(2)]
        assert all(len(found) <= 1 for found in signs)


def algorithm_3(change: np.ndarray, eps: float, *, side: int, corners: np.ndarray, signs: np.ndarray) -> np.ndarray:
    """The paper's L2 update of one perturbation [C, H, W], window by window and channel by channel, before the box."""
    (r1, c1), (r2, c2) = corners
    first, second = np.zeros((2, *change.shape[1:]), dtype=bool)
    first[r1 : r1 + side, c1 : c1 + side] = second[r2 : r2 + side, c2 : c2 + side] = True
    unused = max(eps**2 - (change**2).sum(), 0) / len(change)
    moved = np.where(second, 0.0, change)
    for channel, old in enumerate(change):
        window = (
            old[first] / np.sqrt((old[first] ** 2).sum()) + signs[channel] * bump_of_the_paper(side).numpy().ravel()
        )
        available = np.sqrt(unused + (old[first | second] ** 2).sum())
        moved[channel][first] = available * window / np.sqrt((window**2).sum())
    return moved * eps / np.sqrt((moved**2).sum())


@given(seed=st.integers(0, 10**6), side=st.sampled_from([3, 5, 7]))
@settings(max_examples=30)
def test_a_proposal_in_l2_is_the_papers(seed: int, side: int) -> None:
    images, best, draws = drawing(6, seed)
    told = [torch.rand(6, *shape, generator=draws) for shape in ((2,), (2,), (1,), (2, 1, 1))]
    told[2][:] = 0.7  # bumps stand
    queue = iter(told)
    proposal = L2Moves().propose(images, best, share=side**2 / 63, eps=0.1, draw=lambda *_: next(queue))
    corners = (torch.stack(told[:2], 1) * torch.tensor([10 - side, 8 - side])).long().numpy()
    for row in range(6):
        signs = np.where(told[3][row].flatten().numpy() < 0.5, -1.0, 1.0)
        change = (best - images)[row].double().numpy()
        expected = algorithm_3(change, 0.1, side=side, corners=corners[row], signs=signs)
        np.testing.assert_allclose((proposal - images)[row], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_squares_fall_everywhere_the_last_row_and_column_too(norm: str) -> None:
    images, best, draws = drawing(2000, 1)
    best = images if norm == "l2" else best
    proposal = MOVES[norm].propose(
        images, best, share=0.001, eps=0.1, draw=lambda *shape: torch.rand(2000, *shape, generator=draws)
    )
    hits = ((proposal - best).abs() > 1e-6).any(1).float().mean(0)
    corner = 1 / 63 if norm == "linf" else 1 / 35  # one pixel of 9 x 7; squares of three have 7 x 5 places
    for row, column in itertools.product((0, -1), repeat=2):
        assert float(hits[row, column]) == pytest.approx(corner, rel=0.5)
    assert float(hits.min()) > 0
