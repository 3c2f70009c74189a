"""Layers: the shipped networks' convolutions, how fresh weights are drawn, and numbers by output channel.

Weights are [out, in, *kernel], or [out, in] of a linear layer; biases are [out].
"""

from __future__ import annotations

from torch import Tensor, nn


def conv3x3(inputs: int, outputs: int, *, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the map's size at stride 1; without a bias where a BatchNorm follows."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=bias)


def conv1x1(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution: the projection of a shortcut whose width or size changes."""
    return nn.Conv2d(inputs, outputs, kernel_size=1, stride=stride, bias=False)


def per_output(values: Tensor, like: Tensor) -> Tensor:
    """[out] -> [out, 1, ..., 1] to multiply with `like`, which is shaped as a weight or a bias."""
    return values.view(-1, *[1] * (like.dim() - 1))


def kaiming_(network: nn.Module) -> None:
    """Draw fresh weights in place from torch's current generator.

    Convolutions are N(0, 2 / (out * kh * kw)) as in He et al. 2015, eq. 14 (backward form), and linear layers
    N(0, 1 / in) as no ReLU follows them; biases are 0. BatchNorm is born with weight 1 and bias 0.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="linear")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
