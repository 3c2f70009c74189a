"""A separable problem of 8 x 8 images, small networks, and checkpoints that die: what the training tests share."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from madx.data import Split
from madx.data.sources import array_source
from madx.models.precision import PLAIN, ComputeFormat
from madx.recipe import LoopConfig, ThreatConfig
from madx.train import TrainingJob

T = TypeVar("T")
State = dict[str, Any]


class Killed(Exception):  # noqa: N818 - what happens, not an error of madx
    """The process ends here."""


def split(count: int = 96, *, seed: int = 0, name: str = "train", contrast: float = 0.15) -> Split:
    """Class 1 is brighter in the upper half, class 0 in the lower; mirroring left and right changes nothing."""
    draws = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    halves = np.repeat([1.0, -1.0], 4)[None, None, :, None] * (labels * 2 - 1)[:, None, None, None]
    pixels = 0.5 + contrast * halves + draws.uniform(-0.3, 0.3, (count, 1, 8, 8))
    source = array_source(pixels.clip(0, 1).astype(np.float32), labels, where="test", classes=2)
    return Split(name, source, draws.permutation(count))


def network(*, seed: int = 0) -> nn.Sequential:
    module = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(384, 2)
    )
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in (module[0].weight, module[4].weight):
            weight.copy_(torch.randn(weight.shape, generator=draws) / weight[0].numel() ** 0.5)
        module[4].bias.zero_()
    return module


def dropping(*, seed: int = 0) -> nn.Sequential:
    """The same with a layer that draws from torch's global state."""
    module = network(seed=seed)
    module.insert(3, nn.Dropout(0.5))
    return module


def loop_config(**changes: Any) -> LoopConfig:
    """Two epochs of six steps."""
    values: dict[str, Any] = {
        "epochs": 2,
        "batch_size": 16,
        "lr": 0.05,
        "attack": {"steps": 2, "relative_step": 2.5},
        "precision": "fp32",
        "average": 0.9,
        "evaluations": 3,
        "selection_attack": {"steps": 2},
        "selection_images": 32,
    }
    return LoopConfig.model_validate(values | changes)


def training_job(*, masks: dict[str, Tensor] | None = None, count: int = 96, **changes: Any) -> TrainingJob:
    config = loop_config(**changes)
    return TrainingJob(
        train=split(count),
        selection=split(64, seed=1, name="selection"),
        config=config,
        format=ComputeFormat("bf16", channels_last=True) if config.precision == "bf16" else PLAIN,
        threat=ThreatConfig(eps=0.05),
        seed=3,
        masks=masks,
    )


class Recording:
    """Keeps every saved state as the bytes a file would hold; dies after `lives` saves."""

    def __init__(self, lives: int | None = None) -> None:
        self.lives = lives
        self.saved: list[bytes] = []

    def load(self) -> State | None:
        return self.states()[-1] if self.saved else None

    def save(self, state: State) -> None:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        self.saved.append(buffer.getvalue())
        if self.lives is not None and len(self.saved) >= self.lives:
            raise Killed

    def states(self) -> list[State]:
        return [torch.load(io.BytesIO(saved), weights_only=True) for saved in self.saved]


class Watching:
    """A progress that keeps what passes, and dies before item `death`."""

    def __init__(self, death: int | None = None) -> None:
        self.death = death
        self.items: list[Any] = []
        self.lines: list[str] = []
        self.told: tuple[int, int] = (0, 0)

    def track(self, items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:  # noqa: ARG002
        self.told = (total, done)
        for item in items:
            if len(self.items) == self.death:
                raise Killed
            self.items.append(item)
            yield item

    def say(self, message: str) -> None:
        self.lines.append(message)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
