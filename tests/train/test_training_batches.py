"""The batches of a training: the same wherever it is taken up, although they are decoded ahead."""

from __future__ import annotations

import torch
from train_cases import training_job

from madx.train.job import batches


def test_a_training_is_given_the_same_batches_wherever_it_is_taken_up():
    """Over the ends of epochs, too, where the order is another."""
    job = training_job(epochs=3)
    whole = list(batches(job, 0))
    assert len(whole) == job.steps > job.steps_per_epoch
    for done in (1, job.steps_per_epoch - 1, job.steps_per_epoch, job.steps - 1, job.steps):
        rest = list(batches(job, done))
        assert len(rest) == job.steps - done
        for (x, y), (again, labels) in zip(whole[done:], rest, strict=True):
            assert torch.equal(x, again)
            assert torch.equal(y, labels)
