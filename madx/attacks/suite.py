"""Several attacks one after the other, each on the images that the ones before could not turn.

Images are float32 [B, ...] in [0, 1], labels int64 [B]; the result keeps for each image its worst point of all attacks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from madx.attacks.apgd import climb
from madx.attacks.losses import CrossEntropy, Loss, likeliest_wrong, targeted_loss
from madx.attacks.victim import Passes, Victim
from madx.attacks.worst import Worst, wrong_margin
from madx.recipe import ThreatConfig


class Attack(Protocol):
    """One member of a suite."""

    @property
    def name(self) -> str:
        """What it is and how long it tries, for the report."""
        ...

    @property
    def most(self) -> Passes:
        """What it costs for an image that withstands everything."""
        ...

    def longer(self) -> Attack:
        """The same with twice the steps or queries."""
        ...

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """Attack the images of `worst` that still stand, and show `worst` every point."""
        ...


@dataclass(frozen=True)
class Apgd:
    """Auto-PGD on an untargeted loss."""

    steps: int = 100
    restarts: int = 1
    loss: Loss = CrossEntropy()  # noqa: RUF009 - it has no state

    @property
    def name(self) -> str:
        """For example 'apgd cross-entropy, 1 x 100 steps'."""
        return f"apgd {self.loss.name}, {self.restarts} x {self.steps} steps"

    @property
    def most(self) -> Passes:
        """Every step and the start, of every restart."""
        return Passes(gradient=self.restarts * (self.steps + 1))

    def longer(self) -> Apgd:
        """Every run with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """All restarts."""
        gradient = victim.gradient(self.loss)
        for _ in range(self.restarts):
            climb(gradient, worst, worst.labels, loss=self.loss, threat=threat, steps=self.steps, generator=generator)


@dataclass(frozen=True)
class TargetedApgd:
    """Auto-PGD towards one wrong class after the other, the likeliest first.

    The loss is the targeted DLR loss; on a network with fewer than four classes, where that is undefined, the margin.
    """

    steps: int = 100
    targets: int = 9
    """How many wrong classes, at most."""
    restarts: int = 1

    @property
    def name(self) -> str:
        """For example 'apgd targeted, 9 classes x 1 x 100 steps'."""
        return f"apgd targeted, {self.targets} classes x {self.restarts} x {self.steps} steps"

    @property
    def most(self) -> Passes:
        """The clean image, then every step and the start, of every class and restart."""
        return Passes(forward=1, gradient=self.targets * self.restarts * (self.steps + 1))

    def longer(self) -> TargetedApgd:
        """Every run with twice the steps."""
        return replace(self, steps=2 * self.steps)

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """All target classes, all restarts."""
        rows = worst.standing()
        if len(rows) == 0:
            return
        clean = victim.forward(worst.images[rows])
        loss = targeted_loss(clean.shape[1])
        gradient = victim.gradient(loss)
        for target in likeliest_wrong(clean, worst.labels[rows], self.targets).unbind(1):
            goal = worst.labels[:, None].repeat(1, 2)
            goal[rows, 1] = target
            for _ in range(self.restarts):
                climb(gradient, worst, goal, loss=loss, threat=threat, steps=self.steps, generator=generator)


@dataclass(frozen=True)
class Closest:
    """More rounds of some attacks, for the images that are nearly turned: where another random start may decide."""

    attacks: tuple[Attack, ...]
    rounds: int = 10
    gap: float = 0.1
    """Nearly turned: the margin that is left is at most this share of what the attacks so far have taken away."""

    @property
    def name(self) -> str:
        """For example '10 rounds for the closest images: apgd cross-entropy, 1 x 100 steps'."""
        return f"{self.rounds} rounds for the closest images: {'; '.join(attack.name for attack in self.attacks)}"

    @property
    def most(self) -> Passes:
        """The clean image, then every round."""
        return Passes(forward=1) + self.rounds * sum((attack.most for attack in self.attacks), Passes())

    def longer(self) -> Closest:
        """Every run with twice the steps."""
        return replace(self, attacks=tuple(attack.longer() for attack in self.attacks))

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """All rounds; who is close is asked again before each."""
        if len(worst.standing()) == 0:
            return
        clean = wrong_margin(victim.forward(worst.images), worst.labels)
        for _ in range(self.rounds):
            worst.resting = -worst.margins > self.gap * (worst.margins - clean)
            for attack in self.attacks:
                attack(victim, worst, threat=threat, generator=generator)
        worst.resting = torch.zeros_like(worst.resting)


@dataclass(frozen=True)
class Record:
    """What one attack of a suite achieved, and what it cost."""

    name: str
    robust: int
    """Images still classified correctly after it."""
    passes: Passes


@dataclass(frozen=True)
class SuiteResult:
    """The worst that a suite found; `points` obey the threat, but score them again before you believe it."""

    points: Tensor
    """For each image the point with the largest margin, [B, ...]."""
    margins: Tensor
    """Highest wrong logit minus true logit there, [B]."""
    records: tuple[Record, ...]
    """The clean images first, then each attack in order."""

    @property
    def robust(self) -> Tensor:
        """Images that no attack turned, bool [B]."""
        return self.margins < 0


def run_suite(
    victim: Victim,
    images: Tensor,
    labels: Tensor,
    *,
    attacks: tuple[Attack, ...],
    threat: ThreatConfig,
    generator: torch.Generator,
) -> SuiteResult:
    """Run `attacks` in order; each works only on images that have not fallen for sure (see `Worst`).

    Args:
        victim: the network.
        images: clean images in [0, 1]; a clean image that is misclassified has fallen before the first attack.
        labels: int64 [B].
        attacks: for example `STANDARD.twin`.
        threat: norm and eps.
        generator: CPU generator of all random starts.
    """
    worst = Worst(images, labels)
    passes = Passes()
    worst.see(worst.standing(), images, passes.counting(victim).forward(images))
    records = [Record("clean images", _robust(worst), passes)]
    for attack in attacks:
        passes = Passes()
        attack(passes.counting(victim), worst, threat=threat, generator=generator)
        records.append(Record(attack.name, _robust(worst), passes))
    return SuiteResult(worst.points, worst.margins, tuple(records))


def _robust(worst: Worst) -> int:
    return int((worst.margins < 0).sum())
