"""The networks: those we ship, the user's own, and how weights get into them.

Every network takes images [B, C, H, W], float32 in [0, 1], and gives logits [B, K]; normalisation is inside.
A new architecture is a builder in a file of its own, one line in `ARCHITECTURES` and its name in the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import nn

from madx.errors import ModelError
from madx.models.arguments import RESERVED, Builder, check_arguments
from madx.models.choosing import Found
from madx.models.factory import check_network, from_factory
from madx.models.loading import check_finite, find_state, load_weights, state_digest
from madx.models.normalise import Normalise, Normalised, read_normalise
from madx.models.resnet import resnet8, resnet18
from madx.models.states import Choice
from madx.models.vgg import vgg16_bn
from madx.models.wideresnet import wrn28_10
from madx.recipe.models import ModelConfig
from madx.seeds import torch_draws

__all__ = [
    "ARCHITECTURES",
    "Choice",
    "Found",
    "Normalise",
    "Normalised",
    "build_model",
    "check_finite",
    "find_state",
    "load_weights",
    "state_digest",
]

ARCHITECTURES: Mapping[str, Builder] = MappingProxyType(
    {"resnet8": resnet8, "resnet18": resnet18, "vgg16_bn": vgg16_bn, "wrn28_10": wrn28_10}
)
"""The shipped architectures by model.name."""


def build_model(config: ModelConfig, *, shape: tuple[int, int, int], classes: int, seed: int) -> nn.Module:
    """Build the network of a recipe with fresh weights; model.weights is the caller's to load.

    Args:
        config: The recipe's model section.
        shape: Images as (channels, height, width).
        classes: How many classes the logits have.
        seed: The recipe's seed. Equal seeds give equal weights, and torch's global generator is left as it
            was.

    Returns:
        The network in eval mode, float32, on the CPU.

    Raises:
        ModelError: Arguments or normalisation do not fit, the images are too small, or a factory does not
            give a network that turns such images into such logits.
    """
    if len(shape) != 3 or min(*shape, classes) < 1:
        raise ModelError(
            f"a network for shape {shape} and {classes} classes; expected (channels, height, width), all 1 or more."
        )
    norm = read_normalise(config.args.get(RESERVED), channels=shape[0])
    with torch_draws(seed, "model"):
        if config.factory is not None:
            return _users(config, config.factory, norm, shape=shape, classes=classes)
        return _ours(config, norm, shape=shape, classes=classes)


def _ours(config: ModelConfig, norm: Normalise | None, *, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A shipped architecture; each has an identity called `norm` in front, which a normalisation replaces."""
    builder = ARCHITECTURES[config.name]
    network = builder(shape, classes, **check_arguments(builder, _own_arguments(config), name=config.name))
    if norm is not None:
        network.norm = norm
    return _ready(network)


def _users(
    config: ModelConfig, factory: str, norm: Normalise | None, *, shape: tuple[int, int, int], classes: int
) -> nn.Module:
    """The user's network, behind a normalisation if the recipe has one, tried once on zeros."""
    bare = from_factory(factory, _own_arguments(config))
    network = _ready(bare if norm is None else Normalised(norm, bare))
    check_network(network, name=factory, shape=shape, classes=classes)
    return network


def _own_arguments(config: ModelConfig) -> dict[str, object]:
    """model.args without what madx itself applies."""
    return {key: value for key, value in config.args.items() if key != RESERVED}


def _ready(network: nn.Module) -> nn.Module:
    """The network as every stage expects it; a factory may have left it otherwise."""
    return network.to(device="cpu", dtype=torch.float32).eval()
