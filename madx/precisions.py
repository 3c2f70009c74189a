"""Precisions of engines: what each rounds, how far it reaches, and what its weights take. One row each.

Nothing else in madx knows a number about a precision: closeness, export, plan and recipe read these rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FEW_FLIPS = 0.01
"""Share of the images that may change their label by float32's rounding."""
_COARSE_FLIPS = 0.05
"""The same of coarser numbers: adversarial examples gather at the border, where those tip more of them. What they tip
is counted in any case, on the engine; beyond a twentieth the torch model is another classifier, whatever explains
it."""
_FP16 = 0.02
_FEWER_BITS = 2 ** (11 - 8)
"""A number of bfloat16 has 8 significant bits, one of float16 has 11: each operation rounds 8 times as coarsely."""
_INT8 = 0.1
"""Of the shipped network (docs/int8.md): files quantised with care differ by up to .05 of the reach, those of which one
layer has half its scale by .17 at least. Whole numbers add up alike in any batch: there less is explained."""


@dataclass(frozen=True)
class Precision:
    """What numbers of one type do to a classifier."""

    rounding: float
    """Difference of logits from the torch model's that it explains, as a share of their reach (`madx.closeness`)."""
    between_batches: float
    """The same between two answers of one engine, asked with other neighbours or in other batches."""
    flips: float
    """Share of the images that may be labelled otherwise than by the torch model while no logit differs by more."""
    weight_bytes: float
    """Of one weight in a file."""
    largest: float = math.inf
    """The largest finite number of the type in which a node gives its output, where networks reach it."""
    exported: bool = True
    """Whether madx makes such files, so that a recipe may ask for one; others are only recognised."""


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        "fp32": Precision(rounding=1e-3, between_batches=1e-3, flips=FEW_FLIPS, weight_bytes=4),
        "fp16": Precision(rounding=_FP16, between_batches=_FP16, flips=_COARSE_FLIPS, weight_bytes=2, largest=65504.0),
        "int8": Precision(rounding=_INT8, between_batches=_FP16, flips=_COARSE_FLIPS, weight_bytes=1),
        "bf16": Precision(
            rounding=_FEWER_BITS * _FP16,
            between_batches=_FEWER_BITS * _FP16,
            flips=_COARSE_FLIPS,
            weight_bytes=2,
            largest=3.3895313892515355e38,
            exported=False,
        ),
    }
)
"""By the word that a recipe and a verdict call it."""
EXPORTED = tuple(name for name, row in PRECISIONS.items() if row.exported)
