"""Forward passes in which layers answer with noise, so that what a change reaches shows to the last bit.

The network's own code runs, so that no operation has to be known: a channel may be split, shuffled, padded, viewed as
a map or multiplied on its way. Convolutions and linear layers are not computed but answer with a recorded noise tensor,
so that a change ends where the next layer reads it. Normalisations keep their scale and shift alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode

from madx.plugins import USER_ERRORS
from madx.prune.layers import parameter_name
from madx.prune.scale_and_shift import DROPOUTS, NORMALISATIONS, arguments, scale_and_shift
from madx.seeds import torch_draws, torch_generator

LAYER_FUNCTIONS: Mapping[Callable[..., Any], tuple[int, bool]] = {
    F.linear: (-1, False),
    F.conv1d: (-2, False),
    F.conv2d: (-3, False),
    F.conv3d: (-4, False),
    F.conv_transpose1d: (-2, True),
    F.conv_transpose2d: (-3, True),
    F.conv_transpose3d: (-4, True),
}
"""Functions of layers: the axis of the channels in inputs and outputs, and whether the weight has its inputs first."""

Places = tuple[tuple[str, int], ...]
"""Names of parameters and buffers, each with the axis along which channels lie."""


@dataclass(frozen=True)
class Source:
    """Where channels come from: a layer that makes them, or a parameter that no layer owns, such as a learnt scale."""

    places: Places
    """In the weight of a convolution with groups, slices of the second axis are counted on from group to group."""
    channels: int
    layer: bool
    groups: int = 1
    """Of a convolution; a depthwise one counts as one without."""


@dataclass(frozen=True)
class Reader:
    """Something with one slice for each channel that comes in."""

    places: Places
    channels: int
    layer: bool
    """Whether a convolution or linear layer reads the channels; a normalisation only passes them on."""
    groups: int = 1
    depthwise: bool = False
    """Then it has one group, and its places are those that make its channels."""


OUTPUTS = Reader((), 0, layer=False)
"""The network's own outputs."""


@dataclass(frozen=True)
class _Call:
    """A call of a layer or a normalisation, as it was in the recorded pass."""

    reader: Reader
    axis: int
    inputs: Tensor
    outputs: Tensor | None
    """What a convolution or linear layer answers with."""
    source: Source | None


class Passes(TorchFunctionMode):
    """Records the calls of a first pass; in every other one answers as recorded, and notes what is given otherwise.

    Attributes:
        named: parameters and buffers of layers and normalisations, by name.
        reached: by reader, which of its inputs the last pass changed, bool [inputs]; a reader may be without any.
        signs: of what is added to values of a shape.
    """

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.named: set[str] = set()
        self.reached: dict[Reader, Tensor] = {}
        self.signs = Signs()
        self._module, self._images = module, images
        self._names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
        self._noise = torch_generator(0, "probing outputs")
        self._calls: list[_Call] = []
        self._replays = self._astray = False
        self._next = 0
        self._changes: Mapping[Source, Tensor] = {}
        self._computed = ""
        self._name_computed_weights(module)
        self._outputs = self._forward()
        self._replays = True

    @property
    def sources(self) -> list[Source]:
        """The layers, in the order of their first call."""
        return list(dict.fromkeys(call.source for call in self._calls if call.source is not None))

    def values(self, source: Source) -> int:
        """How many values a channel of a layer has in the least of its calls."""
        return min(
            call.outputs.numel() // source.channels
            for call in self._calls
            if call.source == source and call.outputs is not None
        )

    def run(self, changes: Mapping[Source, Tensor]) -> None:
        """A pass in which `changes`, [channels] or zero, are added to what these sources make."""
        self._next, self._astray, self._changes, self.reached = 0, False, changes, {}
        try:
            outputs = self._forward()
        except USER_ERRORS:  # such as features that are an index, or a branch that nobody has ever taken
            self._astray = True
        if self._astray or self._next < len(self._calls) or outputs.shape != self._outputs.shape:
            sizes = {call.reader: call.inputs.size(call.axis) for call in self._calls}
            self.reached = {reader: torch.ones(size, dtype=torch.bool) for reader, size in sizes.items()}
            self.reached[OUTPUTS] = torch.ones(self._outputs.size(-1), dtype=torch.bool)
        else:
            self._note(OUTPUTS, -1, outputs, self._outputs)

    def _forward(self) -> Tensor:
        """The network's outputs; what it draws is the same each time."""
        with self, torch_draws(0, "probing"):
            outputs: Tensor = self._module(self._images)
        return outputs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Any function of torch is called through here."""
        kwargs = kwargs or {}
        if func in LAYER_FUNCTIONS:
            return self._map(func, args, kwargs)
        if func in DROPOUTS:
            return arguments(("input",), args, kwargs)["input"]
        if func in NORMALISATIONS:
            axis, names = NORMALISATIONS[func]
            given = arguments(names, args, kwargs)
            self._pass_on(axis, given)
            return scale_and_shift(axis, given)
        if func in (F.prelu, torch.prelu):
            self._pass_on(1, arguments(("input", "weight"), args, kwargs))
        return func(*args, **kwargs)

    def _name_computed_weights(self, module: nn.Module) -> None:
        """While a layer runs, a weight that is no parameter counts as its own: weight_norm and the like compute it."""

        def begin(name: str) -> Callable[..., None]:
            return lambda *_: setattr(self, "_computed", parameter_name(name, "weight"))

        for name, layer in module.named_modules():
            if isinstance(layer, (_ConvNd, nn.Linear)):
                layer.register_forward_pre_hook(begin(name))
                layer.register_forward_hook(lambda *_: setattr(self, "_computed", ""))

    def _map(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """A layer answers as recorded; with a weight that is nobody's, the function is an operation like any other."""
        given = arguments(("input", "weight", "bias"), args, kwargs)
        weight = self._names.get(id(given["weight"]), self._computed)
        if not weight:
            outputs: Tensor = func(*args, **kwargs)
            return outputs
        axis, inputs_first = LAYER_FUNCTIONS[func]
        if not self._replays:
            outputs = func(*args, **kwargs)
            reader, source = self._described(weight, given, outputs.size(axis), axis, inputs_first)
            outputs = torch.randn(outputs.shape, generator=self._noise).to(outputs.dtype)
            self._calls.append(_Call(reader, axis, given["input"].clone(), outputs, source))
            return outputs.clone()
        call = self._met(axis, given["input"])
        return func(*args, **kwargs) if call is None or call.outputs is None else self._changed(call)

    def _described(
        self, weight: str, given: Mapping[str, Any], made: int, axis: int, inputs_first: bool
    ) -> tuple[Reader, Source]:
        """A layer as something that reads and something that makes channels."""
        read, bias = given["input"].size(axis), given.get("bias")
        groups = (made if inputs_first else read) // given["weight"].shape[1]
        depthwise = 1 < groups == read == made
        makes, reads = (0, 0) if depthwise else (int(inputs_first), int(not inputs_first))
        places = [(weight, makes)]
        if bias is not None and id(bias) in self._names:
            places.append((self._names[id(bias)], 0))
        self.named |= {name for name, _ in places}
        groups = 1 if depthwise else groups
        return Reader(((weight, reads),), read, True, groups, depthwise), Source(tuple(places), made, True, groups)

    def _pass_on(self, axis: int, given: Mapping[str, Any]) -> None:
        """A normalisation, or an activation with a parameter for each channel."""
        tensors = [given.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
        owned = [tensor for tensor in tensors if tensor is not None and id(tensor) in self._names]
        names = [self._names[id(tensor)] for tensor in owned]
        self.named |= {*names}
        sizes = {tuple(tensor.shape) for tensor in owned}
        if sizes != {(given["input"].size(axis),)}:
            return
        if self._replays:
            self._met(axis, given["input"])
        else:
            reader = Reader(tuple((name, 0) for name in names), given["input"].size(axis), layer=False)
            self._calls.append(_Call(reader, axis, given["input"].clone(), None, None))

    def _met(self, axis: int, inputs: Tensor) -> _Call | None:
        """The recorded call that this one is; nothing if the forward pass has gone another way."""
        call = self._calls[self._next] if self._next < len(self._calls) else None
        self._next += 1
        if call is None or call.axis != axis or call.inputs.shape != inputs.shape:
            self._astray = True
            return None
        self._note(call.reader, axis, inputs, call.inputs)
        return call

    def _note(self, reader: Reader, axis: int, new: Tensor, old: Tensor) -> None:
        """Which slices along the axis differ; what is not a number differs from every number alone."""
        if torch.equal(new, old):  # as most are: a pass changes little
            return
        differs = (new != old) & ~(new.isnan() & old.isnan())
        reached = differs.movedim(axis, 0).flatten(1).any(1)
        self.reached[reader] = self.reached.get(reader, torch.zeros_like(reached)) | reached

    def _changed(self, call: _Call) -> Tensor:
        """A layer's recorded answer, with its channels changed if this pass is about them."""
        assert call.outputs is not None
        assert call.source is not None
        change = self._changes.get(call.source)
        return call.outputs.clone() if change is None else added(call.outputs, change, call.axis, self.signs)


def added(values: Tensor, change: Tensor, axis: int, signs: Mapping[torch.Size, Tensor]) -> Tensor:
    """Values with `change` [channels] added along an axis, its sign drawn for each of them."""
    shape = [1] * values.dim()
    shape[axis] = -1
    return values + change.view(shape) * signs[values.shape]


class Signs(dict[torch.Size, Tensor]):
    """Random signs in every shape that is asked for, always the same; drawn once, as passes are many."""

    def __missing__(self, shape: torch.Size) -> Tensor:
        drawn = torch.randint(0, 2, shape, generator=torch_generator(0, "probing signs")) * 2 - 1
        self[shape] = drawn.to(torch.int8)
        return self[shape]
