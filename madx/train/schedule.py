"""The learning rate as a pure function of the step."""

from __future__ import annotations

from madx.recipe import LoopConfig


def learning_rate(config: LoopConfig, step: int, steps: int) -> float:
    """Learning rate of optimiser step `step` (from 0) of `steps`, for the schedules of the recipe."""
    position = (step + 0.5) / steps
    if config.schedule == "constant":
        factor = 1.0
    elif config.schedule == "step":
        factor = 0.1 ** ((position >= 0.5) + (position >= 0.75))
    elif position < config.warmup:
        factor = position / config.warmup
    else:
        factor = (1 - position) / (1 - config.warmup)
    return config.lr * factor
