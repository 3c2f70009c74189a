"""Copies of networks, also of those that keep tensors which they computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copied(module: Network) -> Network:
    """A deep copy; the module is not touched.

    Hooks such as those of weight_norm, spectral_norm and torch.nn.utils.prune leave the tensor that they computed in
    the layer, and some networks keep their features. Torch refuses to copy those with their history: the copy has them
    without, until it computes its own.
    """
    kept = (tensor for layer in module.modules() for value in vars(layer).values() for tensor in _tensors(value))
    return copy.deepcopy(module, {id(tensor): tensor.detach().clone() for tensor in kept if tensor.grad_fn is not None})


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, and in lists, tuples and dictionaries of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
