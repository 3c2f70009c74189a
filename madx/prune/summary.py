"""What a person needs to see of a saliency: per layer its mean, its spread and what of it was kept.

Scores are signed and span many orders of magnitude, so the bins of the histograms are logarithmic in both directions
from zero; every layer has the same ones. A layer's entries are its weight's and its bias's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.prune.layers import parameter_name, scored_layers

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Levels of LayerSaliency.quantiles."""
_BINS_A_DECADE = 4
_MOST_DECADES = 9
_LEFT_AT_ZERO = 0.01
"""Share of the nonzero entries that may fall into the middle bin, so that a few tiny ones do not squeeze the rest."""


@dataclass(frozen=True)
class LayerSaliency:
    """The scores of one layer."""

    name: str
    entries: int
    kept: int
    mean: float
    negative: float
    """Share of the entries below zero."""
    zero: float
    """Share of the entries that are exactly zero: no gradient reached them (mad-paper: no mask has touched them)."""
    quantiles: tuple[float, ...]
    """At the levels QUANTILES."""
    kept_counts: tuple[int, ...]
    """Kept entries in each bin."""
    removed_counts: tuple[int, ...]
    """Removed entries in each bin."""


@dataclass(frozen=True)
class SaliencySummary:
    """Layers in the network's order; `edges` bound the bins, one more than there are counts."""

    edges: tuple[float, ...]
    layers: tuple[LayerSaliency, ...]
    threshold: float | None
    """The lowest score that was kept of the convolutions, where all that were removed score no higher; else None."""

    def to_json(self) -> dict[str, Any]:
        """For saliency.json."""
        return {"quantile_levels": QUANTILES} | asdict(self)


def summarise(module: nn.Module, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> SaliencySummary:
    """Summary of every scored layer.

    Args:
        module: the dense network.
        scores: finite, by parameter name; a layer without scores is left out.
        masks: of dense shapes, True = kept; a parameter without one is whole.
    """
    parts = {name: _entries(name, layer, scores, masks) for name, layer in scored_layers(module).items()}
    parts = {name: part for name, part in parts.items() if part[0].size}
    edges = _bin_edges(np.concatenate([values for values, _ in parts.values()] or [np.zeros(0)]))
    convolutions = [part for name, part in parts.items() if not isinstance(module.get_submodule(name), nn.Linear)]
    return SaliencySummary(
        edges=tuple(edges.tolist()),
        layers=tuple(_layer(name, values, kept, edges) for name, (values, kept) in parts.items()),
        threshold=_threshold(convolutions),
    )


Part = tuple[NDArray[np.float64], NDArray[np.bool_]]
"""A layer's scores and which of them are kept, both flat."""


def _entries(name: str, layer: nn.Module, scores: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Part:
    own = [parameter_name(name, kind) for kind, _ in layer.named_parameters(recurse=False)]
    found = [key for key in own if key in scores]
    if not found:
        return np.zeros(0), np.zeros(0, dtype=np.bool_)
    values = torch.cat([scores[key].flatten() for key in found]).double()
    kept = torch.cat([masks[key].flatten() if key in masks else _whole(scores[key]) for key in found])
    return values.cpu().numpy(), kept.cpu().numpy()


def _whole(score: Tensor) -> Tensor:
    return torch.ones(score.numel(), dtype=torch.bool, device=score.device)


def _layer(
    name: str, values: NDArray[np.float64], kept: NDArray[np.bool_], edges: NDArray[np.float64]
) -> LayerSaliency:
    return LayerSaliency(
        name=name,
        entries=values.size,
        kept=int(kept.sum()),
        mean=float(values.mean()),
        negative=float((values < 0).mean()),
        zero=float((values == 0).mean()),
        quantiles=tuple(np.quantile(values, QUANTILES).tolist()),
        kept_counts=tuple(np.histogram(values[kept], edges)[0].tolist()),
        removed_counts=tuple(np.histogram(values[~kept], edges)[0].tolist()),
    )


def _bin_edges(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole decades in both directions as far as there are scores, and one bin around zero between them."""
    sizes = np.abs(values[values != 0])
    if not sizes.size:
        return np.array([-1.0, 1.0])
    highest = int(np.ceil(np.log10(sizes.max())))
    lowest = int(np.floor(np.log10(np.quantile(sizes, _LEFT_AT_ZERO))))
    lowest = min(max(lowest, highest - _MOST_DECADES), highest - 1)
    sides = []
    for side in (-values[values < 0], values[values > 0]):
        top = int(np.ceil(np.log10(side.max()))) if side.size else lowest
        steps = max(0, top - lowest) * _BINS_A_DECADE
        # Rounding must not leave the largest score outside the last bin.
        edges = 10.0 ** (lowest + np.arange(steps + 1) / _BINS_A_DECADE)
        edges[-1] = max(edges[-1], side.max(initial=0))
        sides.append(edges)
    negative, positive = sides
    return np.concatenate([-negative[::-1], positive])


def _threshold(parts: list[Part]) -> float | None:
    """The score that parts what was removed of the pool from what was kept, if one does."""
    removed = [values[~kept].max() for values, kept in parts if not kept.all()]
    staying = [values[kept].min() for values, kept in parts if kept.any()]
    if not removed or not staying or max(removed) > min(staying):
        return None
    return float(min(staying))
