"""Whether a network with fewer channels still computes what it should: a check that trusts no analysis of the network.

Removed channels feed nothing any more, so the dense network whose removed entries are zero must give the same logits,
and give every layer the same inputs: where a signal fades, or ends in a constant, the logits alone would hide much.
Masks are bool with the dense parameter's shape, True = kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.copies import copied
from madx.plugins import USER_ERRORS, describe
from madx.prune.passes import LAYER_FUNCTIONS
from madx.prune.resize import resize_to_
from madx.prune.scale_and_shift import WithoutStatistics, arguments
from madx.seeds import torch_draws, torch_generator

_TOLERANCES = {torch.float64: (1e-6, 1e-13), torch.float32: (1e-3, 1e-5)}
"""Shares of what varies in a tensor and of its largest value: above rounding, far below what a wrong channel does."""


def check_same_function(
    module: nn.Module, state: Mapping[str, Tensor], masks: Mapping[str, Tensor], *, shape: torch.Size
) -> None:
    """Refuse a network with fewer channels that does not compute what it should; the module is not touched.

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
    """What `Comparison` finds, for one smaller network."""
    return Comparison(module, shape).disagreement(state, masks)


class Comparison:
    """Compares networks resized to a state with the dense one masked, on uniform noise.

    In float64, or in float32 where the network does not run otherwise. Normalisations over channels are replaced by
    their scale and shift in both, as their sums change with every channel; so the resized network also runs as it is,
    in eval and in train mode. Every pass is that of a fresh copy, as some networks remember; only the weights are taken
    to float64 once.
    """

    def __init__(self, module: nn.Module, shape: torch.Size) -> None:
        """Prepare.

        Args:
            module: dense, in eval mode; not changed here, nor to be changed while this is in use.
            shape: of the images, [B, C, H, W].
        """
        self._module, self._shape = module, shape
        self._exact: dict[str, Tensor] = {}

    def disagreement(self, state: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> str:
        """Compare the network resized to `state` with the one masked by `masks`.

        Args:
            state: of the smaller network.
            masks: of the dense parameters; one that is not there is whole.

        Returns:
            Why the resized network is not the masked one: it does not run, or computes something else; nothing if it
            is.
        """
        small = copied(self._module).eval()
        try:
            resize_to_(small, state)
            _run(small, self._shape)
            dense, less = self._both_heard(masks, small)
            problem = _difference(dense, less, masks)
            _run(small.train(), self._shape)
        except (ModelError, *USER_ERRORS) as failure:
            if small.training and not _runs(copied(self._module).train(), self._shape):
                return problem  # the dense network does not run in train mode either
            why = str(failure) if isinstance(failure, ModelError) else describe(failure)
            return f"it does not run with fewer channels ({why}), as if its forward pass fixed their number"
        return problem

    def _both_heard(self, masks: Mapping[str, Tensor], small: nn.Module) -> tuple[_Heard, _Heard]:
        """The masked network and the small one in the same precision; the last error if the masked one runs in none."""
        noise = torch.rand(self._shape, generator=torch_generator(0, "structure"), dtype=torch.float64)
        try:
            dense = _heard(self._masked(masks), noise)
        except USER_ERRORS:  # such as a tensor that its forward pass makes in float32
            noise = noise.float()
            dense = _heard(self._masked(masks), noise)
        return dense, _heard(copied(small), noise)

    def _masked(self, masks: Mapping[str, Tensor]) -> nn.Module:
        """A copy whose weights are in float64 and masked."""
        weights: dict[int, Tensor] = {}
        for name, parameter in self._module.named_parameters():
            if name not in self._exact:
                self._exact[name] = parameter.detach().to(
                    torch.float64 if parameter.is_floating_point() else parameter.dtype
                )
            value, mask = self._exact[name], masks.get(name)
            value = value.clone() if mask is None or bool(mask.all()) else value * mask.to(value.device)
            weights[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
        return copied(self._module, weights)


@dataclass(frozen=True)
class _Heard:
    """Logits, and the inputs of each call of a layer: the weight's name, the function, values."""

    logits: Tensor
    inputs: Sequence[tuple[str, Callable[..., Any], Tensor]]


class _Listening(WithoutStatistics):
    """Keeps what every convolution and linear layer is given."""

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.inputs: list[tuple[str, Callable[..., Any], Tensor]] = []
        self._names = names

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Any function of torch is called through here."""
        if func in LAYER_FUNCTIONS:
            given = arguments(("input", "weight"), args, kwargs or {})
            self.inputs.append((self._names.get(id(given["weight"]), ""), func, given["input"].clone()))
        return super().__torch_function__(func, types, args, kwargs)


def _run(module: nn.Module, shape: torch.Size) -> None:
    """A forward pass in the network's own precision."""
    precision = next((value.dtype for value in module.parameters() if value.is_floating_point()), torch.float32)
    with torch.no_grad(), torch_draws(0, "structure"):
        module(torch.rand(shape, generator=torch_generator(0, "structure")).to(precision))


def _runs(module: nn.Module, shape: torch.Size) -> bool:
    """Whether a forward pass ends."""
    try:
        _run(module, shape)
    except USER_ERRORS:
        return False
    return True


def _heard(module: nn.Module, noise: Tensor) -> _Heard:
    """What a network computes in the noise's precision, which it is taken to."""
    module = module.eval().to(noise.dtype)
    listening = _Listening({id(value): name for name, value in module.named_parameters()})
    with torch.no_grad(), torch_draws(0, "structure"), listening:
        logits: Tensor = module(noise)
    return _Heard(logits, listening.inputs)


def _difference(dense: _Heard, less: _Heard, masks: Mapping[str, Tensor]) -> str:
    """Where the two are not the same, or nothing; what has other sizes beside the channels cannot be compared."""
    fine = [name for name, _, _ in dense.inputs] == [name for name, _, _ in less.inputs]
    place = "" if fine else "layers are called otherwise"
    for (name, function, whole), (_, _, values) in zip(dense.inputs, less.inputs, strict=False):
        axis, inputs_first = LAYER_FUNCTIONS[function]
        kept = _kept(masks[name], whole.size(axis), inputs_first=inputs_first) if name in masks else None
        left = whole if kept is None else whole.index_select(axis, kept.nonzero().flatten())
        if not place and left.shape == values.shape and not _same(left, values, axis):
            place = f"the inputs of {name.rpartition('.')[0] or 'a layer'} differ"
    if not place and not (dense.logits.shape == less.logits.shape and _same(dense.logits, less.logits, -1)):
        place = "the logits differ"
    return place and (
        "with fewer channels it does not compute what the dense network computes with those channels at zero "
        f"({place}), as if its forward pass split, mixed or counted them"
    )


def _kept(mask: Tensor, inputs: int, *, inputs_first: bool) -> Tensor | None:
    """Which inputs of a layer its weight's mask still reads, bool [inputs]; nothing if it has not so many.

    A convolution's rows lie one group after the other, and each group of rows reads inputs of its own.
    """
    if inputs_first:
        return mask.flatten(1).any(1) if len(mask) == inputs else None
    groups, rest = divmod(inputs, mask.shape[1])
    if rest or groups == 0 or len(mask) % groups:
        return None
    return mask.reshape(groups, len(mask) // groups, mask.shape[1], -1).any(3).any(1).flatten()


def _same(expected: Tensor, given: Tensor, axis: int) -> bool:
    """Whether two tensors are equal within the tolerances of their precision."""
    share, rounding = _TOLERANCES[torch.float64 if expected.dtype == torch.float64 else torch.float32]
    expected, given = (tensor.double().movedim(axis, 0).flatten(1) for tensor in (expected, given))
    if expected.numel() == 0:
        return True
    varies = (expected - expected.mean(1, keepdim=True)).abs().max().item()
    difference = (expected - given).abs().max().item()
    return difference <= share * varies + rounding * expected.abs().max().item()
