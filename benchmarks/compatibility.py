"""Public architectures with random weights: what madx removes of each, beside torch-pruning on the same network.

    pip install --no-deps pytorchcv
    python benchmarks/compatibility.py              # all that have no row yet, an hour on two cores; --only NAME ...
    python benchmarks/compatibility.py --write      # docs/compatibility.md from the results

Half of the channels in multiples of four, 10 classes, images of 64x64 where the network takes them, with its average
pooling of fixed size at the end replaced by an adaptive one; 32x32 for those made for CIFAR, 224x224 for those that
need it. Channels are removed, the smaller network is compared with the masked dense one (equal logits, or an error),
exported to ONNX and compared again. The list was written before any of them was tried, and none was left out for its
outcome.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import json
import signal
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import nn

from madx.artifacts import write_atomically
from madx.deploy.export import export_onnx
from madx.errors import MadxError
from madx.plugins import USER_ERRORS
from madx.prune import Rule
from madx.prune.layers import scored_layers, scored_parameters
from madx.recipe import PruneConfig

RESULTS = Path(__file__).resolve().parent / "results/compatibility.jsonl"
PAGE = Path(__file__).resolve().parent.parent / "docs/compatibility.md"
HALF = PruneConfig(structure="channels", sparsity=0.5, round_to=4)
LIMIT = 300
"""Seconds for each tool and network."""
CLASSES = 10
_NAMES = """
    alexnet.alexnet vgg.bn_vgg11 vgg.vgg11 bninception.bninception resnet.resnet10 resnet.resnet18
    resnet.resnetbc26b resnet.resnet50 preresnet.preresnet18 preresnet.preresnetbc26b
    resnet_cifar.resnet20_cifar10 preresnet_cifar.preresnet20_cifar10 wrn_cifar.wrn16_10_cifar10
    resnext.resnext26_16x4d resnext_cifar.resnext29_32x4d_cifar10 seresnet.seresnet18
    seresnext.seresnext50_32x4d senet.senet16 ibnresnet.ibn_resnet50 airnet.airnet50_1x64d_r2
    bamresnet.bam_resnet18 cbamresnet.cbam_resnet18 resattnet.resattnet56 sknet.sknet50 scnet.scnet50
    resnesta.resnesta18 resneta.resneta10 resnetd.resnetd50b pyramidnet_cifar.pyramidnet110_a48_cifar10
    diracnetv2.diracnet18v2 sharesnet.sharesnet18 diaresnet.diaresnet10 densenet.densenet121
    densenet_cifar.densenet40_k12_cifar10 condensenet.condensenet74_c4_g4 sparsenet.sparsenet121
    peleenet.peleenet wrn.wrn50_2 drn.drnc26 dpn.dpn68 darknet.darknet_ref darknet53.darknet53
    irevnet.irevnet301 bagnet.bagnet9 dla.dla34 fishnet.fishnet99 regnet.regnetx002 regnet.regnety002
    squeezenet.squeezenet_v1_1 squeezenext.sqnxt23_w1 shufflenet.shufflenet_g1_wd4 shufflenetv2.shufflenetv2_wd2
    shufflenetv2b.shufflenetv2b_wd2 menet.menet108_8x1_g3 mobilenet.mobilenet_wd4 mobilenetb.mobilenetb_wd4
    mobilenetv2.mobilenetv2_wd4 mobilenetv3.mobilenetv3_small_w7d20 igcv3.igcv3_wd4 mnasnet.mnasnet_small
    ghostnet.ghostnet efficientnet.efficientnet_b0 mixnet.mixnet_s fbnet.fbnet_cb proxylessnas.proxylessnas_cpu
    hardnet.hardnet39ds vovnet.vovnet27s selecsls.selecsls42 inceptionresnetv1.inceptionresnetv1
    xception.xception hrnet.hrnet_w18_small_v1 tresnet.tresnet_m nin_cifar.nin_cifar10 rir_cifar.rir_cifar10
    revnet.revnet38 spnasnet.spnasnet octresnet.octresnet10_ad2
"""
ARCHITECTURES = tuple(_NAMES.split())
"""Module and function of pytorchcv, classifiers of each family that it has, mostly the smallest member."""


FULL_SIZE = ("alexnet", "vgg", "scnet", "dpn", "darknet", "squeezenet", "efficientnet", "inceptionresnetv1", "xception")
"""Modules whose networks take images of 224x224 alone."""


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """The network with random weights in eval mode, and images for it."""
    module, function = name.split(".")
    size = 32 if "cifar" in name else 224 if module in FULL_SIZE else 64
    maker = getattr(importlib.import_module(f"pytorchcv.models.{module}"), function)
    torch.manual_seed(0)
    network: nn.Module = maker(num_classes=CLASSES, in_size=(size, size))
    for part in (network, getattr(network, "features", None)):
        if isinstance(getattr(part, "final_pool", None), nn.AvgPool2d):
            part.final_pool = nn.AdaptiveAvgPool2d(1)  # type: ignore[union-attr]
    return network.eval(), torch.rand(2, 3, size, size)


def by_madx(network: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """What is removed, and whether the exported file gives the smaller network's logits."""
    rule = Rule(network, HALF, example=images)
    scores = {name: value.detach().abs() for name, value in scored_parameters(network).items()}
    removal = rule.remove(scores)
    rule.channel_masks(scores)
    before, after = removal.channels or (0, 0)
    row = {"channels": before, "removed": before - after, "groups": len(rule.groups[0]), "whole": len(removal.reasons)}
    exported = export_onnx(removal.module, (images.shape[1], images.shape[2], images.shape[3]), opset=20)
    session = onnxruntime.InferenceSession(exported.payload, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = removal.module(images).numpy()
    return row | {"onnx": float(np.abs(given - expected).max() / np.abs(expected).max())}


def by_torch_pruning(network: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """What torch-pruning's magnitude pruner removes at the same settings, of the same layers."""
    import torch_pruning

    network = copy.deepcopy(network)
    layers = scored_layers(network)
    widths = {name: layer.weight.shape[0] for name, layer in layers.items()}
    outputs = [layer for layer in layers.values() if layer.weight.shape[0] == CLASSES]
    torch_pruning.pruner.MagnitudePruner(
        network,
        images,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=4,
        ignored_layers=outputs,
    ).step()
    with torch.no_grad():
        network(images)
    return {"removed": sum(widths[name] - layer.weight.shape[0] for name, layer in layers.items())}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raises after so long."""

    def ring(*_: object) -> None:
        raise RuntimeError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def tried(name: str) -> dict[str, Any]:
    """One network's row."""
    row: dict[str, Any] = {"network": name}
    for tool, work in (("madx", by_madx), ("torch_pruning", by_torch_pruning)):
        network, images = build(name)
        started = time.monotonic()
        try:
            with limited(LIMIT):
                found = work(network, images)
        except (MadxError, *USER_ERRORS) as problem:
            found = {"problem": f"{type(problem).__name__}: {problem}"[:300]}
        row[tool] = found | {"seconds": round(time.monotonic() - started, 1)}
    return row


def page(rows: list[dict[str, Any]]) -> str:
    """docs/compatibility.md."""
    lines = [
        "# Public architectures",
        "",
        "Written by `python benchmarks/compatibility.py --write` from `benchmarks/results/compatibility.jsonl`; how",
        "it is measured stands at the head of that file. Channels are output channels of all convolutions and linear",
        "layers that do not make the logits. Half of them are asked for, in multiples of four; torch-pruning 1.6's",
        "magnitude pruner has the same network in the same run; `ONNX` is the largest difference of the exported",
        "smaller network's logits, as a share of the largest.",
        "",
        f"Run so far: {len(rows)} of the {len(ARCHITECTURES)} on the list.",
        "",
        "| network | channels | groups cut | layers whole | removed | torch-pruning | ONNX | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        ours, theirs = row["madx"], row["torch_pruning"]
        peer = str(theirs.get("removed", "")) or theirs["problem"].partition(":")[0]
        if "problem" in ours:
            lines.append(f"| {row['network']} | | | | {ours['problem']} | {peer} | | {ours['seconds']} |")
            continue
        counts = " | ".join(str(ours[key]) for key in ("channels", "groups", "whole", "removed"))
        lines.append(f"| {row['network']} | {counts} | {peer} | {ours['onnx']:.0e} | {ours['seconds']} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ARCHITECTURES, metavar="NAME")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    if arguments.write:
        write_atomically(PAGE, page(rows).encode())
        return
    done = {row["network"] for row in rows}
    for name in arguments.only or [name for name in ARCHITECTURES if name not in done]:
        row = tried(name)
        rows = [*(other for other in rows if other["network"] != name), row]
        rows.sort(key=lambda row: ARCHITECTURES.index(row["network"]))
        write_atomically(RESULTS, "".join(json.dumps(row) + "\n" for row in rows).encode())
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
