"""Cost of MAD's saliency per batch: parts, faster variants, a straightforward K-FAC and a training step, in one run.

    python benchmarks/saliency.py            # the 78k-parameter ResNet-8 of tests/data, batch 128
    python benchmarks/saliency.py --resnet18 # and ResNet-18 at 3x32x32, batch 32 (minutes)

The straightforward K-FAC unfolds patches, forms A = sum a a^T (K x K) for every layer, and multiplies; before it is
timed, its saliency is compared with madx's. Each figure is the median over the repeats. Each method runs in a process
of its own, and once more for the peak of its memory above what a batch of two left loaded, while freed tensors go
straight back to the system. The overlaps with plain float32's are those of the sets that are removed and kept at 90 %,
after the whole chain from the same random start. Set the threads with OMP_NUM_THREADS and quote the ratios: the
machine's speed drops out.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madx.attacks import input_gradient, last_iterate
from madx.models import build_model
from madx.models.folding import folded
from madx.models.precision import ComputeFormat, Precision
from madx.prune import mad_saliency, optimise_masks, unstructured_masks
from madx.prune.curvature import output_curvature
from madx.prune.layers import scored_layers, scored_parameters
from madx.recipe import AttackConfig, ModelConfig, ThreatConfig
from madx.seeds import torch_generator

FIXTURE = Path(__file__).parent.parent / "tests/data/mad_reference.npz"
Batch = tuple[nn.Module, Tensor, Tensor]


class Variant(NamedTuple):
    """How the attack and the mask optimisation are computed; statistics and saliency are always in float32."""

    fold: bool = False
    attack: Precision = "fp32"
    masks: Precision = "fp32"


PLAIN = "float32"
VARIANTS = {
    PLAIN: Variant(),
    "folded": Variant(fold=True),
    "folded, bf16 masks": Variant(fold=True, masks="bf16"),
    "folded, bf16": Variant(fold=True, attack="bf16", masks="bf16"),
}
STEP, KFAC = "training step", "K-FAC"
METHODS = (STEP, KFAC, *VARIANTS)
PARTS = ("attack", "masks", "statistics")
GOAL = 0.9
"""Share pruned in the comparison."""


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

        def keep(_: nn.Module, given: tuple[Tensor, ...], output: Tensor, name: str = name, layer: Any = layer) -> None:
            inputs[name] = given[0].detach()
            output.register_hook(lambda g: curvature.__setitem__(name, output_curvature(layer, g, images=len(y))))

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
            assert not isinstance(layer.padding, str)
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


def check_kfac(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Both ways must give the weights the same saliency; in float64, where only the mathematics counts."""
    model, x = copy.deepcopy(model).double(), x.double()
    masks = {name: torch.full_like(parameter, 0.5) for name, parameter in scored_parameters(model).items()}
    found = mad_saliency(model, x, y, masks)
    for name, expected in kfac_saliency(model, x, y, masks).items():
        weights = found[f"{name}.weight"].flatten(1)
        error = (weights - expected[:, : weights.shape[1]]).norm() / expected.norm()
        assert error < 1e-9, f"{name}: K-FAC differs by {error:.1e} of its norm"


def training_step(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """One forward and backward pass with weight gradients."""
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def chain(variant: Variant, batch: Batch, results: dict[str, Any]) -> dict[str, Callable[[], None]]:
    """The parts of the saliency, in order; each leaves its result for the next in `results`. Folding counts."""
    model, x, y = batch

    def attack() -> None:
        module = folded(model, x[:8], format=ComputeFormat(channels_last=True)) if variant.fold else model
        gradient, generator = input_gradient(module, precision=variant.attack), torch_generator(0, "attack")
        threat, config = ThreatConfig(eps=0.1), AttackConfig(steps=10)
        x_adv = last_iterate(gradient, x, y, threat=threat, attack=config, generator=generator)
        results["images"] = x_adv.contiguous()

    def masks() -> None:
        format = ComputeFormat(variant.masks, channels_last=variant.fold)
        results["masks"] = optimise_masks(model, results["images"], y, format=format, fold=variant.fold)

    def statistics() -> None:
        results["scores"] = mad_saliency(model, results["images"], y, results["masks"])

    return dict(zip(PARTS, (attack, masks, statistics), strict=True))


def parts_of(method: str, batch: Batch, results: dict[str, Any]) -> Mapping[str, Callable[[], object]]:
    """What a method does, part by part."""
    model, x, y = batch
    if method == STEP:
        return {STEP: lambda: training_step(model, x, y)}
    if method == KFAC:
        masks = {name: torch.full_like(parameter, 0.5) for name, parameter in scored_parameters(model).items()}
        return {"statistics": lambda: kfac_saliency(model, x, y, masks)}
    return chain(VARIANTS[method], batch, results)


def seconds(network: str, method: str, repeats: int, file: Path) -> dict[str, float]:
    """Median seconds of each part; the pruned set goes to `file`."""
    batch: Batch = NETWORKS[network]()
    results: dict[str, Any] = {}
    if method == KFAC:
        check_kfac(*batch)
    found = {name: timed(part, repeats) for name, part in parts_of(method, batch, results).items()}
    if method in VARIANTS:
        np.save(file, pruned_convolutions(batch[0], results["scores"]))
    return found


def memory(network: str, method: str) -> dict[str, float]:
    """Peak memory of the whole batch above that of two images, after which all code is loaded."""
    model, x, y = NETWORKS[network]()
    for part in parts_of(method, (model, x[:2], y[:2]), {}).values():
        part()
    before = resident()
    for part in parts_of(method, (model, x, y), {}).values():
        part()
    return {"peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}


def resident() -> float:
    """MB that this process holds now (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


def pruned_convolutions(model: nn.Module, scores: dict[str, Tensor]) -> np.ndarray:
    """Bool over all convolution weights: what the paper's rule removes."""
    masks = unstructured_masks(model, scores, GOAL)
    return np.concatenate([~mask.numpy().ravel() for name, mask in masks.items() if scores[name].dim() == 4])


def timed(part: Callable[[], object], repeats: int) -> float:
    """Median seconds after one warm-up."""
    part()
    samples = []
    for _ in range(repeats):
        started = time.perf_counter()
        part()
        samples.append(time.perf_counter() - started)
    return statistics.median(samples)


def child(options: list[str], **environment: str) -> dict[str, float]:
    """What `seconds` or `memory` finds in a process of its own."""
    command = [sys.executable, __file__, *options]
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | environment)
    return json.loads(run.stdout)


def compare(network: str, repeats: int) -> None:
    """Print every method's parts, and the ratios."""
    found: dict[str, dict[str, float]] = {}
    sets: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            file = Path(folder) / "pruned.npy"
            options = ["--one", network, method, "--repeats", str(repeats)]
            found[method] = child([*options, "--save", str(file)]) | child(options, MALLOC_MMAP_THRESHOLD_="65536")
            if method in VARIANTS:
                sets[method] = np.load(file)
    step, kfac, plain = found[STEP], found[KFAC], sets[PLAIN]
    print(f"{network}, {torch.get_num_threads()} threads, seconds per batch, median of {repeats}")
    print(f"  {STEP}: {step[STEP]:.3f}, peak memory {step['peak MB']:.0f} MB")
    print(f"  {KFAC}: statistics {kfac['statistics']:.3f}, peak memory {kfac['peak MB']:.0f} MB")
    columns = (*PARTS, "all", "statistics / training step", "peak memory / its", "same removed", "same kept")
    print(f"  | madx | {' | '.join(columns)} |")
    print(f"  | --- {'| ---: ' * len(columns)}|")
    for name, removed in sets.items():
        parts = found[name]
        figures = [f"{parts[part]:.3f}" for part in PARTS] + [f"{sum(parts[part] for part in PARTS):.3f}"]
        ratios = [f"{parts['statistics'] / step[STEP]:.2f}", f"{parts['peak MB'] / step['peak MB']:.2f}"]
        same = [f"{(one & other).sum() / other.sum():.1%}" for one, other in ((removed, plain), (~removed, ~plain))]
        print(f"  | {name} | {' | '.join(figures + ratios + same)} |")
    print(f"  statistics {kfac['statistics'] / found[PLAIN]['statistics']:.2f} times as fast as {KFAC}'s")


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resnet18", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--one", nargs=2, metavar=("NETWORK", "METHOD"), help=argparse.SUPPRESS)
    parser.add_argument("--save", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        save = arguments.save
        network, method = arguments.one
        print(json.dumps(seconds(network, method, arguments.repeats, save) if save else memory(network, method)))
        return
    for network in ["resnet8", *(["resnet18"] if arguments.resnet18 else [])]:
        compare(network, arguments.repeats)


if __name__ == "__main__":
    main()
