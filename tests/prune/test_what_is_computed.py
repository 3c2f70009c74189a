"""What MAD does NOT compute: gradients that nobody asked for, Kronecker factors, unfolded patches."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from madx.attacks import input_gradient
from madx.prune import CRITERIA, mad_saliency, optimise_masks
from madx.prune.layers import scored_parameters

IMAGES, CHANNELS, SIDE = 4, 16, 3
PATCH = CHANNELS * 9
"""Entries of a patch of the widest convolution: its Kronecker factor A has the square of it."""


class Record(TorchDispatchMode):
    """Sizes of everything that is made, and what backward passes of convolutions were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0
        self.backward: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        several = made if isinstance(made, tuple | list) else [made]
        self.largest = max([self.largest, *(one.numel() for one in several if isinstance(one, Tensor))])
        if func is torch.ops.aten.convolution_backward.default:
            self.backward.append((args[-1][0], args[-1][1]))
        return made


def wide() -> tuple[nn.Module, Tensor, Tensor]:
    """So few positions that the factor A is larger than anything else, and yet more entries of patches than weights."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, CHANNELS, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        nn.Flatten(),
        nn.Linear(CHANNELS * SIDE**2, 3),
    )
    return network.eval(), torch.rand(IMAGES, 1, SIDE, SIDE), torch.arange(IMAGES) % 3


def test_an_attack_takes_no_gradient_of_weights() -> None:
    network, x, y = wide()
    with Record() as record:
        input_gradient(network)(x, y)
    assert record.backward == [(True, False)] * 2


def test_masks_take_no_gradient_of_the_images() -> None:
    network, x, y = wide()
    with Record() as record:
        optimise_masks(network, x, y, steps=3)
    assert record.backward == [(True, True), (False, True)] * 3


def test_no_criterion_forms_a_factor_or_unfolds_patches() -> None:
    network, x, y = wide()
    masks = {name: torch.full_like(parameter, 0.5) for name, parameter in scored_parameters(network).items()}
    entries = sum(parameter.numel() for parameter in network.parameters())
    assert entries < IMAGES * SIDE**2 * PATCH < PATCH**2
    with Record() as record:
        mad_saliency(network, x, y, masks)
        for criterion in CRITERIA.values():
            criterion(network, x, y, torch.Generator())
    assert CHANNELS * PATCH <= record.largest <= entries, "at most all weights in one vector"
