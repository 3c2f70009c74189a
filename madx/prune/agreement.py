"""Whether a network with fewer channels still computes what it should: a check that trusts no analysis of the network.

Removed channels feed nothing any more, so the dense network whose removed entries are zero must give the same logits.
Masks are bool with the dense parameter's shape, True = kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from madx.errors import ModelError
from madx.models.copies import copied
from madx.models.modes import evaluating
from madx.plugins import USER_ERRORS, describe
from madx.prune.resize import resize_to_
from madx.prune.scale_and_shift import WithoutStatistics
from madx.seeds import torch_generator

_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Of the largest logit: far above rounding, far below what a wrong channel does."""


def check_same_function(
    module: nn.Module, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, shape: torch.Size
) -> None:
    """Refuse a network with fewer channels that does not compute what it should.

    Raises:
        ModelError: `disagreement` finds one.
    """
    if problem := disagreement(module, state, masks, shape=shape):
        raise ModelError(
            f"channels cannot be removed from this network: {problem}; use prune.structure: 2:4 or unstructured"
        )


def disagreement(
    module: nn.Module, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, shape: torch.Size
) -> str:
    """Compare the network resized to `state` with the one masked by `masks`, on uniform noise of `shape`.

    In float64, or in float32 where the network does not run otherwise. Normalisations over channels are replaced by
    their scale and shift in both: their sums change with every channel.

    Returns:
        Why the resized network is not the masked one: it does not run, or gives other logits; nothing if it is.

    Raises:
        ModelError: `state` does not belong to a smaller version of this network.
    """
    small = copied(module)
    resize_to_(small, state)
    noise = torch.rand(shape, generator=torch_generator(0, "structure"), dtype=torch.float64)
    expected = _silenced(module, masks, noise)
    try:
        with torch.no_grad(), WithoutStatistics():
            given = small.to(expected.dtype).eval()(noise.to(expected.dtype))
    except USER_ERRORS as problem:
        return f"it does not run with fewer channels ({describe(problem)}), as if its forward pass fixed their number"
    difference = (given - expected).abs().max().item() if given.shape == expected.shape else torch.inf
    if difference <= _TOLERANCES[expected.dtype] * expected.abs().max().item():
        return ""
    return (
        "with fewer channels it does not compute what the dense network computes with those channels at zero (logits "
        f"differ by {difference:.2g}), as if its forward pass split, mixed or counted them"
    )


def _silenced(module: nn.Module, masks: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """Logits of the masked network: in float64, or in float32 where its forward pass makes float32 tensors."""
    try:
        return _masked(module, masks, noise)
    except USER_ERRORS:
        return _masked(module, masks, noise.float())


def _masked(module: nn.Module, masks: Mapping[str, Tensor], noise: Tensor) -> Tensor:
    """The same in the noise's precision."""
    tensors = {name: value.detach().to(noise.dtype) * masks[name] for name, value in module.named_parameters()}
    for name, buffer in module.named_buffers():
        tensors[name] = buffer.to(noise.dtype) if buffer.is_floating_point() else buffer
    with torch.no_grad(), evaluating(module), WithoutStatistics():
        logits: Tensor = functional_call(module, tensors, (noise,))
    if logits.dtype != noise.dtype:
        raise TypeError(f"logits of {logits.dtype} from images of {noise.dtype}")
    return logits
