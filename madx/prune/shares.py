"""How many channels go, and from among which: every purpose gives its share, and every group of a convolution as many.

What can only go together is a unit, here seen as what it meets: how many channels of it each source and reader has in
each of its groups (block 0 alone where a layer has none). Units that meet the same compete with each other; where they
meet different groups of one convolution, as many go for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from madx.prune.passes import Reader, Source

Met = Mapping[tuple[Source | Reader, int], int]
"""How many channels of a unit lie in a block of a source or reader."""

Part = tuple[tuple[int, ...], int]
"""Units that compete with each other, and how many of them go."""


def shares(units: Sequence[Met], sparsity: float, round_to: int) -> tuple[Part, ...]:
    """Of all units that serve one purpose `sparsity` goes; what a layer keeps of them is a multiple of round_to."""
    families: dict[Hashable, dict[Hashable, list[int]]] = {}
    for number, met in enumerate(units):
        blocks = frozenset((of, block, count) for (of, block), count in met.items() if of.groups > 1)
        by_itself = blocks if _evenly(met) else None
        family = families.setdefault((frozenset(of for of, _ in met), by_itself), {})
        family.setdefault(blocks, []).append(number)
    return tuple(
        part for family in families.values() for part in _of_family(units, [*family.values()], sparsity, round_to)
    )


def uneven(units: Sequence[Met], parts: Iterable[Part]) -> Source | Reader | None:
    """A convolution whose groups would not lose equally many channels, or none."""
    gone: dict[Source | Reader, list[int]] = {}
    for part, count in parts:
        for (of, block), channels in units[part[0]].items():  # in this all of a part are alike
            if of.groups > 1:
                gone.setdefault(of, [0] * of.groups)[block] += count * channels
    return next((of for of, blocks in gone.items() if len({*blocks}) > 1), None)


def _of_family(units: Sequence[Met], family: list[list[int]], sparsity: float, round_to: int) -> list[Part]:
    """Parts that meet the same layers: those of one size share their rounding, as they keep equally many."""
    sizes = {len(part) for part in family}
    together = [family] * len(family) if len(sizes) == 1 else [[part] for part in family]
    return [
        (tuple(part), len(part) - _kept(len(part), sparsity, _step(units, others, round_to)))
        for part, others in zip(family, together, strict=True)
    ]


def _step(units: Sequence[Met], parts: Sequence[Sequence[int]], round_to: int) -> int:
    """How many units of each part make a multiple of round_to of every layer that they meet."""
    channels: dict[Source | Reader, int] = {}
    for part in parts:
        each = [_by_layer(units[number]) for number in part]
        for of, count in each[0].items():
            alike = all(other[of] == count for other in each)
            if of.layer:  # a bias learnt for each head is no width
                channels[of] = channels.get(of, 0) + (count if alike else 1)
    return math.lcm(*(round_to // math.gcd(round_to, count) for count in channels.values()))


def _by_layer(met: Met) -> dict[Source | Reader, int]:
    """The channels of a unit in each layer."""
    totals: dict[Source | Reader, int] = {}
    for (of, _), count in met.items():
        totals[of] = totals.get(of, 0) + count
    return totals


def _evenly(met: Met) -> bool:
    """Whether a unit has equally many channels in all groups of each convolution that it meets."""
    return all(
        {met.get((of, block), 0) for block in range(of.groups)} == {count}
        for (of, _), count in met.items()
        if of.groups > 1
    )


def _kept(channels: int, sparsity: float, round_to: int) -> int:
    """How many of `channels` stay: the nearest multiple of round_to (half goes up), at least one, at most all."""
    multiples = max(1, int((1 - sparsity) * channels / round_to + 0.5))
    return min(channels, multiples * round_to)
