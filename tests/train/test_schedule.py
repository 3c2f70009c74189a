"""Learning rates against numpy's piecewise linear interpolation and a table."""

from __future__ import annotations

import numpy as np
import pytest
import train_cases

from madx.train.schedule import learning_rate


def rates(steps: int, **changes: object) -> list[float]:
    config = train_cases.loop_config(lr=0.4, **changes)
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 10, 1001])
def test_onecycle_is_a_triangle_over_the_middles_of_the_steps(warmup: float, steps: int) -> None:
    found = rates(steps, schedule="onecycle", warmup=warmup)
    middles = (np.arange(steps) + 0.5) / steps
    knots = ([0, 1], [1, 0]) if warmup == 0 else ([0, warmup, 1], [0, 1, 0])
    np.testing.assert_allclose(found, 0.4 * np.interp(middles, *knots), rtol=1e-9)
    assert min(found) > 0, "a step of rate zero is wasted"
    assert max(found) <= 0.4


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [0.4] * 8), ("step", [0.4] * 4 + [0.04] * 2 + [0.004] * 2)],
)
def test_the_other_schedules(schedule: str, expected: list[float]) -> None:
    assert rates(8, schedule=schedule) == pytest.approx(expected)


@pytest.mark.parametrize("schedule", ["onecycle", "step", "constant"])
def test_one_single_step_still_learns(schedule: str) -> None:
    assert 0 < rates(1, schedule=schedule)[0] <= 0.4
