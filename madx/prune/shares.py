"""How many channels go, and from among which: every purpose gives its share, and every group of a convolution as many.

What can only go together is a unit, here seen as what it meets: how many channels of it each source and reader has in
each of its groups (block 0 alone where a layer has none). Units that meet the same compete with each other; where they
meet different groups of one convolution, as many go for each of them. Where a layer has units of several purposes (a
shortcut that grows, of which later layers have more), what one has been rounded up the next is rounded down, so that
what the layer keeps of all is near its share, and not further from it with every purpose; unless another layer, that
has channels of this purpose alone, would be further from its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence

from madx.prune.passes import Reader, Source

Met = Mapping[tuple[Source | Reader, int], int]
"""How many channels of a unit lie in a block of a source or reader."""

_EQUAL = 1e-6
"""Channels: far below one, far above rounding."""

Part = tuple[tuple[int, ...], int]
"""Units that compete with each other, and how many of them go."""


def shares(units: Sequence[Met], sparsity: float, round_to: int, *, apart: bool = False) -> tuple[Part, ...]:
    """Of all units that serve one purpose `sparsity` goes; what a layer keeps of them is a multiple of round_to.

    Args:
        units: what can only go together.
        sparsity: share that goes.
        round_to: what is kept is a multiple of it.
        apart: whether every purpose is rounded by itself, whatever else its layers have.
    """
    families: dict[Hashable, dict[Hashable, list[int]]] = {}
    for number, met in enumerate(units):
        blocks = frozenset((of, block, count) for (of, block), count in met.items() if of.groups > 1)
        by_itself = blocks if _evenly(met) else None
        family = families.setdefault((frozenset(of for of, _ in met), by_itself), {})
        family.setdefault(blocks, []).append(number)
    beyond = _Beyond(apart)
    return tuple(
        part
        for family in families.values()
        for part in _of_family(units, [*family.values()], sparsity, round_to, beyond)
    )


class _Beyond:
    """How many channels layers keep beyond their shares, as purpose after purpose is rounded."""

    def __init__(self, apart: bool) -> None:
        self._channels: dict[Source | Reader, float] = {}
        self._apart = apart

    def is_nearer(self, each: Mapping[Source | Reader, float], one: float, other: float) -> bool:
        """Whether `one` unit too many is better than `other`: some layer is nearer its share, and none is further.

        A unit has `each` channels of a layer. Never where a convolution has groups: those that meet one group must lose
        as many as those of another.
        """
        if self._apart or any(of.groups > 1 for of in each):
            return False
        before = {of: self._channels.get(of, 0.0) for of in each}
        gained = [abs(before[of] + other * count) - abs(before[of] + one * count) for of, count in each.items()]
        return min(gained) > -_EQUAL and max(gained) > _EQUAL

    def add(self, each: Mapping[Source | Reader, float], units: float) -> None:
        """So many units more than its share are kept of a purpose."""
        for of, count in each.items():
            self._channels[of] = self._channels.get(of, 0.0) + units * count


def uneven(units: Sequence[Met], parts: Iterable[Part]) -> Source | Reader | None:
    """A convolution whose groups would not lose equally many channels, or none."""
    gone: dict[Source | Reader, list[int]] = {}
    for part, count in parts:
        for (of, block), channels in units[part[0]].items():  # in this all of a part are alike
            if of.groups > 1:
                gone.setdefault(of, [0] * of.groups)[block] += count * channels
    return next((of for of, blocks in gone.items() if len({*blocks}) > 1), None)


def _of_family(
    units: Sequence[Met], family: list[list[int]], sparsity: float, round_to: int, beyond: _Beyond
) -> list[Part]:
    """Parts that meet the same layers: those of one size share their rounding, as they keep equally many."""
    sizes = {len(part) for part in family}
    together = [family] * len(family) if len(sizes) == 1 else [[part] for part in family]
    parts: list[Part] = []
    for part, others in zip(family, together, strict=True):
        each = _mean_by_layer([units[number] for number in part])
        wanted = (1 - sparsity) * len(part)
        step = _step(units, others, round_to)
        kept = _kept(len(part), wanted, step)
        for count in (kept - step, kept + step):
            possible = 0 < count <= len(part) and count % step == 0
            if possible and beyond.is_nearer(each, count - wanted, kept - wanted):
                kept = count
                break
        beyond.add(each, kept - wanted)
        parts.append((tuple(part), len(part) - kept))
    return parts


def _mean_by_layer(part: Sequence[Met]) -> dict[Source | Reader, float]:
    """Channels of a unit in each layer, on average."""
    totals: dict[Source | Reader, float] = {}
    for met in part:
        for of, count in _by_layer(met).items():
            totals[of] = totals.get(of, 0.0) + count / len(part)
    return totals


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


def _kept(channels: int, wanted: float, round_to: int) -> int:
    """How many of `channels` stay: the nearest multiple of round_to (half goes up), at least one, at most all."""
    multiples = max(1, int(max(wanted, 0.0) / round_to + 0.5))
    return min(channels, multiples * round_to)
