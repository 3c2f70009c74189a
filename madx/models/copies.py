"""Copies of networks, also of those that keep tensors which they computed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)


def copied(module: Network, instead: Mapping[int, Tensor] = MappingProxyType({})) -> Network:
    """A deep copy; the module is not touched.

    Hooks such as those of weight_norm, spectral_norm and torch.nn.utils.prune leave the tensor that they computed in
    the layer, and some networks keep their features. Torch refuses to copy those with their history: the copy has them
    without, until it computes its own.

    Args:
        module: what is copied.
        instead: by the id of a tensor in it, what the copy has in its place; such a tensor is not copied at all.
    """
    kept = (tensor for layer in module.modules() for value in vars(layer).values() for tensor in _tensors(value))
    computed = {id(tensor): tensor.detach().clone() for tensor in kept if tensor.grad_fn is not None}
    return copy.deepcopy(module, {**computed, **instead})


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, and in lists, tuples and dictionaries of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple, set)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
