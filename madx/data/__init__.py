"""Labelled images: readers for local data sets, and the one seeded split into training, selection and gate.

Canonical layout: images float32 [n, C, H, W] in [0, 1], labels int64 [n]. Images stay as they are on
disk (uint8, or files) and become float32 one batch at a time. The gate's images come from the test set and
are touched by nothing else.
"""

from madx.data.composition import describe
from madx.data.lookahead import Ahead, ahead
from madx.data.places import data_root
from madx.data.sources import ArraySource, Source, array_source
from madx.data.splits import Split, Splits, load_splits

__all__ = [
    "Ahead",
    "ArraySource",
    "Source",
    "Split",
    "Splits",
    "ahead",
    "array_source",
    "data_root",
    "describe",
    "load_splits",
]
