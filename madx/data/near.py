"""Near copies: images that differ from another by a grey level or two, as frames of a film or files saved twice do.

Confidence limits count independent images, and a network does better on what it was trained on. Copies that are the
same to the bit are known by their digests (`madx.data.copies`); here images are compared as thumbnails first, and what
is near there pixel by pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madx.data.splits import Split

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 8
"""Of a thumbnail: means of the image's parts over all channels."""
NEAR = 2 / 255
"""Largest difference of two thumbnails that are near ..."""
CONTRAST = 0.05
"""... and no more than this share of what tells the gate's thumbnails apart at any place: dim images, or those of a
camera that stands still, are not alike for that."""
_MOST_PAIRS = 1_000_000
"""Pairs that are looked at; where more are near, only the nearer ones are."""
_NOTHING = 1e-6
_PIXELS = 3 / 255
"""Largest root mean square difference of the images themselves."""
MOST_COPIES = 0.01
"""Share of the gate's images that may be near copies before its limits are doubted: public sets have some."""
_AT_ONCE = 2**26
"""Bytes of images that are made smaller together."""
_REMEMBERED = 64
"""Images that are kept while pairs are compared: a frame of a film is near many others."""
_DIRECTIONS = 8
"""Directions in which thumbnails are looked up; a difference is never larger there."""


@dataclass(frozen=True)
class Near:
    """What is nearly the same as another image."""

    images: int
    """N, of the gate."""
    different: int
    """How many of these are different images, where near copies of each other count as one."""
    trained: int
    """How many are near copies of training images."""


def near_copies(gate: Split, train: Split | None) -> Near:
    """Near copies among the gate's images, and of training images among them.

    Args:
        gate: its images are compared with each other.
        train: and with these, if any.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    own = _thumbnails(gate)
    threshold = min(NEAR, CONTRAST * float(own.std(axis=0).max()))
    pairs = _near(gate, own, gate, own, threshold)
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(own), len(own)))
    different, _ = connected_components(links, directed=False)
    trained = 0
    if train is not None and len(train):
        trained = len(np.unique(_near(gate, own, train, _thumbnails(train), threshold)[:, 0]))
    return Near(images=len(own), different=int(different), trained=trained)


def _thumbnails(split: Split) -> NDArray[np.float32]:
    """Means of every image's parts, [n, SIDE * SIDE]."""
    import torch.nn.functional as F

    parts = []
    for images, _ in split.batches(max(1, _AT_ONCE // (4 * prod(split.shape)))):
        small = F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), SIDE)
        parts.append(small.flatten(1).numpy())
    return np.concatenate(parts)


def _near(
    a: Split, small_a: NDArray[np.float32], b: Split, small_b: NDArray[np.float32], threshold: float
) -> NDArray[np.int64]:
    """[m, 2] rows of `a` and of `b` that are near copies; within one split each pair once."""
    from scipy.spatial import KDTree

    draws = np.random.default_rng(0).standard_normal((SIDE * SIDE, _DIRECTIONS))
    directions = np.linalg.qr(draws)[0]
    tree, asked = KDTree(small_b @ directions), small_a @ directions
    while tree.query_ball_point(asked, threshold * SIDE, workers=-1, return_length=True).sum() > _MOST_PAIRS:
        threshold /= 2
        if threshold < _NOTHING:
            break
    found = tree.query_ball_point(asked, threshold * SIDE, workers=-1, return_sorted=True)
    rows = np.repeat(np.arange(len(found)), [len(near) for near in found])
    others = np.concatenate([np.asarray(near, dtype=np.int64) for near in found]) if len(rows) else rows
    keep = others > rows if a is b else np.ones(len(rows), dtype=bool)
    rows, others = rows[keep], others[keep]
    keep = np.abs(small_a[rows] - small_b[others]).max(axis=1, initial=0.0) <= threshold
    rows, others = rows[keep], others[keep]
    one, two = _images_of(a), _images_of(b)
    alike = np.array([_alike(one(row), two(other)) for row, other in zip(rows, others, strict=True)], dtype=bool)
    return np.stack([rows, others], axis=1)[alike] if len(rows) else np.zeros((0, 2), dtype=np.int64)


def _images_of(split: Split) -> Callable[[int], Tensor]:
    """The image of a row, [1, C, H, W]; the last ones that were asked for are not decoded again."""
    return lru_cache(_REMEMBERED)(lambda row: split.tensors(row, row + 1)[0])


def _alike(one: Tensor, two: Tensor) -> bool:
    """Whether the images themselves are near."""
    return float((one - two).square().mean().sqrt()) <= _PIXELS
