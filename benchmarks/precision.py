"""What the probe chooses, beside what every format really takes: `python benchmarks/precision.py` (about a minute).

For each network the probe runs as it does in a recipe. Then training steps (attack of one step, forward, backward,
optimiser) at the recipe's batch size are timed in every format that the probe did not find hopeless, interleaved, on
torch's own number of threads. The regret is how much longer a step takes in the format that was chosen than in the
fastest sound one. Ratios are against float32 in torch's own order, of the same run.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from madx.attacks import input_gradient
from madx.models import build_model
from madx.models.precision import FORMATS, PLAIN, ComputeFormat, Probe, probe
from madx.pipeline.formats import processor_facts
from madx.recipe import ModelConfig

BATCH = 128
NETWORKS = {
    "resnet8, the demo's": (ModelConfig(args={"widths": [64, 128, 128], "stem_stride": 2}), (1, 28, 28), BATCH),
    "resnet8, half its channels": (ModelConfig(args={"widths": [32, 64, 64], "stem_stride": 2}), (1, 28, 28), BATCH),
    "resnet8, digits": (ModelConfig(args={"widths": [16, 16, 16], "stem_stride": 1}), (1, 8, 8), BATCH),
    "resnet18, CIFAR": (ModelConfig(name="resnet18"), (3, 32, 32), 16),
    "vgg16_bn, CIFAR": (ModelConfig(name="vgg16_bn"), (3, 32, 32), 32),
}
HOPELESS = 3.0
"""A format is not timed in full if the probe says that it takes this many times as long as the fastest."""


def step(network: nn.Module, format: ComputeFormat, shape: tuple[int, ...], batch: int) -> Callable[[], None]:
    """One adversarial training step in a format."""
    module = format.order_(copy.deepcopy(network))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    draws = torch.Generator().manual_seed(1)
    x = format.ordered(torch.rand(batch, *shape, generator=draws))
    y = torch.randint(0, 10, (batch,), generator=draws)

    def run() -> None:
        module.eval()
        _, gradient = input_gradient(module, precision=format.precision)(x, y)
        module.train()
        optimiser.zero_grad()
        with format.autocast(x.device):
            logits = module(x + 0.01 * gradient.sign())
        F.cross_entropy(logits.float(), y).backward()
        optimiser.step()

    return run


def seconds(network: nn.Module, found: Probe, shape: tuple[int, ...], batch: int, repeats: int) -> dict[str, float]:
    """Median time of a step by format, taken in turns."""
    ratios = {timing.format: timing.ratio for timing in found.timings}
    best = ratios[found.fastest()]
    formats = [format for format in FORMATS if ratios.get(format, HOPELESS * best + 1) <= HOPELESS * best]
    steps = {str(format): step(network, format, shape, batch) for format in formats}
    spent: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, run in steps.items():
            started = time.perf_counter()
            run()
            if turn:  # the first call warms up
                spent[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in spent.items()}


def row(name: str, repeats: int) -> dict[str, Any]:
    """The probe and the truth for one network."""
    config, shape, batch = NETWORKS[name]
    network = build_model(config, shape=shape, classes=10, seed=0)
    started, own = time.perf_counter(), time.process_time()
    found = probe(network, shape)
    took, cpu = time.perf_counter() - started, time.process_time() - own
    measured = seconds(network, found, shape, batch, repeats)
    sound = {str(timing.format) for timing in found.timings if timing.sound}
    chosen, fastest = str(found.fastest()), min(value for key, value in measured.items() if key in sound)
    return {
        "network": name,
        "batch": batch,
        "probe_seconds": round(took, 2),
        "probe_cpu_seconds": round(cpu, 2),
        "chosen": chosen,
        "regret": round(measured[chosen] / fastest - 1, 3),
        "probed": {str(timing.format): timing.ratio for timing in found.timings},
        "step": {key: round(value / measured[str(PLAIN)], 3) for key, value in measured.items()},
        "gradient_error": {str(timing.format): timing.gradient_error for timing in found.timings},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--network", choices=NETWORKS, action="append")
    arguments = parser.parse_args()
    print(json.dumps(processor_facts(torch.device("cpu")) | {"threads": torch.get_num_threads()}))
    for name in arguments.network or NETWORKS:
        print(json.dumps(row(name, arguments.repeats)), flush=True)


if __name__ == "__main__":
    main()
