"""The one division of a data set, by seed: training, selection and gate.

Selection is taken out of the training set; the gate is the test set. A set without a test set of its own is
first divided class by class, 60 % to training and selection, 40 % to the gate. All three are in a seeded
random order, so the first n of a split are a random sample of it, and a smaller selection or gate is the
beginning of a larger one. Exact copies are left out (`madx.data.copies`).
Canonical layout of batches: images float32 [n, C, H, W] in [0, 1], labels int64 [n].
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from madx import seeds
from madx.data.copies import Copies, distinct
from madx.data.lookahead import ahead
from madx.data.readers import read
from madx.data.sources import Reading, Source
from madx.errors import DataError
from madx.recipe import DataConfig
from madx.recipe.values import FEWEST_IMAGES

if TYPE_CHECKING:
    from torch import Tensor

GATE_SHARE = 0.4
"""Share of every class that becomes the gate where there is no test set."""

LARGEST_SELECTION = 2000
SELECTION_PART = 10
"""Where the recipe names no number: one of so many images outside the gate is for selection, at most the above."""


@dataclass(frozen=True, eq=False)
class Split:
    """An ordered choice of a source's images."""

    name: str
    """train, selection or gate."""
    source: Source
    index: NDArray[np.int64]
    """Positions in the source, [n]."""

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        return self.source.shape

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.source.classes

    def take(self, n: int) -> Split:
        """The first `n` images; all of them if there are fewer."""
        return replace(self, index=self.index[:n])

    def tensors(self, start: int = 0, stop: int | None = None) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and labels [n] of the slice start:stop, in order."""
        return self.load(self.index[start:stop])

    def load(self, index: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Images [n, C, H, W] and labels [n] at these positions of the source."""
        import torch

        return torch.from_numpy(self.source.images(index)), torch.from_numpy(self.source.labels[index])

    def batches(
        self, batch_size: int, *, shuffle: int | None = None, drop_last: bool = False, start: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels, `batch_size` at a time, one batch decoded ahead; the last batch may be smaller.

        Arguments and errors are those of `order`.
        """
        return ahead(self.load, self.order(batch_size, shuffle=shuffle, drop_last=drop_last, start=start))

    def order(
        self, batch_size: int, *, shuffle: int | None = None, drop_last: bool = False, start: int = 0
    ) -> Iterator[NDArray[np.int64]]:
        """Positions in the source of each batch's images, without decoding any.

        Args:
            batch_size: Images a batch.
            shuffle: Seed of a permutation, derived by the caller; None keeps the order.
            drop_last: Leave out a last batch that is not full.
            start: First batch to yield. Earlier ones are passed over, so a killed pass resumes at once.

        Raises:
            DataError: if with drop_last there is not one batch; a loop over nothing would look like success.
        """
        if batch_size < 1 or start < 0:
            raise DataError(f"batch_size is {batch_size} and start is {start}; expected at least 1 and 0")
        if drop_last and len(self) < batch_size:
            raise DataError(
                f"the {self.name} split has {len(self)} images, which is not one batch of {batch_size}; "
                "lower batch_size or use more images"
            )
        order = self.index if shuffle is None else np.random.default_rng(shuffle).permutation(self.index)
        end = len(order) - len(order) % batch_size if drop_last else len(order)
        return (order[first : min(first + batch_size, end)] for first in range(start * batch_size, end, batch_size))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the images' content (of a large folder: names, sizes, the pixels of some), labels, positions."""
        digest = hashlib.sha256(repr((*self.shape, self.classes, self.source.names)).encode())
        digest.update(_sha256(self.source.labels[self.index].astype("<i8")))
        digest.update(_sha256(self.index.astype("<i8")))
        for part in self.source.identity(self.index):
            digest.update(part)
        return digest.hexdigest()

    @cached_property
    def stamp(self) -> str | None:
        """SHA-256 over what tells on this machine that files were touched; None without files."""
        digest, empty = hashlib.sha256(), True
        for part in self.source.stamps(self.index):
            digest.update(part)
            empty = False
        return None if empty else digest.hexdigest()


@dataclass(frozen=True)
class Splits:
    """The three disjoint parts of the data."""

    train: Split
    """What weights and saliency are computed from."""
    selection: Split
    """For choosing checkpoints and calibrating; taken out of the training set."""
    gate: Split
    """For the measurements that gates judge, and nothing else."""
    copies: Copies = field(default_factory=Copies)
    """What was left out of them."""
    test_alone: bool = False
    """Whether there are test images only, so that the selection is some of the gate."""
    divided: bool = False
    """Whether the set has no test part, so that the gate is a share of all images."""

    @property
    def large(self) -> bool:
        """Whether it takes too long to decode all images for a command."""
        return self.train.source.large or self.gate.source.large

    @property
    def remarks(self) -> tuple[str, ...]:
        """How the data were read and what was passed over, each once."""
        parts = (self.train, self.gate)
        return tuple(dict.fromkeys(remark for part in parts for remark in part.source.remarks))


def load_splits(config: DataConfig, seed: int, *, trains: bool = True) -> Splits:
    """Read the data set and divide it; the same recipe and seed give the same splits, in the same order.

    Arguments and errors are those of `divide`, and the errors of what cannot be read.
    """
    return divide(read(config), config, seed, trains=trains)


def divide(found: Reading, config: DataConfig, seed: int, *, trains: bool) -> Splits:
    """The splits of a data set that was read.

    Args:
        found: what its reader returned.
        config: the recipe's section.
        seed: the recipe's.
        trains: whether anything is trained on the training images; the gate has no copy of them then.

    Raises:
        DataError: if the set is too small for data.selection or data.gate.
    """
    source, test = found
    divided = test is None
    if source is None:
        return _test_alone(test, config, seed, trains=trains)
    if test is None:
        pool, gate = _divide(source.labels)
        test = source
    else:
        pool, gate = np.arange(len(source.labels)), np.arange(len(test.labels))
    pool = seeds.numpy_generator(seed, "split", "selection").permutation(pool)
    gate = seeds.numpy_generator(seed, "split", "gate").permutation(gate)
    selection = _selection(config, len(pool))
    _require_room(config, selection, pool=len(pool), gate=len(gate))
    chosen = pool[:selection]
    train, gate, copies = distinct(
        source, test, train=pool[selection:], selection=chosen, gate=gate, limit=config.gate, trains=trains
    )
    return Splits(
        train=Split("train", source, train),
        selection=Split("selection", source, chosen),
        gate=Split("gate", test, gate),
        copies=copies,
        divided=divided,
    )


def _test_alone(test: Source | None, config: DataConfig, seed: int, *, trains: bool) -> Splits:
    """All images are the gate. What is tried on selection images (scalings, orders) is tried on some of them too.

    Raises:
        DataError: something is to be trained or pruned on them.
    """
    if test is None:
        raise DataError(f"data.name: {config.name} found no images")
    if trains:
        raise DataError(
            f"these data ({config.name}) are test images only, all of which are the gate, and training, pruning and "
            "export need images of their own: judge a finished network with madx verify --engine, or give training "
            "images (a part called train) as well"
        )
    order = seeds.numpy_generator(seed, "split", "gate").permutation(np.arange(len(test.labels)))
    if config.gate is not None and config.gate > len(order):
        raise DataError(f"data.gate is {config.gate}, but {config.name} has only {len(order)} test images; lower it")
    nothing = np.empty(0, np.int64)
    _, gate, copies = distinct(
        test, test, train=nothing, selection=nothing, gate=order, limit=config.gate, trains=trains
    )
    chosen = gate[: config.selection or LARGEST_SELECTION]
    return Splits(
        Split("train", test, nothing), Split("selection", test, chosen), Split("gate", test, gate), copies, True
    )


def _divide(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions outside and inside the gate, with `GATE_SHARE` of every class inside.

    The recipe's seed plays no part: weights that were trained under one seed must not meet their training images in the
    gate of a run with another.
    """
    generator = seeds.numpy_generator(0, "split", "divide")
    outside, inside = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise DataError(
                f"class {label} has a single image, but the set has no test set of its own and every class "
                "is divided between training and gate; give each class at least 2 images"
            )
        count = round(GATE_SHARE * len(members))
        inside.append(members[:count])
        outside.append(members[count:])
    return np.concatenate(outside), np.concatenate(inside)


def _selection(config: DataConfig, pool: int) -> int:
    """How many images the recipe names, or what suits a set of that size."""
    if config.selection is not None:
        return config.selection
    return min(LARGEST_SELECTION, max(FEWEST_IMAGES, pool // SELECTION_PART))


def _require_room(config: DataConfig, selection: int, *, pool: int, gate: int) -> None:
    """At least half of the images outside the gate must remain for training; the gate has what is asked."""
    if selection > pool // 2:
        raise DataError(
            f"data.selection is {selection}, but {config.name} has {pool} images outside the gate and "
            f"at least half of them must remain for training; set data.selection to at most {pool // 2}, "
            f"for example {max(1, pool // 5)}"
        )
    if config.gate is not None and config.gate > gate:
        raise DataError(
            f"data.gate is {config.gate}, but {config.name} has only {gate} test images; "
            f"set data.gate to at most {gate}, or leave it out to use all"
        )


def _sha256(array: NDArray[Any]) -> bytes:
    return hashlib.sha256(array.tobytes()).digest()
