"""Which number format and memory order torch computes a network in fastest on this machine: measured, not guessed.

bfloat16 halves the time on a CPU with AMX and takes fourteen times as long on one with AVX2 alone; channels-last order
gains or loses by CPU, library and shapes. So the network itself is run forward and backward in every format, and the
fastest one whose gradients are those of float32 is taken. On a CPU one thread is timed by its own clock, so that a busy
neighbour does not change the answer.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.models.modes import evaluating
from madx.plugins import USER_ERRORS

T = TypeVar("T")
Precision = Literal["fp32", "bf16"]
Asked = Literal["auto", "fp32", "bf16"]

GRADIENT_ERROR = 0.15
"""Largest sound relative error |g - g32| / |g32| (L2) of the gradient at weights and image together. bfloat16 rounds
each number by up to 0.4 %, which adds up over the layers: .01 to .05 was seen in ResNet-8, .03 in ResNet-18."""
_GAIN = 0.98
"""A format is taken before an earlier one only if it needs at most this share of its time: a tie goes to fp32."""
_HOPELESS = 2.0
"""A precision that takes this many times as long in the network's heaviest layer is not tried on the whole network."""
_IMAGES = 32
_SECONDS = 0.1
"""A timed pass takes about this long at least, if _IMAGES images do; it is then well above a clock's resolution."""
_REPEATED = 0.4
"""Seconds that the repeated passes of a format take in all, within 1 to _REPEATS of them."""
_REPEATS = 20
_LONG = 0.15
"""A pass over one image that takes this many seconds is not made twice to learn how long it takes."""
_LAYER_MACS = 2e6
"""Multiplications with accumulation of the heaviest layer, when it is tried alone; its image is cropped to that."""


@dataclass(frozen=True)
class ComputeFormat:
    """How torch's passes through a network are computed."""

    precision: Precision = "fp32"
    """bf16: autocast to bfloat16; weights stay float32."""
    channels_last: bool = False
    """Whether images [B, C, H, W] and weights lie in memory with their channels last."""

    def order_(self, network: nn.Module) -> nn.Module:
        """The network with its weights in this order."""
        if any(parameter.dim() == 4 for parameter in network.parameters()):
            network.to(memory_format=self._memory)  # type: ignore[call-overload]
        return network

    def ordered(self, images: Tensor) -> Tensor:
        """Images in this order; other shapes than [B, C, H, W] have but one."""
        # Not contiguous(): an image of one channel counts as both orders, and its strides would spread the wrong one.
        return images.to(memory_format=self._memory) if images.dim() == 4 else images

    def autocast(self, device: torch.device) -> AbstractContextManager[Any]:
        """Within: forward passes in this precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def __str__(self) -> str:
        return f"{self.precision}{', channels last' if self.channels_last else ''}"

    @property
    def _memory(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


PLAIN = ComputeFormat()
"""float32 in torch's own order: what the others are compared with."""
FORMATS = (PLAIN, ComputeFormat("fp32", True), ComputeFormat("bf16"), ComputeFormat("bf16", True))
"""All of them; of two that are equally fast the earlier one is taken."""


@dataclass(frozen=True)
class Timing:
    """What one format came to."""

    precision: Precision
    channels_last: bool
    ratio: float
    """Its time over that of float32 in torch's own order, for a pass forward and backward."""
    gradient_error: float | None
    """Relative error of its gradient against float32's; None if it was timed in the heaviest layer alone."""

    @property
    def format(self) -> ComputeFormat:
        """What was timed."""
        return ComputeFormat(self.precision, self.channels_last)

    @property
    def sound(self) -> bool:
        """Whether its gradients are known to be float32's up to rounding."""
        return self.gradient_error is not None and self.gradient_error <= GRADIENT_ERROR


@dataclass(frozen=True)
class Probe:
    """What the formats came to on one machine; the first is float32 in torch's own order."""

    timings: tuple[Timing, ...]

    def fastest(self, asked: Asked = "auto") -> ComputeFormat:
        """The fastest format of the precision that is asked for, or of all that are sound."""
        best = Timing("bf16" if asked == "bf16" else "fp32", False, float("inf"), None)
        for timing in self.timings:
            allowed = timing.sound if asked == "auto" else timing.precision == asked
            if allowed and timing.ratio <= _GAIN * best.ratio:
                best = timing
        return best.format

    def slowdown(self, asked: Asked) -> float:
        """How many times as long the fastest format of this precision takes as the fastest sound one of all."""
        ratios = {timing.format: timing.ratio for timing in self.timings}
        return ratios.get(self.fastest(asked), 1.0) / ratios.get(self.fastest(), 1.0)


def probe(network: nn.Module, shape: tuple[int, ...]) -> Probe:
    """Time the network forward and backward in every format: about a second for a small one, longer for a large one.

    Args:
        network: on the device that it shall work on; not changed.
        shape: of an image, (channels, height, width).

    Returns:
        A timing of each format that was tried. A precision in which the network does not run has none; one without
        hardware for it shows that in the heaviest layer, and has no timing of the whole network.
    """
    device = next((value.device for value in network.parameters()), torch.device("cpu"))
    images = torch.rand(_IMAGES, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    with evaluating(network), _one_thread(device):
        bfloat16 = _in_heaviest_layer(network, images[:1])
        images = images[: _enough(_Pass(network, images[:1], PLAIN))]
        precisions = ("fp32",) if bfloat16 > _HOPELESS else ("fp32", "bf16")
        orders = (False, True) if images.dim() == 4 else (False,)
        formats = [one for one in FORMATS if one.precision in precisions and one.channels_last in orders]
        timings = _timed([_Pass(network, images, one) for one in formats])
    if bfloat16 > _HOPELESS:
        return Probe((*timings, Timing("bf16", False, _rounded(bfloat16), None)))
    return Probe(timings)


class _Pass:
    """Forward and backward of a network in one format, with the gradient at weights and images."""

    def __init__(self, network: nn.Module, images: Tensor, format: ComputeFormat) -> None:
        self.network, self.format, self.device = network, format, images.device
        self.images = format.ordered(images)
        learned = {name: value for name, value in network.named_parameters() if value.dtype.is_floating_point}
        self.values = {name: format.ordered(value.detach()).requires_grad_() for name, value in learned.items()}

    def __call__(self) -> tuple[Tensor | None, ...]:
        """The gradients of the summed cross-entropy with class 0."""
        images = self.images.detach().requires_grad_()
        with self.format.autocast(self.device):
            logits = functional_call(self.network, self.values, (images,))
        loss = (logits.float().logsumexp(1) - logits.float()[:, 0]).sum()
        return torch.autograd.grad(loss, (images, *self.values.values()), allow_unused=True)


def _timed(passes: list[_Pass]) -> tuple[Timing, ...]:
    """Each format's time beside the first one's, the median over turns, and its gradient beside that one's."""
    seconds: dict[_Pass, list[float]] = {}
    gradients: dict[_Pass, tuple[Tensor | None, ...]] = {}
    exact = passes[0]
    for one in passes:
        try:
            _, gradients[one] = _measured(one, one.device)  # the first call warms up
        except USER_ERRORS:
            if one is exact:
                raise
        else:
            seconds[one] = []
    first, _ = _measured(exact, exact.device)
    for _ in range(max(1, min(_REPEATS, round(_REPEATED / max(first, 1e-6))))):
        for one, times in seconds.items():
            times.append(_measured(one, one.device)[0])
    return tuple(
        Timing(
            one.format.precision,
            one.format.channels_last,
            _rounded(median(own / plain for own, plain in zip(times, seconds[exact], strict=True))),
            _rounded(_relative_error(gradients[one], gradients[exact])),
        )
        for one, times in seconds.items()
    )


def _enough(one_image: _Pass) -> int:
    """How many images a pass needs to take long enough to be timed, and to have the size of real work."""
    spent, _ = _measured(one_image, one_image.device)
    if spent < _LONG:
        spent, _ = _measured(one_image, one_image.device)  # the first call warms up
    return max(1, min(_IMAGES, round(_SECONDS / max(spent, 1e-6))))


def _in_heaviest_layer(network: nn.Module, image: Tensor) -> float:
    """How many times as long bfloat16 takes as float32 in the layer with most work; 1 where nothing multiplies."""
    calls = _layer_calls(network, image)
    if not calls:
        return 1.0
    heaviest = max(calls, key=lambda call: call.macs)
    seconds: dict[str, float] = {}
    for format in (PLAIN, ComputeFormat("bf16")):
        one = partial(_run_layer, heaviest, format)
        one()
        seconds[format.precision] = min(_measured(one, image.device)[0] for _ in range(3))
    return seconds["bf16"] / max(seconds["fp32"], 1e-9)


class _LayerCall(NamedTuple):
    """A layer that multiplies, as it is called for one image."""

    macs: float
    inputs: Tensor
    weight: Tensor
    operation: Callable[[Tensor, Tensor], Tensor]


_CONVOLUTIONS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Conv1d: F.conv1d,
    nn.Conv2d: F.conv2d,
    nn.Conv3d: F.conv3d,
}


def _layer_calls(network: nn.Module, image: Tensor) -> list[_LayerCall]:
    """The calls of convolutions and linear layers, each with an input cropped to little work."""
    found: list[_LayerCall] = []

    def note(layer: Any, given: tuple[Any, ...], output: Any) -> None:
        if not given or not isinstance(output, Tensor):
            return
        macs = output.numel() * layer.weight[0].numel()
        inputs = _cropped(layer, given[0].detach(), macs)
        found.append(_LayerCall(macs, inputs, layer.weight.detach(), _operation(layer)))

    layers = [layer for layer in network.modules() if isinstance(layer, (*_CONVOLUTIONS, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    try:
        with torch.no_grad():
            network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _operation(layer: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """(inputs, weight) -> outputs, as the layer computes them but for its bias and padding."""
    for kind, function in _CONVOLUTIONS.items():
        if isinstance(layer, kind):
            return partial(function, stride=layer.stride, dilation=layer.dilation, groups=layer.groups)
    return F.linear


def _cropped(layer: Any, inputs: Tensor, macs: float) -> Tensor:
    """The input with the sides that a convolution moves over cropped, so that little work is left."""
    sizes = layer.weight.shape[2:]
    share = min(1.0, _LAYER_MACS / max(1.0, macs)) ** (1 / max(1, len(sizes)))
    for axis, size in enumerate(sizes, start=inputs.dim() - len(sizes)):
        reach = layer.dilation[axis - inputs.dim()] * (size - 1) + 1
        side = inputs.shape[axis]
        if side < reach:  # its padding was needed, which this layer has not
            inputs = torch.cat([inputs] * math.ceil(reach / side), axis)
        inputs = inputs.narrow(axis, 0, max(reach, min(side, math.ceil(side * share))))
    return inputs.contiguous()


def _run_layer(call: _LayerCall, format: ComputeFormat) -> tuple[Tensor, ...]:
    """Gradients of one layer, forward and backward."""
    inputs, weight = (format.ordered(one).requires_grad_() for one in (call.inputs, call.weight))
    with format.autocast(inputs.device):
        answer = call.operation(inputs, weight)
    return torch.autograd.grad(answer, (inputs, weight), torch.ones_like(answer))


def _measured(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """(seconds, answer) of one call: this thread's own time on a CPU; elsewhere the wall's, with the device's work."""
    if device.type == "cpu":
        started = time.thread_time()
        answer = work()
        return time.thread_time() - started, answer
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    answer = work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started, answer


def _relative_error(given: tuple[Tensor | None, ...], exact: tuple[Tensor | None, ...]) -> float:
    """|given - exact| / |exact|, L2 over all of them."""
    pairs = [(g.float(), e.float()) for g, e in zip(given, exact, strict=True) if g is not None and e is not None]
    difference = sum(float((g - e).square().sum()) for g, e in pairs)
    return math.sqrt(difference / max(1e-30, sum(float(e.square().sum()) for _, e in pairs)))


def _rounded(value: float) -> float:
    """Three digits: what is read again is what was decided on."""
    return float(f"{value:.3g}")


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    """Within: torch computes on one thread, whose clock then counts all of the work."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
