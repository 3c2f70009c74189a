"""The losses against their papers' formulas in float64, and where float32 formulas break."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from madx.train.losses import LOSSES, boosted_cross_entropy

LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
BETA = 1.7


def logits(scale: float, seed: int) -> Tensor:
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)) * scale


def formula(name: str, adversarial: Tensor, natural: Tensor, labels: Tensor) -> Tensor:
    """As printed: Madry 2018; Zhang 2019; Wang 2020, equations of the boosted cross-entropy and of MART."""
    total = torch.zeros((), dtype=torch.float64)
    for adv, nat, label in zip(adversarial, natural, labels.tolist(), strict=True):
        q, p = adv.softmax(0), nat.softmax(0)
        kl = sum(p[k] * (p[k].log() - q[k].log()) for k in range(len(p)))
        boosted = -q[label].log() - (1 - max(q[k] for k in range(len(q)) if k != label)).log()
        total = (
            total
            + {
                "ce": -q[label].log(),
                "trades": -p[label].log() + BETA * kl,
                "mart": boosted + BETA * kl * (1 - p[label]),
            }[name]
        )
    return total / len(labels)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0])
def test_value_and_gradient_are_the_papers(name: str, scale: float) -> None:
    pair = [logits(scale, seed).requires_grad_() for seed in (1, 2)]
    exact = [leaf.detach().double().requires_grad_() for leaf in pair]
    value = LOSSES[name](pair[0], lambda: pair[1], LABELS, BETA)
    expected = formula(name, *exact, LABELS)
    torch.testing.assert_close(value.double(), expected, rtol=2e-5, atol=1e-6)
    value.backward()
    expected.backward()
    for leaf, reference in zip(pair, exact, strict=True):
        if reference.grad is None:
            assert leaf.grad is None
        else:
            torch.testing.assert_close(leaf.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_cross_entropy_never_runs_the_clean_images() -> None:
    def clean() -> Tensor:
        raise AssertionError("the clean images were run")

    assert float(LOSSES["ce"](logits(1, 0), clean, LABELS, BETA)) > 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [50.0, 200.0, 1e4, 1e30])
@pytest.mark.parametrize("agree", [True, False])
def test_extreme_logits_give_finite_losses_and_gradients(name: str, size: float, agree: bool) -> None:
    natural = torch.nn.functional.one_hot(LABELS, 4).float() * size
    adversarial = (natural if agree else natural.roll(1, 1)).clone().requires_grad_()
    natural.requires_grad_()
    value = LOSSES[name](adversarial, lambda: natural, LABELS, BETA)
    value.backward()
    assert math.isfinite(value.detach())
    assert bool(adversarial.grad.isfinite().all())
    if name != "ce":
        assert bool(natural.grad.isfinite().all())
    if agree:
        assert float(value.detach()) < 1e-6
    elif name != "trades":
        assert float(value.detach()) > size / 2, "a wrong network must be told so"


@pytest.mark.parametrize(
    ("row", "label", "expected"),
    [
        # one wrong class takes all: -log p_y is 200, and 1 - p_rival is p_y, so the second term is 200 too
        ([0.0, 200.0], 0, 400.0),
        ([200.0, 0.0], 0, 0.0),
        # equal logits: -log(1/4) - log(3/4)
        ([2.0, 2.0, 2.0, 2.0], 1, math.log(4) + math.log(4 / 3)),
        # the rival ties with the true class: -log(1/2) - log(1/2)
        ([3.0, 3.0, -1e4], 0, 2 * math.log(2)),
        ([3.0, 3.0, -1e4], 1, 2 * math.log(2)),
        # two rivals tie above the true class, which is negligible: 100 + log 2, and -log(1/2)
        ([100.0, 0.0, 100.0], 1, 100 + 2 * math.log(2)),
    ],
)
def test_boosted_cross_entropy_by_hand(row: list[float], label: int, expected: float) -> None:
    value = boosted_cross_entropy(torch.tensor([row]), torch.tensor([label]))
    assert float(value) == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ["trades", "mart"])
def test_beta_weighs_the_consistency_alone(name: str) -> None:
    adversarial, natural = logits(1, 1), logits(1, 2)
    at = [float(LOSSES[name](adversarial, lambda: natural, LABELS, beta)) for beta in (0.0, 1.0, 2.0)]
    assert at[1] > at[0]
    assert at[2] - at[1] == pytest.approx(at[1] - at[0], rel=1e-4)
    equal = [float(LOSSES[name](natural, lambda: natural, LABELS, beta)) for beta in (0.0, 5.0)]
    assert equal[0] == pytest.approx(equal[1], abs=1e-6)
