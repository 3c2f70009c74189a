"""What the classes of the published data sets are called, by number."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CLASS_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "fashion-mnist": (
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        "cifar10": (
            "airplane",
            "automobile",
            "bird",
            "cat",
            "deer",
            "dog",
            "frog",
            "horse",
            "ship",
            "truck",
        ),
    }
)
"""By data.name; the other data sets have numbers only."""
