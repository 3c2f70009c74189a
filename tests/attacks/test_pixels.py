"""Rounding to 8-bit pixels: on the grid, inside the ball, and no further from the given point than it must be."""

from __future__ import annotations

import itertools

import attack_cases
import pytest
import torch
from attack_cases import NORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from madx.attacks import norm_named, rounded
from madx.attacks.norms import inside

GRID = torch.arange(256).float() / 255


def levels(count: int, seed: int, shape: tuple[int, ...] = (2, 3, 4)) -> Tensor:
    return GRID[torch.randint(256, (count, *shape), generator=attack_cases.generator(seed))]


def points_near(images: Tensor, norm: str, eps: float, seed: int) -> Tensor:
    """Anywhere in the ball and the box, most of them at the edge of both."""
    change = torch.randn(images.shape, generator=attack_cases.generator(seed)) * eps
    return inside(norm_named(norm), images + change, images, eps)


def on_grid(points: Tensor) -> Tensor:
    return (points == GRID[(points * 255).round().long()]).flatten(1)


@pytest.mark.parametrize("norm", NORMS)
@given(eps=st.floats(1e-3, 1.0), seed=st.integers(0, 10**6), whole=st.booleans())
@settings(max_examples=60)
def test_rounded_points_are_on_the_grid_in_the_ball_and_in_the_box(
    norm: str, eps: float, seed: int, whole: bool
) -> None:
    eps = max(round(eps * 255), 1) / 255 if whole else eps  # exactly so many levels, as 8/255
    images = levels(4, seed)
    points = points_near(images, norm, eps, seed + 1)
    found = rounded(points, images, attack_cases.threat(norm, eps))
    assert found.dtype == torch.float32
    assert bool(on_grid(found).all())
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert float(norm_named(norm).size(found.double() - images.double()).max()) <= eps + 2.5e-7
    assert float((found - points).abs().max()) <= 1 / 255 + 1e-6
    assert torch.equal(rounded(found, images, attack_cases.threat(norm, eps)), found)


@given(seed=st.integers(0, 10**6), eps=st.sampled_from([2 / 255, 8 / 255, 0.1, 0.3]))
@settings(max_examples=30)
def test_in_linf_every_pixel_is_the_nearest_level_inside(seed: int, eps: float) -> None:
    images = levels(2, seed, (1, 2, 3))
    points = points_near(images, "linf", eps, seed + 1)
    found = rounded(points, images, attack_cases.threat("linf", eps))
    for point, image, level in zip(points.flatten(), images.flatten(), found.flatten(), strict=True):
        allowed = GRID[(GRID - image).abs() <= eps + 1e-6]
        best = (allowed - point).abs().min()
        assert float((level - point).abs()) == pytest.approx(float(best), abs=1e-6)


@given(seed=st.integers(0, 10**6), eps=st.floats(0.005, 0.05))
@settings(max_examples=30)
def test_in_l2_the_detour_is_not_much_longer_than_the_shortest(seed: int, eps: float) -> None:
    """Brute force over which of six pixels go to the level below or above."""
    images = levels(1, seed, (6,)).clamp(20 / 255, 235 / 255)
    points = points_near(images, "l2", eps, seed + 1)
    found = rounded(points, images, attack_cases.threat("l2", eps))
    low = (points[0] * 255 + 1e-4).floor()
    choices = torch.tensor(list(itertools.product((0.0, 1.0), repeat=6)))
    candidates = (low + choices) / 255
    allowed = (candidates - images).norm(dim=1) <= eps + 2e-7
    best = float((candidates[allowed] - points).norm(dim=1).min())
    assert float((found - points).norm()) <= max(2.0 * best, best + 1 / 255)


@pytest.mark.parametrize("norm", NORMS)
def test_points_on_the_grid_stay(norm: str) -> None:
    images = levels(3, 1).clamp(10 / 255, 245 / 255)
    points = images + torch.randint(-8, 9, images.shape, generator=attack_cases.generator(2)) / 255
    points = GRID[(points * 255).round().long()]
    eps = 8 / 255 if norm == "linf" else float((points - images).flatten(1).norm(dim=1).max())
    assert torch.equal(rounded(points, images, attack_cases.threat(norm, eps)), points)


@pytest.mark.parametrize("norm", NORMS)
def test_images_off_the_grid_never_leave_the_ball(norm: str) -> None:
    """A ball narrower than a level holds none: such pixels are the clean image's."""
    images = attack_cases.images(50)
    eps = 0.3 / 255
    points = points_near(images, norm, eps, 3)
    found = rounded(points, images, attack_cases.threat(norm, eps))
    assert float(norm_named(norm).size(found.double() - images.double()).max()) <= eps + 2.5e-7
    assert bool(on_grid(found).any())
    off = ~on_grid(found)
    assert bool(off.any())
    assert torch.equal(found.flatten(1)[off], images.flatten(1)[off])


def test_the_grid_is_what_an_8_bit_image_becomes() -> None:
    bytes_ = torch.arange(256, dtype=torch.uint8)
    images = (bytes_.float() / 255).view(1, 1, 16, 16)
    assert torch.equal(rounded(images, images, attack_cases.threat("linf")), images)
