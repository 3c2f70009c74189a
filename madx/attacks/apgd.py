"""Auto-PGD (Croce and Hein 2020, arXiv 2003.01690, algorithm 1): gradient ascent that chooses its step sizes itself.

State is per image, [b] or [b, ...], of the images that still stand: one that has fallen leaves the batch at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from madx.attacks.gradients import Gradient
from madx.attacks.losses import Loss
from madx.attacks.norms import Norm, inside, norm_named, per_image
from madx.attacks.worst import Worst
from madx.recipe import ThreatConfig

_MOMENTUM = 0.75
"""Share of the new step in a move; the rest is the move before (alpha in the paper)."""
_ENOUGH_RISES = 0.75
"""A step size is kept while the loss rises in this share of the steps (rho in the paper)."""
_FIRST_STEP = 2.0
"""First step size, in units of eps."""


def climb(
    gradient: Gradient,
    worst: Worst,
    targets: Tensor,
    *,
    loss: Loss,
    threat: ThreatConfig,
    steps: int,
    generator: torch.Generator,
) -> None:
    """One run of APGD on the images of `worst` that still stand; `worst` sees every point.

    Args:
        gradient: of `loss` on the network under attack, or on a substitute for it; the logits it returns decide.
        worst: clean images in [0, 1], their labels, and the furthest point so far on the wrong side of each.
        targets: what `loss` takes: labels [B], or labels and target classes [B, 2].
        loss: what is maximised.
        threat: norm and eps; the points obey both, and stay in [0, 1].
        steps: moves; each is one forward and one backward pass, and the start is one more.
        generator: CPU generator of the random start. It is drawn for all images, so that a point depends on its image's
            position, and not on which of its neighbours fall.
    """
    norm, eps = norm_named(threat.norm), threat.eps
    start = inside(norm, worst.images + norm.start(worst.images, eps, generator), worst.images, eps)
    rows = worst.standing()
    if len(rows) == 0:
        return
    x, goal = worst.images[rows], targets[rows]
    logits, slope = gradient(start[rows], goal)
    worst.see(rows, start[rows], logits)
    state = _Ascent.begin(rows, x, goal, start=start[rows], slope=slope, value=loss(logits, goal))
    before = 0
    checks = checkpoints(steps)
    for step in range(1, steps + 1):
        state = state.only(~worst.fallen[state.rows])
        if len(state.rows) == 0:
            return
        state.move(norm, eps, momentum=_MOMENTUM if step > 1 else 1.0)
        logits, slope = gradient(state.point, state.targets)
        worst.see(state.rows, state.point, logits)
        state.judge(loss(logits, state.targets), slope)
        if step in checks:
            state.check(step - before)
            before = step


def checkpoints(steps: int) -> tuple[int, ...]:
    """After which moves the step sizes are reconsidered: ceil(p_j * steps), rising.

    p_1 = 0.22 and p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06), counted here in hundredths.
    """
    found: list[int] = []
    share, gap = 22, 22
    while share <= 100:
        found.append(-(-share * steps // 100))
        gap = max(gap - 3, 6)
        share += gap
    return tuple(dict.fromkeys(found))


@dataclass
class _Ascent:
    """Where one run stands; the first axis of every tensor is the images that are still attacked."""

    rows: Tensor
    """Positions of these images in the whole batch."""
    images: Tensor
    targets: Tensor
    point: Tensor
    previous: Tensor
    """The point of the move before."""
    slope: Tensor
    """Gradient at `point`."""
    value: Tensor
    """Loss at `point`."""
    best_point: Tensor
    best_slope: Tensor
    best_value: Tensor
    checked_value: Tensor
    """Best value at the last checkpoint."""
    step: Tensor
    """Step size in units of eps, [b]."""
    rises: Tensor
    """Moves since the last checkpoint that raised the loss."""
    halved: Tensor
    """Whether the last checkpoint halved the step size."""

    @classmethod
    def begin(
        cls, rows: Tensor, images: Tensor, targets: Tensor, *, start: Tensor, slope: Tensor, value: Tensor
    ) -> _Ascent:
        """At the random start."""
        return cls(
            rows=rows,
            images=images,
            targets=targets,
            point=start,
            previous=start,
            slope=slope,
            value=value,
            best_point=start,
            best_slope=slope,
            best_value=value,
            checked_value=value,
            step=torch.full(value.shape, _FIRST_STEP, dtype=start.dtype, device=start.device),
            rises=torch.zeros_like(value),
            halved=torch.zeros_like(value, dtype=torch.bool),
        )

    def only(self, standing: Tensor) -> _Ascent:
        """The images where `standing`; itself when that is all of them."""
        if bool(standing.all()):
            return self
        return _Ascent(**{field.name: getattr(self, field.name)[standing] for field in fields(self)})

    def move(self, norm: Norm, eps: float, *, momentum: float) -> None:
        """Step along the gradient, then go part of the way there and part of the way of the move before."""
        # A gradient that is no number shows no way: the point stays, rather than leaving the ball.
        direction = norm.direction(self.slope.nan_to_num(nan=0.0))
        ahead = inside(norm, self.point + per_image(self.step * eps, direction) * direction, self.images, eps)
        moved = self.point + momentum * (ahead - self.point) + (1 - momentum) * (self.point - self.previous)
        self.previous, self.point = self.point, inside(norm, moved, self.images, eps)

    def judge(self, value: Tensor, slope: Tensor) -> None:
        """Take the loss and gradient at the new point, and remember the best one."""
        self.rises = self.rises + (value > self.value)
        self.value, self.slope = value, slope
        higher = value > self.best_value
        self.best_point = _where(higher, self.point, self.best_point)
        self.best_slope = _where(higher, slope, self.best_slope)
        self.best_value = torch.where(higher, value, self.best_value)

    def check(self, moves: int) -> None:
        """Halve the step size of an image, and send it back to its best point, if its last `moves` were of no use."""
        too_few = self.rises < _ENOUGH_RISES * moves
        stuck = ~self.halved & (self.best_value <= self.checked_value)
        self.halved = too_few | stuck
        self.step = torch.where(self.halved, self.step / 2, self.step)
        self.point = _where(self.halved, self.best_point, self.point)
        self.slope = _where(self.halved, self.best_slope, self.slope)
        self.value = torch.where(self.halved, self.best_value, self.value)
        self.checked_value = self.best_value
        self.rises = torch.zeros_like(self.rises)


def _where(chosen: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """`yes` for the chosen images, `no` for the others."""
    return torch.where(per_image(chosen, yes), yes, no)
