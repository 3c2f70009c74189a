"""BatchNorm statistics of a pruned network, recomputed on adversarial images, or on clean ones.

A robust network recalibrated on clean images keeps its clean accuracy and loses robustness; on adversarial ones it
keeps both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from madx.distributed import SINGLE, World
from madx.models.modes import evaluating

Moments = list[tuple[Tensor, Tensor]]
"""(mean, variance) of a batch in each layer."""


def _as_it_is(images: Tensor) -> Tensor:
    return images


def recalibrate_(
    module: nn.Module,
    items: Iterable[Any],
    *,
    images: Callable[[Any], Tensor] = _as_it_is,
    world: World = SINGLE,
) -> int:
    """Replace every BatchNorm's running statistics by the plain average over batches; no weight is touched.

    Args:
        module: its BatchNorm buffers are written; modes and momenta are as before on return, and after an error.
        items: images [B, ...], adversarial or clean, or what `images` makes a batch of. While a batch is being made the
            module is in eval mode with the statistics it came with, so it may be made on `module` itself.
        images: turns an item into images [B, ...].
        world: its processes share the items; the result is the same as that of one process.

    Returns:
        How many BatchNorm layers were recalibrated; with none, `items` is not consumed.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return 0

    def moments(item: Any) -> Moments:
        """Batch mean and unbiased variance of every layer, on the CPU."""
        batch = images(item)
        with _batch_statistics(layers), torch.no_grad():
            module(batch)
            return [(_copy(layer.running_mean), _copy(layer.running_var)) for layer in layers]

    with evaluating(module):
        found = list(world.map(moments, items))
    if found:
        for layer, values in zip(layers, zip(*found, strict=True), strict=True):
            _store_(layer, values)
    return len(layers)


def _store_(layer: _BatchNorm, values: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write the average of a layer's batch statistics into it."""
    means, variances = zip(*values, strict=True)
    _buffer(layer.running_mean).copy_(sum(means) / len(values))
    _buffer(layer.running_var).copy_(sum(variances) / len(values))
    _buffer(layer.num_batches_tracked).add_(len(values))


@contextmanager
def _batch_statistics(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Within: the layers run on batch statistics and hold those of the last pass. After: they are as before."""
    momenta = [layer.momentum for layer in layers]
    saved = [[buffer.clone() for buffer in layer.buffers()] for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
        layer.train()
    try:
        yield
    finally:
        for layer, momentum, buffers in zip(layers, momenta, saved, strict=True):
            layer.eval()
            layer.momentum = momentum
            for buffer, value in zip(layer.buffers(), buffers, strict=True):
                buffer.copy_(value)


def _copy(value: Tensor | None) -> Tensor:
    return _buffer(value).to("cpu", copy=True)


def _buffer(value: Tensor | None) -> Tensor:
    """A statistic of a layer with track_running_stats, which always has one."""
    if value is None:
        raise TypeError("a BatchNorm layer with track_running_stats has no running statistics")
    return value
