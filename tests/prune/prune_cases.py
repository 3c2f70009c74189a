"""What the tests of the prune room share: networks with their images, scores, a pruned copy, the reference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import small_networks as nets
import torch
from small_networks import SMALL, shipped
from torch import Tensor, nn

from madx.models import build_model
from madx.prune import Survivors, remove_channels_
from madx.prune.layers import scored_parameters
from madx.recipe import ModelConfig

REFERENCE = Path(__file__).parents[1] / "data" / "mad_reference.npz"


class Case(NamedTuple):
    """A network, and one image batch it takes."""

    network: nn.Module
    images: Tensor


def case(build: Callable[[], nn.Module], *shape: int, seed: int = 0) -> Case:
    """The network of `build`, in eval mode and float64, no two BatchNorm channels alike."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build().double().eval()
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            positive = name.endswith("running_var")
            noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.data.copy_(noise + 0.5 if positive else noise - 0.3)
    return Case(network, torch.rand(3, *shape, generator=generator, dtype=torch.float64))


def random_scores(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in scored_parameters(network).items()}


def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def reference_network(content: dict[str, Tensor], dtype: torch.dtype) -> nn.Module:
    config = ModelConfig(name="resnet8", args={"widths": [16, 32, 64], "stem_stride": 1})
    network = build_model(config, shape=(1, 28, 28), classes=10, seed=0)
    network.load_state_dict({key[7:]: value for key, value in content.items() if key.startswith("weight/")})
    return network.to(dtype).eval()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (shipped("resnet8", 1, 8, widths=[8, 16, 16], stem_stride=1), (1, 8, 8)),
    "resnet18": (shipped("resnet18", 3, 8, widths=[8, 8, 16, 16]), (3, 8, 8)),
    "vgg16_bn": (shipped("vgg16_bn", 3, 32, widths=[8, 8, 8, 16, 16]), (3, 32, 32)),
    "wrn": (shipped("wrn28_10", 3, 8, depth=10, widen=1), (3, 8, 8)),
    "1d": (nets.one_dimension, (2, 8)),
    "3d": (nets.three_dimensions, (1, 4, 4, 4)),
    **{
        network.__name__: (network, SMALL)
        for network in (
            nets.plain,
            nets.mlp,
            nets.flattened,
            nets.depthwise,
            nets.depth_multiplier,
            nets.groups_as_outputs,
            nets.grouped,
            nets.concatenated,
            nets.dense_block,
            nets.concatenated_residual,
            nets.called_twice,
            nets.squeeze_excite,
            nets.two_heads,
            nets.conv_logits,
            nets.depthwise_logits,
            nets.unused_layer,
            nets.prelu,
            nets.Scaled,
        )
    },
}


def removed(
    given: Case, sparsity: float = 0.5, round_to: int = 4, scores: Mapping[str, Tensor] | None = None
) -> tuple[nn.Module, Survivors, dict[str, str]]:
    """A pruned copy, its survivors and the reasons."""
    module = copy.deepcopy(given.network)
    scores = scores or random_scores(module)
    survivors, reasons = remove_channels_(module, scores, sparsity, round_to=round_to, example=given.images)
    return module, survivors, reasons
