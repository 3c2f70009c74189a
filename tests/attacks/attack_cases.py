"""Small networks and threats that the tests of the attacks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from madx.recipe import ThreatConfig

SHAPE = (1, 2, 4)
NORMS = ("linf", "l2")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def threat(norm: str, eps: float = 0.1) -> ThreatConfig:
    return ThreatConfig.model_validate({"norm": norm, "eps": eps})


def images(count: int, *, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    return torch.rand(count, *SHAPE, generator=generator(seed)) * (high - low) + low


def linear(rows: Tensor, bias: Tensor | None = None) -> nn.Module:
    """Logits rows @ image + bias."""
    layer = nn.Linear(rows.shape[1], rows.shape[0])
    with torch.no_grad():
        layer.weight.copy_(rows)
        layer.bias.copy_(torch.zeros(len(rows)) if bias is None else bias)
    return nn.Sequential(nn.Flatten(), layer).eval()


def bent(*, seed: int = 2, classes: int = 3, scale: float = 6.0) -> nn.Module:
    """A smooth network that is far from linear in the images, with BatchNorm, in eval mode."""
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(32, classes)
    )
    draws = generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * (scale / parameter[0].numel()) ** 0.5)
        module.eval()
        module[4].bias.sub_(module(images(64)).mean(0))  # so that every class occurs
    return module
