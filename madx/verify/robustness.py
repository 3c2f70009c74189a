"""Accuracy of the two deployed engines (or of the candidate alone) on the same images, clean and under attack.

An engine gives no gradients: adversaries are the caller's, with slopes from torch twins (of the dense and of the pruned
network) or from nothing but the engine's answers, and every example is scored on BOTH engines, so that both face the
same budget. What an adversary returns is projected back and scored again here; it is never trusted.

Measuring one chunk is a pure function; chunks are joined by `Accuracy.concatenate`. Images are float32 NCHW in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from madx.closeness import apart
from madx.errors import MadxError
from madx.recipe.threat import ThreatConfig
from madx.seeds import numpy_generator
from madx.verify.answers import Answers
from madx.verify.arrays import Bools
from madx.verify.contract import Classifier, Images, check_images, in_batches, logits_of, names_one_class
from madx.verify.gallery import Gallery
from madx.verify.measurements import Accuracy, Kind
from madx.verify.projection import project

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """What an adversary made of a batch."""

    images: Tensor
    """[B, C, H, W], in the order of the images it was given."""
    forward: int = 0
    """Images that went through a network for it, forward only."""
    gradient: int = 0
    """Images that went through a network forward and backward."""


@dataclass(frozen=True)
class Adversary:
    """One attacker of both engines."""

    name: str
    kind: Kind
    attack: Callable[[Tensor, Tensor, int], Examples]
    """(images [B, C, H, W], labels [B], chunk number) -> examples; deterministic in its arguments."""


_ROUNDED = "8-bit rounding of the last examples"


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
    reference: Classifier | None,
    candidate: Classifier,
    *,
    chunk: Chunk,
    adversaries: Sequence[Adversary],
    threat: ThreatConfig,
    eight_bit: bool = False,
    served: Served | None = None,
) -> Accuracy:
    """Score one chunk on both engines.

    An adversary sees the images that still stand on at least one of the engines; an image is robust on an engine when
    it is classified correctly clean and on every adversary's example.

    Args:
        reference: the dense engine, or the last release; None if there is nothing to compare with.
        candidate: the engine that is judged.
        chunk: the images.
        adversaries: with different names; at least one.
        threat: norm and eps that the examples are held to.
        eight_bit: what still stands meets the last examples once more, rounded to 8-bit pixels.
        served: how the engines are called where they are deployed; every image, clean and with its worst example, is
            shown to them that way too, and must be right there as well. Without it, nobody asks.

    Raises:
        DataError: if the images are not images in [0, 1].
        EngineError: if an engine returns something other than finite logits.
        MadxError: if there is no adversary, a name is used twice, or an adversary returns no images.
    """
    names = [adversary.name for adversary in adversaries]
    kinds: list[Kind] = [adversary.kind for adversary in adversaries]
    if not names or len(set(names)) < len(names):
        raise MadxError(f"the adversaries are named {names}; expected at least one, and each name once")
    check_images(chunk.images)
    if eight_bit:
        names.append(_ROUNDED)
        kinds.append("8-bit")
    engines = (candidate,) if reference is None else (reference, candidate)
    board = _Board(engines, chunk, threat, rows=len(names))
    for row, adversary in enumerate(adversaries):
        board.attack(row, adversary)
    if eight_bit:
        board.round(len(adversaries))
    return board.accuracy(tuple(names), tuple(kinds), board.serve(served) if served else [])


@dataclass(frozen=True)
class Served:
    """How engines are called where they are deployed."""

    batch: int
    """Images a call."""
    roundings: tuple[float, ...]
    """Of each engine, the candidate's last, as in `madx.closeness.apart`: what an answer may differ by from that at the
    batch of the attacks."""
    sessions: tuple[Classifier, ...] = ()
    """The engines in the same order, each called with exactly the images that are given; without, those of attacks."""
    probabilities: bool = False
    """Whether the candidate's file gives probabilities, which may be rounded to 0 and 1."""


class _Board:
    """Which images of one chunk still stand, on the reference if there is one and, last, on the candidate.

    One row of tables an attack.
    """

    def __init__(self, engines: tuple[Classifier, ...], chunk: Chunk, threat: ThreatConfig, *, rows: int) -> None:
        self.engines, self.chunk, self.threat = engines, chunk, threat
        self.seen = [_classes(engine, chunk.images) for engine in engines]
        """What each engine takes an image for: clean, and then on the example that turned it."""
        self.classes = [seen.copy() for seen in self.seen]
        """What each takes the clean image for."""
        self.clean: list[Bools] = [seen == chunk.labels for seen in self.seen]
        self.standing = [clean.copy() for clean in self.clean]
        self.attacked = np.zeros((rows, len(chunk.index)), dtype=bool)
        self.outcomes = np.zeros((len(engines), *self.attacked.shape), dtype=bool)
        self.overrun = np.zeros(rows)
        self.passes = np.zeros((rows, 2), dtype=np.int64)
        self.last = chunk.images.copy()
        self.worst = [chunk.images.copy() for _ in engines]
        """On each engine the example with the smallest margin."""
        self.least = [np.full(len(chunk.index), np.inf) for _ in engines]
        """[n] that margin: the logit of the label less the highest other one."""
        self.turning = [chunk.images.copy() for _ in engines]
        """On each engine the example that turned an image; the clean image while none has."""

    def attack(self, row: int, adversary: Adversary) -> None:
        """Show the adversary what still stands on any engine, and every engine what it makes of it."""
        chosen = self._standing_anywhere()
        if len(chosen) == 0:
            return
        made, examples, self.overrun[row] = _examples(adversary, self.chunk, chosen, self.threat)
        self.passes[row] = made.forward, made.gradient
        self._score(row, chosen, examples)

    def round(self, row: int) -> None:
        """Show the engines the last examples of what still stands, as a file of 8-bit pixels would hold them."""
        chosen = self._standing_anywhere()
        if len(chosen) > 0:
            self._score(row, chosen, _in_eight_bits(self.last[chosen], self.chunk.images[chosen], self.threat))

    def _standing_anywhere(self) -> NDArray[np.intp]:
        return np.flatnonzero(np.any(self.standing, axis=0))

    def _score(self, row: int, chosen: NDArray[np.intp], examples: Images) -> None:
        self.attacked[row, chosen] = True
        self.last[chosen] = examples
        for side, engine in enumerate(self.engines):
            logits = logits_of(engine, examples)
            self._note_worst(side, chosen, examples, logits)
            seen = logits.argmax(axis=1)
            right = seen == self.chunk.labels[chosen]
            self.outcomes[side, row, chosen] = right
            turned = self.standing[side][chosen] & ~right
            self.turning[side][chosen[turned]] = examples[turned]
            self.seen[side][chosen[turned]] = seen[turned]
            self.standing[side][chosen] &= right

    def serve(self, how: Served) -> list[Answers]:
        """Show each engine every image once more, clean and with its worst example, as it will be called."""
        order = numpy_generator(0, "served", self.chunk.number).permutation(len(self.chunk.index))
        return [self._served(side, engine, how, order) for side, engine in enumerate(self.engines)]

    def _note_worst(self, side: int, chosen: NDArray[np.intp], examples: Images, logits: NDArray[np.float32]) -> None:
        labels, rows = self.chunk.labels[chosen], np.arange(len(chosen))
        others = logits.copy()
        others[rows, labels] = -np.inf
        margins = logits[rows, labels] - others.max(axis=1)
        worse = margins < self.least[side][chosen]
        self.worst[side][chosen[worse]] = examples[worse]
        self.least[side][chosen[worse]] = margins[worse]

    def _served(self, side: int, engine: Classifier, how: Served, order: NDArray[np.intp]) -> Answers:
        standing, clean = self.standing[side], logits_of(engine, self.chunk.images)
        session = how.sessions[side] if how.sessions else engine
        right, unsteady = [], []
        for images in (self.chunk.images, self.worst[side]):
            logits = in_batches(session, images, how.batch, order)
            right.append(logits.argmax(axis=1) == self.chunk.labels)
            expected = clean if images is self.chunk.images else logits_of(engine, images)
            unsteady.append(apart(logits, expected, rounding=how.roundings[side], usual=clean) > 1)
        self.clean[side] &= right[0]
        asked = how.probabilities and side == len(self.engines) - 1
        return Answers(
            classes=self.classes[side],
            served=right[0] & (right[1] | ~standing),
            unsteady=unsteady[0] | unsteady[1],
            flat=names_one_class(clean) if asked else np.zeros_like(right[0]),
        )

    def accuracy(self, names: tuple[str, ...], kinds: tuple[Kind, ...], answers: Sequence[Answers]) -> Accuracy:
        """What was found."""
        alone = len(self.engines) == 1
        return Accuracy(
            index=self.chunk.index,
            labels=self.chunk.labels,
            clean_reference=None if alone else self.clean[0],
            clean_candidate=self.clean[-1],
            attacks=names,
            kinds=kinds,
            attacked=self.attacked,
            standing_reference=None if alone else self.outcomes[0],
            standing_candidate=self.outcomes[-1],
            overrun=self.overrun,
            passes=self.passes,
            gallery=self._gallery(),
            answers_reference=answers[0] if answers and not alone else None,
            answers_candidate=answers[-1] if answers else None,
        )

    def _gallery(self) -> Gallery:
        """The first images that only one engine kept, with the example that turned them on the other."""
        # With one engine nothing differs, and the gallery is empty.
        kept_by_reference, kept_by_candidate = self.standing[0], self.standing[-1]
        lost = np.flatnonzero(kept_by_reference & ~kept_by_candidate)[: Gallery.LIMIT]
        won = np.flatnonzero(kept_by_candidate & ~kept_by_reference)[: Gallery.LIMIT]
        rows = np.concatenate([lost, won])
        return Gallery(
            index=self.chunk.index[rows],
            labels=self.chunk.labels[rows],
            taken_for=np.concatenate([self.seen[-1][lost], self.seen[0][won]]),
            lost=np.isin(rows, lost),
            clean=self.chunk.images[rows],
            adversarial=np.concatenate([self.turning[-1][lost], self.turning[0][won]]),
        )


def _classes(engine: Classifier, images: Images) -> NDArray[np.int64]:
    """What the engine takes the images for, [B]."""
    classes: NDArray[np.int64] = logits_of(engine, images).argmax(axis=1)
    return classes


def _in_eight_bits(examples: Images, images: Images, threat: ThreatConfig) -> Images:
    import torch

    from madx.attacks import rounded

    grid = rounded(torch.from_numpy(examples), torch.from_numpy(images), threat)
    return project(grid.numpy(), images, threat).images


def _examples(
    adversary: Adversary, chunk: Chunk, chosen: NDArray[np.intp], threat: ThreatConfig
) -> tuple[Examples, Images, float]:
    """What the adversary made of the chosen images; the same projected; and how far they had to be."""
    import torch

    images, labels = chunk.images[chosen], chunk.labels[chosen]
    # Indexing has copied the images; one more copy is the adversary's own, to do with as it likes.
    made = adversary.attack(torch.from_numpy(images.copy()), torch.from_numpy(labels.copy()), chunk.number)
    projected = project(made.images.detach().float().cpu().numpy(), images, threat)
    return made, projected.images, projected.overrun
