"""Which state of a weights file is the network's: the only one that fits, or the one that the recipe names.

States that would give the network the same numbers are one. Of several that differ none is taken, and tensors whose
meaning is not known are not left out, unless the recipe says so: wrong weights in silence are the worst that can
happen. What was taken, and what was not, is in `Found` to be told.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from madx.errors import ModelError
from madx.models.asking import ask_for_the_rest, ask_which, describe_misfit, name_of, role_of, some
from madx.models.states import Choice, Fit, Needs, Table, fits, is_counter, joined, tables

_MOST_CHANNELS = 64
"""Numbers that a normalisation has at most, so that a layer of that name is not taken for one."""
_AVERAGES_COUNTER = "n_averaged"
"""What torch's AveragedModel keeps beside the network that it wraps."""


@dataclass(frozen=True)
class Found:
    """The state that was chosen, and what is to be told of it."""

    state: dict[str, Tensor]
    """All of the network's entries, in the network's own precision."""
    same_shapes: bool
    """Whether the shapes are the network's too."""
    key: str
    prefix: str
    notes: tuple[str, ...]
    """How it was found and what was left, each a part of a sentence."""

    def describe(self) -> str:
        """What is to be told, in one line; empty where the file holds the state and nothing else."""
        return "; ".join(self.notes)

    def to_json(self) -> dict[str, Any]:
        """For the records of a run."""
        return {"state": self.key, "prefix": self.prefix, "notes": list(self.notes)}


def choose(content: object, needs: Needs, path: Path, choice: Choice, *, any_shape: bool = False) -> Found:
    """The state that the network is to have.

    Args:
        content: of the file.
        needs: of the network.
        path: of the file, for messages.
        choice: What the recipe says of it.
        any_shape: Whether a state in other shapes will do too.

    Raises:
        ModelError: no state fits, several that differ do, or tensors beside it are of unknown meaning.
    """
    there = tables(content)
    allowed = _allowed(there, choice)
    named = [fit for table in allowed for fit in fits(table, needs, choice.strip_prefix)]
    if not named:  # a script may also keep the parts of its network in dictionaries of their own
        allowed += joined(allowed)
        named = [fit for table in allowed for fit in fits(table, needs, choice.strip_prefix)]
    fitting = [fit for fit in named if fit.has_shapes(needs)]
    same_shapes = bool(fitting)
    if any_shape:  # beside a state in the network's own shapes, one in others may be what is meant
        fitting = [fit for fit in named if fit.has_kinds(needs)]
    if not fitting:
        raise ModelError(f"{path}: {describe_misfit(content, there, allowed, needs, choice)}")
    if choice.key is None and needs.buffers:
        fitting += _whole_networks(there, needs, choice)
    _check_stored(fitting, needs, path)
    groups = _distinct(fitting, needs)
    if len(groups) > 1:
        raise ModelError(f"{path}: {ask_which([group[0] for group in groups], choice)}")
    rests = [(fit, _unknown(fit, groups[0], needs)) for fit in groups[0]]
    best, unknown = min(rests, key=lambda one: (len(one[1]), len(one[0].prefix)))  # of equals the first
    if unknown and choice.strip_prefix is None:
        constants = [name for name in unknown if _is_constant(name, best)]
        raise ModelError(f"{path}: {ask_for_the_rest(best, unknown, constants, needs, choice)}")
    notes = (*_notes(best, groups[0], needs), *_beside(content, there, best))
    return Found(best.state(needs), same_shapes, best.table.key, best.prefix, notes)


def _allowed(there: Sequence[Table], choice: Choice) -> list[Table]:
    """The tables that may hold the state; an optimiser's only where the recipe names that very one."""
    if choice.key is None:
        return [table for table in there if not table.optimiser]
    exact = [table for table in there if table.key == choice.key]
    inside = [table for table in there if table.key.startswith(f"{choice.key}.") and not table.optimiser]
    return exact or (inside if choice.key else [])


def _whole_networks(there: Sequence[Table], needs: Needs, choice: Choice) -> list[Fit]:
    """What is called as an optimiser's, and has what an optimiser never has: a network of that name."""
    called = [fit for table in there if table.optimiser for fit in fits(table, needs, choice.strip_prefix)]
    return [fit for fit in called if fit.has_shapes(needs)]


def _check_stored(fitting: Sequence[Fit], needs: Needs, path: Path) -> None:
    """Refuse tensors that claim more numbers than the file has: any work on them would need as much memory as they say.

    Raises:
        ModelError: naming them.
    """
    for fit in fitting:
        if fit.has_shapes(needs):  # then no larger than the network's own
            continue
        given = {name: fit.tensor(name) for name in fit.names}
        large = {n: t for n, t in given.items() if t.numel() * t.element_size() > t.untyped_storage().nbytes()}
        if large:
            told = [f"{name} {list(value.shape)}" for name, value in large.items()]
            raise ModelError(
                f"{path}: these weights claim more numbers than the file has (one number, repeated): {some(told)}. Save"
                " them whole, with .contiguous(), or take an earlier checkpoint."
            )


def _distinct(fitting: Sequence[Fit], needs: Needs) -> list[list[Fit]]:
    """The fits in groups that give the network the same numbers."""
    groups: list[tuple[dict[str, Tensor], list[Fit]]] = []
    for fit in fitting:
        state = fit.state(needs)
        for known, group in groups:
            if all(_is_equal(known[name], value) for name, value in state.items()):
                group.append(fit)
                break
        else:
            groups.append((state, [fit]))
    return [group for _, group in groups]


def _is_equal(one: Tensor, other: Tensor) -> bool:
    """Whether the numbers are the same; NaN is, so that of one failed training nobody asks which is meant."""
    if one.shape != other.shape:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())


def _unknown(fit: Fit, equal: Sequence[Fit], needs: Needs) -> list[str]:
    """Tensors of a table that may mean something: not the network, its equals, or what is known to be harmless."""
    prefixes = [other.prefix for other in equal if other.table is fit.table]
    left = _left(fit, equal)
    return [*(name for name in left if not _is_harmless(name, fit, prefixes, needs)), *fit.table.odd]


def _left(fit: Fit, equal: Sequence[Fit]) -> list[str]:
    """Tensors of a table that neither the network nor an equal of it takes."""
    elsewhere = {name for other in equal if other.table is fit.table for name in other.names.values()}
    return [name for name in fit.left if name not in elsewhere]


def _is_harmless(name: str, fit: Fit, prefixes: Sequence[str], needs: Needs) -> bool:
    """Whether a tensor is left that has no influence, or says what the recipe says too."""
    before, _, last = name.rpartition(".")
    if last == _AVERAGES_COUNTER:
        return any(prefix.startswith(f"{before}." if before else "") for prefix in prefixes)
    if is_counter(name):  # of a layer that the network has, without counting
        layers = {place.rpartition(".")[0] for place in fit.names.values()}
        return before in layers
    return _is_constant(name, fit) and _is_the_recipes(name, fit.table.tensors[name], needs)


def _is_constant(name: str, fit: Fit) -> bool:
    """Whether what is left looks like the mean or the deviation of images."""
    value = fit.table.tensors.get(name)
    if value is None or not value.is_floating_point() or not 1 <= value.numel() <= _MOST_CHANNELS:
        return False
    return role_of(name) is not None


def _is_the_recipes(name: str, value: Tensor, needs: Needs) -> bool:
    """Whether a normalisation of the file is the one of the recipe; bfloat16 may be a per cent off."""
    own = needs.constants.get(f"norm.{role_of(name)}")
    if own is None or value.numel() != own.numel():
        return False
    return torch.allclose(value.flatten().to(own.dtype), own.flatten().cpu(), rtol=0.01, atol=1e-6)


def _notes(fit: Fit, equal: Sequence[Fit], needs: Needs) -> Iterator[str]:
    """How the state was found, and what of its table is not the network's."""
    if fit.table.key:
        yield f"the state {fit.table.key!r}"
    if fit.prefix:
        yield f"{fit.prefix!r} taken off its names"
    if fit.root != needs.roots[0]:
        yield f"{fit.root.removeprefix(needs.roots[0])!r} put before its names"
    if any(("parametrizations." in own) != ("parametrizations." in place) for own, place in fit.names.items()):
        yield "the names of another version of torch's weight_norm read as the network's"
    elif fit.inner:
        yield "the names of torch's wrappers taken off inside its names"
    types = {fit.tensor(name).dtype for name in fit.names if fit.tensor(name).dtype != needs.own[name].dtype}
    if types:
        yield f"cast from {some(sorted(map(str, types)))}"
    if others := [name_of(other) for other in equal if not other.takes_the_same(fit)]:
        yield f"the same as {some(others)}"
    counters = [name for name in needs.own if is_counter(name) and name not in fit.names]
    if counters:
        yield f"{len(counters)} num_batches_tracked are not there and begin at 0"
    if left := _left(fit, equal):
        yield f"left out: {some(left)}"


def _beside(content: object, there: Sequence[Table], fit: Fit) -> Iterator[str]:
    """What else stands at the top of the file; first what holds tensors and is no optimiser's."""
    if not isinstance(content, dict):
        return
    taken = {fit.table.key.partition(".")[0]} if fit.table.key else fit.table.tensors.keys()
    tops = () if fit.table.key else {name.partition(".")[0] for name in taken}  # of parts that were joined
    others = [str(name) for name in content if name not in taken and name not in tops]
    with_tensors = {table.key.partition(".")[0] for table in there if not table.optimiser}
    if others:
        yield f"not read: {some(map(repr, sorted(others, key=lambda name: name not in with_tensors)))}"
