"""What a training is asked to do, the batches it takes and the steps at which it is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from madx.data import Split, ahead
from madx.errors import RecipeError
from madx.models.precision import PLAIN, ComputeFormat
from madx.recipe import LoopConfig, ThreatConfig
from madx.recipe.values import fitting_batch
from madx.seeds import derive_seed


@dataclass(frozen=True)
class TrainingJob:
    """What to train on, how, against what; entries that `masks` (True = kept, by parameter) removes stay zero."""

    train: Split
    selection: Split
    config: LoopConfig
    threat: ThreatConfig
    seed: int
    masks: Mapping[str, Tensor] | None = None
    format: ComputeFormat = PLAIN
    """How the training passes are computed: what config.precision came to on this machine."""
    start_counts: bool = False
    """The network as it comes is a candidate too, so that training cannot end with something worse."""

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return fitting_batch(self.config.batch_size, len(self.train))

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of one pass."""
        steps = len(self.train) // self.batch_size
        if steps == 0:
            raise RecipeError(
                f"the training split has {len(self.train)} images, fewer than one batch of {self.batch_size}; "
                "lower batch_size"
            )
        return steps

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole job."""
        return max(1, round(self.config.epochs * self.steps_per_epoch))


def batches(job: TrainingJob, done: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The job's batches from step `done` on, decoded one ahead; each epoch is a permutation of its own."""
    return ahead(job.train.load, islice(_order(job, done), job.steps - done))


def _order(job: TrainingJob, done: int) -> Iterator[NDArray[np.int64]]:
    """Positions of each batch from step `done` on, epoch after epoch."""
    epoch, start = divmod(done, job.steps_per_epoch)
    while True:
        shuffle = derive_seed(job.seed, "epoch", epoch)
        yield from job.train.order(job.batch_size, shuffle=shuffle, drop_last=True, start=start)
        epoch, start = epoch + 1, 0


def evaluation_steps(job: TrainingJob) -> set[int]:
    """Steps after which the network is measured: evenly spread, the last one always."""
    count = min(job.config.evaluations, job.steps)
    return {round(job.steps * (number + 1) / count) for number in range(count)}
