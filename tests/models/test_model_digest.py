from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import torch
from model_cases import network
from torch import nn

from madx.models import build_model, load_weights, state_digest
from madx.recipe import load_recipe


def test_the_digest_is_sha256_over_names_types_shapes_and_bytes() -> None:
    module = nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0]]))
        module.bias.copy_(torch.tensor([0.5]))
    content = b'["bias", "torch.float32", [1]]\n' + struct.pack("<f", 0.5)
    content += b'["weight", "torch.float32", [1, 2]]\n' + struct.pack("<2f", 1.0, -2.0)
    assert state_digest(module) == hashlib.sha256(content).hexdigest()


def test_the_digest_sees_what_matters_and_only_that() -> None:
    first = state_digest(network())
    assert state_digest(network().to(memory_format=torch.channels_last)) == first
    assert state_digest(network().train()) == first
    changed = network()
    with torch.no_grad():
        changed.conv1.weight.view(-1)[0].add_(1e-6)
    assert state_digest(changed) != first
    assert state_digest(network().bfloat16()) != first
    counted = network()
    counted.bn1.num_batches_tracked += 1
    assert state_digest(counted) != first


def test_the_digest_does_not_depend_on_the_order_of_registration() -> None:
    one, two = nn.Linear(2, 3), nn.Linear(3, 2)
    forward = nn.ModuleDict({"one": one, "two": two})
    assert state_digest(forward) == state_digest(nn.ModuleDict({"two": two, "one": one}))
    assert state_digest(forward) != state_digest(nn.ModuleDict({"one": two, "two": one}))


def test_the_shipped_weights_are_those_that_the_recorded_training_ended_with() -> None:
    recipes = Path(__file__).parent.parent.parent / "recipes"
    recipe = load_recipe(recipes / "fashion-mnist.yaml")
    module = build_model(recipe.model, shape=(1, 28, 28), classes=10, seed=0)
    assert recipe.model.weights is not None
    load_weights(module, recipe.model.weights)
    record = json.loads((recipes / "weights/fashion-mnist-resnet8.run.json").read_text())
    assert state_digest(module) == record["digest"]
    dense = load_recipe(recipes / "fashion-mnist-dense.yaml")
    assert (dense.model.args, dense.threat) == (recipe.model.args, recipe.threat)
