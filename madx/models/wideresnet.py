"""Wide residual networks with pre-activation (Zagoruyko and Komodakis 2016), WRN-28-10 by default.

Images are [B, C, H, W] in [0, 1]; logits are [B, K]. Any H and W work: the positions are averaged. State-dict
keys are those of the PyTorch port that robustness work builds on: conv1, block1.layer.0.bn1, ...,
block2.layer.0.convShortcut, bn1, fc.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.arguments import Size
from madx.models.layers import conv1x1, conv3x3, kaiming_

_FIRST_WIDTH = 16
"""Width of the stem; the three stages have 1, 2 and 4 times this, times the widening factor."""


class WideBlock(nn.Module):
    """bn-relu-conv twice, plus the shortcut; a projecting shortcut starts behind the first ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        projects = stride != 1 or inputs != outputs
        self.convShortcut = conv1x1(inputs, outputs, stride=stride) if projects else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride], rounded up."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active))))
        shortcut: Tensor = x if self.convShortcut is None else self.convShortcut(active)
        return shortcut + out


class WideStage(nn.Module):
    """Blocks in a row under the name `layer`, as the published keys have it; the first one has the stride."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, blocks: int) -> None:
        super().__init__()
        first = WideBlock(inputs, outputs, stride=stride)
        self.layer = nn.Sequential(first, *(WideBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] to [B, outputs, H / stride, W / stride], rounded up."""
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """A stem, three wide stages, a last bn-relu, the mean over positions and a linear classifier."""

    def __init__(self, channels: int, classes: int, *, blocks: int, widen: int) -> None:
        super().__init__()
        widths = [_FIRST_WIDTH * widen * factor for factor in (1, 2, 4)]
        self.norm: nn.Module = nn.Identity()
        self.conv1 = conv3x3(channels, _FIRST_WIDTH)
        self.block1 = WideStage(_FIRST_WIDTH, widths[0], stride=1, blocks=blocks)
        self.block2 = WideStage(widths[0], widths[1], stride=2, blocks=blocks)
        self.block3 = WideStage(widths[1], widths[2], stride=2, blocks=blocks)
        self.bn1 = nn.BatchNorm2d(widths[2])
        self.fc = nn.Linear(widths[2], classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] to logits [B, K]."""
        out = self.block3(self.block2(self.block1(self.conv1(self.norm(x)))))
        logits: Tensor = self.fc(F.relu(self.bn1(out)).mean(dim=(2, 3)))
        return logits


def wrn28_10(shape: tuple[int, int, int], classes: int, *, depth: Size = 28, widen: Size = 10) -> nn.Module:
    """WRN-depth-widen: three stages of (depth - 4) / 6 blocks.

    Raises:
        ModelError: No whole number of blocks gives this depth.
    """
    blocks, rest = divmod(depth - 4, 6)
    if blocks < 1 or rest:
        near = 6 * max(1, blocks) + 4
        raise ModelError(
            f"model.args.depth is {depth}, but a wide ResNet has 6 * n + 4 layers; take {near} or {near + 6}."
        )
    return WideResNet(shape[0], classes, blocks=blocks, widen=widen)
