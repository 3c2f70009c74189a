"""Weights from disk into a network: the file is read without running code, and everything is checked first.

What a file holds is `reading`'s to say, where in it a network is `states`', which one is meant `choosing`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.asking import some
from madx.models.choosing import Found, choose
from madx.models.reading import read_content
from madx.models.states import Choice, Needs

_ANY = Choice()


def load_weights(module: nn.Module, path: Path, choice: Choice = _ANY) -> Found:
    """Put the weights of a file into a network; names, shapes and kinds must be the network's.

    Usual wrappings are taken off: the state may stand anywhere in the file, and its names may have a prefix.
    Floating-point tensors of another precision are cast to the network's own.

    Args:
        module: The network; it is changed only if everything fits.
        path: A file of torch or .safetensors, by whatever ending.
        choice: What the recipe says of the state that is meant.

    Returns:
        What was taken, to be told.

    Raises:
        ModelError: The file cannot be read or trusted, no state or more than one fits, or a value is not finite.
    """
    found = find_state(module, path, choice)
    module.load_state_dict(found.state, strict=True)
    return found


def find_state(module: nn.Module, path: Path, choice: Choice = _ANY, *, any_shape: bool = False) -> Found:
    """The state that `load_weights` would load; with `any_shape`, in whatever shapes it is.

    Raises:
        ModelError: as `load_weights`.
    """
    needs = Needs.of(module)
    found = choose(read_content(path), needs, path, choice, any_shape=any_shape)
    check_finite(found.state, path)
    _check_tied(found.state, needs.twice, path)
    return found


def state_digest(module: nn.Module) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and bytes of the state dict, in sorted order of names.

    It does not depend on device, memory format or order of registration.
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        header = json.dumps([name, str(value.dtype), list(value.shape)])
        digest.update(f"{header}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that are no numbers, also where the cast to the network's precision made them so.

    Raises:
        ModelError: naming them.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ModelError(
            f"{path}: these weights are not finite (NaN or infinity) in the network's precision:"
            f" {some(bad)}. The training that made them has failed; take an earlier checkpoint."
        )


def _check_tied(state: Mapping[str, Tensor], twice: Mapping[str, str], path: Path) -> None:
    """Refuse two values for one tensor: the later would overwrite the first in silence."""
    for second, first in twice.items():
        if not torch.equal(state[second], state[first]):
            raise ModelError(
                f"{path}: {first} and {second} are one tensor in the network of the recipe, but differ in this file;"
                " take the weights of this network, or let the factory not tie them."
            )
