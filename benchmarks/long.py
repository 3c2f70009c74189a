"""What no CI has the time for: every benchmark and the long tests, each with a record of commit, machine and command.

    python benchmarks/long.py                     # all that is missing or older than the code it measured; hours
    python benchmarks/long.py --only precision gates
    python benchmarks/long.py --stale             # only say what is older than the code it measured (CI does)

What a study prints goes to benchmarks/results/long/<name>.txt, and its record to <name>.json beside it; studies that
keep a results file of their own take up where they stopped. A record of uncommitted code is refused. A result is older
than its code when a commit after the record's touches the paths it measured.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madx.artifacts import write_atomically, write_json
from madx.machine import describe_machine, instruction_sets

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results/long"


@dataclass(frozen=True)
class Study:
    """One thing to run, and the code whose change makes its result old."""

    command: tuple[str, ...]
    """Words after the Python interpreter."""
    measures: tuple[str, ...]
    """Paths of the repository."""

    @property
    def line(self) -> str:
        """As a person would type it."""
        return shlex.join(("python", *self.command))


_TRAINING = ("madx/prune", "madx/train", "madx/models", "madx/attacks", "recipes/fashion-mnist.yaml")
_TIMING = (
    "madx/clocks.py",
    "madx/sensors.py",
    "madx/stats",
    *(f"madx/verify/{name}.py" for name in ("latency", "sampling", "noise", "speed", "speed_limits")),
)
STUDIES = {
    "precision": Study(("benchmarks/precision.py",), ("benchmarks/precision.py", "madx/models/precision.py")),
    "shared-machine": Study(("benchmarks/shared_machine.py",), ("benchmarks/shared_machine.py", *_TIMING)),
    "latency-errors": Study(
        ("benchmarks/latency_errors.py",), ("benchmarks/latency_errors.py", "tests/noisy_machine.py", *_TIMING)
    ),
    "checks-cost": Study(("benchmarks/checks_cost.py",), ("benchmarks/checks_cost.py", "madx/verify", "madx/pipeline")),
    "int8": Study(("benchmarks/int8.py",), ("benchmarks/int8.py", "madx/deploy/quantised.py", "madx/precisions.py")),
    "redteam": Study(
        ("benchmarks/redteam.py", "--cores", "0", "1"),
        ("benchmarks/redteam.py", "benchmarks/redteam_graphs.py", "madx/verify", "madx/deploy"),
    ),
    "gates": Study(("benchmarks/gates.py",), ("benchmarks/gates.py", "madx/stats", "madx/verify/limits.py")),
    "shipped-network": Study(("benchmarks/shipped_network.py",), ("benchmarks/shipped_network.py", "recipes/weights")),
    "data": Study(("benchmarks/data.py",), ("benchmarks/data.py", "madx/data")),
    "saliency": Study(("benchmarks/saliency.py",), ("benchmarks/saliency.py", "madx/prune", "madx/models/folding.py")),
    "compatibility": Study(("benchmarks/compatibility.py",), ("benchmarks/compatibility.py", "madx/prune")),
    "attacks": Study(("benchmarks/attacks.py",), ("benchmarks/attacks.py", "madx/attacks")),
    "criteria": Study(("benchmarks/criteria.py",), ("benchmarks/criteria.py", *_TRAINING)),
    "criteria-channels": Study(
        ("benchmarks/criteria.py", "--structure", "channels"), ("benchmarks/criteria.py", *_TRAINING)
    ),
    "tests": Study(("-m", "pytest", "-m", "long and not gpu", "--durations", "10"), ("madx", "recipes", "tests")),
}


def git(*words: str) -> str:
    """What git answers in this repository; an error is its own."""
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def record_of(name: str) -> dict[str, Any] | None:
    """The study's last record, if it was ever run."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.is_file() else None


def standing(name: str) -> str:
    """Why the result is not of the code as it is, or nothing."""
    record = record_of(name)
    if record is None:
        return "never run"
    if record["exit_code"] != 0:
        return f"failed at {record['commit'][:9]}"
    try:
        newer = git("rev-list", "--count", f"{record['commit']}..HEAD", "--", *STUDIES[name].measures)
    except subprocess.CalledProcessError:
        return f"of commit {record['commit'][:9]}, which this repository does not have"
    return f"older than the code it measured: {newer} commits since {record['commit'][:9]}" if int(newer) else ""


def tell_stale(names: Iterable[str]) -> None:
    """A line for each study."""
    for name in names:
        print(f"{name}: {standing(name) or 'up to date'}")


def run(name: str) -> int:
    """Run a study to its end, and keep what it printed with what it is of."""
    study, commit = STUDIES[name], git("rev-parse", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    if changed:
        raise SystemExit(f"{name}: the code has changes that are in no commit; commit them first:\n{changed}")
    print(f"{name}: {study.line}", flush=True)
    started, lines = time.monotonic(), []
    with subprocess.Popen(
        [sys.executable, *study.command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    record = {
        "command": study.line,
        "commit": commit,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": describe_machine() | {"instruction_sets": instruction_sets()},
        "seconds": round(time.monotonic() - started),
        "exit_code": process.returncode,
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    write_atomically(RESULTS / f"{name}.txt", "".join(lines).encode())
    write_json(RESULTS / f"{name}.json", record)
    return process.returncode


def main() -> None:
    """Run what is missing or old, or say which that is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--stale", action="store_true", help="run nothing; say what is older than the code it measured")
    arguments = parser.parse_args()
    if arguments.stale:
        tell_stale(arguments.only)
        return
    codes = [run(name) for name in arguments.only if standing(name)]
    sys.exit(max(codes, default=0))


if __name__ == "__main__":
    main()
