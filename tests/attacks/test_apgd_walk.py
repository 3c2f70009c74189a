"""APGD's walk, move by move, against the paper's algorithm written for one image."""

from __future__ import annotations

from collections.abc import Callable

import attack_cases
import numpy as np
import pytest
import torch
from attack_cases import NORMS, watched
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.attacks import DLR, CrossEntropy, Gradient, Loss, TargetedDLR
from madx.attacks.apgd import checkpoints

Array = NDArray[np.float64]
Function = Callable[[Array], tuple[float, Array]]


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, (22, 41, 57, 70, 80, 87, 93, 99)),  # the paper's p: 0, 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99
        (50, (11, 21, 29, 35, 40, 44, 47, 50)),
        (10, (3, 5, 6, 7, 8, 9, 10)),
        (1, (1,)),
    ],
)
def test_checkpoints_are_those_of_the_paper(steps: int, expected: tuple[int, ...]) -> None:
    assert checkpoints(steps) == expected


def project_by_numpy(point: Array, image: Array, norm: str, eps: float) -> Array:
    if norm == "linf":
        return np.clip(np.clip(point, image - eps, image + eps), 0, 1)
    change = point - image
    return np.clip(image + change * min(1.0, eps / max(np.sqrt((change**2).sum()), 1e-30)), 0, 1)


def algorithm_1(f: Function, x0: Array, start: Array, *, norm: str, eps: float, steps: int) -> tuple[list[Array], str]:
    """One image's run in the paper's notation, with its history in lists: points visited, and why steps were halved.

    A letter per checkpoint: o for oscillation (condition 1), s for standstill (condition 2), - for none.
    """
    visited, x = [start], [start]
    value, slope = f(start)
    values, eta, best = [value], 2 * eps, (value, start, slope)
    best_then, eta_then, w, reasons = value, eta, 0, ""
    for k in range(steps):
        direction = np.sign(slope) if norm == "linf" else slope / max(np.sqrt((slope**2).sum()), 1e-30)
        z = project_by_numpy(x[-1] + eta * direction, x0, norm, eps)
        alpha, last_move = (0.75, x[-1] - x[-2]) if k else (1.0, 0 * start)
        x.append(project_by_numpy(x[-1] + alpha * (z - x[-1]) + (1 - alpha) * last_move, x0, norm, eps))
        visited.append(x[-1])
        value, slope = f(x[-1])
        values.append(value)
        if value > best[0]:
            best = (value, x[-1], slope)
        if k + 1 in checkpoints(steps):
            oscillates = sum(values[i + 1] > values[i] for i in range(w, k + 1)) < 0.75 * (k + 1 - w)
            stands = eta_then == eta and best_then == best[0]
            reasons += "o" if oscillates else "s" if stands else "-"
            best_then, eta_then, w = best[0], eta, k + 1
            if oscillates or stands:
                eta /= 2
                values[-1], x[-1], slope = best
    return visited, reasons


def unrounded(module: nn.Module, loss: Loss) -> Gradient:
    """The gradient in the module's own precision: `input_gradient` rounds the logits to float32."""

    def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        leaf = images.clone().requires_grad_()
        logits = module(leaf)
        (slope,) = torch.autograd.grad(loss(logits, targets).sum(), leaf)
        return logits.detach(), slope

    return gradient


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", [CrossEntropy(), DLR(), TargetedDLR()], ids=lambda loss: loss.name)
def test_each_image_walks_as_the_paper_says(norm: str, loss: Loss) -> None:
    """In float64, so that no rounding turns the sign of a gradient."""
    steps, eps = 60, 0.06 if norm == "linf" else 0.15
    module, x = attack_cases.wavy().double(), attack_cases.images(16).double()
    labels = module(x).argmax(1)
    targets = torch.stack([labels, (labels + 1) % 5], 1) if isinstance(loss, TargetedDLR) else labels
    gradient = unrounded(module, loss)
    worst = watched(gradient, x, targets, norm=norm, eps=eps, loss=loss, steps=steps)
    reasons = []
    for image, walk in enumerate(worst.walks):
        target = targets[image : image + 1]

        def f(point: Array, target: Tensor = target) -> tuple[float, Array]:
            logits, slope = gradient(torch.from_numpy(point)[None], target)
            return loss(logits, target).item(), slope[0].numpy()

        expected, why = algorithm_1(f, x[image].numpy(), walk[0].numpy(), norm=norm, eps=eps, steps=steps)
        assert len(walk) == len(expected) or bool(worst.fallen[image])
        for step, point in enumerate(walk):
            np.testing.assert_allclose(point.numpy(), expected[step], atol=1e-9, err_msg=f"image {image}, step {step}")
        if len(walk) == len(expected):
            reasons.append(why)
    assert len(reasons) > 2, "too few images walk to the end"
    assert "o" in "".join(reasons)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("steps", [7, 50, 100])
def test_step_sizes_follow_the_paper_whatever_the_loss_does(norm: str, steps: int) -> None:
    """A script instead of a network: losses wander, slopes are noise, and the moves show the step sizes."""
    count, eps, draws = 40, 0.3, attack_cases.generator(8)
    x = attack_cases.images(count).double()
    moves = torch.randn(steps + 1, count, generator=draws) + torch.linspace(-1, 2, count)
    if steps > 7:
        moves[2 + steps // 3] -= 20  # after such a fall, a loss that keeps rising may stay below its best for long
    values = moves.cumsum(0) - 1000
    slopes = torch.randn(steps + 1, *x.shape, generator=draws, dtype=torch.float64)
    calls = iter(range(steps + 1))

    def gradient(_: Tensor, __: Tensor) -> tuple[Tensor, Tensor]:
        now = next(calls)
        return torch.stack([torch.zeros(count), values[now]], dim=1), slopes[now]

    labels = torch.zeros(count, dtype=torch.int64)
    worst = watched(gradient, x, labels, norm=norm, eps=eps, loss=CrossEntropy(), steps=steps)
    reasons = ""
    for image, walk in enumerate(worst.walks):
        script = iter(zip(values[:, image].tolist(), slopes[:, image].numpy(), strict=True))
        start = walk[0].numpy()
        expected, why = algorithm_1(
            lambda _, script=script: next(script), x[image].numpy(), start, norm=norm, eps=eps, steps=steps
        )
        np.testing.assert_allclose(torch.stack(walk).numpy(), np.stack(expected), atol=1e-9, err_msg=f"image {image}")
        reasons += why
    assert set(reasons) == set("os-" if steps > 7 else "o-")
