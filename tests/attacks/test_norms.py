"""Norm balls against numpy in float64, brute force, and the distributions that a uniform start must have."""

from __future__ import annotations

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import NORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import kstest
from torch import Tensor

from madx.attacks import norm_named

EPS = 0.3


@st.composite
def perturbations(draw: st.DrawFn) -> Tensor:
    values = st.floats(-10, 10, width=32, allow_subnormal=False)
    return torch.from_numpy(draw(hnp.arrays(np.float32, (draw(st.integers(1, 3)), 1, 2, 3), elements=values)))


def size_by_numpy(perturbation: Tensor, norm: str) -> np.ndarray:
    rows = perturbation.double().flatten(1).numpy()
    return np.abs(rows).max(1) if norm == "linf" else np.sqrt((rows**2).sum(1))


def nearest_by_numpy(perturbation: Tensor, norm: str, eps: float) -> np.ndarray:
    values = perturbation.double().numpy()
    if norm == "linf":
        return np.clip(values, -eps, eps)
    size = size_by_numpy(perturbation, norm).reshape(-1, 1, 1, 1)
    return np.where(size > eps, values * eps / np.maximum(size, 1e-300), values)


@pytest.mark.parametrize("norm", NORMS)
@given(perturbation=perturbations(), eps=st.floats(1e-3, 5))
@settings(max_examples=100)
def test_projection_is_the_nearest_point_of_the_ball(norm: str, perturbation: Tensor, eps: float) -> None:
    ball = norm_named(norm)
    projected = ball.project(perturbation, eps)
    assert projected.dtype == torch.float32
    np.testing.assert_allclose(projected, nearest_by_numpy(perturbation, norm, eps), rtol=1e-6, atol=1e-7)
    assert (size_by_numpy(projected, norm) <= eps * (1 + 1e-6)).all()
    torch.testing.assert_close(ball.project(projected, eps), projected, rtol=1e-6, atol=0)
    inside = torch.from_numpy(size_by_numpy(perturbation, norm) < eps * (1 - 1e-6))
    assert torch.equal(projected[inside], perturbation[inside]), "a point inside was moved"


@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_ball_is_nearer_than_the_projection(norm: str) -> None:
    ball, draws = norm_named(norm), attack_cases.generator()
    outside = torch.randn(20, 1, 1, 3, generator=draws)
    distance = (ball.project(outside, EPS) - outside).flatten(1).norm(dim=1)
    for _ in range(300):
        other = ball.start(outside, EPS, draws)
        assert ((other - outside).flatten(1).norm(dim=1) >= distance - 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
@given(perturbation=perturbations())
@settings(max_examples=50)
def test_size_is_numpys(norm: str, perturbation: Tensor) -> None:
    found = norm_named(norm).size(perturbation)
    # below 1e-18 the squares leave float32's range; no eps is that small
    np.testing.assert_allclose(found, size_by_numpy(perturbation, norm), rtol=1e-6, atol=1e-18)


@pytest.mark.parametrize("norm", NORMS)
# 1e-25: its square is zero in float32; 1e-40: it is subnormal itself.
@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-10, 1e-15, 1e-25, 1e-40])
def test_the_direction_is_the_unit_perturbation_that_rises_fastest(norm: str, scale: float) -> None:
    ball, draws = norm_named(norm), attack_cases.generator()
    gradient = torch.randn(5, 1, 2, 3, generator=draws)
    best = ball.direction(gradient * scale)
    torch.testing.assert_close(ball.size(best), torch.ones(5), rtol=1e-5, atol=0)
    rise = (best * gradient).flatten(1).sum(1)
    for _ in range(300):
        assert ((ball.start(gradient, 1.0, draws) * gradient).flatten(1).sum(1) <= rise + 1e-5).all()


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_without_gradient_stays_and_the_others_move(norm: str) -> None:
    gradient = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
    direction = norm_named(norm).direction(gradient)
    assert torch.equal(direction[0], torch.zeros(1, 2, 2))
    assert float(norm_named(norm).size(direction)[1]) == pytest.approx(1)


@pytest.mark.parametrize("norm", NORMS)
def test_starts_are_inside_repeatable_and_different_for_every_image(norm: str) -> None:
    ball, like = norm_named(norm), torch.zeros(500, 3, 4, 4)
    start = ball.start(like, EPS, attack_cases.generator(1))
    assert start.shape == like.shape
    assert (size_by_numpy(start, norm) <= EPS * (1 + 1e-6)).all()
    assert len(start.flatten(1).unique(dim=0)) == 500
    assert torch.equal(start, ball.start(like, EPS, attack_cases.generator(1)))
    assert not torch.equal(start, ball.start(like, EPS, attack_cases.generator(2)))


def test_a_start_in_the_cube_is_uniform_in_every_pixel() -> None:
    start = norm_named("linf").start(torch.zeros(3000, 1, 1, 3), EPS, attack_cases.generator()).flatten(1).numpy()
    for pixel in range(3):
        assert kstest(start[:, pixel], "uniform", args=(-EPS, 2 * EPS)).pvalue > 0.01
    assert np.abs(np.corrcoef(start.T) - np.eye(3)).max() < 0.06  # 3 standard errors of 3000 draws


def test_a_start_in_the_sphere_is_uniform_in_volume_and_direction() -> None:
    start = norm_named("l2").start(torch.zeros(3000, 1, 1, 3), EPS, attack_cases.generator()).flatten(1).double()
    radius = start.norm(dim=1) / EPS
    assert kstest(radius**3, "uniform").pvalue > 0.01, "the radius is not U^(1/3)"
    assert kstest(radius, "uniform").pvalue < 1e-6, "this test could not tell a wrong radius"
    for axis in range(3):  # Archimedes: each coordinate of a uniform direction in three dimensions is uniform
        assert kstest(start[:, axis] / start.norm(dim=1), "uniform", args=(-1, 2)).pvalue > 0.01


def test_the_recipes_names_are_the_norms_there_are() -> None:
    assert {type(norm_named(name)).__name__ for name in NORMS} == {"Linf", "L2"}
    with pytest.raises(KeyError):
        norm_named("l1")
