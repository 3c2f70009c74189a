"""How far a saliency has settled: what its two halves agree on.

The even and the odd batches give two independent estimates. Each is from n/2 of the n batches, so that the halves
differ more than the whole differs from the truth: where noise moves few entries across the threshold, the whole's kept
set is wrong about HALF as often as the halves disagree, and a rank correlation of r between the halves means one of
about 2 r / (1 + r) between two runs of n batches (Spearman, Brown 1910). Scores are keyed by parameter name; masks are
bool, True = kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from madx.prune.layers import parameter_name, rows_with_bias, scored_layers
from madx.seeds import torch_generator
from madx.stats import spearman

Scores = Mapping[str, Tensor]
Keep = Callable[[Scores], Mapping[str, Tensor]]
"""The pruning rule at the target sparsity and structure: scores -> masks; a parameter without a mask is kept whole."""

_RANKED = 2**20
"""Entries that the rank correlation looks at; of a larger network it takes as many, spread evenly."""


@dataclass(frozen=True)
class Round:
    """What the halves of the first `batches` batches agree on."""

    batches: int
    correlation: float | None
    """Spearman's, within each pool that is ranked together, averaged over the pools by size; None without any rank."""
    overlap: float
    """Jaccard index of the halves' kept sets, or of what they remove where that is less."""
    chance: float
    """The overlap that independent random halves would have, with the same shares kept of each parameter."""


@dataclass(frozen=True)
class Settling:
    """When to look at the halves, what they are asked, and when they agree enough."""

    keep: Keep
    enough: float
    """The saliency has settled when the overlap was at least this twice in a row."""
    stops: bool = False
    """Whether no more batches are taken then."""
    tell: Callable[[Round], None] = lambda _: None
    """Hears of every round."""

    def reached(self, curve: Sequence[Round]) -> bool:
        """Whether the saliency has settled."""
        return has_settled(curve, self.enough)

    def measure(self, model: nn.Module, halves: tuple[Scores, Scores], batches: int) -> Round:
        """Compare the halves of `batches` batches: at most a few sorts of the scores."""
        one, other = (self.keep(_ties_at_random(half, number)) for number, half in enumerate(halves))
        found = Round(batches, correlation(model, *halves), *overlap(one, other))
        self.tell(found)
        return found


def has_settled(curve: Sequence[Round], enough: float) -> bool:
    """Whether the last two rounds agree enough: where few channels are chosen from, one may do so by luck."""
    return len(curve) >= 2 and all(point.overlap >= enough for point in curve[-2:])


def looks_at(batches: int) -> bool:
    """Whether the halves are compared after that many batches: 2, 4, 6, 8, 12, 16, 24, ...

    Powers of two and three times those, so that the cost grows with the logarithm of the batches, and both halves
    always have the same number of batches.
    """
    odd = batches // (batches & -batches) if batches else 0
    return batches % 2 == 0 and odd in (1, 3)


def batches_needed(point: Round, enough: float) -> int:
    """Batches after which the overlap would be `enough`, by the rule that noise falls with their square root.

    The disagreement d = 1 - 2 J / (1 + J), the share of one half's kept set that the other has not, is in proportion to
    the noise once it is small; from far off it falls more slowly, so that this is a lower limit.
    """
    now, then = (1 - 2 * overlap / (1 + overlap) for overlap in (point.overlap, enough))
    return max(point.batches, math.ceil(point.batches * (now / then) ** 2))


def correlation(model: nn.Module, one: Scores, other: Scores) -> float | None:
    """Spearman's rank correlation of two scores of the same network, tied entries at their mean rank.

    Entries are ranked as unstructured pruning pools them: all convolutions together, and each output row of a linear
    layer with its bias. The pools' correlations are averaged by size.
    """
    ours, theirs = _pools(model, one), _pools(model, other)
    share = _RANKED / max(_RANKED, sum(pool.numel() for pool in ours))
    values, sizes = [], []
    for first, second in zip(ours, theirs, strict=True):
        rows, columns = _sample(first.shape, share)
        values.append(spearman(*(pool[rows][:, columns].cpu().numpy() for pool in (first, second))))
        sizes.append(np.full(len(rows), len(columns)))
    value, size = np.concatenate(values), np.concatenate(sizes)
    known = np.isfinite(value)
    return float(np.average(value[known], weights=size[known])) if known.any() else None


def overlap(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> tuple[float, float]:
    """Jaccard index of what two masks keep (of what they remove, if that is less), and what chance would give.

    Parameters that both keep whole say nothing and are left out; if nothing is removed at all, the overlap is 1.
    """
    pairs = [(one[name], other[name]) for name in one if not (one[name].all() and other[name].all())]
    kept = sum(int(first.sum()) for first, _ in pairs)
    if 2 * kept > sum(first.numel() for first, _ in pairs):
        pairs = [(~first, ~second) for first, second in pairs]
    both = sum(int((first & second).sum()) for first, second in pairs)
    either = sum(int((first | second).sum()) for first, second in pairs)
    if either == 0:
        return 1.0, 1.0
    counts = [(int(first.sum()), int(second.sum()), first.numel()) for first, second in pairs]
    by_chance = sum(first * second / size for first, second, size in counts)
    return both / either, by_chance / (sum(first + second for first, second, _ in counts) - by_chance)


def _pools(model: nn.Module, scores: Scores) -> list[Tensor]:
    """Scores as unstructured pruning ranks them: [rows, entries], each row for itself."""
    convolutions: list[Tensor] = []
    pools: list[Tensor] = []
    for name, layer in scored_layers(model).items():
        own = [scores[full] for kind in ("weight", "bias") if (full := parameter_name(name, kind)) in scores]
        if own and isinstance(layer, nn.Linear):
            pools.append(rows_with_bias(own))
        else:
            convolutions += [score.flatten() for score in own]
    return [torch.cat(convolutions)[None], *pools] if convolutions else pools


def _sample(shape: torch.Size, share: float) -> tuple[Tensor, Tensor]:
    """Rows and columns of a pool that stand for all: whole rows at even steps, or random entries of a single row."""
    rows, columns = (torch.arange(size) for size in shape)
    if share == 1:
        return rows, columns
    if len(rows) > 1:
        return rows[:: max(1, int(1 / share))], columns
    # Even steps would always meet the same position of a kernel.
    wanted = (math.ceil(len(columns) * share),)
    return rows, torch.randint(len(columns), wanted, generator=torch_generator(0, "ranked")).sort().values


def _ties_at_random(half: Scores, number: int) -> dict[str, Tensor]:
    """Scores of zero in an order of this half's own.

    A weight that no mask has touched scores exactly 0, and a rule would keep the same ones of them in both halves, by
    their position: an agreement that says nothing about the images.
    """
    touched = [score[score != 0].abs().min() for score in half.values() if bool(score.any())]
    least = float(torch.stack(touched).min()) / 2 if touched else 1.0
    generator = torch_generator(0, "ties", number)
    broken: dict[str, Tensor] = {}
    for name, score in half.items():
        zero = score == 0
        noise = torch.rand(int(zero.sum()), generator=generator, dtype=torch.float64) * (2 * least) - least
        broken[name] = score.masked_scatter(zero, noise.to(score))
    return broken
