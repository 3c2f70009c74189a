"""APGD against closed forms on linear networks and peaks PGD jumps over, and what holds of every point it visits."""

from __future__ import annotations

import math

import attack_cases
import pytest
import torch
from attack_cases import NORMS, Watched, watched
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from madx.attacks import (
    DLR,
    CrossEntropy,
    Loss,
    TargetedDLR,
    TargetedMargin,
    Worst,
    input_gradient,
    norm_named,
    strongest_examples,
    wrong_margin,
)
from madx.attacks.apgd import climb
from madx.recipe import AttackConfig


def attacked(
    module: nn.Module,
    x: Tensor,
    targets: Tensor,
    *,
    norm: str = "linf",
    eps: float = 0.1,
    loss: Loss | None = None,
    steps: int = 20,
) -> Tensor:
    loss = loss or CrossEntropy()
    gradient, threat = input_gradient(module, loss=loss), attack_cases.threat(norm, eps)
    draws = attack_cases.generator(5)
    worst = Worst(x, targets if targets.dim() == 1 else targets[:, 0])
    climb(gradient, worst, targets, loss=loss, threat=threat, steps=steps, generator=draws)
    return worst.points


@pytest.mark.parametrize("loss", [CrossEntropy(), DLR(), TargetedDLR(), TargetedMargin()], ids=lambda loss: loss.name)
@pytest.mark.parametrize(("low", "high"), [(0.2, 0.8), (0.0, 1.0)])
def test_in_linf_a_linear_network_meets_its_worst_case(loss: Loss, low: float, high: float) -> None:
    """Five classes of which two can win: every loss climbs their difference, to the corner of cube and box."""
    w = torch.randn(8, generator=attack_cases.generator(3))
    module = attack_cases.linear(
        torch.stack([torch.zeros(8), w, *torch.zeros(3, 8)]), torch.tensor([0.0, -0.75, -50, -60, -70])
    )
    x, y = attack_cases.images(20, low=low, high=high), torch.zeros(20, dtype=torch.int64)
    targeted = isinstance(loss, TargetedDLR | TargetedMargin)
    found = attacked(module, x, torch.stack([y, y + 1], 1) if targeted else y, loss=loss)
    corner = (x.double().flatten(1) + 0.1 * w.double().sign()).clamp(0, 1)
    best = corner @ w.double() - 0.75
    margins = wrong_margin(module(found), y).double()
    fallen = margins > 0  # for sure: the attack goes no further
    torch.testing.assert_close(margins[~fallen], best[~fallen], rtol=0, atol=2e-6)
    assert bool((best > 0)[fallen].all())
    assert 3 < int(fallen.sum()) < 17


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_in_l2_a_linear_network_meets_its_worst_case(scale: float) -> None:
    """All images stand, by a bias; with logits multiplied by 10,000 float32's cross-entropy would be zero."""
    w = torch.randn(8, generator=attack_cases.generator(3))
    module = attack_cases.linear(torch.stack([torch.zeros(8), w]) * scale, torch.tensor([0.0, -10.0]) * scale)
    x, y = attack_cases.images(20, low=0.2, high=0.8), torch.zeros(20, dtype=torch.int64)
    found = wrong_margin(module(attacked(module, x, y, norm="l2", steps=50)), y).double()
    closed_form = (x.double().flatten(1) @ w.double() + 0.1 * w.double().norm() - 10) * scale
    torch.testing.assert_close(found, closed_form, rtol=1e-5, atol=0)


def best_in_ball_and_box(image: Tensor, w: Tensor, eps: float) -> float:
    """The largest w . x in the L2 ball and the box: the change is clip(t w, -x, 1 - x), with t found by bisection."""
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        change = (middle * w).clamp(-image, 1 - image)
        low, high = (middle, high) if change.norm() <= eps else (low, middle)
    return float((image + (low * w).clamp(-image, 1 - image)) @ w)


def test_in_l2_at_the_edge_of_the_box_a_linear_network_comes_close_to_its_worst_case() -> None:
    """Close, because the published step projects on the ball and then on the box, which is not their intersection."""
    w = torch.randn(8, generator=attack_cases.generator(3))
    module = attack_cases.linear(torch.stack([torch.zeros(8), w]), torch.tensor([0.0, -10.0]))
    x, y = attack_cases.images(40), torch.zeros(40, dtype=torch.int64)
    with torch.no_grad():
        found = module(attacked(module, x, y, norm="l2", eps=0.5, steps=100))[:, 1].double() + 10
    clean = x.double().flatten(1) @ w.double()
    best = torch.tensor([best_in_ball_and_box(image, w.double(), 0.5) for image in x.double().flatten(1)])
    share = (found - clean) / (best.double() - clean)
    assert float(share.max()) < 1 + 1e-5
    assert float(share.min()) > 0.95


class Peaks(nn.Module):
    """The wrong logit falls off linearly, on all sides of one point per image: -1 - |x - peak|_1."""

    def __init__(self, peak: Tensor) -> None:
        super().__init__()
        self.peak = peak

    def forward(self, images: Tensor) -> Tensor:
        wrong = -1 - (images - self.peak).abs().flatten(1).sum(1)
        return torch.stack([torch.zeros_like(wrong), wrong], dim=1)


def test_it_comes_closer_to_a_peak_than_fixed_steps_of_any_size() -> None:
    """With as many gradients; PGD's large steps pass the peak over and over, and its small ones do not reach it."""
    x, y = attack_cases.images(30, low=0.3, high=0.7), torch.zeros(30, dtype=torch.int64)
    peak = x + (torch.rand(x.shape, generator=attack_cases.generator(9)) * 2 - 1) * 0.2
    module = Peaks(peak)

    def found(points: Tensor) -> int:
        return int((-1 - wrong_margin(module(points), y) < 0.012).sum())

    threat, gradient = attack_cases.threat("linf", 0.2), input_gradient(module, loss=CrossEntropy())
    for relative_step, most in [(1.0, 8), (2.5, 0), (10.0, 0)]:
        attack, draws = AttackConfig(steps=100, relative_step=relative_step), attack_cases.generator()
        points = strongest_examples(module, gradient, x, y, threat=threat, attack=attack, generator=draws)
        assert found(points) <= most
    assert found(attacked(module, x, y, eps=0.2, steps=100)) >= 28


@pytest.mark.parametrize("norm", NORMS)
@given(eps=st.floats(1e-3, 1.0), seed=st.integers(0, 10**6), steps=st.integers(1, 6))
@settings(max_examples=12)
def test_every_point_visited_is_in_the_ball_and_in_the_box(norm: str, eps: float, seed: int, steps: int) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(4, seed=seed)
    x[0], x[1] = 0.0, 1.0
    targets = torch.tensor([0, 1, 2, 0])
    loss = CrossEntropy()
    worst = watched(input_gradient(module, loss=loss), x, targets, norm=norm, eps=eps, loss=loss, steps=steps)
    for image, walk in zip(x, worst.walks, strict=True):
        points = torch.stack(walk)
        assert points.dtype == torch.float32
        assert float(points.min()) >= 0
        assert float(points.max()) <= 1
        # float32 pixels near 1 are 6e-8 apart; in L2 eight of them add up
        assert float(norm_named(norm).size(points.double() - image.double()).max()) <= eps * (1 + 1e-6) + 3e-7


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_leaves_as_soon_as_it_has_fallen_and_its_worst_point_is_kept(norm: str) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(30)
    labels = module(x).argmax(1)
    loss, eps, steps = CrossEntropy(), 0.05 if norm == "linf" else 0.12, 20
    worst = watched(input_gradient(module, loss=loss), x, labels, norm=norm, eps=eps, loss=loss, steps=steps)
    for image, (walk, margins) in enumerate(zip(worst.walks, worst.margins_seen, strict=True)):
        assert float(worst.margins[image]) == max(margins)
        assert torch.equal(worst.points[image], walk[margins.index(max(margins))])
        # no margin before the last point may be a sure one; logits of this network are below 10
        assert len(walk) == (steps + 1 if not worst.fallen[image] else max(1, len(walk)))
        assert all(margin < 0.2 for margin in margins[:-1])
        assert worst.fallen[image] == (margins[-1] > 0.2) or abs(margins[-1]) < 0.2
    sizes = [len(rows) for rows in worst.batches]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 30
    assert 3 < sizes[-1] < 27


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_neighbours_in_the_batch(norm: str) -> None:
    """Its position counts, and nothing else: neighbours that fall at once draw their random numbers all the same.

    In float64, as products of matrices round otherwise in batches of other sizes, and each step builds on the last.
    """
    module, ends = attack_cases.wavy().double(), []
    for seed in (1, 2):
        x = attack_cases.images(5, seed=seed).double()
        x[3] = attack_cases.images(1, seed=9)[0]
        y = module(x).argmax(1)
        y[:3] = (y[:3] + seed) % 3  # misclassified from the start
        ends.append(attacked(module, x, y, norm=norm, eps=0.02))
    torch.testing.assert_close(ends[0][3], ends[1][3], rtol=0, atol=1e-6)
    assert not torch.equal(ends[0][4], ends[1][4])


def test_images_that_have_fallen_before_are_left_alone_and_change_nothing() -> None:
    module, x = attack_cases.wavy().double(), attack_cases.images(6).double()
    y = module(x).argmax(1)
    gradient, loss, threat = (
        input_gradient(module, loss=CrossEntropy()),
        CrossEntropy(),
        attack_cases.threat("linf", 0.02),
    )
    alone, together = Watched(x, y), Watched(x, y)
    alone.fallen[:4] = True
    for worst in (alone, together):
        climb(gradient, worst, y, loss=loss, threat=threat, steps=5, generator=attack_cases.generator())
    assert {row for rows in alone.batches for row in rows} <= {4, 5}
    assert torch.equal(alone.points[:4], x[:4])
    torch.testing.assert_close(alone.points[4:], together.points[4:], rtol=0, atol=1e-6)


def test_the_logits_that_the_gradient_brings_decide() -> None:
    """They may come from an engine that is not the network the slope is taken from."""
    twin, engine = attack_cases.wavy(), attack_cases.wavy(seed=3)
    x = attack_cases.images(20)
    with torch.no_grad():
        y = engine(x).argmax(1)
    slope_of = input_gradient(twin, loss=CrossEntropy())

    def in_the_loop(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return engine(images), slope_of(images, targets)[1]

    worst = watched(in_the_loop, x, y, norm="linf", eps=0.1, loss=CrossEntropy())
    with torch.no_grad():
        torch.testing.assert_close(wrong_margin(engine(worst.points), y), worst.margins, rtol=1e-4, atol=1e-5)
        for walk, margins, label in zip(worst.walks, worst.margins_seen, y, strict=True):
            scored = wrong_margin(engine(torch.stack(walk)), label.expand(len(walk)))
            torch.testing.assert_close(scored, torch.tensor(margins), rtol=1e-4, atol=1e-5)


def test_a_slope_that_is_no_number_does_not_carry_the_point_away() -> None:
    module, x = attack_cases.wavy(), attack_cases.images(4)
    y = module(x).argmax(1)
    inner = input_gradient(module, loss=CrossEntropy())

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, slope = inner(images, targets)
        return logits, slope.masked_fill(torch.rand(slope.shape, generator=draws) < 0.3, math.nan)

    for norm in NORMS:
        draws = attack_cases.generator()
        worst = watched(gradient, x, y, norm=norm, eps=0.01, loss=CrossEntropy())
        assert any(len(walk) == 21 for walk in worst.walks)
        assert all(bool(point.isfinite().all()) for walk in worst.walks for point in walk)


def test_a_network_that_returns_nan_falls_where_it_does() -> None:
    plain, x = attack_cases.wavy(), attack_cases.images(4)
    y = plain(x).argmax(1)

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, slope = input_gradient(plain, loss=CrossEntropy())(images, targets)
        return torch.full_like(logits, math.nan), slope

    worst = watched(gradient, x, y, norm="linf", eps=0.01, loss=CrossEntropy())
    assert worst.batches == [[0, 1, 2, 3]]
    assert bool(worst.fallen.all())
    assert bool(worst.points.isfinite().all())


@pytest.mark.parametrize("norm", NORMS)
def test_it_is_repeatable_and_touches_nothing_of_its_caller(norm: str) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(5)
    y = module(x).argmax(1)
    given_images, global_state = x.clone(), torch.get_rng_state()
    first = attacked(module, given_images, y, norm=norm, eps=0.02)
    assert torch.equal(first, attacked(module, given_images, y, norm=norm, eps=0.02))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(given_images, x)
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not first.requires_grad
    assert not torch.equal(first, x)
