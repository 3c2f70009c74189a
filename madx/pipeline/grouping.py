"""Which channels of a recipe's network go together and what stays, before any of its hours are spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from madx.pipeline.context import Context
from madx.prune import Rule, all_heads, heads_of


@dataclass(frozen=True)
class GroupRow:
    """One group of channels: each goes from all of these layers or from none."""

    makers: tuple[str, ...]
    channels: int
    removed: int
    readers: tuple[str, ...]
    along: tuple[str, ...]
    """Normalisations and parameters of their own that lose the same channels."""
    heads: str = ""
    """If each of these channels is all of an attention head: the attribute of the network that counts them."""


@dataclass(frozen=True)
class Grouping:
    """What the structure of a recipe's prune section can take."""

    groups: tuple[GroupRow, ...]
    whole: dict[str, str]
    """Layers that stay whole, and why."""

    def to_json(self) -> dict[str, Any]:
        """For machines."""
        return {"groups": [vars(row) for row in self.groups], "whole": self.whole}


def grouping(context: Context) -> Grouping:
    """Follow the channels of the recipe's network, which needs the shape of the data and no weights.

    Raises:
        ModelError: the network does not run.
        RecipeError: prune.keep or prune.only names no layer.
    """
    module = context.new_model().cpu().eval()
    rule = Rule(module, context.recipe.prune, example=torch.zeros(2, *context.splits.train.shape))
    groups, reasons = rule.groups
    known = all_heads(module)
    rows = []
    for group in groups:
        readers = dict.fromkeys(place.parameter.rpartition(".")[0] for place in group.places if place.reads)
        layers = {*group.makers, *readers}
        others = dict.fromkeys(
            place.parameter.rpartition(".")[0] or place.parameter
            for place in group.places
            if not place.reads and place.parameter.rpartition(".")[0] not in layers
        )
        removed = sum(count for _, count in group.parts)
        heads = heads_of(group, known)
        counted = heads.told if heads else ""
        rows.append(GroupRow(group.makers, group.channels, removed, tuple(readers), tuple(others), counted))
    return Grouping(tuple(rows), reasons)
