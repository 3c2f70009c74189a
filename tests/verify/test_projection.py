"""The projection: always inside, unchanged when inside already, overruns measured, torch's own as a second opinion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from madx.attacks import norm_named
from madx.errors import MadxError
from madx.recipe import ThreatConfig
from madx.verify import perturbation_size, project


def images(seed, n=6):
    x = np.random.default_rng(seed).random((n, 3, 5, 5), dtype=np.float32)
    return np.where(x < 0.1, 0, np.where(x > 0.9, 1, x)).astype(np.float32)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([1e-8, 1e-4, 1 / 255, 8 / 255, 0.3, 1.0]),
    reach=st.sampled_from([0.01, 1.0, 1.5, 100.0]),
)
def test_result_obeys_the_threat_exactly(seed, norm, eps, reach):
    x = images(seed)
    noise = np.random.default_rng(seed + 1).normal(size=x.shape)
    inside = project((x + noise * reach * eps).astype(np.float32), x, ThreatConfig(norm=norm, eps=eps)).images
    assert inside.dtype == np.float32
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert (perturbation_size(inside, x, norm) <= eps * (1 + 1e-6)).all()


@pytest.mark.parametrize("eps", [1e-4, 0.015, 0.5])
@pytest.mark.parametrize("side", [4, 28])
def test_an_example_on_the_border_stays_an_example(side, eps):
    """Rounding to float32 must not send it all the way back to the clean image, which would count as robust."""
    rng = np.random.default_rng(6)
    x = (0.4 + 0.2 * rng.random((1500, 1, side, side))).astype(np.float32)
    noise = rng.normal(size=x.shape)
    noise *= eps / perturbation_size(noise, np.zeros_like(noise), "l2")[:, None, None, None]
    found = project((x + noise).astype(np.float32), x, ThreatConfig(norm="l2", eps=eps)).images
    assert perturbation_size(found, x, "l2").min() > 0.99 * eps


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_agrees_with_the_attacks_own_projection(norm):
    x, eps = images(1), 0.2
    x = np.clip(x, 0.3, 0.7)  # away from the box, where the order of the two projections matters
    given_ = (x + np.random.default_rng(2).normal(size=x.shape) * 0.05).astype(np.float32)
    theirs = x + norm_named(norm).project(torch.from_numpy(given_ - x), eps).numpy()
    np.testing.assert_allclose(project(given_, x, ThreatConfig(norm=norm, eps=eps)).images, theirs, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_is_inside_stays_as_it_is(norm):
    x = images(3)
    given_ = np.clip(x + np.float32(1e-3), 0, 1)
    projected = project(given_, x, ThreatConfig(norm=norm, eps=0.1))
    np.testing.assert_array_equal(projected.images, given_)
    assert projected.overrun == 0


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("eps", [1 / 255, 8 / 255, 0.5])
def test_an_attack_in_float32_is_not_accused(norm, eps):
    x = torch.from_numpy(images(4))
    step = norm_named(norm).project(torch.from_numpy(images(5)) - 0.5, eps)
    examples = (x + step).clamp(0, 1).numpy()
    assert project(examples, x.numpy(), ThreatConfig(norm=norm, eps=eps)).overrun == 0


def test_overrun_of_the_ball_is_measured():
    x = np.full((2, 1, 2, 2), 0.5, dtype=np.float32)
    projected = project(x + np.float32(0.11), x, ThreatConfig(norm="linf", eps=0.1))
    assert projected.overrun == pytest.approx(0.1, abs=1e-5)
    np.testing.assert_allclose(projected.images, 0.6, atol=1e-6)


def test_overrun_of_the_box_is_measured():
    x = np.full((1, 1, 2, 2), 0.98, dtype=np.float32)
    projected = project(x + np.float32(0.07), x, ThreatConfig(norm="linf", eps=0.1))
    assert projected.overrun == pytest.approx(0.5, abs=1e-4)
    assert projected.images.max() == 1


@pytest.mark.parametrize(
    ("examples", "said"),
    [(images(0)[:3], r"shape \[3, 3, 5, 5\]"), (np.full_like(images(0), np.nan), "NaN")],
)
def test_what_is_no_example_is_an_error(examples, said):
    with pytest.raises(MadxError, match=said):
        project(examples, images(0), ThreatConfig(eps=0.1))
