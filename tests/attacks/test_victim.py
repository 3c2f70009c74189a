"""The faces of a deployed network: twin, engine in the loop, engine alone."""

from __future__ import annotations

import attack_cases
import pytest
import torch
from attack_cases import NORMS
from torch import Tensor, nn

from madx.attacks import (
    DLR,
    Apgd,
    CrossEntropy,
    Loss,
    Passes,
    TargetedApgd,
    TargetedDLR,
    TargetedMargin,
    Victim,
    input_gradient,
    run_suite,
    through_twin,
    wrong_margin,
)
from madx.errors import MadxError

LOSSES = [CrossEntropy(), DLR(), TargetedDLR(), TargetedMargin()]


def targets_of(loss: Loss, labels: Tensor) -> Tensor:
    return torch.stack([labels, (labels + 1) % 5], 1) if isinstance(loss, TargetedDLR | TargetedMargin) else labels


def engine_of(module: nn.Module, *, height: float = 0.05, shift: float = 0.0) -> nn.Module:
    """A deployed network without gradients: logits on a coarse grid, and class 1 preferred a little more."""

    class Engine(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                logits = torch.round(module(images) / height) * height
                return logits + shift * torch.nn.functional.one_hot(torch.tensor(1), 5)

    return Engine()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_an_engine_that_is_its_twin_has_the_twins_gradient(loss: Loss) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(8)
    targets = targets_of(loss, module(x).argmax(1))
    logits, slope = through_twin(module, module, loss=loss)(x, targets)
    expected_logits, expected_slope = input_gradient(module, loss=loss)(x, targets)
    assert torch.equal(logits, expected_logits)
    torch.testing.assert_close(slope, expected_slope, rtol=1e-5, atol=1e-7)
    assert not logits.requires_grad
    assert not slope.requires_grad
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_logits_are_the_engines_and_the_slope_is_the_chain_rule_over_both(loss: Loss) -> None:
    """Oracle: the loss's slope at the engine's logits times the twin's Jacobian, image by image, in float64."""
    twin, engine = attack_cases.wavy(), attack_cases.wavy(seed=3)
    x = attack_cases.images(6)
    targets = targets_of(loss, engine(x).argmax(1))
    logits, slope = through_twin(engine, twin, loss=loss)(x, targets)
    assert torch.equal(logits, engine(x).detach())
    exact_engine, exact_twin = engine.double(), twin.double()
    for image, target, found in zip(x.double(), targets, slope, strict=True):
        answer = exact_engine(image[None]).detach().requires_grad_()
        (at_logits,) = torch.autograd.grad(loss(answer, target[None]).sum(), answer)
        jacobian = torch.autograd.functional.jacobian(lambda pixels: exact_twin(pixels)[0], image[None])
        torch.testing.assert_close(
            found.double(), torch.tensordot(at_logits[0], jacobian[:, 0], 1), rtol=1e-4, atol=1e-6
        )


@pytest.mark.parametrize("norm", NORMS)
def test_in_the_loop_margins_are_the_engines(norm: str) -> None:
    twin, x = attack_cases.wavy(), attack_cases.images(30)
    engine = engine_of(twin, shift=0.4)
    y, threat = engine(x).argmax(1), attack_cases.threat(norm, 0.05 if norm == "linf" else 0.12)
    victim, attacks = Victim.in_the_loop(engine, twin), (Apgd(steps=8), TargetedApgd(steps=8, targets=2))
    found = run_suite(victim, x, y, attacks=attacks, threat=threat, generator=attack_cases.generator())
    torch.testing.assert_close(wrong_margin(engine(found.points), y), found.margins, rtol=1e-4, atol=1e-5)
    assert 3 < int(found.robust.sum()) < 27


def test_an_engine_that_decides_otherwise_than_its_twin_is_turned_in_the_loop() -> None:
    """With the same budget: examples that are the twin's worst points miss what the engine alone gives away."""
    twin, x = attack_cases.wavy(), attack_cases.images(150)
    engine = engine_of(twin, shift=4.0)
    y, threat = engine(x).argmax(1), attack_cases.threat("linf", 0.08)
    attacks = (Apgd(steps=10), TargetedApgd(steps=10, targets=2))

    def left(victim: Victim) -> int:
        found = run_suite(victim, x, y, attacks=attacks, threat=threat, generator=attack_cases.generator())
        return int((wrong_margin(engine(found.points), y) < 0).sum())

    replayed, in_the_loop = left(Victim.of(twin)), left(Victim.in_the_loop(engine, twin))
    assert in_the_loop < replayed - 10


def test_an_engine_may_answer_in_half_precision() -> None:
    twin, x = attack_cases.wavy(), attack_cases.images(4)
    victim = Victim.in_the_loop(lambda images: twin(images).half(), twin)
    logits, slope = victim.gradient(CrossEntropy())(x, torch.zeros(4, dtype=torch.int64))
    assert logits.dtype == slope.dtype == victim.forward(x).dtype == torch.float32
    assert not victim.forward(x).requires_grad


def test_without_a_twin_a_gradient_is_refused() -> None:
    victim = Victim.query_only(attack_cases.wavy())
    assert victim.forward(attack_cases.images(3)).shape == (3, 5)
    with pytest.raises(MadxError, match=r"gradient of the DLR loss.*queries only.*Square"):
        victim.gradient(DLR())


def test_a_twin_of_another_network_is_refused() -> None:
    slope_of = through_twin(attack_cases.wavy(), attack_cases.wavy(classes=3), loss=CrossEntropy())
    with pytest.raises(MadxError, match=r"\[2, 5\].*\[2, 3\].*built from"):
        slope_of(attack_cases.images(2), torch.zeros(2, dtype=torch.int64))


def test_passes_add_up() -> None:
    assert Passes(1, 2) + 3 * Passes(10, 100) == Passes(31, 302)
