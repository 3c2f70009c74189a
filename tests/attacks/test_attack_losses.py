"""Losses against their formulas written out one image at a time, and against torch's cross-entropy."""

from __future__ import annotations

import attack_cases
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from madx.attacks import DLR, CrossEntropy, Loss, TargetedDLR, TargetedMargin, input_gradient, targeted_loss
from madx.attacks.losses import likeliest_wrong
from madx.errors import RecipeError

LOGITS = torch.randn(40, 6, generator=attack_cases.generator(4)) * 3
LABELS = torch.arange(40) % 6
GOALS = torch.stack([LABELS, (LABELS + 1 + torch.arange(40) // 6 % 5) % 6], dim=1)


def named(loss: Loss) -> str:
    return loss.name


def targets_of(loss: Loss) -> Tensor:
    return LABELS if isinstance(loss, CrossEntropy | DLR) else GOALS


def by_hand(loss: Loss, row: list[float], label: int, target: int) -> float:
    ranked = sorted(row, reverse=True)
    rival = max(value for index, value in enumerate(row) if index != label)
    if isinstance(loss, DLR):
        return -(row[label] - rival) / (ranked[0] - ranked[2])
    if isinstance(loss, TargetedDLR):
        return -(row[label] - row[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)
    return row[target] - row[label]


@pytest.mark.parametrize("loss", [DLR(), TargetedDLR(), TargetedMargin()], ids=named)
def test_a_loss_is_its_formula(loss: Loss) -> None:
    goals = GOALS.tolist()
    expected = [by_hand(loss, row, *goal) for row, goal in zip(LOGITS.double().tolist(), goals, strict=True)]
    targets = LABELS if isinstance(loss, DLR) else GOALS
    torch.testing.assert_close(loss(LOGITS, targets), torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_the_log_odds_are_the_cross_entropy_unrolled() -> None:
    expected = F.cross_entropy(LOGITS.double(), LABELS, reduction="none")
    torch.testing.assert_close(F.softplus(CrossEntropy()(LOGITS.double(), LABELS)), expected)


def test_their_gradient_points_where_that_of_the_cross_entropy_points() -> None:
    module = attack_cases.bent().double()
    x, y = attack_cases.images(6).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    _, plain = input_gradient(module)(x, y)
    _, odds = input_gradient(module, loss=CrossEntropy())(x, y)
    similar = F.cosine_similarity(plain.flatten(1), odds.flatten(1))
    torch.testing.assert_close(similar, torch.ones(6).double(), rtol=0, atol=1e-6)  # logits are rounded to float32


def test_confident_logits_still_have_a_value_and_a_gradient() -> None:
    """Where float32's cross-entropy is exactly zero, and so is its gradient."""
    logits = torch.tensor([[500.0, 0.0, 1.0], [400.0, 0.0, 1.0]]).requires_grad_()
    labels = torch.tensor([0, 0])
    flat = F.cross_entropy(logits, labels, reduction="sum")
    assert flat.item() == 0
    assert not torch.autograd.grad(flat, logits)[0].any()
    values = CrossEntropy()(logits, labels)
    assert (values[1] - values[0]).item() == pytest.approx(100, rel=1e-6)
    (slope,) = torch.autograd.grad(values.sum(), logits)
    torch.testing.assert_close(slope[:, 0], torch.tensor([-1.0, -1.0]))


@pytest.mark.parametrize("loss", [DLR(), TargetedDLR()], ids=named)
def test_multiplied_logits_have_the_same_dlr(loss: Loss) -> None:
    targets = targets_of(loss)
    torch.testing.assert_close(loss(LOGITS * 1e4, targets), loss(LOGITS, targets))


@pytest.mark.parametrize("loss", [CrossEntropy(), DLR(), TargetedMargin()], ids=named)
def test_a_loss_rises_as_the_true_logit_falls(loss: Loss) -> None:
    lower = LOGITS.clone()
    lower[torch.arange(40), LABELS] -= 0.01
    right = LOGITS.argmax(1) == LABELS  # elsewhere DLR's denominator may shrink faster
    assert bool((loss(lower, targets_of(loss)) > loss(LOGITS, targets_of(loss)))[right].all())
    assert 3 < int(right.sum()) < 40


@pytest.mark.parametrize("loss", [DLR(), TargetedDLR()], ids=named)
def test_equal_logits_have_a_finite_loss(loss: Loss) -> None:
    logits = torch.ones(40, 6, requires_grad=True)
    values = loss(logits, targets_of(loss))
    assert not values.any()
    assert bool(torch.autograd.grad(values.sum(), logits)[0].isfinite().all())


@pytest.mark.parametrize(("loss", "classes"), [(DLR(), 2), (TargetedDLR(), 3)], ids=["DLR", "targeted"])
def test_too_few_classes_are_refused_with_a_way_out(loss: Loss, classes: int) -> None:
    targets = torch.tensor([[0, 1]]) if classes == 3 else torch.tensor([0])
    with pytest.raises(RecipeError, match=rf"{loss.name} loss needs {classes + 1} classes.*has {classes};.*margin"):
        loss(torch.zeros(1, classes), targets)
    assert loss(torch.zeros(1, classes + 1), targets).shape == (1,)


@pytest.mark.parametrize(("classes", "kind"), [(2, TargetedMargin), (3, TargetedMargin), (4, TargetedDLR)])
def test_few_classes_get_the_margin(classes: int, kind: type) -> None:
    assert isinstance(targeted_loss(classes), kind)


def test_the_likeliest_wrong_classes_come_first_and_the_label_never() -> None:
    found = likeliest_wrong(LOGITS, LABELS, 3)
    for row, label, classes in zip(LOGITS.tolist(), LABELS.tolist(), found.tolist(), strict=True):
        ranked = sorted((index for index in range(6) if index != label), key=lambda index: -row[index])
        assert classes == ranked[:3]
    assert likeliest_wrong(LOGITS, LABELS, 9).shape == (40, 5)
