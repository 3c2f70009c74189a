"""Error rates and power of the gates' tests: the tables of docs/gates.md.

    python benchmarks/gates.py [RUNS]

Wrong decisions of the limits of a drop, exactly, by summing over all tables; the power of a gate that looks once; and
the betting test of a gate that looks after every image: wrong decisions and stopping times, RUNS simulated
verifications each (2000). All at a confidence of 0.95, from fixed seeds. About three minutes on one core.
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from madx.seeds import numpy_generator
from madx.stats import drop_interval, tango_interval
from madx.stats.betting import drop_game

CONFIDENCE = 0.95
EXACT = ((26, 0.10), (60, 0.10), (90, 0.03), (200, 0.03), (500, 0.03))
GRID = {
    "images": (60, 75, 110, 150, 160, 260, 299, 320, 480),
    "bound": (0.01, 0.02, 0.05),
    "gained": (0.0, 0.0005, 0.002, 0.005, 0.02),
}
"""Settings of which only the largest rates are printed."""
GAINED = (0.0, 0.001, 0.01, 0.03)
DISCORDANCE = {0.01: 2500, 0.03: 6000, 0.10: 25000}
"""Share of discordant images, and images after which an undecided simulation ends."""
_CELLS = 5_000_000
"""Simulated images held in memory at a time."""


def main(runs: int) -> None:
    """Print the tables."""
    print("Wrong decisions with the true drop on the bound, summed over all tables\n")
    print("| images | bound | gained | Tango: passes | fails | gate: passes | fails |\n|---|---|---|---|---|---|---|")
    for n, bound in EXACT:
        for gained in GAINED:
            rates = [rate for limits in (tango_interval, drop_interval) for rate in wrong(n, bound, gained, limits)]
            print(f"| {n} | {bound:g} | {gained:g} | {' | '.join(f'{rate:.2%}' for rate in rates)} |")
    found = [wrong(int(n), bound, gained, drop_interval) for n, bound, gained in itertools.product(*GRID.values())]
    passing, failing = (max(column) for column in zip(*found, strict=True))
    print(f"\nLargest of {len(found)} other settings: gate passes {passing:.2%}, fails {failing:.2%}")
    print("\nPasses of a sound candidate (no loss, bound 0.01), one look\n")
    print("| discordant | 1,000 images | 10,000 images |\n|---|---|---|")
    for discordance in DISCORDANCE:
        power = [passes(n, discordance, runs) for n in (1000, 10_000)]
        print(f"| {discordance:.0%} | {' | '.join(f'{rate:.2f}' for rate in power)} |")
    print("\nBetting test, bound 0.01, a look after every image\n")
    print("| discordant | true drop | decision | share | median image | at most images |\n|---|---|---|---|---|---|")
    for discordance, limit in DISCORDANCE.items():
        for drop, below in ((0.0, True), (0.005, True), (0.01, True), (0.01, False), (0.02, False)):
            if drop <= discordance:
                print(
                    f"| {discordance:.0%} | {drop:g} | {'pass' if below else 'fail'} | "
                    + bets(discordance, drop, below, runs, limit)
                )


def wrong(n: int, bound: float, gained: float, limits: Callable[..., tuple[float, float]]) -> tuple[float, float]:
    """(share of wrong passes, share of wrong failures): both claims are false where the drop is the bound."""
    lost, passing, failing = bound + gained, 0.0, 0.0
    for discordant in range(int(binom.ppf(1 - 1e-9, n, lost + gained)) + 1):
        b = np.arange(discordant + 1)
        chance = binom.pmf(discordant, n, lost + gained) * binom.pmf(b, discordant, lost / (lost + gained))
        for k in np.flatnonzero(chance > 1e-8):
            lower, upper = limits(n, int(k), int(discordant - k), confidence=CONFIDENCE)
            passing += float(chance[k]) * (upper <= bound)
            failing += float(chance[k]) * (lower >= bound)
    return passing, failing


def passes(n: int, discordance: float, runs: int) -> float:
    """Share of simulated verifications that pass at a bound of one point."""
    generator = numpy_generator(0, "one look", n, str(discordance))
    draws = generator.multinomial(n, [discordance / 2, discordance / 2, 1 - discordance], size=runs)
    return float(np.mean([drop_interval(n, int(b), int(c), confidence=CONFIDENCE)[1] <= 0.01 for b, c, _ in draws]))


def bets(discordance: float, drop: float, below: bool, runs: int, images: int) -> str:
    """The rest of a row: share decided, the median stopping time where half decide, the images of a run."""
    stops = np.concatenate(list(_stops(discordance, drop, below, runs, images)))
    decided = np.isfinite(stops)
    median = f"{np.median(stops):,.0f}" if decided.mean() > 0.5 else "-"
    return f"{decided.mean():.3f} | {median} | {images:,} |"


def _stops(discordance: float, drop: float, below: bool, runs: int, images: int) -> Iterator[NDArray[np.float64]]:
    """Per simulation the image at which the capital reaches 1 / alpha, or infinity."""
    generator = numpy_generator(0, "every look", str(discordance), str(drop), str(below))
    lost, step = (discordance + drop) / 2, max(1, _CELLS // images)
    for start in range(0, runs, step):
        u = generator.random((min(step, runs - start), images), dtype=np.float32)
        game = drop_game(u < lost, (u >= lost) & (u < discordance), bound=0.01)
        hit = game.log_capital(0.01, below=below) >= -math.log1p(-CONFIDENCE)
        yield np.where(hit.any(axis=1), hit.argmax(axis=1) + 1.0, math.inf)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
