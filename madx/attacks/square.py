"""Square attack (Andriushchenko et al. 2020, arXiv 1912.00049): random search over squares, which asks for logits only.

Images are float32 [B, C, H, W] in [0, 1]; margins [B] are the highest wrong logit minus the true one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from madx.attacks.norms import inside, norm_named, per_image
from madx.attacks.square_moves import Draw, L2Moves, LinfMoves, Moves
from madx.attacks.victim import Passes, Victim
from madx.attacks.worst import Worst, wrong_margin
from madx.errors import MadxError
from madx.recipe import ThreatConfig

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 proposals; the squares' share of the image is halved after each."""
_MOVES: dict[str, Moves] = {"linf": LinfMoves(), "l2": L2Moves()}


@dataclass(frozen=True)
class Square:
    """Random search: part of the perturbation is replaced, and what raises the margin is kept.

    It sees no gradient, so a network whose gradients are masked is turned by it and not by the others.
    """

    queries: int = 5000
    """Forward passes of an image in one run, the start among them."""
    restarts: int = 1
    share: float = 0.8
    """Share of the image that the first squares cover (p in the paper; AutoAttack's value)."""

    @property
    def name(self) -> str:
        """For example 'square, 1 x 5000 queries'."""
        return f"square, {self.restarts} x {self.queries} queries"

    @property
    def most(self) -> Passes:
        """Forward passes of an image that withstands everything."""
        return Passes(forward=self.restarts * self.queries)

    def longer(self) -> Square:
        """Twice the queries."""
        return replace(self, queries=2 * self.queries)

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """All restarts.

        Raises:
            MadxError: if the images have no height and width.
        """
        if worst.images.dim() != 4:
            raise MadxError(f"the Square attack takes images [B, C, H, W]; these are {list(worst.images.shape)}")
        for _ in range(self.restarts):
            # A stream of its own: what follows does not depend on after how many queries the last image fell.
            seed = int(torch.randint(2**62, (1,), generator=generator))
            self._search(victim, worst, threat=threat, generator=torch.Generator().manual_seed(seed))

    def _search(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """One run; `worst` sees every point."""
        norm, moves = norm_named(threat.norm), _MOVES[threat.norm]
        rows = worst.standing()
        images = best = worst.images[rows]
        margins = torch.full_like(worst.margins[rows], -torch.inf)
        for query in range(self.queries):
            if len(rows) == 0:
                return
            draw = _draws(worst.images, rows, generator)
            if query == 0:
                point = moves.start(images, threat.eps, draw)
            else:
                share = self.share * share_left(query - 1, self.queries)
                point = moves.propose(images, best, share=share, eps=threat.eps, draw=draw)
            point = inside(norm, point, images, threat.eps)
            logits = victim.forward(point)
            worst.see(rows, point, logits)
            found = wrong_margin(logits.float(), worst.labels[rows])
            better = found > margins
            best = torch.where(per_image(better, best), point, best)
            margins = torch.where(better, found, margins)
            if bool(worst.fallen[rows].any()):
                standing = ~worst.fallen[rows]
                rows, images, best, margins = rows[standing], images[standing], best[standing], margins[standing]


def share_left(proposal: int, queries: int) -> float:
    """What the paper's schedule, stretched to `queries`, leaves of the first share for this proposal (from 0 on)."""
    done = proposal * 10_000 // queries
    return float(0.5 ** sum(done > after for after in _HALVED_AFTER))


def _draws(images: Tensor, rows: Tensor, generator: torch.Generator) -> Draw:
    """Random numbers of the images `rows`, drawn for all: they do not depend on which neighbours have fallen."""
    chosen = rows.cpu()

    def draw(*shape: int) -> Tensor:
        return torch.rand(len(images), *shape, generator=generator)[chosen].to(images.device)

    return draw
