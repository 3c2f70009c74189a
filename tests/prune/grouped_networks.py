"""Networks with convolutions in groups, each with what must be left of its layers at half of the channels.

Multiples of four are asked for. Images are [B, 3, 8, 8], logits [B, 5].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from coupled_networks import Function, chain
from small_networks import Lambda, conv_bn
from torch import Tensor, nn


class Grouped(NamedTuple):
    """A network, the shapes of weights after removal, and words of the reason where layers stay whole."""

    build: Callable[[], nn.Module]
    left: Mapping[str, tuple[int, int]]
    """Rows and columns."""
    whole: Mapping[str, str] = MappingProxyType({})


def bottleneck() -> nn.Module:
    """ResNeXt's block."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x)
        return m["head"]((h + m["out"](m["mid"](m["into"](h)))).mean((2, 3)))

    mid = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, groups=4), nn.BatchNorm2d(32), nn.ReLU())
    return Lambda(forward, stem=conv_bn(3, 8), into=conv_bn(8, 16), mid=mid, out=conv_bn(32, 8), head=nn.Linear(8, 5))


def shuffled() -> nn.Module:
    """ShuffleNet's unit: two convolutions in groups with a shuffle between them."""
    mix = Function(lambda x: F.channel_shuffle(x, 2))
    depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
    one, two = nn.Conv2d(8, 16, 1, groups=2), nn.Conv2d(16, 24, 1, groups=2)
    return chain(conv_bn(3, 8), one, nn.BatchNorm2d(16), mix, depthwise, two, nn.ReLU(), conv_bn(24, 8), width=8)


def beside(one: int, two: int) -> nn.Module:
    """What two layers make is read in two groups."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        both = torch.cat([m["one"](x), m["two"](x)], 1)
        return m["head"](m["out"](m["mix"](both).relu()).mean((2, 3)))

    mix = nn.Conv2d(one + two, 16, 1, groups=2)
    return Lambda(forward, one=conv_bn(3, one), two=conv_bn(3, two), mix=mix, out=conv_bn(16, 8), head=nn.Linear(8, 5))


def with_the_image(width: int) -> nn.Module:
    """The last of sixteen channels that are read in two groups are the image's."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        image = torch.cat([x, x, x], 1)[:, : 16 - width]
        mixed = m["mix"](torch.cat([m["one"](x), image], 1))
        return m["head"](mixed.relu().mean((2, 3)))

    return Lambda(forward, one=conv_bn(3, width), mix=nn.Conv2d(16, 16, 1, groups=2), head=nn.Linear(16, 5))


class TwoWays(nn.Module):
    """One weight in two groups, then in four."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix, self.head = conv_bn(3, 8), nn.Conv2d(8, 8, 1, groups=2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        h = self.mix(h) + F.conv2d(torch.cat([h, h], 1), self.mix.weight, groups=4)
        logits: Tensor = self.head(h.mean((2, 3)))
        return logits


class FourEach(nn.Conv2d):
    """Makes its groups of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, groups=x.shape[1] // 4)


NETWORKS = {
    "bottleneck": Grouped(
        bottleneck, {"parts.into.0": (8, 4), "parts.mid.0": (16, 2), "parts.out.0": (4, 16), "parts.stem.0": (4, 3)}
    ),
    "as many in three groups": Grouped(
        lambda: chain(conv_bn(3, 24), nn.Conv2d(24, 12, 3, groups=3), nn.ReLU(), conv_bn(12, 8), width=8),
        {"0.0": (12, 3), "1": (12, 4), "3.0": (4, 12)},
        {"1": "multiple of 4"},
    ),
    "shuffled": Grouped(shuffled, {"0.0": (4, 3), "1": (8, 2), "4": (8, 1), "5": (12, 4), "7.0": (4, 12)}),
    "two layers beside each other": Grouped(
        lambda: beside(8, 8), {"parts.one.0": (4, 3), "parts.two.0": (4, 3), "parts.mix": (8, 4)}
    ),
    "a layer across two groups": Grouped(
        lambda: beside(12, 4), {"parts.one.0": (8, 3), "parts.two.0": (4, 3), "parts.mix": (8, 6)}
    ),
    "beside a group of the image": Grouped(
        lambda: with_the_image(8),
        {"parts.one.0": (8, 3), "parts.mix": (8, 8)},
        {"parts.one.0": "2 groups of parts.mix would not lose equally many"},
    ),
    "beside part of the image": Grouped(lambda: with_the_image(13), {"parts.one.0": (7, 3), "parts.mix": (8, 5)}),
    "transposed": Grouped(
        lambda: chain(conv_bn(3, 16), nn.ConvTranspose2d(16, 24, 2, 2, groups=2), conv_bn(24, 8), width=8),
        {"0.0": (8, 3), "1": (8, 6), "2.0": (4, 12)},
    ),
    "along a line": Grouped(
        lambda: chain(
            conv_bn(3, 16),
            Lambda(lambda m, x: m["mix"](x.flatten(2))[..., None], mix=nn.Conv1d(16, 16, 3, groups=4)),
            nn.ReLU(),
            conv_bn(16, 8),
            width=8,
        ),
        {"0.0": (8, 3), "1.parts.mix": (8, 2), "3.0": (4, 8)},
    ),
    "two filters for each channel": Grouped(
        lambda: chain(conv_bn(3, 8), nn.Conv2d(8, 16, 3, groups=8), nn.ReLU(), conv_bn(16, 8), width=8),
        {"0.0": (8, 3), "1": (8, 1), "3.0": (4, 8)},
        {"0.0": "each of the 8 groups of 1 has one channel"},
    ),
    "one weight in two ways": Grouped(
        TwoWays, {"stem.0": (8, 3), "mix": (8, 4)}, dict.fromkeys(("stem.0", "mix"), "different numbers of groups")
    ),
    "groups of a fixed size": Grouped(
        lambda: chain(conv_bn(3, 16), FourEach(16, 16, 1, groups=4), nn.ReLU(), conv_bn(16, 8), width=8),
        {"0.0": (16, 3), "1": (8, 4), "3.0": (4, 8)},
        {"0.0": "does not run"},
    ),
}
