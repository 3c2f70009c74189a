"""Whether a network with fewer channels still computes what it should: a check that trusts no dependency graph.

Removed channels feed nothing any more, so the dense network whose removed entries are zero must give the same logits.
Masks are bool with the dense parameter's shape, True = kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.plugins import USER_ERRORS, describe
from madx.prune.resize import resize_to_
from madx.seeds import torch_generator

_TOLERANCE = 1e-6
"""Of the largest logit, in float64: far above rounding, far below what a wrong channel does."""


def check_same_function(
    module: nn.Module, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, shape: torch.Size
) -> None:
    """Compare the network resized to `state` with the one masked by `masks`, in float64 on uniform noise of `shape`.

    Normalisations over channels are replaced by their scale and shift in both: their sums change with every channel.

    Raises:
        ModelError: the resized network does not run, or gives other logits.
    """
    small, silenced = copy.deepcopy(module), copy.deepcopy(module).double()
    resize_to_(small, state)
    for name, parameter in silenced.named_parameters():
        parameter.data.mul_(masks[name])
    noise = torch.rand(shape, generator=torch_generator(0, "structure"), dtype=torch.float64)
    expected = _logits(silenced, noise)
    try:
        given = _logits(small.double(), noise)
    except USER_ERRORS as problem:
        raise ModelError(
            f"the network does not run with fewer channels ({describe(problem)}); its forward pass may fix a channel "
            "count: use prune.structure: 2:4 or unstructured"
        ) from problem
    difference = (given - expected).abs().max().item() if given.shape == expected.shape else torch.inf
    if not difference <= _TOLERANCE * expected.abs().max().item():
        raise ModelError(
            "the network with fewer channels does not compute what the dense one computes with those channels at zero "
            f"(logits differ by {difference:.2g}); its forward pass may split, mix or count channels: use "
            "prune.structure: 2:4 or unstructured"
        )


def _logits(module: nn.Module, images: Tensor) -> Tensor:
    for layer in module.modules():
        if isinstance(layer, (nn.GroupNorm, nn.LayerNorm)):
            layer.register_forward_hook(_scale_and_shift)
    with torch.no_grad():
        logits: Tensor = module.eval()(images)
    return logits


def _scale_and_shift(layer: nn.GroupNorm | nn.LayerNorm, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
    """What a normalisation does besides its sums."""
    outputs = inputs[0]
    if layer.weight is None:
        return outputs
    shape = [1, -1, *[1] * (outputs.dim() - 2)] if isinstance(layer, nn.GroupNorm) else list(layer.weight.shape)
    outputs = outputs * layer.weight.view(shape)
    return outputs if layer.bias is None else outputs + layer.bias.view(shape)
