"""Which dictionaries of a weights file hold a network: names and shapes decide, not what a script called them.

A `Table` is a dictionary of the file with tensors in it, known by its path, such as `callbacks.ema`. A `Fit` is a table
and a prefix under which all that the network needs is found. Nothing here chooses: `madx.models.choosing` does.

The network needs every entry of its state, but for what a file may leave out: the counters of BatchNorm, the second
name of a tensor that has two, and the normalisation that comes from the recipe.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.normalise import Normalise, Normalised

_DEEPEST, _OFTEN = 12, 4
"""Containers inside one another that are looked into, and how often one that stands in several places is."""
_OPTIMISERS = frozenset({"optim", "optimizer", "optimizers", "optimiser", "optimisers", "opt", "grad", "grads"})
_MOMENTS = re.compile(r"(max_)?exp_avg\w*|momentum(s|_buffers?)?|velocity|square_avg|acc_delta|gradients?")
"""What optimisers keep for each weight, in the weight's own shape and sometimes under its name."""
_COUNTER = "num_batches_tracked"
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that torch's own wrappers (data-parallel, compiled, sharded) add, around a network or inside it."""
_PARAMETRISED_NORM = re.compile(r"parametrizations\.(\w+)\.original([01])$")
"""What torch's weight_norm calls today what its older one calls weight_g and weight_v; both load into each other."""


@dataclass(frozen=True)
class Choice:
    """What the recipe says of the state that is meant."""

    key: str | None = None
    """`model.key`: its path in the file."""
    strip_prefix: str | None = None
    """`model.strip_prefix`: what its names begin with; the rest is left out."""
    settable: bool = True
    """Whether these settings speak of this file, and so can be advised."""


@dataclass(frozen=True)
class Table:
    """A dictionary of the file that has tensors."""

    key: str
    """Its path in the file, joined by dots; empty at the top."""
    tensors: Mapping[str, Tensor]
    """What could be a weight: dense tensors, by name."""
    odd: Mapping[str, str]
    """Tensors that cannot be one, by name: what they are."""
    optimiser: bool
    """Whether its path says that it belongs to an optimiser."""


@dataclass(frozen=True)
class Needs:
    """What a network's state must be given."""

    own: Mapping[str, Tensor]
    """Its whole state."""
    constants: Mapping[str, Tensor]
    """The normalisation that comes from the recipe: entries of the state that a file need not have."""
    required: tuple[str, ...]
    """Entries that a file must have."""
    optional: tuple[str, ...]
    """Entries that are taken where a file has them, beside the constants."""
    twice: Mapping[str, str]
    """A tensor's second name to its first."""
    roots: tuple[str, ...]
    """Beginnings that all required names share, of which a file may lack one."""
    buffers: bool
    """Whether a file must have more than parameters, such as BatchNorm's statistics: an optimiser keeps none of it."""

    @classmethod
    def of(cls, module: nn.Module) -> Needs:
        """The needs of `module`, which is only looked at.

        Raises:
            ModelError: it has no weights, or what is none in its state.
        """
        state = module.state_dict()
        if odd := [name for name, value in state.items() if not isinstance(value, Tensor)]:
            raise ModelError(f"the network of the recipe keeps more than tensors in its state: {', '.join(odd[:5])}")
        own = {name: value.detach() for name, value in state.items()}
        constants, twice = _constants(module), _second_names(own)
        free = tuple(name for name in own if name not in constants)
        optional = tuple(name for name in free if name in twice or is_counter(name))
        required = tuple(name for name in free if name not in optional)
        if not required:
            raise ModelError("the network of the recipe has no weights that a file could give")
        buffers = not {name for name, _ in module.named_buffers()}.isdisjoint(required)
        roots = _roots(required, isinstance(module, Normalised))
        return cls(own, constants, required, optional, twice, roots, buffers)


@dataclass(frozen=True)
class Fit:
    """A table and a prefix under which all required names are found."""

    table: Table
    prefix: str
    root: str
    """Beginning of the network's own names that the file's lack."""
    names: Mapping[str, str]
    """The network's names to the file's, for all that the file gives."""
    inner: bool
    """Whether names of torch's wrappers were taken off inside the file's names too."""

    def tensor(self, name: str) -> Tensor:
        """What the file has for the network's `name`."""
        return self.table.tensors[self.names[name]]

    def has_shapes(self, needs: Needs) -> bool:
        """Whether shapes and kinds of numbers are the network's own."""
        return all(is_alike(self.tensor(name), needs.own[name]) for name in self.names)

    def takes_the_same(self, other: Fit) -> bool:
        """Whether both are one place of the file, looked at in two ways."""
        return self.names.keys() == other.names.keys() and all(self.tensor(n) is other.tensor(n) for n in self.names)

    def has_kinds(self, needs: Needs) -> bool:
        """Whether the kinds of numbers are the network's own, in whatever shapes."""
        return all(kind(self.tensor(name)) == kind(needs.own[name]) for name in self.names)

    def state(self, needs: Needs) -> dict[str, Tensor]:
        """The network's whole state, in its own precision; counters that are not there are zero."""
        given = {name: self.tensor(name).to(needs.own[name].dtype) for name in self.names}
        zero = {name: torch.zeros_like(value) for name, value in needs.own.items() if is_counter(name)}
        again = {second: given[first] for second, first in needs.twice.items() if first in given}
        return {**needs.constants, **zero, **again, **given}

    @property
    def left(self) -> list[str]:
        """Tensors of the table that the network has no use for."""
        used = set(self.names.values())
        return [name for name in self.table.tensors if name not in used]


def tables(content: object) -> list[Table]:
    """Every dictionary with tensors, in the file's order."""
    return [table for key, part in _dictionaries(content) if (table := _table(key, part)) is not None]


def joined(there: Sequence[Table]) -> list[Table]:
    """What stands in several tables under one key, as one: the key of each is then the beginning of its names."""
    inside: dict[str, list[Table]] = {}
    for table in there:
        parts = table.key.split(".") if table.key else []
        for depth in range(len(parts) + 1):
            inside.setdefault(".".join(parts[:depth]), []).append(table)
    found = [_join(key, several) for key, several in inside.items() if len(several) > 1]
    return [table for table in found if table is not None]


def _join(key: str, several: Sequence[Table]) -> Table | None:
    """The tables as one; None if two of their tensors would have one name."""
    tensors: list[tuple[str, Tensor]] = []
    odd: dict[str, str] = {}
    for table in several:
        path = table.key.removeprefix(key).removeprefix(".")
        before = f"{path}." if path else ""
        tensors += [(before + name, value) for name, value in table.tensors.items()]
        odd |= {before + name: what for name, what in table.odd.items()}
    names = dict(tensors)
    return Table(key, names, odd, optimiser=False) if len(names) == len(tensors) else None


def fits(table: Table, needs: Needs, prefix: str | None = None) -> list[Fit]:
    """Every prefix, or the one that is given, under which the table has all required names, in any shape.

    Names as they are come first; only where they do not fit, those without torch's wrappers inside them, and those
    that lack a beginning which all of the network's names share.
    """
    for root in needs.roots:
        for inner in (False, True):
            if found := _fits(table, needs, prefix, root=root, inner=inner):
                return found
    return []


def _fits(table: Table, needs: Needs, prefix: str | None, *, root: str, inner: bool) -> list[Fit]:
    """`fits` for one spelling of the names."""
    short = {name: name.removeprefix(root) for name in (*needs.required, *needs.optional) if name.startswith(root)}
    own, theirs = _spelt(short.values(), inner=inner), _spelt(table.tensors, inner=inner)
    if own is None or theirs is None:
        return []
    places = {spelt: name for name, spelt in theirs.items()}
    wanted = {own[short[name]] for name in needs.required}
    if prefix is None:
        counts = Counter(before for _, before, _ in endings(places, wanted))
        found = [before for before, count in counts.items() if count == len(wanted)]
    else:
        found = [prefix] if all(prefix + name in places for name in wanted) else []
    names = {before: {name: places.get(before + own[short[name]]) for name in short} for before in found}
    return [
        Fit(table, before, root, {name: place for name, place in names[before].items() if place is not None}, inner)
        for before in found
    ]


def endings(names: Collection[str], own: Collection[str]) -> Iterator[tuple[str, str, str]]:
    """Names that end like one of the network's: the name, what stands before that, and the network's."""
    deepest = max(name.count(".") for name in own) + 1
    for name in names:
        parts = name.rsplit(".", deepest)
        for count in range(1, len(parts) + 1):
            rest = ".".join(parts[-count:])
            if rest in own:
                yield name, name.removesuffix(rest), rest


def is_alike(given: Tensor, own: Tensor) -> bool:
    """Whether a tensor can take the place of the network's: its shape, and what a cast must not change."""
    return given.shape == own.shape and kind(given) == kind(own)


def kind(value: Tensor) -> tuple[bool, bool]:
    """What a cast must not change: whether numbers are whole, and whether they are real."""
    return value.is_floating_point(), value.is_complex()


def is_counter(name: str) -> bool:
    """Whether an entry counts BatchNorm's batches, which older files do not have."""
    return name.rpartition(".")[2] == _COUNTER


def _constants(module: nn.Module) -> dict[str, Tensor]:
    norm = getattr(module, "norm", None)
    return {f"norm.{name}": value for name, value in norm.named_buffers()} if isinstance(norm, Normalise) else {}


def _second_names(own: Mapping[str, Tensor]) -> dict[str, str]:
    """Names whose tensor the network has under an earlier name too, as tied layers do."""
    first: dict[object, str] = {}
    found = {}
    for name, value in own.items():
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and (known := first.setdefault(place, name)) != name:
            found[name] = known
    return found


def _roots(required: tuple[str, ...], normalised: bool) -> tuple[str, ...]:
    """Nothing, then what all names begin with, as long as more than the bare name of a parameter remains.

    The `net.` of a network that the recipe normalises is madx's own, so that one is never asked of a file.
    """
    first = "net." if normalised else ""
    roots, rest = [first], [name.removeprefix(first).split(".") for name in required]
    while min(map(len, rest)) > 2 and len({parts[0] for parts in rest}) == 1:
        roots.append(f"{roots[-1]}{rest[0][0]}.")
        rest = [parts[1:] for parts in rest]
    return tuple(roots)


def _dictionaries(content: object) -> Iterator[tuple[str, dict[object, object]]]:
    """Every dictionary of the file but those of optimisers, with its path."""
    waiting: list[tuple[tuple[str, ...], object]] = [((), content)]
    visits: Counter[int] = Counter()
    while waiting:
        path, part = waiting.pop()
        visits[id(part)] += 1
        if visits[id(part)] > _OFTEN:  # a file can put one list into another a thousand times over, or into itself
            continue
        if isinstance(part, dict):
            if dict.keys(part) >= {"state", "param_groups"}:
                continue
            yield ".".join(path), part
        items = (
            dict.items(part) if isinstance(part, dict) else enumerate(part) if isinstance(part, list | tuple) else ()
        )
        if len(path) < _DEEPEST:
            inside = [((*path, str(key)), value) for key, value in items if isinstance(value, dict | list | tuple)]
            waiting += reversed(inside)


def _table(key: str, part: dict[object, object]) -> Table | None:
    """The dictionary as a table, if there is any tensor in it."""
    given = {name: value for name, value in dict.items(part) if isinstance(value, Tensor)}
    tensors = {name: value.detach() for name, value in given.items() if isinstance(name, str) and _is_dense(value)}
    odd = {repr(name): _kind_of(value) for name, value in given.items() if name not in tensors}
    return Table(key, tensors, odd, any(map(_is_optimisers, key.split(".")))) if given else None


def _is_dense(value: Tensor) -> bool:
    """Whether a tensor has its data here, one number for each entry."""
    return value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized


def _kind_of(value: Tensor) -> str:
    """What a tensor is that cannot be a weight."""
    if value.is_quantized:
        return "quantised"
    if not _is_dense(value):
        return "without its data" if value.device.type == "meta" else "not dense"
    return "its name is no text"


def _is_optimisers(part: str) -> bool:
    words = re.split(r"[^a-z0-9]+", part.lower())
    return not _OPTIMISERS.isdisjoint(words) or _MOMENTS.fullmatch(part.lower()) is not None


def _spelt(names: Collection[str], *, inner: bool) -> dict[str, str] | None:
    """Names to how they are compared; None if without torch's wrappers nothing is left of one, or two become one."""
    if not inner:
        return {name: name for name in names}
    short = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in names}
    spelt = {
        name: _PARAMETRISED_NORM.sub(lambda found: f"{found[1]}_{'gv'[int(found[2])]}", short[name]) for name in names
    }
    return spelt if all(spelt.values()) and len(set(spelt.values())) == len(spelt) else None
