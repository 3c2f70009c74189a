"""Criteria behind one signature, and the average of a criterion over many batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from madx.artifacts import Checkpoint, NoCheckpoint
from madx.errors import TrainingError
from madx.prune.curvature import scored_parameters
from madx.prune.saliency import mad_saliency, optimise_masks

Criterion = Callable[[nn.Module, Tensor, Tensor, torch.Generator], dict[str, Tensor]]
"""(model, adversarial images, labels, generator) -> scores of one batch."""

_SAVE_EVERY = 5
"""Batches between checkpoints."""


@dataclass(frozen=True)
class Saliency:
    """Scores averaged over `batches`; `halves` are the averages over the even and the odd batches alone."""

    scores: dict[str, Tensor]
    halves: tuple[dict[str, Tensor], dict[str, Tensor]]
    batches: int


def mad_paper(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
    """MAD as its authors' implementation computes it; masks start afresh for every batch."""
    return mad_saliency(model, x_adv, y, optimise_masks(model, x_adv, y))


def magnitude(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
    """The weight's absolute value; the images play no part."""
    return {name: parameter.detach().abs() for name, parameter in scored_parameters(model).items()}


def random(model: nn.Module, x_adv: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
    """Uniform noise: what any criterion has to beat."""
    return {
        name: torch.rand(parameter.shape, generator=generator).to(parameter.device)
        for name, parameter in scored_parameters(model).items()
    }


CRITERIA: dict[str, Criterion] = {"mad-paper": mad_paper, "magnitude": magnitude, "random": random}

IMAGE_FREE = frozenset({"magnitude", "random"})
"""Criteria for which one batch says all."""


def average_saliency(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor, torch.Generator]],
    criterion: Criterion,
    *,
    start: int = 0,
    state: dict[str, Any] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Saliency:
    """Average a criterion over batches of (adversarial images, labels, generator of the batch).

    Args:
        model: the dense network; not changed.
        batches: those from batch number `start` on.
        criterion: one of CRITERIA.
        start: number of the first batch in `batches`, for work that continues.
        state: what `checkpoint` held after `start` batches.
        checkpoint: takes the running sums every few batches.

    Raises:
        TrainingError: a score is not finite, or there is no batch.
    """
    checkpoint = checkpoint or NoCheckpoint()
    sums: list[dict[str, Tensor]] = [dict(half) for half in state["sums"]] if state else [{}, {}]
    count = start
    for x_adv, y, generator in batches:
        _add_(sums[count % 2], criterion(model, x_adv, y, generator))
        count += 1
        if count % _SAVE_EVERY == 0:
            checkpoint.save({"sums": [dict(half) for half in sums], "batches": count})
    if count == 0:
        raise TrainingError("there was no batch to compute the saliency on")
    total = {name: (sums[0][name] + sums[1].get(name, 0)) / count for name in sums[0]}
    for name, score in total.items():
        if not score.isfinite().all():
            raise TrainingError(
                f"the saliency of {name} is not finite; is the network trained, and are its weights finite?"
            )
    counts = ((count + 1) // 2, count // 2)
    halves = [{name: value / n for name, value in half.items()} for half, n in zip(sums, counts, strict=True)]
    return Saliency(total, (halves[0], halves[1]), count)


def _add_(total: dict[str, Tensor], scores: dict[str, Tensor]) -> None:
    for name, score in scores.items():
        whole = score.detach().to("cpu", torch.float32)
        total[name] = total[name] + whole if name in total else whole.clone()
