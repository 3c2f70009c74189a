"""Copies of networks, also of those that keep a computed tensor where others have a parameter."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copied(module: Network) -> Network:
    """A deep copy.

    Hooks such as those of weight_norm, spectral_norm and torch.nn.utils.prune leave the tensor that they computed in
    the layer; torch refuses to copy it with its history, and the copy computes its own.
    """
    for layer in module.modules():
        for name, value in vars(layer).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                vars(layer)[name] = value.detach()
    return copy.deepcopy(module)
