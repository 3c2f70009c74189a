"""Which groups of channels can go: what `coupling` finds, tried out on the network itself.

A forward pass may fix a width (`view(-1, 640)`), cut at a fixed place or count channels; that shows when it runs
without some. A group that cannot go stays whole and says why, and the others go all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from madx.models.copies import copied
from madx.prune.agreement import Comparison, check_same_function
from madx.prune.coupling import coupled, why_whole
from madx.prune.groups import ChannelGroup, Cut, cuts
from madx.prune.heads import all_heads, heads_of, in_step, tied_by_width, why_heads_stay
from madx.prune.layers import NOT_USED, SCORED_LAYERS, listed_layers
from madx.prune.passes import Reader, Source
from madx.prune.probing import probe
from madx.seeds import torch_generator


class Proposal(NamedTuple):
    """A group that may go."""

    group: ChannelGroup
    problem: str
    """Why nothing of it can go, if so."""
    grouped: frozenset[Source | Reader]
    """The convolutions with groups that make or read its channels."""
    apart: Callable[[], tuple[ChannelGroup, str]]
    """The group and its problem where each of its purposes is rounded by itself."""


_TRIALS = 2
"""Random choices of channels that are tried: one may be even by chance where a split needs equal halves."""


def channel_groups(
    module: nn.Module,
    sparsity: float,
    round_to: int,
    *,
    example: Tensor,
    unscored: Mapping[str, str],
    kept: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Every group of which channels go.

    Args:
        module: the dense network, not changed.
        sparsity: share of the channels of each group.
        round_to: what is kept of each group is a multiple of this, and at least one multiple.
        example: images [B, C, H, W]; only their shape counts.
        unscored: layers without scores and why; what is tied to such a convolution or linear layer, or read by it,
            stays whole.
        kept: layers whose outputs the user keeps, and why; what they read may go.

    Returns:
        The groups, and why layers stay whole, those of `unscored` among them.

    Raises:
        ModelError: the network does not run.
    """
    layers = {name for name, layer in listed_layers(module).items() if isinstance(layer, SCORED_LAYERS)}
    unable = {name: reason for name, reason in unscored.items() if name in layers}
    found = {reached.source: reached for reached in probe(module, example)}

    def proposed(aligned: Set[Source | Reader]) -> tuple[list[Proposal], dict[str, str]]:
        """Groups that may go, and why layers stay whole, with these convolutions aligned."""
        proposals: list[Proposal] = []
        reasons: dict[str, str] = {}
        for entry in coupled(list(found.values()), aligned):
            if why := why_whole(entry, found, unable, kept):
                reasons |= why
            else:
                apart = partial(entry.group, sparsity, round_to, apart=True)
                proposals.append(Proposal(*entry.group(sparsity, round_to), entry.grouped, apart))
        return proposals, reasons

    groups, reasons = _tried(proposed, _Trial(module, example.shape))
    followed = {name for group in groups for name in group.makers} | reasons.keys()
    unused = {name: NOT_USED for name in layers if name not in followed}
    return groups, {**unused, **{name: reason for name, reason in reasons.items() if name in layers}, **unscored}


def _tried(
    proposed: Callable[[Set[Source | Reader]], tuple[list[Proposal], dict[str, str]]],
    trial: _Trial,
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """The groups that can go, and why layers stay whole.

    A convolution's groups lose channels by their own choice, or, where that cannot be, all of them the same ones: a
    channel shuffle brings the first of each group together, and then the second. Where channels of several purposes
    cannot make up for each other's rounding, as those of one are a pad of fixed width, each is rounded by itself.
    """
    aligned: frozenset[Source | Reader] = frozenset()
    known: dict[tuple[Any, ...], str] = {}
    while True:
        proposals, reasons = proposed(aligned)
        problems = {id(one.group): one.problem or known.get(_identity(one.group), "") for one in proposals}
        groups = [one.group for one in proposals if not problems[id(one.group)]]
        if all(one.grouped <= aligned for one in proposals if problems[id(one.group)]):
            groups, refused = _chosen(trial, groups)
            problems |= {id(group): problem for group, problem in refused}
            known |= {_identity(group): problem for group, problem in refused}
        failed = [one for one in proposals if problems[id(one.group)]]
        better = frozenset[Source | Reader]().union(*(one.grouped for one in failed))
        if better <= aligned:
            break
        aligned |= better
    for one in failed:
        group, problem = one.apart()
        if not problem and group.parts != one.group.parts and not trial.problem([*groups, group]):
            groups = [*groups, group]
        else:
            reasons |= dict.fromkeys(one.group.makers, problems[id(one.group)])
    return groups, reasons


def _identity(group: ChannelGroup) -> tuple[Any, ...]:
    return group.makers, group.channels, group.parts


def without_channels(
    module: nn.Module,
    groups: Sequence[ChannelGroup],
    scores: Mapping[str, Tensor],
    *,
    shape: torch.Size,
    agreed: bool = False,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What stays of a network when the channels of lowest score go.

    Args:
        module: dense, not changed.
        groups: from `channel_groups`.
        scores: of entries or of channels, on the CPU.
        shape: of images to compare both networks on.
        agreed: whether the same network without the same channels was compared before.

    Returns:
        The smaller network's state, and of its parameters and float buffers the flat positions in the dense one.

    Raises:
        ModelError: the smaller network computes something else than the dense one with those entries at zero.
    """
    cut = _cuts(module, groups, scores)
    state, masks = _smaller(module, cut)
    if groups and not agreed:
        check_same_function(module, state, masks, shape=shape)
    survivors = {}
    for name, tensor in _named(module).items():
        positions = torch.arange(tensor.numel()).view(tensor.shape)
        survivors[name] = cut[name].take(positions) if name in cut else positions
    return state, survivors


def _chosen(trial: _Trial, groups: list[ChannelGroup]) -> tuple[list[ChannelGroup], list[tuple[ChannelGroup, str]]]:
    """The groups that can go, some of them with another share, and the others with the reason.

    Attention that takes the width of its heads from the width of what comes in loses heads and incoming channels in
    step, or neither: such groups are tried together.
    """
    heads = trial.heads
    if any(heads_of(group, heads) for group in groups):
        for attempt in (groups, in_step(groups, heads)):
            if not trial.problem(attempt):
                return attempt, []
    found, refused = _removable(trial, groups)
    for tied in tied_by_width([group for group, _ in refused], heads):
        found = [*found, *_together(trial, found, in_step(tied, heads))]
    going = {group.makers: group for group in found}
    left = [(group, problem + why_heads_stay(group, heads)) for group, problem in refused if group.makers not in going]
    return [going[group.makers] for group in groups if group.makers in going], left


def _together(trial: _Trial, found: list[ChannelGroup], tied: list[ChannelGroup]) -> list[ChannelGroup]:
    """Of groups that cannot go by themselves, those that can go with each other: all but a few in a row, if any."""
    size = len(tied)
    while tied:
        for start in range(0, len(tied), size):
            rest = tied if size == len(tied) else [*tied[:start], *tied[start + size :]]
            if rest and not trial.problem([*found, *rest]):
                return rest
        if size == 1:
            break
        size = -(-size // 2)
    return []


def _removable(trial: _Trial, groups: list[ChannelGroup]) -> tuple[list[ChannelGroup], list[tuple[ChannelGroup, str]]]:
    """The groups that can go together, and the others with the reason; halves are tried where the whole fails."""
    problem = trial.problem(groups)
    if not problem:
        return groups, []
    if len(groups) == 1:
        return [], [(groups[0], problem)]
    half = len(groups) // 2
    first, refused = _removable(trial, groups[:half])
    second, others = _removable(trial, groups[half:])
    refused += others
    if first and second and trial.problem([*first, *second]):  # each half can go, and not both
        for group in second:
            if problem := trial.problem([*first, group]):
                refused.append((group, problem))
            else:
                first = [*first, group]
        return first, refused
    return [*first, *second], refused


class _Trial:
    """A network that is tried without channels."""

    def __init__(self, module: nn.Module, shape: torch.Size) -> None:
        self._module = _stirred(module)
        self.heads = all_heads(self._module)
        self._comparison = Comparison(self._module, shape)

    def problem(self, groups: Sequence[ChannelGroup]) -> str:
        """Why the network does not do without channels of these groups, or nothing."""
        for scores in self._choices(groups) if groups else ():
            state, masks = _smaller(self._module, _cuts(self._module, groups, scores))
            if problem := self._comparison.disagreement(state, masks):
                return problem
        return ""

    def _choices(self, groups: Sequence[ChannelGroup]) -> Iterator[dict[str, Tensor]]:
        """Scores to remove by: random ones, and the reverse of the first where few heads compete.

        By chance the first heads may stay both times, and what depends on a head's place would not show.
        """
        tried = []
        for trial in range(_TRIALS):
            generator = torch_generator(0, "trial", trial)
            tried.append({group.key: torch.rand(group.channels, generator=generator) for group in groups})
        if any(heads_of(group, self.heads) for group in groups):
            tried.append({key: -scores for key, scores in tried[0].items()})
        yield from tried


def _stirred(module: nn.Module) -> nn.Module:
    """A copy without constant parameters: a scale that starts at zero would hide what is wrong with what it scales."""
    module = copied(module)
    generator = torch_generator(0, "trials")
    for parameter in module.parameters():
        if parameter.numel() and (parameter == parameter.flatten()[0]).all():
            parameter.detach().uniform_(0.5, 1.5, generator=generator)
    return module


def _named(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and float buffers under all of their names."""
    buffers = module.named_buffers(remove_duplicate=False)
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **{name: buffer for name, buffer in buffers if buffer.is_floating_point()},
    }


def _cuts(module: nn.Module, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor]) -> dict[str, Cut]:
    """What goes of a network's tensors, under all of their names."""
    named = _named(module)
    first = {id(tensor): name for name, tensor in reversed(named.items())}
    own = cuts(groups, scores, {name: tensor.shape for name, tensor in named.items()})
    return {name: own[first[id(tensor)]] for name, tensor in named.items() if first[id(tensor)] in own}


def _smaller(module: nn.Module, cut: Mapping[str, Cut]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The smaller state, and masks of the parameters that are cut, in the dense shapes."""
    state = module.state_dict()
    for name in state.keys() & cut.keys():
        state[name] = cut[name].take(state[name].detach())
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return state, {name: cut[name].mask() for name in parameters if name in cut}
