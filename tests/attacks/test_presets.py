"""The named suites: what they promise to cost, what they cost, and that all of them obey the threat."""

from __future__ import annotations

import attack_cases
import pytest
import torch
from attack_cases import NORMS
from torch import Tensor, nn

from madx.attacks import (
    QUICK,
    STANDARD,
    SUITES,
    Apgd,
    Attack,
    Closest,
    Passes,
    Square,
    Suite,
    TargetedApgd,
    Victim,
    Worst,
    norm_named,
    run_suite,
)
from madx.recipe import SUITE_NAMES


def victims(module: nn.Module) -> dict[str, Victim]:
    """The faces of an engine that is its own twin."""
    return {
        "twin": Victim.of(module),
        "in_the_loop": Victim.in_the_loop(Victim.of(module).forward, module),
        "query": Victim.query_only(Victim.of(module).forward),
    }


def everything(suite: Suite) -> dict[str, tuple[Attack, ...]]:
    return {"twin": suite.twin, "in_the_loop": suite.in_the_loop, "query": suite.query}


def unturnable() -> tuple[nn.Module, Tensor, Tensor]:
    """Ten classes, one of them far ahead on every image."""
    rows = torch.randn(10, 8, generator=attack_cases.generator(1))
    bias = torch.zeros(10)
    bias[0] = 1000
    return attack_cases.linear(rows, bias), attack_cases.images(2), torch.zeros(2, dtype=torch.int64)


@pytest.mark.parametrize(
    "attack",
    [
        Apgd(steps=3, restarts=2),
        TargetedApgd(steps=3, targets=2, restarts=2),
        Closest((Apgd(steps=2), TargetedApgd(steps=2, targets=1)), rounds=2, gap=1e9),
        Square(queries=7, restarts=2),
    ],
    ids=lambda attack: attack.name,
)
def test_an_image_that_withstands_everything_costs_the_most_that_is_promised(attack: Attack) -> None:
    module, x, y = unturnable()
    passes, worst, victim = Passes(), Worst(x, y), Victim.of(module)
    draws, threat = attack_cases.generator(), attack_cases.threat("linf")
    worst.see(worst.standing(), x, module(x).detach())
    Apgd(steps=1)(victim, worst, threat=threat, generator=draws)  # whoever lost nothing so far is close to nothing
    attack(passes.counting(victim), worst, threat=threat, generator=draws)
    assert passes == len(x) * attack.most


def test_quick_costs_what_its_budget_says() -> None:
    module, x, y = unturnable()
    lines = []
    for face, attacks in everything(QUICK).items():
        draws, threat = attack_cases.generator(), attack_cases.threat("linf")
        found = run_suite(victims(module)[face], x, y, attacks=attacks, threat=threat, generator=draws)
        for attack, record in zip(attacks, found.records[1:], strict=True):
            assert record.passes == len(x) * attack.most
            lines.append(attack.name)
    assert len(QUICK.budget()) == len(lines)
    assert all(name in line for name, line in zip(lines, QUICK.budget(), strict=True))


def test_a_budget_is_readable() -> None:
    suite = Suite("mine", twin=(Apgd(), TargetedApgd()), in_the_loop=(Apgd(steps=9),), query=(Square(queries=1),))
    assert suite.budget() == (
        "twin: apgd cross-entropy, 1 x 100 steps; at most 101 gradients an image",
        "twin: apgd targeted, 9 classes x 1 x 100 steps; at most 909 gradients and 1 forward pass an image",
        "engine in the loop: apgd cross-entropy, 1 x 9 steps; at most 10 gradients an image",
        "engine alone: square, 1 x 1 queries; at most 1 forward pass an image",
    )


def test_suites_have_their_names_and_each_tries_harder_than_the_one_before() -> None:
    assert tuple(name for name, suite in SUITES.items() if suite.name == name) == SUITE_NAMES == tuple(SUITES.own)
    for face in ("twin", "in_the_loop", "query"):
        costs = [sum((attack.most for attack in everything(suite)[face]), Passes()) for suite in SUITES.values()]
        totals = [cost.forward + cost.gradient for cost in costs]
        assert 0 < totals[0] < totals[1] < totals[2], face


def test_no_query_attack_asks_for_a_gradient() -> None:
    assert all(attack.most.gradient == 0 for suite in SUITES.values() for attack in suite.query)


def test_standard_holds_the_published_white_box_attacks() -> None:
    """AutoAttack's APGD-CE and targeted APGD: 100 steps, one restart, nine classes."""
    assert STANDARD.twin[:2] == (Apgd(steps=100, restarts=1), TargetedApgd(steps=100, targets=9, restarts=1))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("suite", [QUICK, pytest.param(STANDARD, marks=pytest.mark.slow)], ids=lambda suite: suite.name)
def test_all_attacks_of_a_suite_obey_the_threat(norm: str, suite: Suite) -> None:
    module, x = attack_cases.wavy(), attack_cases.images(12)
    x[0], x[1] = 0.0, 1.0
    eps = 0.05 if norm == "linf" else 0.15
    y, threat = module(x).argmax(1), attack_cases.threat(norm, eps)
    for face, attacks in everything(suite).items():
        draws = attack_cases.generator(4)
        found = run_suite(victims(module)[face], x, y, attacks=attacks, threat=threat, generator=draws)
        assert float(found.points.min()) >= 0
        assert float(found.points.max()) <= 1
        sizes = norm_named(norm).size(found.points.double() - x.double())
        assert float(sizes.max()) <= eps * (1 + 1e-6) + 1e-7
        assert float(sizes.max()) > 0.9 * eps, "an attack that stays at home obeys everything"
        assert int(found.robust.sum()) < 12
