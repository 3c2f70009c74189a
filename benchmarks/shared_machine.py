"""Real engines timed beside real neighbours: is the speed-up that is stated the one of the quiet machine?

    python benchmarks/shared_machine.py                      # about 25 minutes; wants two CPUs and nothing else on them
    python benchmarks/shared_machine.py --only equal --seconds 5

Two convolutional networks of 64 and 32 channels under ONNX Runtime. `neighbours`: with nothing beside them, beside four
busy processes that only count, and beside four that stream through memory, each several times; held to the bound of 1.5
and to the quiet machine's CPU time. `repeats`: twenty measurements of the same pair, which must agree within
their limits. `equal`: ten of a network against itself, which may never pass a bound of 1.05.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import numpy as np
import torch
from torch import nn

from madx.deploy.engine import backend
from madx.deploy.export import export_onnx
from madx.recipe import EngineConfig, GateConfig, LatencyConfig
from madx.sensors import Watch
from madx.verify import Latency, Outcome
from madx.verify.gates import decide
from madx.verify.latency import Load, Timed, measure_latency
from madx.verify.sampling import Timer
from madx.verify.speed import speedup_found
from madx.verify.speed_limits import clock_limits, clocks

SHAPE = (1, 28, 28)
BATCHES = 64
BOUND = 1.5
CONFIDENCE = 0.95
NEIGHBOURS = {
    "none": "",
    "four that count": "while True: pass",
    "four that stream": "import numpy as np\na = np.ones(8_000_000)\nwhile True: a += 1.0",
}


def network(channels: int) -> nn.Module:
    """Four convolutions and a linear layer, about 8 ms and 2 ms of one thread at batch 8."""
    torch.manual_seed(channels)
    layers: list[nn.Module] = [nn.Conv2d(1, channels, 3, stride=2, padding=1), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)).eval()


def loader(channels: int, threads: int, batch: int) -> Load:
    """What loads the network's engine anew, set up to be timed."""
    config = EngineConfig(kind="ort-cpu", threads=threads)
    runtime = backend(config.kind)
    built = runtime.build(export_onnx(network(channels), SHAPE, opset=20), config, batch=batch)
    images = np.random.default_rng(0).random((256, *SHAPE), dtype=np.float32)
    rows = np.random.default_rng(1).integers(len(images), size=(2 * BATCHES, batch))

    @contextmanager
    def loaded() -> Iterator[Timer]:
        with closing(runtime.load(built.payload, config)) as engine:
            yield engine.timer(images, rows)

    return loaded


def measured(reference: int, candidate: int, *, batch: int, threads: int, seconds: float, seed: int) -> Latency:
    """As a verification times them."""
    return measure_latency(
        loader(reference, threads, batch),
        loader(candidate, threads, batch),
        config=LatencyConfig(batch=batch, seconds=seconds),
        seed=seed,
        timed=Timed("host call", BATCHES, BATCHES),
        watch=Watch.over_this_machine(),
    )


@contextmanager
def neighbours(script: str) -> Iterator[None]:
    """Four processes beside the block, or none."""
    busy = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(4 if script else 0)]
    time.sleep(1.0 if busy else 0.0)
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def row(latency: Latency, bound: float) -> dict[str, object]:
    """What the gate says, and what each clock says."""
    found = speedup_found(latency, GateConfig(metric="speedup", at_least=bound, confidence=CONFIDENCE))
    outcome = decide(found.lower, found.upper, bound=bound, direction="at_least")
    by = {clock.name: clock_limits(latency, clock, CONFIDENCE) for clock in clocks(latency)}
    return {
        "outcome": str(Outcome.INCONCLUSIVE if found.void else outcome),
        "void": [str(reason) for reason in found.void],
        "speedup": [round(value, 4) for value in (found.estimate, found.lower, found.upper)],
        "by": {name: [round(math.exp(value), 4) for value in limits] for name, limits in by.items()},
        "pairs": len(latency.order),
        "calls": latency.calls,
        "loads": len(np.unique(latency.load_numbers)),
        "milliseconds": [round(1000 * float(np.median(calls)), 3) for calls in latency.all_calls[:2]],
        "machine": {name: round(float(np.nanmedian(values)), 4) for name, values in latency.machine.items()},
    }


def beside_neighbours(seconds: float) -> Iterator[dict[str, object]]:
    for batch, threads in ((1, 1), (8, 1), (8, 2)):
        for name, script in NEIGHBOURS.items():
            for repeat in range(1 if threads > 1 else 4):
                with neighbours(script):
                    latency = measured(64, 32, batch=batch, threads=threads, seconds=seconds, seed=repeat)
                yield {"batch": batch, "threads": threads, "beside": name, "repeat": repeat, **row(latency, BOUND)}


def repeats(seconds: float) -> Iterator[dict[str, object]]:
    for repeat in range(20):
        latency = measured(64, 32, batch=1, threads=1, seconds=seconds, seed=repeat)
        yield {"repeat": repeat, **row(latency, BOUND)}


def equal(seconds: float) -> Iterator[dict[str, object]]:
    for repeat in range(10):
        latency = measured(32, 32, batch=1, threads=1, seconds=seconds, seed=repeat)
        yield {"repeat": repeat, **row(latency, 1.05)}


PARTS = {"neighbours": beside_neighbours, "repeats": repeats, "equal": equal}


def main() -> None:
    """Print a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=20.0, help="budget of one measurement (default: 20)")
    arguments = parser.parse_args()
    print(json.dumps({"cpus": os.cpu_count(), "load": os.getloadavg()[0], "seconds": arguments.seconds}), flush=True)
    for part in arguments.only:
        for found in PARTS[part](arguments.seconds):
            print(json.dumps({"part": part, **found}), flush=True)


if __name__ == "__main__":
    main()
