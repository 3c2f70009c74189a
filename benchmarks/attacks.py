"""What the attacks leave standing and what they cost, on the reference network and Fashion-MNIST's first test images.

    python benchmarks/attacks.py [IMAGES]

For each attack the share of images left, gradients an image, and seconds: PGD-50 with 10 restarts, the suites `QUICK`
and `STANDARD`, and, where `torchattacks` can be imported, its APGD followed by its targeted APGD at the published
budget. Published AutoAttack leaves 74.5 % of the first 200. With 200 images about five minutes on one core.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import QUICK, STANDARD, Attack, Victim, input_gradient, run_suite, strongest_examples
from madx.data import load_splits
from madx.models import build_model
from madx.recipe import AttackConfig, DataConfig, ModelConfig, ThreatConfig
from madx.seeds import torch_generator

REFERENCE = Path(__file__).parent.parent / "tests/data/mad_reference.npz"
THREAT = ThreatConfig(norm="linf", eps=0.1)
PGD = AttackConfig(steps=50, relative_step=2.5, restarts=10)
CHUNK = 250
SUITES = {"quick": QUICK.twin, "standard": STANDARD.twin}

Measurement = dict[str, float]
Attacker = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, float]]
"""(images, labels, generator) -> (examples, images that went through a backward pass, NaN where nobody counts)."""


def network() -> nn.Module:
    """The robust ResNet-8 of the reference file."""
    config = ModelConfig(name="resnet8", args={"widths": [16, 32, 64], "stem_stride": 1})
    model = build_model(config, shape=(1, 28, 28), classes=10, seed=0)
    with np.load(REFERENCE) as file:
        weights = {key[7:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("weight/")}
    model.load_state_dict(weights)
    return model.eval().to(memory_format=torch.channels_last)  # twice as fast on a CPU


def images_and_labels(count: int) -> tuple[Tensor, Tensor]:
    """The first images of the test set, in its own order."""
    source = load_splits(DataConfig(), 0).gate.source
    index = np.arange(count)
    return torch.from_numpy(source.images(index)), torch.from_numpy(source.labels[index])


def pgd(model: nn.Module) -> Attacker:
    def attack(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        passes = 0
        inner = input_gradient(model, largest_gap=10.0)

        def gradient(images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal passes
            passes += len(images)
            return inner(images, targets)

        return strongest_examples(model, gradient, x, y, threat=THREAT, attack=PGD, generator=generator), passes

    return attack


def suite(model: nn.Module, attacks: tuple[Attack, ...]) -> Attacker:
    def attack(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, float]:
        found = run_suite(Victim.of(model), x, y, attacks=attacks, threat=THREAT, generator=generator)
        return found.points, sum(record.passes.gradient for record in found.records)

    return attack


def published(model: nn.Module) -> Attacker:
    """AutoAttack's own two attacks in torchattacks' copy, the second on what the first left."""
    import torchattacks

    first = torchattacks.APGD(model, eps=THREAT.eps, steps=100)
    second = torchattacks.APGDT(model, eps=THREAT.eps, steps=100, n_classes=10)

    def attack(x: Tensor, y: Tensor, _: torch.Generator) -> tuple[Tensor, float]:
        points = first(x, y)
        left = correct(model, points, y)
        points[left] = second(x[left], y[left])
        return points, float("nan")

    return attack


@torch.no_grad()
def correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) == y


def measure(model: nn.Module, x: Tensor, y: Tensor, attacker: Attacker) -> Measurement:
    """Only images that are classified correctly are attacked; the examples are scored here."""
    left, passes, start = 0, 0.0, time.perf_counter()
    for number, (images, labels) in enumerate(zip(x.split(CHUNK), y.split(CHUNK), strict=True)):
        right = correct(model, images, labels)
        points, cost = attacker(images[right], labels[right], torch_generator(0, "attacks benchmark", number))
        largest = (points - images[right]).abs().max().item()
        if largest > THREAT.eps + 1e-6:
            raise ValueError(f"an example is {largest} away from its image, and {THREAT.eps} was allowed")
        left += int(correct(model, points, labels[right]).sum())
        passes += cost
    seconds = time.perf_counter() - start
    return {"left": left / len(x), "gradients_per_image": passes / len(x), "seconds": seconds}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    model, (x, y) = network(), images_and_labels(count)
    attackers = {"pgd 10 x 50 steps": pgd(model)}
    attackers |= {name: suite(model, attacks) for name, attacks in SUITES.items()}
    if importlib.util.find_spec("torchattacks"):
        attackers["torchattacks"] = published(model)
    found = {name: measure(model, x, y, attacker) for name, attacker in attackers.items()}
    print(json.dumps({"images": count, "clean": correct(model, x, y).float().mean().item(), **found}, indent=2))


if __name__ == "__main__":
    main()
