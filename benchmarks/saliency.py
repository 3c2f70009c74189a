"""Cost of MAD's saliency per batch, against a straightforward K-FAC and one training step, all in one run.

    python benchmarks/saliency.py            # the 78k-parameter ResNet-8 of tests/data, batch 128
    python benchmarks/saliency.py --resnet18 # and ResNet-18 at 3x32x32, batch 32 (minutes)

The straightforward K-FAC unfolds patches, forms A = sum a a^T (K x K) for every layer, and multiplies; attack and mask
optimisation are the same for both. Each figure is the median over the repeats; each method runs in a process of its
own, whose peak memory is read from the operating system. Quote the ratios: the machine's speed drops out.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.attacks import input_gradient, last_iterate
from madx.models import build_model
from madx.prune import mad_saliency, optimise_masks
from madx.prune.curvature import output_curvature, scored_layers, scored_parameters
from madx.recipe import AttackConfig, ModelConfig, ThreatConfig
from madx.seeds import torch_generator

FIXTURE = Path(__file__).parent.parent / "tests/data/mad_reference.npz"
METHODS = ("training step", "madx", "kfac")
Batch = tuple[nn.Module, Tensor, Tensor]


def resnet8() -> Batch:
    """The reference network and its batch of adversarial images."""
    content = np.load(FIXTURE)
    config = ModelConfig(name="resnet8", args={"widths": [16, 32, 64], "stem_stride": 1})
    model = build_model(config, shape=(1, 28, 28), classes=10, seed=0)
    prefix = "weight/"
    model.load_state_dict({k[len(prefix) :]: torch.from_numpy(content[k]) for k in content if k.startswith(prefix)})
    return model, torch.from_numpy(content["images"]), torch.from_numpy(content["labels"])


def resnet18() -> Batch:
    """An untrained CIFAR ResNet-18: the cost does not depend on the weights."""
    model = build_model(ModelConfig(name="resnet18"), shape=(3, 32, 32), classes=10, seed=0)
    generator = torch_generator(0, "benchmark")
    return model, torch.rand(32, 3, 32, 32, generator=generator), torch.randint(0, 10, (32,), generator=generator)


NETWORKS = {"resnet8": resnet8, "resnet18": resnet18}


def kfac_saliency(model: nn.Module, x_adv: Tensor, y: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same saliency with explicit Kronecker factors; convolutions without groups and zero padding only."""
    masked = {name: parameter.detach() * masks[name] for name, parameter in scored_parameters(model).items()}
    inputs: dict[str, Tensor] = {}
    curvature: dict[str, Tensor] = {}
    hooks = []
    for name, layer in scored_layers(model).items():

        def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name, layer=layer) -> None:
            inputs[name] = given[0].detach()
            output.register_hook(lambda g: curvature.__setitem__(name, output_curvature(layer, g)))

        hooks.append(layer.register_forward_hook(keep))
    images = x_adv.detach().requires_grad_()
    frozen = {name: parameter.detach() for name, parameter in model.named_parameters()}
    torch.autograd.grad(F.cross_entropy(functional_call(model, frozen | masked, (images,)), y), images)
    for hook in hooks:
        hook.remove()
    saliency: dict[str, Tensor] = {}
    for name, layer in scored_layers(model).items():
        a = inputs[name]
        if isinstance(layer, nn.Conv2d):
            patches = F.unfold(a, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
            a = patches.transpose(1, 2).flatten(0, 1)
        weights = layer.weight.detach().flatten(1)
        removed = weights - masked[f"{name}.weight"].flatten(1)
        if layer.bias is not None:
            a = torch.cat([a, a.new_ones(len(a), 1)], dim=1)
            removed = torch.cat([removed, (layer.bias.detach() - masked[f"{name}.bias"])[:, None]], dim=1)
        factor = a.T @ a
        saliency[name] = 0.5 * curvature[name][:, None] * removed * (removed @ factor)
    return saliency


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and backward pass with weight gradients."""
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def measure(network: str, method: str, repeats: int) -> dict[str, float]:
    """Median seconds of each part, and the process's peak memory above what it had before."""
    model, x, y = NETWORKS[network]()
    gradient, threat = input_gradient(model), ThreatConfig(eps=0.1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts: dict[str, Callable[[], object]] = {}
    if method == "training step":
        parts["training step"] = lambda: training_step(model, x, y)
    else:
        statistics_of = mad_saliency if method == "madx" else kfac_saliency
        attack = AttackConfig(steps=10)
        parts["attack"] = lambda: last_iterate(
            gradient, x, y, threat=threat, attack=attack, generator=torch_generator(0, "attack")
        )
        parts["masks"] = lambda: optimise_masks(model, x, y)
        masks = optimise_masks(model, x, y)
        parts["statistics and saliency"] = lambda: statistics_of(model, x, y, masks)
    seconds = {name: timed(part, repeats) for name, part in parts.items()}
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return seconds | {"peak MB": peak}


def timed(part: Callable[[], object], repeats: int) -> float:
    """Median seconds after one warm-up."""
    part()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        part()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def compare(network: str, repeats: int) -> None:
    """Print every method's parts, and the ratios."""
    found = {}
    for method in METHODS:
        command = [sys.executable, __file__, "--one", network, method, "--repeats", str(repeats)]
        found[method] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{network}, {torch.get_num_threads()} threads, median of {repeats}")
    for method, parts in found.items():
        print(f"  {method:14}" + "  ".join(f"{name} {value:.3f}" for name, value in parts.items()))
    step, ours, theirs = found["training step"], found["madx"], found["kfac"]
    part = "statistics and saliency"
    print(f"  statistics and saliency: {theirs[part] / ours[part]:.2f} times as fast as K-FAC,")
    print(f"    the cost of {ours[part] / step['training step']:.2f} training steps")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet18", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "METHOD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(*arguments.one, arguments.repeats)))
        return
    for network in ["resnet8", *(["resnet18"] if arguments.resnet18 else [])]:
        compare(network, arguments.repeats)


if __name__ == "__main__":
    main()
