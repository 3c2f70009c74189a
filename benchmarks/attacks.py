"""What the attacks leave standing and what they cost, on Fashion-MNIST's first test images.

    python benchmarks/attacks.py                          # both networks; about 15 minutes on two cores
    python benchmarks/attacks.py --networks fixture --attacks standard
    python benchmarks/attacks_table.py                    # the results file -> docs/attacks-table.md, docs/attacks.svg

Networks: that of the tests' reference file (`fixture`; published AutoAttack leaves 74.5 % of the first 200 images) and
the shipped one. For each attack the images left, the passes and the seconds; `square` is the standard suite followed by
its queries. PGD-50 is timed on more images than the suites. Where `torchattacks` can be imported it is measured in the
same run: its APGD followed by its targeted APGD at the published budget, on the very network that madx attacks
(BatchNorm folded, channels last) and on what is classified correctly, as madx does; its PGD the same, and as it is
used: on the network as built, and on all images. All examples are scored here, in float32.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import (
    SUITES,
    Apgd,
    Attack,
    CrossEntropy,
    Passes,
    Victim,
    Worst,
    input_gradient,
    run_suite,
    strongest_examples,
)
from madx.data import load_splits
from madx.models import build_model, load_weights
from madx.models.folding import folded
from madx.recipe import AttackConfig, DataConfig, ModelConfig, ThreatConfig, load_recipe
from madx.seeds import torch_generator

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "tests/data/mad_reference.npz"
RECIPE = HERE.parent / "recipes/fashion-mnist.yaml"
RESULTS = HERE / "results/attacks.jsonl"
THREAT = ThreatConfig(norm="linf", eps=0.1)
PGD = AttackConfig(steps=50, relative_step=2.5)
CHUNK = 250


@dataclass
class Log:
    """What an attack did: passes, and how many images were left after how many seconds."""

    left: int
    passes: Passes = field(default_factory=Passes)
    start: float = field(default_factory=time.perf_counter)
    curve: list[tuple[float, int]] = field(default_factory=list)

    def note(self, left: int) -> None:
        """So many images are left now; kept where it changed."""
        if not self.curve or self.curve[-1][1] != left:
            self.curve.append((round(time.perf_counter() - self.start, 2), left))


@dataclass(frozen=True)
class Logged:
    """An attack that says at every pass how many images are left."""

    inner: Attack
    log: Log
    before: int
    """Images left when this chunk began."""

    @property
    def name(self) -> str:
        """The inner attack's."""
        return self.inner.name

    @property
    def most(self) -> Passes:
        """The inner attack's."""
        return self.inner.most

    def longer(self) -> Attack:
        """No study of twice the steps is made here."""
        return self.inner.longer()

    def __call__(self, victim: Victim, worst: Worst, *, threat: ThreatConfig, generator: torch.Generator) -> None:
        """The inner attack, watched."""

        def noting(call: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Tensor) -> Any:
                self.log.note(self.before - int((worst.margins >= 0).sum()))
                return call(*args)

            return noted

        watched = Victim(noting(victim.forward), lambda loss: noting(victim.gradient(loss)))
        self.inner(self.log.passes.counting(watched), worst, threat=threat, generator=generator)


Attacker = Callable[[Tensor, Tensor, Log, torch.Generator], Tensor]
"""(images, labels, log, generator) -> examples."""


@dataclass(frozen=True)
class Contestant:
    """One row of the table."""

    attacker: Attacker
    many: bool = False
    """Whether it is timed on more images than the suites."""
    attacks_errors_too: bool = False
    """Whether it also attacks images that are misclassified anyway, as a user of a library does who passes them all."""


def suite(model: nn.Module, *attacks: Attack, precision: Literal["fp32", "bf16"] = "fp32") -> Attacker:
    def attack(x: Tensor, y: Tensor, log: Log, generator: torch.Generator) -> Tensor:
        logged = tuple(Logged(attack, log, log.left) for attack in attacks)
        victim = Victim.of(model, precision=precision)
        return run_suite(victim, x, y, attacks=logged, threat=THREAT, generator=generator).points

    return attack


def pgd(model: nn.Module, *, restarts: int = 1, precision: Literal["fp32", "bf16"] = "fp32") -> Attacker:
    config = PGD.model_copy(update={"restarts": restarts})

    def attack(x: Tensor, y: Tensor, log: Log, generator: torch.Generator) -> Tensor:
        slope = input_gradient(model, largest_gap=10.0, precision=precision)
        victim = log.passes.counting(Victim(Victim.of(model).forward, lambda _: slope))
        gradient = victim.gradient(CrossEntropy())
        return strongest_examples(victim.forward, gradient, x, y, threat=THREAT, attack=config, generator=generator)

    return attack


def published_pair(model: nn.Module) -> Attacker:
    """AutoAttack's two white-box attacks in torchattacks' copy, the second on what the first left."""
    import torchattacks

    first = torchattacks.APGD(model, eps=THREAT.eps, steps=100)
    second = torchattacks.APGDT(model, eps=THREAT.eps, steps=100, n_classes=10)

    def attack(x: Tensor, y: Tensor, log: Log, _: torch.Generator) -> Tensor:
        before, points = log.left, first(x, y)
        standing = correct(model, points, y)
        log.note(before - int((~standing).sum()))
        points[standing] = second(x[standing], y[standing])
        return points

    return attack


def published_pgd(model: nn.Module) -> Attacker:
    import torchattacks

    step = PGD.relative_step * THREAT.eps / PGD.steps
    inner = torchattacks.PGD(model, eps=THREAT.eps, alpha=step, steps=PGD.steps, random_start=True)
    return lambda x, y, _log, _generator: inner(x, y)


@torch.no_grad()
def correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([model(part).argmax(1) for part in x.split(CHUNK)]) == y


def measure(model: nn.Module, x: Tensor, y: Tensor, contestant: Contestant) -> dict[str, Any]:
    """Images left, passes and seconds; `model` scores the clean images and the examples."""
    torch.manual_seed(0)  # torchattacks draws from torch's global state
    start = time.perf_counter()
    right = correct(model, x, y)
    log = Log(left=int(right.sum()), start=start)
    log.note(log.left)
    chosen = torch.ones_like(right) if contestant.attacks_errors_too else right
    for number, (images, labels) in enumerate(zip(x[chosen].split(CHUNK), y[chosen].split(CHUNK), strict=True)):
        points = contestant.attacker(images, labels, log, torch_generator(0, "attacks benchmark", number))
        largest = (points - images).abs().max().item()
        if largest > THREAT.eps + 1e-6:
            raise ValueError(f"an example is {largest} away from its image, and {THREAT.eps} was allowed")
        log.left -= int((~correct(model, points, labels) & correct(model, images, labels)).sum())
        log.note(log.left)
    seconds = time.perf_counter() - log.start
    return {
        "images": len(x),
        "clean": int(right.sum()),
        "left": log.left,
        "seconds": round(seconds, 1),
        "gradients_per_image": log.passes.gradient / len(x),
        "forwards_per_image": log.passes.forward / len(x),
        "curve": [*log.curve, (round(seconds, 2), log.left)],
    }


def fixture() -> nn.Module:
    """The robust ResNet-8 of the tests' reference file."""
    config = ModelConfig(name="resnet8", args={"widths": [16, 32, 64], "stem_stride": 1})
    model = build_model(config, shape=(1, 28, 28), classes=10, seed=0)
    with np.load(REFERENCE) as file:
        weights = {key[7:]: torch.from_numpy(file[key]) for key in file.files if key.startswith("weight/")}
    model.load_state_dict(weights)
    return model.eval()


def shipped() -> nn.Module:
    """The network that the demo prunes."""
    recipe = load_recipe(RECIPE)
    model = build_model(recipe.model, shape=(1, 28, 28), classes=10, seed=0)
    if recipe.model.weights is None:
        raise ValueError(f"{RECIPE.name} names no weights")
    load_weights(model, recipe.model.weights)
    return model.eval()


NETWORKS = {"fixture": fixture, "shipped": shipped}


def images_and_labels(count: int) -> tuple[Tensor, Tensor]:
    """The first images of the test set, in its own order."""
    source = load_splits(DataConfig(), 0).gate.source
    index = np.arange(count)
    return torch.from_numpy(source.images(index)), torch.from_numpy(source.labels[index])


def contestants(built: nn.Module, fast: nn.Module) -> dict[str, Contestant]:
    """By name."""
    quick, standard = SUITES["quick"], SUITES["standard"]
    found = {
        "pgd-50": Contestant(pgd(fast), many=True),
        "pgd-50, bf16 slopes": Contestant(pgd(fast, precision="bf16"), many=True),
        "apgd, 50 gradients, bf16 slopes": Contestant(suite(fast, Apgd(steps=49), precision="bf16"), many=True),
        "pgd-50, 10 restarts": Contestant(pgd(fast, restarts=10)),
        "quick": Contestant(suite(fast, *quick.twin)),
        "standard": Contestant(suite(fast, *standard.twin)),
        "square": Contestant(suite(fast, *standard.twin, *standard.query)),
    }
    if importlib.util.find_spec("torchattacks"):
        found["torchattacks pgd-50"] = Contestant(published_pgd(fast), many=True)
        found["torchattacks pgd-50, as used"] = Contestant(published_pgd(built), many=True, attacks_errors_too=True)
        found["torchattacks apgd + targeted"] = Contestant(published_pair(fast))
    return found


def main() -> None:
    """Measure, and replace what the results file had of the same network and attack."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--attacks", nargs="+", help="names; all by default")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--pgd-images", type=int, default=1000)
    parser.add_argument("--dry", action="store_true", help="print only")
    chosen = parser.parse_args()
    x, y = images_and_labels(max(chosen.images, chosen.pgd_images))
    for network in chosen.networks:
        built = NETWORKS[network]()
        fast = folded(built, x[:2])
        for name, contestant in contestants(built, fast).items():
            if chosen.attacks and name not in chosen.attacks:
                continue
            count = chosen.pgd_images if contestant.many else chosen.images
            entry = {"network": network, "attack": name, "threads": torch.get_num_threads()}
            entry |= measure(fast, x[:count], y[:count], contestant)
            print(json.dumps({key: value for key, value in entry.items() if key != "curve"}), flush=True)
            if not chosen.dry:
                store(entry)


def store(entry: dict[str, Any]) -> None:
    """Into the results file, in place of what it had of this network and attack."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    entries = {(old["network"], old["attack"]): old for old in map(json.loads, lines)}
    entries[entry["network"], entry["attack"]] = entry
    RESULTS.write_text("".join(json.dumps(value) + "\n" for value in entries.values()))


if __name__ == "__main__":
    main()
