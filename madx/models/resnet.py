"""ResNets with basic blocks (He et al. 2016) for small images: one Block and one ResNet, in two sizes.

Images are [B, C, H, W] in [0, 1]; logits are [B, K]. Any H and W work: the positions are averaged. State-dict
keys are those of the common CIFAR ports: conv1, bn1, layer1.0.conv1, ..., layer4.1.bn2, layer2.0.shortcut.0,
linear. A stage of one block is the block itself, so its keys have no index: layer1.conv1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from madx.models.arguments import Size
from madx.models.layers import conv1x1, conv3x3, kaiming_


class Block(nn.Module):
    """conv-bn-relu-conv-bn plus the shortcut, then ReLU; it projects where width or size changes."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(conv1x1(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride], rounded up."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """A stem, stages of blocks named layer1, layer2, ..., the mean over positions and a linear classifier."""

    def __init__(self, channels: int, classes: int, *, widths: Sequence[int], blocks: int, stem_stride: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.Identity()
        self.conv1 = conv3x3(channels, widths[0], stride=stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = tuple(f"layer{number}" for number in range(1, len(widths) + 1))
        inputs, stride = widths[0], 1
        for name, width in zip(self.stages, widths, strict=True):
            self.add_module(name, _stage(inputs, width, stride=stride, blocks=blocks))
            inputs, stride = width, 2
        self.linear = nn.Linear(inputs, classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to logits [B, K]."""
        out = F.relu(self.bn1(self.conv1(self.norm(x))))
        for name in self.stages:
            out = self.get_submodule(name)(out)
        logits: Tensor = self.linear(out.mean(dim=(2, 3)))
        return logits


def _stage(inputs: int, outputs: int, *, stride: int, blocks: int) -> nn.Module:
    """Blocks in a row, of which the first has the stride; a single block stands for itself."""
    first = Block(inputs, outputs, stride=stride)
    if blocks == 1:
        return first
    return nn.Sequential(first, *(Block(outputs, outputs, stride=1) for _ in range(blocks - 1)))


def resnet8(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[Size, Size, Size] = (64, 128, 128),
    stem_stride: Size = 2,
) -> nn.Module:
    """Three stages of one block, of the given widths and strides 1, 2, 2: small enough to train on a CPU."""
    return ResNet(shape[0], classes, widths=widths, blocks=1, stem_stride=stem_stride)


def resnet18(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: tuple[Size, Size, Size, Size] = (64, 128, 256, 512),
) -> nn.Module:
    """Four stages of two blocks, of strides 1, 2, 2, 2, behind a 3x3 stem of stride 1 (the CIFAR form)."""
    return ResNet(shape[0], classes, widths=widths, blocks=2, stem_stride=1)
