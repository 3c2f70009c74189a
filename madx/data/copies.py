"""Exact copies: an image that two splits have, or that the gate has twice.

A network does better on what it was trained on than on what it will see, and confidence limits count independent
images. So the gate keeps none that is outside of it too, and each of its own once; training leaves to the selection
what both have. Copies are known by the digests of their content; of a set that is too large to read for that, only
those images are read that look alike at a glance (as long, with the same head and end).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.data.sources import Source

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """How many images were left out because another is the same."""

    of_others: int = 0
    """Test images that training or selection has; if they are kept, those of them that are in the gate."""
    in_gate: int = 0
    """Further copies of the gate's images."""
    disputed: int = 0
    """Of the gate's images, those with a copy of another label."""
    in_training: int = 0
    """Images of the training split that the selection has."""
    kept: bool = False
    """Whether those that training or selection has are in the gate all the same: nothing is trained on them here."""
    lacking: int = 0
    """How many images the gate has less than the recipe asks for, because of copies."""

    def sentences(self) -> list[str]:
        """What to say of it."""
        found = []
        if self.of_others and self.kept:
            found.append(
                f"{self.of_others} gate images are also training or selection images of this recipe; if the network "
                "was trained on them, it is right more often than on images that it has not seen"
            )
        elif self.of_others:
            found.append(
                f"{self.of_others} test images are also training or selection images, and are left out of the gate"
            )
        if self.in_gate:
            found.append(
                f"{self.in_gate} test images are identical to images of the gate, where each counts once and not more "
                "than once"
            )
        if self.lacking:
            found.append(
                f"the gate has {self.lacking} images less than data.gate asks for: no more are left without copies"
            )
        if self.disputed:
            found.append(f"{self.disputed} gate images have an identical image with another label, which is left out")
        if self.in_training:
            found.append(f"{self.in_training} training images are also selection images, and are left out of training")
        return found


def distinct(
    source: Source,
    test: Source,
    *,
    train: Positions,
    selection: Positions,
    gate: Positions,
    limit: int | None,
    trains: bool,
) -> tuple[Positions, Positions, Copies]:
    """The training and the gate's positions without copies, in their order, and what was left out.

    Args:
        source: what training and selection are taken from.
        test: what the gate is taken from; may be the same.
        train: positions in `source`.
        selection: positions in `source`.
        gate: positions in `test`.
        limit: how many images the gate has at most.
        trains: whether this run trains on the training images; if not, the gate keeps what is there too.
    """
    chosen, trained, judged = _contents((source, selection), (source, train), (test, gate))
    elsewhere, twice = np.isin(judged, np.concatenate([trained, chosen])), ~_first(judged)
    kept = np.flatnonzero(~twice & ~(elsewhere & trains))[:limit]
    alike = twice & np.isin(judged, judged[kept])
    copies = Copies(
        of_others=int(elsewhere.sum() if trains else elsewhere[kept].sum()),
        in_gate=int(alike.sum()),
        disputed=_disputed(judged, test.labels[gate], kept),
        in_training=int(np.isin(trained, chosen).sum()),
        kept=not trains,
        lacking=max(0, (limit or 0) - len(kept)),
    )
    return train[~np.isin(trained, chosen)], gate[kept], copies


def _contents(*parts: tuple[Source, Positions]) -> list[NDArray[np.bytes_]]:
    """For each image what its copies share; of images that are like no other at a glance, that glance."""
    glances = [source.glances(index) for source, index in parts]
    _, places, counts = np.unique(np.concatenate(glances), return_inverse=True, return_counts=True)
    alike = np.split(counts[places] > 1, np.cumsum([len(found) for found in glances])[:-1])
    contents = []
    for (source, index), found, rows in zip(parts, glances, alike, strict=True):
        content = found.copy()
        content[rows] = source.digests(index[rows])
        contents.append(content)
    return contents


def _first(digests: NDArray[np.bytes_]) -> NDArray[np.bool_]:
    """Where a digest occurs for the first time, [n]."""
    found = np.zeros(len(digests), dtype=bool)
    found[np.unique(digests, return_index=True)[1]] = True
    return found


def _disputed(digests: NDArray[np.bytes_], labels: NDArray[np.int64], kept: Positions) -> int:
    """How many of the images kept are there under another label too."""
    seen: dict[bytes, set[int]] = {}
    for content, label in zip(digests, labels, strict=True):
        seen.setdefault(bytes(content), set()).add(int(label))
    return sum(len(seen[bytes(digests[row])]) > 1 for row in kept)
