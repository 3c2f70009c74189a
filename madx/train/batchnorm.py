"""BatchNorm statistics of a pruned network, recomputed on adversarial images.

Recalibrating on clean images restores clean accuracy and destroys robustness; on adversarial ones it restores both.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from madx.models.modes import evaluating


def recalibrate_(module: nn.Module, batches: Iterable[Tensor]) -> int:
    """Replace every BatchNorm's running statistics by the plain average over `batches`; no weight is touched.

    Args:
        module: its BatchNorm buffers are written; modes and momenta are as before on return, and after an error.
        batches: adversarial images [B, ...]. They may be made lazily on `module` itself: while a batch is being made
            the module is in eval mode with the statistics it came with.

    Returns:
        How many BatchNorm layers were recalibrated; with none, `batches` is not consumed.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return 0
    collected = [_Moments(layer) for layer in layers]
    with evaluating(module):
        for images in batches:
            with _statistics_collected(layers, collected), torch.no_grad():
                module(images)
    for moments in collected:
        moments.store_()
    return len(layers)


class _Moments:
    """Running sums of a layer's batch means and unbiased variances."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer = layer
        self.mean = torch.zeros_like(_buffer(layer.running_mean))
        self.variance = torch.zeros_like(_buffer(layer.running_var))
        self.batches = 0

    def add(self) -> None:
        """Take over the statistics that the layer has just seen (it ran with momentum 1)."""
        self.mean += _buffer(self.layer.running_mean)
        self.variance += _buffer(self.layer.running_var)
        self.batches += 1

    def store_(self) -> None:
        """Write the average into the layer, unless no batch was seen."""
        if self.batches:
            _buffer(self.layer.running_mean).copy_(self.mean / self.batches)
            _buffer(self.layer.running_var).copy_(self.variance / self.batches)


class _statistics_collected:  # noqa: N801 - reads as a verb in a with statement
    """Within: the layers run on batch statistics. After: these are added to the sums and the layers are as before."""

    def __init__(self, layers: list[_BatchNorm], collected: list[_Moments]) -> None:
        self.layers, self.collected = layers, collected

    def __enter__(self) -> None:
        self.saved = [
            (layer.momentum, _buffer(layer.running_mean).clone(), _buffer(layer.running_var).clone())
            for layer in self.layers
        ]
        for layer in self.layers:
            layer.momentum = 1.0
            layer.train()

    def __exit__(self, *exception: object) -> None:
        for layer, moments, (momentum, mean, variance) in zip(self.layers, self.collected, self.saved, strict=True):
            if exception[0] is None:
                moments.add()
            layer.eval()
            layer.momentum = momentum
            _buffer(layer.running_mean).copy_(mean)
            _buffer(layer.running_var).copy_(variance)


def _buffer(value: Tensor | None) -> Tensor:
    """A statistic of a layer with track_running_stats, which always has one."""
    if value is None:
        raise TypeError("a BatchNorm layer with track_running_stats has no running statistics")
    return value
