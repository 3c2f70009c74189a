"""How often is a verdict on latency wrong? Simulated machines, the truth exactly on the bound.

    python benchmarks/latency_errors.py            # the tables of docs/latency.md; about 11 minutes

A truth on the bound may pass, and may fail, in 5 % of the measurements each. The machines are those of the tests
(`tests/noisy_machine.py`), with other seeds. Calls of the reference take 4 ms: longer than a neighbour's turn for some,
shorter for others.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from noisy_machine import NEIGHBOURS, NoisyMachine, judged

BOUND = 1.5
FIRST_SEED = 20_000
BUSY = {"turns": (3e-3, 6e-3), "taker": "neighbours"}


def stolen(share: float, **more: Any) -> dict[str, Any]:
    """A hypervisor that takes turns of 5 ms."""
    return {"turns": (5e-3 * (1 - share) / share, 5e-3), "taker": "hypervisor", **more}


MACHINES: Mapping[str, Mapping[str, Any]] = {
    **NEIGHBOURS,
    **{f"loads that differ by {spread:g} %": {"spread": spread / 100} for spread in (0.5, 1, 2)},
    "times that stay alike for pairs": {"mood": 0.02},
    "two thirds of the time are neighbours'": BUSY,
    "the same, and loads that differ by 1 %": {**BUSY, "spread": 0.01},
    **{f"{share:.0%} stolen": stolen(share) for share in (0.05, 0.2, 0.5)},
    **{f"{share:.0%} stolen and charged": stolen(share, charged=True) for share in (0.05, 0.2, 0.5)},
    "a quota of 16 ms in every 20": {"turns": (16e-3, 4e-3), "regular": True, "taker": "hypervisor", "charged": True},
}


def outcome(machine: Mapping[str, Any], cpu: bool, truth: float, bound: float, seed: int) -> str:
    """Of one measurement of 56 pairs on 8 loads."""
    latency = NoisyMachine(seed, **machine, cpu=cpu).measure(truth, seed=seed, reference=4e-3, pairs=56)
    return str(judged(latency, "speedup", bound))


def rates(pool: ProcessPoolExecutor, runs: int, *given: Any) -> str:
    """Three cells of a table."""
    seeds = range(FIRST_SEED, FIRST_SEED + runs)
    counts = Counter(pool.map(partial(outcome, *given), seeds, chunksize=10))
    return " | ".join(f"{counts[word] / runs:.1%}" for word in ("PASS", "FAIL", "INCONCLUSIVE"))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="measurements of each machine (default: 200)")
    parser.add_argument("--only", nargs="+", choices=MACHINES, default=list(MACHINES), help="rows of the first table")
    arguments = parser.parse_args()
    runs = arguments.runs
    with ProcessPoolExecutor() as pool:
        print("| machine | wall clock: PASS | FAIL | undecided | both clocks: PASS | FAIL | undecided |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for name in arguments.only:
            cells = (rates(pool, runs, MACHINES[name], cpu, BOUND, BOUND) for cpu in (False, True))
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
        print("\n| equal engines, held to 1.05 | PASS | FAIL | INCONCLUSIVE |\n| --- | ---: | ---: | ---: |")
        for name in ("quiet", "loads that differ by 1 %", "two thirds of the time are neighbours'", "20% stolen"):
            print(f"| {name} | {rates(pool, runs, MACHINES[name], True, 1.0, 1.05)} |", flush=True)


if __name__ == "__main__":
    main()
