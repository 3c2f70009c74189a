"""What int8 does to the shipped network's logits when it is made with care, and when one layer's scale is wrong.

    python benchmarks/int8.py            # two minutes on two cores; data fetched before

The dense network of the demo is quantised by `madx.deploy.quantised` from 250 clean and 250 attacked selection images,
and held against torch on 1,000 others, clean and attacked (PGD-10). `apart` is in units of the reach
(`madx.closeness`): the row of int8 in `madx.precisions` is one number that lies above all faithful files and below all
files of which one layer's scale was halved.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from madx.attacks import input_gradient, strongest_examples
from madx.closeness import apart
from madx.data import load_splits
from madx.deploy.export import export_onnx
from madx.deploy.ort import answers_of
from madx.deploy.quantised import quantised
from madx.models import build_model, load_weights
from madx.precisions import PRECISIONS
from madx.recipe import AttackConfig, CalibrationConfig, ThreatConfig, load_recipe
from madx.seeds import torch_generator

RECIPE = Path(__file__).parent.parent / "recipes/fashion-mnist.yaml"
CALIBRATION, IMAGES, BATCH = 250, 1000, 250
ATTACK = AttackConfig(steps=10, relative_step=2.5)
Floats = NDArray[np.float32]


def attacked(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, threat: ThreatConfig) -> Floats:
    """Adversarial examples of the images."""
    gradient, generator = input_gradient(network, largest_gap=10.0), torch_generator(0, "int8")
    parts = [
        strongest_examples(network, gradient, x, y, threat=threat, attack=ATTACK, generator=generator)
        for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)
    ]
    found: Floats = torch.cat(parts).numpy()
    return found


def with_halved_scales(payload: bytes) -> Iterator[tuple[str, bytes]]:
    """For each layer the file in which its weights' scale is half of what it was."""
    model = onnx.load_model_from_string(payload)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = stored.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if weight is None or weight.data_type != onnx.TensorProto.INT8:
            continue
        scale = stored[node.input[1]]
        before = numpy_helper.to_array(scale)
        scale.CopyFrom(numpy_helper.from_array(0.5 * before, scale.name))
        yield weight.name.removesuffix("_quantized"), model.SerializeToString()
        scale.CopyFrom(numpy_helper.from_array(before, scale.name))


def main() -> None:
    """Print a line for each file."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    recipe = load_recipe(RECIPE)
    split = load_splits(recipe.data, recipe.seed).selection
    network = build_model(recipe.model, shape=split.shape, classes=split.classes, seed=0)
    assert recipe.model.weights is not None
    load_weights(network, recipe.model.weights)
    network.eval().requires_grad_(False)
    images, labels = split.tensors(0, CALIBRATION + IMAGES)
    worst = attacked(network, images, labels, recipe.threat)
    clean = images.numpy()
    calibration = np.concatenate([clean[:CALIBRATION], worst[:CALIBRATION]])
    sets = {"clean": clean[CALIBRATION:], "attacked": worst[CALIBRATION:]}
    with torch.no_grad():
        expected = {name: network(torch.from_numpy(x)).numpy() for name, x in sets.items()}

    def line(name: str, payload: bytes) -> None:
        told = []
        for which, x in sets.items():
            found = np.concatenate([answers_of(payload, x[at : at + 50], precise=False) for at in range(0, len(x), 50)])
            off = apart(found, expected[which], rounding=1.0, usual=expected["clean"])
            right = float((found.argmax(1) == labels[CALIBRATION:].numpy()).mean())
            flips = float((found.argmax(1) != expected[which].argmax(1)).mean())
            told.append(f"{which}: apart {off.max():.3f}, labels changed {flips:.1%}, right {right:.1%}")
        print(f"{name:36} {'; '.join(told)}", flush=True)

    exported = export_onnx(network, split.shape, opset=recipe.export.opset)
    line("float32", exported.payload)
    for config in (
        CalibrationConfig(weight_bits=8),
        CalibrationConfig(weight_bits=7),
        CalibrationConfig(weight_bits=8, method="percentile"),
        CalibrationConfig(weight_bits=8, method="entropy"),
    ):
        made = quantised(exported, calibration, config).payload
        line(f"int8, {config.weight_bits} bits, {config.method}", made)
    made = quantised(exported, calibration, CalibrationConfig(weight_bits=8)).payload
    for layer, payload in with_halved_scales(made):
        line(f"scale of {layer} halved", payload)
    print(
        f"the row of int8 explains {PRECISIONS['int8'].rounding} of the reach, {PRECISIONS['int8'].flips:.0%} of labels"
    )


if __name__ == "__main__":
    main()
