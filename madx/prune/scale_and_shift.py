"""Normalisations without their sums: what is left is a scale and a shift for each channel.

Statistics over channels change with every channel that goes, so that no network without a channel could be compared
with the one whose channel is silent. Functions are replaced, not modules: a subclass that moves axes, or a forward pass
that calls `F.layer_norm` itself, is met as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

OVER_CHANNELS: Mapping[Callable[..., Any], tuple[int, tuple[str, ...]]] = {
    F.group_norm: (1, ("input", "num_groups", "weight", "bias")),
    F.layer_norm: (-1, ("input", "normalized_shape", "weight", "bias")),
    F.rms_norm: (-1, ("input", "normalized_shape", "weight")),
}
"""Normalisations whose statistics mix channels: the axis of the channels, and what they are called with, in order."""

NORMALISATIONS: Mapping[Callable[..., Any], tuple[int, tuple[str, ...]]] = {
    **OVER_CHANNELS,
    F.batch_norm: (1, ("input", "running_mean", "running_var", "weight", "bias")),
    F.instance_norm: (1, ("input", "running_mean", "running_var", "weight", "bias")),
}
"""All of them."""

DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
"""Random where a forward pass forgets to say that it is not training."""


def arguments(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a function was called with, by name."""
    return {**dict(zip(names, args, strict=False)), **kwargs}


def scale_and_shift(axis: int, given: Mapping[str, Any]) -> Tensor:
    """The normalisation's inputs times its weight, plus its bias, where it has them."""
    outputs: Tensor = given["input"]
    for name in ("weight", "bias"):
        if (value := given.get(name)) is not None:
            shape = value.shape if axis < 0 else (-1, *[1] * (outputs.dim() - axis - 1))
            outputs = outputs * value.view(shape) if name == "weight" else outputs + value.view(shape)
    return outputs


class WithoutStatistics(TorchFunctionMode):
    """Inside this context normalisations over channels only scale and shift, and dropout does nothing."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Any function of torch is called through here."""
        if func in DROPOUTS:
            return arguments(("input",), args, kwargs or {})["input"]
        if func not in OVER_CHANNELS:
            return func(*args, **(kwargs or {}))
        axis, names = OVER_CHANNELS[func]
        return scale_and_shift(axis, arguments(names, args, kwargs or {}))
