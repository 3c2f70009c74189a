"""The input gradient against plain autograd, and what it must leave alone."""

from __future__ import annotations

import attack_cases
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.attacks import input_gradient, strongest_examples
from madx.recipe import AttackConfig, ThreatConfig

IMAGES = attack_cases.images(6)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def by_autograd(module: nn.Module, image: Tensor, loss: str, target: Tensor) -> Tensor:
    """Gradient of one image's loss, one image at a time."""
    leaf = image[None].clone().requires_grad_()
    log_q = module(leaf).log_softmax(1)[0]
    value = -log_q[target] if loss == "ce" else (target * (target.log() - log_q)).sum()
    value.backward()
    return leaf.grad[0]


def test_each_image_has_the_gradient_of_its_own_loss_whatever_the_batch() -> None:
    module = attack_cases.bent()
    logits, slope = input_gradient(module)(IMAGES, LABELS)
    torch.testing.assert_close(logits, module(IMAGES).detach())
    for number in range(len(IMAGES)):
        expected = by_autograd(module, IMAGES[number], "ce", LABELS[number])
        torch.testing.assert_close(slope[number], expected, rtol=1e-4, atol=1e-6)


def test_with_soft_targets_it_is_the_gradient_of_kl() -> None:
    module = attack_cases.bent()
    clean = module(IMAGES).softmax(1).detach()
    moved = (IMAGES + 0.05).clamp(0, 1)
    _, slope = input_gradient(module)(moved, clean)
    for number in range(len(IMAGES)):
        expected = by_autograd(module, moved[number], "kl", clean[number])
        torch.testing.assert_close(slope[number], expected, rtol=1e-4, atol=1e-6)
    assert slope.abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_mode_parameters_and_their_gradients_stay_as_they_are(training: bool, frozen: bool) -> None:
    module = attack_cases.bent().train(training)
    for parameter in module.parameters():
        parameter.requires_grad_(not frozen)
        parameter.grad = None if frozen else torch.full_like(parameter, 7.0)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    given = IMAGES.clone()
    with torch.no_grad():  # the caller's mode must not switch the gradient off
        logits, slope = input_gradient(module)(given, LABELS)
    assert slope.abs().sum() > 0
    assert not any(tensor.requires_grad for tensor in (logits, slope, given))
    assert torch.equal(given, IMAGES)
    assert given.grad is None
    assert [part.training for part in module.modules()] == [training] * len(list(module.modules()))
    for parameter, value in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is None if frozen else bool((parameter.grad == 7).all())


def test_bf16_is_another_arithmetic_but_the_same_gradient() -> None:
    module = attack_cases.bent(scale=1.0)
    logits, slope = input_gradient(module)(IMAGES, LABELS)
    rough_logits, rough = input_gradient(module, precision="bf16")(IMAGES, LABELS)
    assert rough_logits.dtype == rough.dtype == torch.float32
    assert not torch.equal(rough_logits, logits)
    assert bool((F.cosine_similarity(rough.flatten(1), slope.flatten(1)) > 0.98).all())
    # bfloat16 keeps 8 bits: about 0.4 % of a value, and a few layers of it
    assert (rough_logits - logits).abs().max() < 0.03 * logits.abs().max()


def standing(factor: float, largest_gap: float | None) -> int:
    """Images of 200 that a linear network with its logits multiplied by `factor` withstands."""
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    network[1].weight.data = factor * torch.randn(3, 16, generator=generator)
    images = torch.rand(200, 1, 4, 4, generator=generator)
    labels = network(images).argmax(1)
    worst = strongest_examples(
        network,
        input_gradient(network, largest_gap=largest_gap),
        images,
        labels,
        threat=ThreatConfig(eps=0.2),
        attack=AttackConfig(steps=20, relative_step=2.5),
        generator=generator,
    )
    return int((network(worst).argmax(1) == labels).sum())


@pytest.mark.parametrize("factor", [0.1, 1.0, 100.0, 10_000.0])
def test_multiplied_logits_do_not_stop_the_attack(factor: float) -> None:
    """Float32's softmax is flat where logits are far apart; an undefended network must fall all the same."""
    assert standing(factor, largest_gap=10.0) <= standing(1.0, largest_gap=None) + 2


def test_without_the_guard_multiplied_logits_look_robust() -> None:
    assert standing(10_000.0, largest_gap=None) > standing(1.0, largest_gap=None) + 50


def test_the_guard_leaves_ordinary_logits_alone() -> None:
    module = attack_cases.linear(torch.randn(3, 8, generator=attack_cases.generator()))
    plain, guarded = input_gradient(module), input_gradient(module, largest_gap=10.0)
    for one, other in zip(plain(IMAGES, LABELS), guarded(IMAGES, LABELS), strict=True):
        assert torch.equal(one, other)
