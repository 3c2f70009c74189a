"""Which inputs of every layer each channel reaches, found by changing channels and looking what else changes.

Changing the channels whose number has a one in some binary place, and then the others, tells for every input which
channel reaches it, after twice as many passes as the number has places; sources that reach nothing in common are
changed together. Inputs that several channels of one source reach answer to both: then channels change one at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.copies import copied
from madx.plugins import USER_ERRORS, describe
from madx.prune.passes import Passes, Reader, Source, added
from madx.seeds import torch_generator

_LARGE = 30.0
"""What is added to a channel, with random signs: far outside the noise, so that no kink and no summand hides it."""
_ENOUGH = 64
"""Values of a channel from which on some surely change upwards and some downwards; with fewer, two passes do both."""
_SINGLY = 512
"""Passes that change one channel at a time, in all: what would need more stays unknown."""


@dataclass(frozen=True)
class Reached:
    """What one source reaches: by reader bool [channels, inputs], or None where that was too much to find out."""

    source: Source
    readers: Mapping[Reader, Tensor | None]


def probe(module: nn.Module, example: Tensor) -> list[Reached]:
    """What the channels of every layer, and the slices of every other parameter, reach.

    Args:
        module: not changed.
        example: images [B, C, H, W]; only their shape counts.

    Returns:
        The sources that the forward pass uses: layers in the order of their calls, then parameters.

    Raises:
        ModelError: the network does not run.
    """
    images = torch.rand(example.shape, generator=torch_generator(0, "probing"))
    try:
        with torch.no_grad():
            return _Probe(_randomised(module), images.to(example.dtype)).all()
    except USER_ERRORS as problem:
        raise ModelError(
            f"the channels of this network cannot be followed ({describe(problem)}); use prune.structure: 2:4 or "
            "unstructured"
        ) from problem


def _randomised(module: nn.Module) -> nn.Module:
    """A copy in eval mode in which no factor is zero: a scale that starts at zero would hide what it multiplies."""
    module = copied(module).eval()
    generator = torch_generator(0, "probing parameters")
    for parameter in module.parameters():
        parameter.requires_grad_(False).uniform_(0.5, 1.5, generator=generator)
    return module


class _Probe:
    """Finds what every source reaches, with passes that change one group of channels each."""

    def __init__(self, module: nn.Module, images: Tensor) -> None:
        self._passes = Passes(module, images)
        self._free = {
            Source(((name, axis),), size, layer=False): parameter
            for name, parameter in (*module.named_parameters(), *module.named_buffers())
            if name not in self._passes.named and parameter.is_floating_point()
            for axis, size in enumerate(parameter.shape)
            if size > 1
        }
        self._left = _SINGLY

    def all(self) -> list[Reached]:
        """Every source that reaches anything."""
        whole = {source: self._change({source: _ones(source)}) for source in (*self._passes.sources, *self._free)}
        found: dict[Source, Reached] = {}
        for together in _without_common_readers({source: reached for source, reached in whole.items() if reached}):
            coded = self._coded(together)
            for source in together:
                found[source] = Reached(source, self._decoded(source, whole[source], coded))
        return [found[source] for source in whole if source in found]

    def _change(self, channels: Mapping[Source, Tensor]) -> dict[Reader, Tensor]:
        """By reader, the inputs that change with these channels, bool [channels]; readers without any are left out."""
        few = any(self._values(source) < _ENOUGH for source in channels)
        reached: dict[Reader, Tensor] = {}
        for sign in (1, -1)[: 1 + few]:
            self._run({source: chosen * sign * _LARGE for source, chosen in channels.items()})
            for reader, inputs in self._passes.reached.items():
                reached[reader] = reached[reader] | inputs if reader in reached else inputs
        return {reader: inputs for reader, inputs in reached.items() if inputs.any()}

    def _run(self, changes: Mapping[Source, Tensor]) -> None:
        """A pass with layers' outputs and free parameters changed; the parameters are as they were afterwards."""
        before = {source: parameter.clone() for source, parameter in self._free.items() if source in changes}
        try:
            for source, value in before.items():
                self._free[source].copy_(added(value, changes[source], source.places[0][1], self._passes.signs))
            self._passes.run(changes)
        finally:
            for source, value in before.items():
                self._free[source].copy_(value)

    def _values(self, source: Source) -> int:
        return self._free[source].numel() // source.channels if source in self._free else self._passes.values(source)

    def _coded(self, sources: Sequence[Source]) -> list[tuple[dict[Reader, Tensor], dict[Reader, Tensor]]]:
        """For each binary place: what the channels with a zero there reach, and what those with a one do."""
        longest = max((source.channels - 1).bit_length() for source in sources)
        return [
            (
                self._change({source: _digit(source, place) == 0 for source in sources}),
                self._change({source: _digit(source, place) == 1 for source in sources}),
            )
            for place in range(longest)
        ]

    def _decoded(
        self,
        source: Source,
        whole: Mapping[Reader, Tensor],
        coded: Sequence[tuple[Mapping[Reader, Tensor], Mapping[Reader, Tensor]]],
    ) -> dict[Reader, Tensor | None]:
        """The matrix of every reader; where several channels reach one input, from single changes."""
        matrices: dict[Reader, Tensor | None] = {}
        for reader, inputs in whole.items():
            none = torch.zeros_like(inputs)
            number, clear = torch.zeros(len(inputs), dtype=torch.long), inputs.clone()
            for place, answers in enumerate(coded):
                zero, one = (answer.get(reader, none) for answer in answers)
                clear &= zero ^ one
                number += one.long() << place
            clear &= number < source.channels
            matrix = torch.zeros(source.channels, len(inputs), dtype=torch.bool)
            matrix[number[clear], clear.nonzero().flatten()] = True
            matrices[reader] = matrix if torch.equal(clear, inputs) else None
        unclear = {reader: whole[reader] for reader, matrix in matrices.items() if matrix is None}
        return matrices | self._singly(source, unclear) if unclear else matrices

    def _singly(self, source: Source, whole: Mapping[Reader, Tensor]) -> dict[Reader, Tensor | None]:
        """The matrices from changes of one channel at a time; if a few reach everything, so will the others."""
        few = sorted({0, source.channels // 2, source.channels - 1})
        if all(
            torch.equal(self._of_one(source, channel, whole)[reader], whole[reader])
            for channel in few
            for reader in whole
        ):
            return {reader: inputs.repeat(source.channels, 1) for reader, inputs in whole.items()}
        if source.channels > self._left:
            return dict.fromkeys(whole)
        self._left -= source.channels
        rows = [self._of_one(source, channel, whole) for channel in range(source.channels)]
        return {reader: torch.stack([row[reader] for row in rows]) for reader in whole}

    def _of_one(self, source: Source, channel: int, readers: Mapping[Reader, Tensor]) -> dict[Reader, Tensor]:
        """What one channel reaches of these readers."""
        reached = self._change({source: torch.arange(source.channels) == channel})
        return {reader: reached.get(reader, torch.zeros_like(inputs)) for reader, inputs in readers.items()}


def _ones(source: Source) -> Tensor:
    return torch.ones(source.channels, dtype=torch.bool)


def _digit(source: Source, place: int) -> Tensor:
    """A binary digit of every channel's number."""
    return torch.arange(source.channels) >> place & 1


def _without_common_readers(whole: Mapping[Source, Mapping[Reader, Tensor]]) -> list[list[Source]]:
    """Sources in as few sets as come about when each joins the first one that it shares no reader with."""
    sets: list[tuple[list[Source], set[Reader]]] = []
    for source, reached in whole.items():
        free = next((entry for entry in sets if entry[1].isdisjoint(reached)), None)
        if free is None:
            sets.append(free := ([], set()))
        free[0].append(source)
        free[1].update(reached)
    return [sources for sources, _ in sets]
