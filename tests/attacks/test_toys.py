"""Piecewise-linear networks on images of two pixels: the worst case is known from a fine grid over ball and box."""

from __future__ import annotations

import attack_cases
import pytest
import torch
from attack_cases import NORMS
from torch import Tensor, nn

from madx.attacks import Apgd, Attack, Closest, Square, TargetedApgd, Victim, norm_named, run_suite, wrong_margin

EPS = 0.2
CELLS = 160
WHITE_BOX: tuple[Attack, ...] = (
    Apgd(steps=30),
    TargetedApgd(steps=30, targets=4),
    Closest((Apgd(steps=30), TargetedApgd(steps=30, targets=4)), rounds=2, gap=10),
)


def folds(seed: int) -> nn.Module:
    """Five classes in a plane that is cut by twelve lines."""
    module, draws = (
        nn.Sequential(nn.Flatten(), nn.Linear(2, 12), nn.ReLU(), nn.Linear(12, 5)),
        attack_cases.generator(seed),
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * 2)
        middle = torch.rand(200, 2, generator=draws)
        module[1].bias.copy_(-(middle[:12] * module[1].weight).sum(1))  # the lines cross the box
        module[3].bias.sub_(module(middle).mean(0))  # so that several classes occur
    return module


def brute_force(module: nn.Module, x: Tensor, y: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """The largest margin on the grid, [B], and how much larger one between its points may be."""
    steps = torch.linspace(-EPS, EPS, CELLS + 1)
    change = torch.cartesian_prod(steps, steps)
    change = change[norm_named(norm).size(change) <= EPS]
    points = (x.flatten(1)[:, None] + change).clamp(0, 1)
    with torch.no_grad():
        margins = wrong_margin(module(points.flatten(0, 1)), y.repeat_interleave(len(change)))
        slopes = module[3].weight.abs().amax() * 2 * module[1].weight.norm(dim=1).sum()
    return margins.view(len(x), -1).amax(1), slopes * EPS / CELLS * 2**0.5


def case(seed: int) -> tuple[nn.Module, Tensor, Tensor]:
    module = folds(seed)
    x = torch.rand(40, 1, 1, 2, generator=attack_cases.generator(seed + 100))
    with torch.no_grad():
        return module, x, module(x).argmax(1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [2, 3])
def test_white_box_attacks_find_the_worst_case_and_nothing_worse(norm: str, seed: int) -> None:
    module, x, y = case(seed)
    best, slack = brute_force(module, x, y, norm)
    threat, draws = attack_cases.threat(norm, EPS), attack_cases.generator()
    found = run_suite(Victim.of(module), x, y, attacks=WHITE_BOX, threat=threat, generator=draws)
    assert bool((found.margins <= best + slack).all())
    assert bool((best[found.robust] <= 0).all())
    torch.testing.assert_close(found.margins[found.robust], best[found.robust], rtol=0, atol=0.1)
    assert 3 < int(found.robust.sum()) < 37


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", [2, 3])
def test_square_finds_nothing_worse_and_most_of_it(norm: str, seed: int) -> None:
    """Not all: in L-inf it visits corners only, and in L2 it spends all of eps, wherever the worst case is."""
    module, x, y = case(seed)
    best, slack = brute_force(module, x, y, norm)
    threat, draws = attack_cases.threat(norm, EPS), attack_cases.generator()
    victim, attacks = Victim.query_only(Victim.of(module).forward), (Square(queries=100),)
    found = run_suite(victim, x, y, attacks=attacks, threat=threat, generator=draws)
    assert bool((found.margins <= best + slack).all())
    assert 0 <= int(found.robust.sum()) - int((best < 0).sum()) <= (3 if norm == "linf" else 8)
