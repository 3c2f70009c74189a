"""The suites that a recipe can name, from quick to paranoid: which attacks, through which of a network's two faces.

A deployed network is an engine, which answers with logits, and its torch twin, which has gradients. The reference and
the candidate of one verification face the same suite.
"""

from __future__ import annotations

from dataclasses import dataclass

from madx.attacks.pgd import Pgd
from madx.attacks.square import Square
from madx.attacks.suite import Apgd, Attack, Closest, TargetedApgd
from madx.recipe import AttackConfig
from madx.tables import Table


@dataclass(frozen=True)
class Suite:
    """Attacks in the order in which they run: each on what the ones before left."""

    name: str
    twin: tuple[Attack, ...]
    """Logits and gradients of the torch twin (`Victim.of`); cheap, and the examples have still to turn the engine."""
    in_the_loop: tuple[Attack, ...]
    """Logits of the engine, slope of the twin (`Victim.in_the_loop`)."""
    query: tuple[Attack, ...]
    """Logits of the engine alone (`Victim.query_only`)."""

    def budget(self) -> tuple[str, ...]:
        """One line for each attack: what it is, and what an image that withstands everything costs."""
        faces = (("twin", self.twin), ("engine in the loop", self.in_the_loop), ("engine alone", self.query))
        return tuple(f"{face}: {attack.name}; {_cost(attack)}" for face, attacks in faces for attack in attacks)


def _cost(attack: Attack) -> str:
    """For example 'at most 909 gradients and 1 forward pass an image'."""
    most = attack.most
    gradients = [f"{most.gradient} gradients"] if most.gradient else []
    forwards = [f"{most.forward} forward pass{'es' if most.forward > 1 else ''}"] if most.forward else []
    return f"at most {' and '.join(gradients + forwards)} an image"


QUICK = Suite(
    "quick",
    twin=(Apgd(steps=10), TargetedApgd(steps=10, targets=2)),
    in_the_loop=(Apgd(steps=5),),
    query=(Square(queries=30),),
)
"""For a first look, and for many images in minutes on a CPU."""

STANDARD = Suite(
    "standard",
    twin=(Apgd(), TargetedApgd(), Closest((Apgd(), TargetedApgd(targets=4)), rounds=5)),
    in_the_loop=(Apgd(steps=50), TargetedApgd(steps=20, targets=3)),
    query=(Square(queries=1000),),
)
"""The two white-box gradient attacks of AutoAttack at their published budget, restarts where they may decide, then the
engine itself; Square looks for masked gradients."""

PARANOID = Suite(
    "paranoid",
    twin=(
        Apgd(restarts=5),
        TargetedApgd(restarts=2),
        Closest((Apgd(), TargetedApgd(targets=9)), rounds=10, gap=0.2),
    ),
    in_the_loop=(Apgd(restarts=2), TargetedApgd(targets=9)),
    query=(Square(queries=5000, restarts=2),),
)
"""All of it with restarts, and Square at AutoAttack's budget: when hours are no matter."""

SUITES: Table[Suite] = Table("madx.attacks", Suite, {suite.name: suite for suite in (QUICK, STANDARD, PARANOID)})
"""By the name that a recipe calls it."""


def suite_of(choice: str | AttackConfig) -> Suite:
    """The suite that a recipe asks for: a preset by its name, or PGD alone on the twins with a budget of its own."""
    if isinstance(choice, AttackConfig):
        return Suite("pgd", twin=(Pgd(choice),), in_the_loop=(), query=())
    return SUITES[choice]
