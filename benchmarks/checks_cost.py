"""What it costs `madx verify` to look whether what it measures is what will be served.

    python benchmarks/checks_cost.py        # the demo's recipe: seven minutes on two quiet cores, data fetched before

The recipe is run up to its engines, then verified with a clock around each of the checks below. The cost is their
time as a share of everything else that the same verification did, so the machine's speed cancels out. The checks
whether the attacks themselves can be believed (where the answer is known, and twice as long) are listed beside them and
not counted: without those there is no robust accuracy to check.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from typer.testing import CliRunner

from madx.cli.app import app
from madx.pipeline import soundness, timing, verifying
from madx.verify import parity, robustness

RECIPE = Path(__file__).resolve().parent.parent / "recipes/fashion-mnist.yaml"
CHECKS: dict[str, tuple[Any, str]] = {
    "every image as it is served": (robustness._Board, "serve"),
    "engine and torch model on five sets of images": (parity, "_compare"),
    "contract: batches, places, neighbours, images known by heart": (parity, "_violations"),
    "the candidate on images that are not the gate's": (soundness, "_elsewhere"),
    "near copies in the gate and among training images": (verifying, "image_doubts"),
    "perturbed images to time": (timing, "timed_images"),
}
"""What was added to see that what is measured is what will be served: a function of a module or a class each."""
OF_THE_ATTACKS: dict[str, tuple[Any, str]] = {
    "attacks where the answer is known": (verifying, "measure_soundness"),
    "attacks twice as long": (verifying, "with_doubled"),
}
WHOLE = "all of the verify stage"


@contextmanager
def clocks(spent: Counter[str]) -> Iterator[None]:
    """A clock around each of the functions, until the block ends."""
    watched = {**CHECKS, **OF_THE_ATTACKS, WHOLE: (verifying, "verify")}
    with ExitStack() as stack:
        for name, (owner, function) in watched.items():
            stack.enter_context(patch.object(owner, function, _clocked(getattr(owner, function), name, spent)))
        yield


def _clocked(function: Callable[..., Any], name: str, spent: Counter[str]) -> Callable[..., Any]:
    def clocked(*args: Any, **more: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **more)
        finally:
            spent[name] += time.perf_counter() - began  # type: ignore[assignment]

    return clocked


def verified(run: Path) -> Counter[str]:
    """Seconds by name of a verification of the recipe's engines."""
    spent: Counter[str] = Counter()
    for command in ("train", "prune", "export", "verify"):
        with clocks(spent):
            result = CliRunner().invoke(app, [command, str(RECIPE), "--run-dir", str(run)])
        print(result.output.splitlines()[-1] if result.output else command, flush=True)
        if result.exit_code not in (0, 1, 3):
            raise SystemExit(f"madx {command} ended with exit code {result.exit_code}: {result.output}")
    return spent


def main() -> None:
    """Verify, and print the shares."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spent = verified(Path(folder) / "run")
    missing = {*CHECKS, *OF_THE_ATTACKS, WHOLE} - {*spent}
    if missing:
        raise SystemExit(f"never called, so the benchmark measures nothing: {', '.join(sorted(missing))}")
    added = sum(spent[name] for name in CHECKS)
    rest = spent[WHOLE] - added
    for name in (*CHECKS, *OF_THE_ATTACKS):
        print(f"{name:62} {spent[name]:7.1f} s  {spent[name] / rest:6.1%}")
    print(f"{WHOLE:62} {spent[WHOLE]:7.1f} s\nthe checks add {added / rest:.1%} to the rest (goal: at most 15 %)")


if __name__ == "__main__":
    main()
