"""BatchNorm that sees the whole batch when several processes share it.

torch's SyncBatchNorm works on GPUs only. Here every `F.batch_norm` in training mode takes mean and variance over the
images of all processes, and its gradient goes through these statistics, so that a step is the step of one process with
the whole batch, up to rounding. Values are [B, C, ...]; statistics are per channel, [C].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from madx.distributed import World
from madx.errors import TrainingError


@contextlib.contextmanager
def whole_batch_statistics(world: World) -> Iterator[None]:
    """Within: BatchNorm in training mode normalises with the statistics of all processes' images.

    Every process must have equally many images, and run the same network. With one process nothing is changed.
    """
    if world.size == 1:
        yield
        return
    with _Interception(world):
        yield


def refuse_sync_batchnorm(module: nn.Module, world: World) -> None:
    """SyncBatchNorm would talk to the other processes on its own, also where each is at work on its own.

    Raises:
        TrainingError: several processes, and the network has such a layer.
    """
    names = [name for name, layer in module.named_modules() if isinstance(layer, nn.SyncBatchNorm)]
    if names and world.size > 1:
        raise TrainingError(
            f"{', '.join(names[:3])}: SyncBatchNorm cannot be used here; use BatchNorm, which sees the whole "
            "batch of all processes in madx"
        )


class _Interception(TorchFunctionMode):
    """Catches the functions that every kind of BatchNorm layer ends in, also in the user's own layers."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.batch_norm and given["training"]:
            return _batch_norm(self.world, *args, **{name: given[name] for name in given.keys() - {"training"}})
        if func is torch.batch_norm:
            return self._of_torch(*args, **given)
        return func(*args, **given)

    def _of_torch(self, input: Tensor, *args: Any, **given: Any) -> Tensor:
        """`torch.batch_norm`, whose arguments stand in another order."""
        names = ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps", "cudnn_enabled")
        values = dict(zip(names, args, strict=False)) | given
        if not values["training"]:
            return torch.batch_norm(input, **values)
        running = (values["running_mean"], values["running_var"])
        scale = {name: values[name] for name in ("weight", "bias", "momentum", "eps")}
        return _batch_norm(self.world, input, *running, **scale)


def _batch_norm(
    world: World,
    x: Tensor,
    *running: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training mode; `running` are the mean and the variance that are tracked."""
    mean, var = _moments(world, x.detach())
    count = world.size * x.numel() // x.shape[1]
    with torch.no_grad():
        for tracked, value in zip(running, (mean, var * (count / (count - 1))), strict=True):
            if tracked is not None:
                tracked.lerp_(value.to(tracked.dtype), momentum)
    result: Tensor = _Normalise.apply(world, x, mean, (var + eps).rsqrt())  # type: ignore[no-untyped-call]
    shape = _per_channel(x)
    if weight is not None:
        result = result * weight.view(shape)
    if bias is not None:
        result = result + bias.view(shape)
    return result.to(x.dtype)


def _moments(world: World, x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over all processes, [C], in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    own_var, own_mean = torch.var_mean(wide, _but_channels(x), correction=0)
    # In float64, because the mean square minus the squared mean would lose a small variance beside a large mean.
    own_mean, own_var = own_mean.double(), own_var.double()
    sums = torch.stack([own_mean, own_var + own_mean**2])
    world.sum_([sums])
    mean, square = sums / world.size
    return mean.to(wide.dtype), (square - mean**2).clamp_min(0).to(wide.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, where mean and deviation are those of x itself over all processes.

    With g the gradient at the output z and N the number of values in a channel over all processes, the gradient at x is
    (g - sum(g) / N - z sum(g z) / N) / deviation (Ioffe, Szegedy 2015, arXiv 1502.03167), the sums over all processes.
    """

    @staticmethod
    def forward(ctx: Any, world: World, x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
        shape = _per_channel(x)
        z = (x.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        ctx.save_for_backward(z, scale)
        ctx.world, ctx.dtype = world, x.dtype
        return z

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None, None]:
        (g,) = gradients
        z, scale = ctx.saved_tensors
        dimensions, shape = _but_channels(z), _per_channel(z)
        sums = torch.stack([g.sum(dimensions), (g * z).sum(dimensions)])
        ctx.world.sum_([sums])
        of_g, of_gz = sums / (ctx.world.size * z.numel() // z.shape[1])
        slope = (g - of_g.view(shape) - z * of_gz.view(shape)) * scale.view(shape)
        return None, slope.to(ctx.dtype), None, None


def _but_channels(x: Tensor) -> list[int]:
    return [dimension for dimension in range(x.dim()) if dimension != 1]


def _per_channel(x: Tensor) -> list[int]:
    return [1, -1, *[1] * (x.dim() - 2)]
