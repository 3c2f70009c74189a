"""Small networks, each with something that pruning has to get right."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.models import build_model
from madx.recipe import ModelConfig

SMALL = (2, 4, 4)
"""Channels, height and width."""
CLASSES = 5


def shipped(name: str, channels: int, size: int, **args: object) -> Callable[[], nn.Module]:
    config = ModelConfig.model_validate({"name": name, "args": args})
    return lambda: build_model(config, shape=(channels, size, size), classes=CLASSES, seed=0)


class Lambda(nn.Module):
    """A network whose forward pass is a function of its parts."""

    def __init__(self, forward: Callable[[nn.ModuleDict, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        self._function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._function(self.parts, x)


def conv(inputs: int, outputs: int, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def conv_bn(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, **options), nn.BatchNorm2d(outputs), nn.ReLU())


def head(width: int) -> nn.Linear:
    return nn.Linear(width, CLASSES)


def plain() -> nn.Module:
    return nn.Sequential(conv_bn(2, 8), conv_bn(8, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(12))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), head(16))


def flattened() -> nn.Module:
    return nn.Sequential(conv_bn(2, 8), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 4, 12), nn.ReLU(), head(12))


def depthwise() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x)
        h = h + m["narrow"](m["depth"](m["wide"](h)))
        return m["head"](h.mean((2, 3)))

    return Lambda(
        forward,
        stem=conv_bn(2, 8),
        wide=conv_bn(8, 16),
        depth=conv_bn(16, 16, groups=16),
        narrow=nn.Conv2d(16, 8, 1),
        head=head(8),
    )


def depth_multiplier() -> nn.Module:
    """A grouped convolution with one input channel a group, and twice as many outputs: not depthwise."""
    return nn.Sequential(
        conv_bn(2, 8), conv_bn(8, 16, groups=8), conv_bn(16, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)
    )


def groups_as_outputs() -> nn.Module:
    """A grouped convolution with one output channel a group, and twice as many inputs: not depthwise."""
    return nn.Sequential(
        conv_bn(2, 16), conv_bn(16, 8, groups=8), conv_bn(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)
    )


def grouped() -> nn.Module:
    return nn.Sequential(
        conv_bn(2, 8),
        conv_bn(8, 16, groups=4),
        conv_bn(16, 8),
        conv_bn(8, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head(8),
    )


def concatenated() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        both = torch.cat([m["left"](x), m["right"](x)], 1)
        return m["head"](m["join"](both).mean((2, 3)))

    return Lambda(forward, left=conv_bn(2, 8), right=conv_bn(2, 12), join=conv_bn(20, 8), head=head(8))


def dense_block() -> nn.Module:
    """Concatenations of concatenations, as in DenseNet."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        one = m["one"](x)
        two = torch.cat([one, m["two"](one)], 1)
        three = torch.cat([two, m["three"](two)], 1)
        return m["head"](m["last"](three).mean((2, 3)))

    return Lambda(
        forward, one=conv_bn(2, 8), two=conv_bn(8, 8), three=conv_bn(16, 8), last=conv_bn(24, 8), head=head(8)
    )


def concatenated_residual() -> nn.Module:
    """A residual sum over a concatenation: one layer is tied to two others, to each in a part of its channels."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        both = torch.cat([m["left"](x), m["right"](x)], 1)
        return m["head"](F.relu(both + m["add"](both)).mean((2, 3)))

    return Lambda(forward, left=conv_bn(2, 8), right=conv_bn(2, 8), add=conv(16, 16), head=head(16))


def flattened_concatenation() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        both = torch.cat([m["conv"](x).flatten(1), F.relu(m["fc"](x.flatten(1)))], 1)
        return m["head"](both)

    return Lambda(forward, conv=conv_bn(2, 8), fc=nn.Linear(32, 12), head=head(8 * 16 + 12))


def called_twice() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = F.relu(m["stem"](x))
        h = F.relu(m["same"](F.relu(m["same"](h))))
        return m["head"](h.mean((2, 3)))

    return Lambda(forward, stem=conv(2, 8), same=conv(8, 8), head=head(8))


def squeeze_excite() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["conv"](x)
        gate = torch.sigmoid(m["up"](F.relu(m["down"](h.mean((2, 3))))))
        return m["head"](m["last"](h * gate[:, :, None, None]).mean((2, 3)))

    return Lambda(
        forward, conv=conv_bn(2, 16), down=nn.Linear(16, 8), up=nn.Linear(8, 16), last=conv_bn(16, 8), head=head(8)
    )


def split_channels() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        left, right = m["conv"](x).chunk(2, dim=1)
        return m["head"]((m["left"](left) + m["right"](right)).mean((2, 3)))

    return Lambda(forward, conv=conv_bn(2, 16), left=conv_bn(8, 8), right=conv_bn(8, 8), head=head(8))


def multiplied_halves() -> nn.Module:
    """A depthwise layer whose halves are multiplied: two of its channels meet in each column of the layer after it."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        left, right = m["depth"](m["wide"](m["stem"](x))).chunk(2, dim=1)
        return m["head"](m["last"](F.gelu(left) * right).mean((2, 3)))

    return Lambda(
        forward,
        stem=conv_bn(2, 8),
        wide=nn.Conv2d(8, 24, 1),
        depth=conv(24, 24, groups=24),
        last=conv_bn(12, 8),
        head=head(8),
    )


def linear_as_map() -> nn.Module:
    """Outputs of a linear layer that become four positions of each channel of a map."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = F.relu(m["linear"](m["stem"](x).mean((2, 3)))).view(-1, 8, 2, 2)
        return m["head"](m["last"](F.relu(m["up"](h))).mean((2, 3)))

    return Lambda(
        forward,
        stem=conv_bn(2, 8),
        linear=nn.Linear(8, 32),
        up=conv(8, 12),
        last=conv_bn(12, 8),
        head=head(8),
    )


def attention() -> nn.Module:
    """One linear layer for queries, keys and values, which are multiplied and read as a third of its outputs."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x).flatten(2).transpose(1, 2)
        queries, keys, values = m["qkv"](h).chunk(3, dim=-1)
        mixed = (queries @ keys.transpose(1, 2) / 8**0.5).softmax(-1) @ values
        return m["head"](F.relu(m["last"](m["proj"](mixed))).mean(1))

    return Lambda(
        forward,
        stem=conv_bn(2, 8),
        qkv=nn.Linear(8, 24),
        proj=nn.Linear(8, 8),
        last=nn.Linear(8, 12),
        head=head(12),
    )


def two_heads() -> nn.Module:
    """Logits that are a sum: both layers make the network's outputs."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["conv"](x).mean((2, 3))
        return m["direct"](h) + m["head"](F.relu(m["hidden"](h)))

    return Lambda(forward, conv=conv_bn(2, 8), direct=head(8), hidden=nn.Linear(8, 12), head=head(12))


def conv_logits() -> nn.Module:
    """No linear layer: the last convolution makes the logits."""
    return nn.Sequential(conv_bn(2, 8), nn.Conv2d(8, CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def depthwise_logits() -> nn.Module:
    return nn.Sequential(
        conv_bn(2, 8),
        nn.Conv2d(8, CLASSES, 1),
        conv(CLASSES, CLASSES, groups=CLASSES),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def unused_layer() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        return m["head"](m["conv"](x).mean((2, 3)))

    return Lambda(forward, conv=conv_bn(2, 8), spare=conv(8, 8), head=head(8))


def prelu() -> nn.Module:
    return nn.Sequential(
        conv(2, 8), nn.PReLU(8), conv(8, 8), nn.PReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8)
    )


def one_dimension() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), head(32)
    )


def three_dimensions() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 8, 2), nn.BatchNorm3d(8), nn.ReLU(), nn.Conv3d(8, 8, 2), nn.ReLU(), nn.Flatten(), head(64)
    )


class Scaled(nn.Module):
    """A learned scale of each channel: a parameter that belongs to no layer that torch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(2, 8)
        self.scale = nn.Parameter(torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1))
        self.head = head(8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head((F.relu(self.conv(x)) * self.scale).mean((2, 3)))
        return logits


def group_norm() -> nn.Module:
    return nn.Sequential(
        conv(2, 8),
        nn.GroupNorm(2, 8),
        nn.ReLU(),
        conv(8, 16),
        nn.InstanceNorm2d(16, affine=True),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head(16),
    )


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 16), nn.LayerNorm(16), nn.GELU(), head(16))


def fixed_count() -> nn.Module:
    """A forward pass that knows its channel count by heart."""
    return Lambda(
        lambda m, x: m["head"](m["conv"](x).mean((2, 3)).view(-1, 8)),
        conv=conv_bn(2, 8),
        head=head(8),
    )
