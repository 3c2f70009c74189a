"""Accuracies of a linear network, whose robust accuracy has a closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import train_cases
from torch import Tensor, nn

from madx.data import Split
from madx.data.sources import array_source
from madx.recipe import AttackConfig, ThreatConfig
from madx.train import evaluate

EPS = 0.02


def linear() -> tuple[nn.Module, np.ndarray]:
    draws = np.random.default_rng(0)
    w = draws.normal(size=64)
    layer = nn.Linear(64, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.stack([np.zeros(64), w])))
        layer.bias.copy_(torch.tensor([0.0, -0.5 * w.sum()]))
    return nn.Sequential(nn.Flatten(), layer), w


def noise(count: int) -> Split:
    draws = np.random.default_rng(1)
    pixels = draws.uniform(0.1, 0.9, (count, 1, 8, 8)).astype(np.float32)
    return Split("gate", array_source(pixels, np.arange(count) % 2, where="test"), draws.permutation(count))


@pytest.mark.parametrize("count", [1, 250, 613])
def test_both_accuracies_are_the_closed_form(count: int) -> None:
    module, w = linear()
    split = noise(count)
    images, labels = split.tensors()
    margin = (images.flatten(1).double().numpy() - 0.5) @ w * (2 * labels.numpy() - 1)
    worst = margin - EPS * np.abs(w).sum()
    assert np.abs(worst).min() > 1e-5, "a margin that float32 cannot decide"
    clean, robust = evaluate(module, split, AttackConfig(steps=3), ThreatConfig(eps=EPS), seed=0)
    assert clean == pytest.approx((margin > 0).mean())
    assert robust == pytest.approx((worst > 0).mean())
    assert count == 1 or 0 < robust < clean < 1


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_modes_and_weights_stay_and_the_network_is_measured_in_eval_mode(mode: str) -> None:
    module = train_cases.network()
    module.train(mode != "eval")
    if mode == "mixed":
        module[1].eval()
    modes = [part.training for part in module.modules()]
    state = {name: value.clone() for name, value in module.state_dict().items()}
    split = train_cases.split(40)
    accuracies = evaluate(module, split, AttackConfig(steps=2), ThreatConfig(eps=EPS), seed=0)
    assert [part.training for part in module.modules()] == modes
    assert train_cases.same(module.state_dict(), state), "BatchNorm's statistics moved"
    assert accuracies == evaluate(module.eval(), split, AttackConfig(steps=2), ThreatConfig(eps=EPS), seed=0)


def test_after_an_error_the_mode_is_as_before() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, images: Tensor) -> Tensor:
            raise RuntimeError(f"no to {len(images)} images")

    module = Failing().train()
    with pytest.raises(RuntimeError, match="no to 20 images"):
        evaluate(module, train_cases.split(20), AttackConfig(), ThreatConfig(), seed=0)
    assert module.training


def test_a_network_that_is_never_right_is_not_attacked() -> None:
    module = train_cases.network()
    with torch.no_grad():
        module[4].weight.zero_()
        module[4].bias.copy_(torch.tensor([1.0, 0.0]))
    split = train_cases.split(20)
    ones = Split("x", split.source, np.flatnonzero(split.source.labels == 1))
    assert evaluate(module, ones, AttackConfig(), ThreatConfig(), seed=0) == (0.0, 0.0)
