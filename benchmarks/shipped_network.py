"""Clean accuracy and PGD-50 with 10 restarts of the shipped network on the test set's first 1,000 images.

    python benchmarks/shipped_network.py

Prints JSON with shares of the images. About four minutes on two cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from madx.attacks import input_gradient, strongest_examples
from madx.data import load_splits
from madx.models import build_model, load_weights
from madx.models.precision import probe
from madx.recipe import AttackConfig, load_recipe
from madx.seeds import torch_generator

RECIPE = Path(__file__).parent.parent / "recipes/fashion-mnist.yaml"
IMAGES = 1000
ATTACK = AttackConfig(steps=50, relative_step=2.5, restarts=10)


def measure() -> dict[str, float]:
    """Accuracies as shares of the first IMAGES images, in the test set's own order."""
    recipe = load_recipe(RECIPE)
    source = load_splits(recipe.data, recipe.seed).gate.source
    index = np.arange(IMAGES)
    images, labels = torch.from_numpy(source.images(index)), torch.from_numpy(source.labels[index])
    model = build_model(recipe.model, shape=source.shape, classes=source.classes, seed=0)
    assert recipe.model.weights is not None
    load_weights(model, recipe.model.weights)
    probe(model, source.shape).fastest("fp32").order_(model)
    with torch.no_grad():
        clean = model(images).argmax(1) == labels
    robust = 0
    chosen = zip(images[clean].split(250), labels[clean].split(250), strict=True)
    for number, (x, y) in enumerate(chosen):
        generator = torch_generator(0, "shipped network", number)
        worst = strongest_examples(
            model,
            input_gradient(model, largest_gap=10.0),
            x,
            y,
            threat=recipe.threat,
            attack=ATTACK,
            generator=generator,
        )
        with torch.no_grad():
            robust += int((model(worst).argmax(1) == y).sum())
    return {"clean": clean.float().mean().item(), "pgd50_10_restarts": robust / IMAGES}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
