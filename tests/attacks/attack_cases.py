"""Small networks and threats that the tests of the attacks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from madx.attacks import Gradient, Loss, Worst, wrong_margin
from madx.attacks.apgd import climb
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


def wavy(*, seed: int = 6, classes: int = 5) -> nn.Module:
    """Logits that bend within the ball, and cost little."""
    module, draws = nn.Sequential(nn.Flatten(), nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, classes)), generator(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 2)
    return module


class Watched(Worst):
    """Keeps every point that it is shown, by image, and which images were looked at together."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        super().__init__(images, labels)
        self.walks: list[list[Tensor]] = [[] for _ in images]
        self.margins_seen: list[list[float]] = [[] for _ in images]
        self.batches: list[list[int]] = []

    def see(self, rows: Tensor, points: Tensor, logits: Tensor) -> None:
        super().see(rows, points, logits)
        self.batches.append(rows.tolist())
        margins = wrong_margin(logits, self.labels[rows]).tolist()
        for row, point, margin in zip(rows.tolist(), points, margins, strict=True):
            self.walks[row].append(point.clone())
            self.margins_seen[row].append(margin)


def watched(
    gradient: Gradient, x: Tensor, targets: Tensor, *, norm: str, eps: float, loss: Loss, steps: int = 20
) -> Watched:
    worst = Watched(x, targets if targets.dim() == 1 else targets[:, 0])
    draws = generator(5)
    climb(gradient, worst, targets, loss=loss, threat=threat(norm, eps), steps=steps, generator=draws)
    return worst
