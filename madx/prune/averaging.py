"""The average of a criterion over many batches, in two halves that tell how far it has settled.

Batch number n belongs to half n % 2. Sums are float64, so that the order of adding does not show in the float32
average; they are looked at in rounds, which end at fixed numbers of batches whoever computes them and however often the
work was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Any

from torch import Tensor, nn

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.errors import TrainingError
from madx.prune.settling import Round, Settling, looks_at

_ROUND = 4
"""Most batches between two looks at the sums."""
_SAVE_SECONDS = 10.0
"""Between checkpoints, which are written at the end of a round."""


@dataclass(frozen=True)
class Saliency:
    """Scores from `batches` batches: float32 on the CPU, shaped as their parameters."""

    scores: dict[str, Tensor]
    batches: int
    curve: tuple[Round, ...] = ()
    """How the halves came to agree, where that was asked."""
    start: dict[str, Tensor] | None = None
    """The average that learning started from, where `scores` are learned."""
    learned_steps: int = 0
    """How many steps that took."""


class Sums:
    """Sums of the scores of the even and of the odd batches, float64, on the scores' device."""

    def __init__(self, halves: Sequence[dict[str, Tensor]] = ({}, {}), batches: int = 0) -> None:
        self.halves = tuple(dict(half) for half in halves)
        self.batches = batches

    def add_(self, scores: dict[str, Tensor]) -> None:
        """Count in the scores of the next batch."""
        half = self.halves[self.batches % 2]
        for name, score in scores.items():
            whole = score.detach().double()
            half[name] = half[name].to(whole.device) + whole if name in half else whole
        self.batches += 1

    def average(self) -> dict[str, Tensor]:
        """Over all batches, float32.

        Raises:
            TrainingError: there was no batch.
        """
        if self.batches == 0:
            raise TrainingError("there was no batch to compute the saliency on")
        even, odd = self.halves
        return {name: ((score + odd.get(name, 0)) / self.batches).float() for name, score in even.items()}

    def averages(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Over the even and over the odd batches, float32; nothing for a half without a batch."""
        counts = ((self.batches + 1) // 2, self.batches // 2)
        even, odd = (
            {name: (score / count).float() for name, score in half.items()}
            for half, count in zip(self.halves, counts, strict=True)
        )
        return even, odd


def average_scores(
    model: nn.Module,
    scores: Iterable[dict[str, Tensor]],
    *,
    settling: Settling | None = None,
    state: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Saliency:
    """Average the scores of batches, to their end or until the kept set has settled.

    Args:
        model: the dense network; not changed.
        scores: one batch's after the other, those after the `state["batches"]` that `state` holds; all of them without
            a state. None is taken that is not needed. They may be computed by several processes: the order is all that
            counts.
        settling: what the halves are compared by and when they agree enough; without it they are not compared.
        state: what `checkpoint` held when the work was interrupted. The result is the same to the bit.
        checkpoint: takes sums and curve every few seconds.

    Raises:
        TrainingError: a score is not finite, or there is no batch.
    """
    checkpoint = checkpoint or NoCheckpoint()
    sums = Sums(state["sums"], state["batches"]) if state else Sums()
    curve = [Round(*point) for point in state["curve"]] if state else []
    stream, more, saved = iter(scores), True, time.monotonic()
    while more and not (settling and settling.stops and settling.reached(curve)):
        end = _end_of_round(sums.batches)
        for batch_scores in islice(stream, end - sums.batches):
            sums.add_(batch_scores)
        more = sums.batches == end
        _check_finite(sums.average())  # now, not after hours
        if settling and _is_due(sums.batches, curve, last=not more):
            curve.append(settling.measure(model, sums.averages(), sums.batches))
        if more and time.monotonic() - saved > _SAVE_SECONDS:
            checkpoint.save(
                {"sums": list(sums.halves), "batches": sums.batches, "curve": [list(astuple(point)) for point in curve]}
            )
            saved = time.monotonic()
    return Saliency({name: score.cpu() for name, score in sums.average().items()}, sums.batches, tuple(curve))


def _end_of_round(batches: int) -> int:
    """The next number of batches at which the sums are looked at: the same ones wherever the work was taken up."""
    return next(end for end in range(batches + 1, batches + _ROUND + 1) if looks_at(end) or end % _ROUND == 0)


def _is_due(batches: int, curve: Sequence[Round], *, last: bool) -> bool:
    """Whether the halves are to be compared: at the set numbers of batches and at the end, each once."""
    new = batches >= 2 and (not curve or curve[-1].batches < batches)
    return new and (last or looks_at(batches))


def _check_finite(scores: dict[str, Tensor]) -> None:
    for name, score in scores.items():
        if not score.isfinite().all():
            raise TrainingError(
                f"the saliency of {name} is not finite; is the network trained, and are its weights finite?"
            )
