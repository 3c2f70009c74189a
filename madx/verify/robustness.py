"""Accuracy of the two deployed engines on the same images, clean and under attack.

An engine gives no gradients: adversaries are made by the caller on torch twins (of the dense and of the pruned
network) and every example is scored on BOTH engines, so that both face the same budget. What an adversary returns is
projected back and scored again here; it is never trusted.

Measuring one chunk is a pure function; chunks are joined by `Accuracy.concatenate`. Images are float32 NCHW in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madx.errors import ArtifactError, MadxError
from madx.recipe.models import ThreatConfig
from madx.verify.arrays import Bools
from madx.verify.contract import Images, Logits, check_images, logits_of
from madx.verify.measurements import Accuracy
from madx.verify.projection import project

if TYPE_CHECKING:
    from torch import Tensor

Adversary = Callable[["Tensor", "Tensor", int], "Tensor"]
"""(images [B, C, H, W], labels [B], chunk number) -> examples [B, C, H, W]; deterministic in its arguments."""

_NOTHING_STORED: Mapping[int, Accuracy] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class Chunk:
    """Images that are measured together."""

    number: int
    """Its place in the order; the adversaries derive their random numbers from it."""
    index: NDArray[np.int64]
    """[n] positions in the source."""
    images: Images
    """[n, C, H, W] float32 in [0, 1]."""
    labels: NDArray[np.int64]
    """[n]"""


def measure_chunk(
    reference: Logits,
    candidate: Logits,
    *,
    chunk: Chunk,
    adversaries: Sequence[tuple[str, Adversary]],
    threat: ThreatConfig,
) -> Accuracy:
    """Score one chunk on both engines.

    An adversary sees the images that still stand on at least one of the engines; an image is robust on an engine when
    it is classified correctly clean and on every adversary's example.

    Args:
        reference: the dense engine.
        candidate: the pruned engine.
        chunk: the images.
        adversaries: (name, adversary) pairs with different names; at least one.
        threat: norm and eps that the examples are held to.

    Raises:
        DataError: if the images are not images in [0, 1].
        EngineError: if an engine returns something other than finite logits.
        MadxError: if there is no adversary, a name is used twice, or an adversary returns no images.
    """
    names = tuple(name for name, _ in adversaries)
    if not names or len(set(names)) < len(names):
        raise MadxError(f"the adversaries are named {list(names)}; expected at least one, and each name once")
    check_images(chunk.images)
    clean = [_correct(engine, chunk.images, chunk.labels) for engine in (reference, candidate)]
    standing = [clean[0].copy(), clean[1].copy()]
    attacked = np.zeros((len(names), len(chunk.index)), dtype=bool)
    outcomes = np.zeros((2, *attacked.shape), dtype=bool)
    overrun = np.zeros(len(names))
    for row, (_, adversary) in enumerate(adversaries):
        chosen = np.flatnonzero(standing[0] | standing[1])
        if len(chosen) == 0:
            break
        examples, overrun[row] = _examples(adversary, chunk, chosen, threat)
        attacked[row, chosen] = True
        for side, engine in enumerate((reference, candidate)):
            outcomes[side, row, chosen] = _correct(engine, examples, chunk.labels[chosen])
            standing[side][chosen] &= outcomes[side, row, chosen]
    return Accuracy(
        index=chunk.index,
        labels=chunk.labels,
        clean_reference=clean[0],
        clean_candidate=clean[1],
        attacks=names,
        attacked=attacked,
        standing_reference=outcomes[0],
        standing_candidate=outcomes[1],
        overrun=overrun,
    )


def measure_accuracy(
    reference: Logits,
    candidate: Logits,
    *,
    chunks: Iterable[Chunk],
    adversaries: Sequence[tuple[str, Adversary]],
    threat: ThreatConfig,
    stored: Mapping[int, Accuracy] = _NOTHING_STORED,
    on_chunk: Callable[[int, Accuracy], None] = lambda _number, _value: None,
) -> Accuracy:
    """Score every chunk that is not stored, and join all.

    Args:
        reference: the dense engine.
        candidate: the pruned engine.
        chunks: the images, in order.
        adversaries: as in `measure_chunk`.
        threat: norm and eps.
        stored: values of chunks that an earlier, killed run finished, by chunk number.
        on_chunk: called with each newly measured chunk, so that it can be stored.

    Raises:
        ArtifactError: if a stored chunk is not of these images or these adversaries.
        MadxError: as in `measure_chunk`.
    """
    names = tuple(name for name, _ in adversaries)
    parts = []
    for chunk in chunks:
        if chunk.number in stored:
            value = _checked(stored[chunk.number], chunk, names)
        else:
            value = measure_chunk(reference, candidate, chunk=chunk, adversaries=adversaries, threat=threat)
            on_chunk(chunk.number, value)
        parts.append(value)
    return Accuracy.concatenate(parts)


def _correct(engine: Logits, images: Images, labels: NDArray[np.int64]) -> Bools:
    right: Bools = logits_of(engine, images).argmax(axis=1) == labels
    return right


def _examples(
    adversary: Adversary, chunk: Chunk, chosen: NDArray[np.intp], threat: ThreatConfig
) -> tuple[Images, float]:
    """The adversary's examples of the chosen images, projected; and how far they had to be."""
    import torch

    images, labels = chunk.images[chosen], chunk.labels[chosen]
    # Indexing has copied the images; one more copy is the adversary's own, to do with as it likes.
    returned = adversary(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()), chunk.number)
    projected = project(returned.detach().float().cpu().numpy(), images, threat)
    return projected.images, projected.overrun


def _checked(value: Accuracy, chunk: Chunk, names: tuple[str, ...]) -> Accuracy:
    if value.attacks != names or not np.array_equal(value.index, chunk.index):
        raise ArtifactError(
            f"the stored chunk {chunk.number} holds other images or attacks than this run asks for; delete it"
        )
    return value
