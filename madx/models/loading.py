"""Weights on disk: files are checked before a number reaches the network, and no code in them is ever run.

A state maps names to tensors. What is read: .safetensors, and .pt or .pth that hold nothing but tensors.
Common wrappings are taken off: a dictionary with the state under one of `WRAPPERS`, and DataParallel's prefix
`module.` on every key. A checkpoint of the bare network also fits a network that the recipe normalises:
norm.mean and norm.std may be missing (the recipe's stay), and so may the prefix `net.` of a normalised
factory network.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from madx.errors import ModelError
from madx.models.normalise import Normalise

WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
"""Names under which training scripts keep the state dict inside a checkpoint."""

_PARALLEL = "module."
_SHOWN = 5
_SAVE_AGAIN = (
    "Save the weights alone, with torch.save(model.state_dict(), path) or"
    " safetensors.torch.save_file(model.state_dict(), path)"
)
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    pickle.UnpicklingError,
)
"""What torch's reader raises on bytes that are no checkpoint, depending on where they go wrong."""


def load_weights(module: nn.Module, path: Path) -> None:
    """Put the weights of a file into a network; keys and shapes must match exactly.

    Floating-point tensors of another precision are cast to the network's own.

    Args:
        module: The network; it is changed only if everything fits.
        path: A .safetensors, .pt or .pth file.

    Raises:
        ModelError: The file cannot be read or trusted, keys or shapes differ, a value is not finite, or the
            file's normalisation is not the recipe's.
    """
    own = {name: value.detach() for name, value in module.state_dict().items()}
    constants = _constants(module)
    state = _rename(read_state(path), own, constants)
    _check_keys(state, own, path)
    cast = {name: value.to(own[name].dtype) for name, value in state.items()}
    check_finite(cast, path)
    _check_constants(cast, constants, path)
    module.load_state_dict(cast, strict=True)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a weights file, on the CPU and with wrappings taken off.

    Raises:
        ModelError: There is no such file, it has another ending, it is damaged, or it holds anything but
            tensors; nothing in it has been executed then.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file; expected a .safetensors, .pt or .pth file.")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth"):
        state = _only_tensors(_unwrap(_read_pickle(path), path), path)
    else:
        raise ModelError(f"{path}: weights are read from .safetensors, .pt and .pth files, not {path.suffix!r}.")
    if state and all(name.startswith(_PARALLEL) for name in state):
        return {name.removeprefix(_PARALLEL): value for name, value in state.items()}
    return state


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


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file."""
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: this is no whole .safetensors file ({_first_sentence(error)}); it may be cut off or"
            " have the wrong ending. Copy or save it again."
        ) from error


def _read_pickle(path: Path) -> object:
    """What a .pt file holds, through torch's reader that builds tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the file's age and kind; the error says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and (found or _is_pickle(path)):
            what = f" ({found[1]})" if found else ", or it is damaged"
            raise ModelError(
                f"{path}: this file holds pickled objects other than tensors{what}. Such objects could run code when"
                f" they are read, so the file was not loaded and nothing was executed. {_SAVE_AGAIN}."
            ) from error
        raise ModelError(
            f"{path}: this is no whole torch checkpoint ({_first_sentence(error)}); it may be cut off or of"
            f" another kind. Copy it again. {_SAVE_AGAIN}."
        ) from error


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as a zip archive or a pickle does, so that its contents were refused."""
    with path.open("rb") as stream:
        head = stream.read(2)
    return head == b"PK" or head[:1] == b"\x80"


def _unwrap(content: object, path: Path) -> object:
    """Take a state dict out of the checkpoints that training scripts write."""
    if not isinstance(content, dict):
        return content
    inside = [name for name in WRAPPERS if isinstance(content.get(name), dict)]
    if len(inside) > 1:
        raise ModelError(f"{path}: this checkpoint holds several states, {', '.join(inside)}; save the one you mean.")
    return _unwrap(content[inside[0]], path) if inside else content


def _only_tensors(content: object, path: Path) -> dict[str, Tensor]:
    """Narrow what was read to a state dict."""
    if not isinstance(content, dict):
        raise ModelError(
            f"{path}: this file holds {type(content).__name__}, expected a state dict (names to tensors)."
            f" {_SAVE_AGAIN}."
        )
    odd = [f"{name!r} ({type(value).__name__})" for name, value in content.items() if not _is_plain(name, value)]
    if odd:
        raise ModelError(
            f"{path}: a state dict maps names to dense tensors, but this one also holds {_some(odd)}. {_SAVE_AGAIN}."
        )
    return dict(content)


def _is_plain(name: object, value: object) -> bool:
    """Whether an entry is a name with a dense tensor that has its data."""
    if not (isinstance(name, str) and isinstance(value, Tensor)):
        return False
    return value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized


def _constants(module: nn.Module) -> dict[str, Tensor]:
    """The normalisation that comes from the recipe: entries of the state that a file need not have."""
    norm = getattr(module, "norm", None)
    return {f"norm.{name}": value for name, value in norm.named_buffers()} if isinstance(norm, Normalise) else {}


def _rename(state: dict[str, Tensor], own: dict[str, Tensor], constants: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the keys the prefix that makes them fit the network, if one does; add the constants left out."""
    for prefix in ("", "net.", _PARALLEL, f"net.{_PARALLEL}"):
        renamed = {f"{prefix}{name}": value for name, value in state.items()}
        if own.keys() - constants.keys() <= renamed.keys() <= own.keys():
            return {**constants, **renamed}
    return {**constants, **state}


def _check_keys(state: dict[str, Tensor], own: dict[str, Tensor], path: Path) -> None:
    """Compare names, shapes and kinds with the network's, and tell all differences in one paragraph."""
    missing = own.keys() - state.keys()
    unexpected = state.keys() - own.keys()
    common = [name for name in own if name in state]
    shapes = [
        f"{name} (given {list(state[name].shape)}, expected {list(own[name].shape)})"
        for name in common
        if state[name].shape != own[name].shape
    ]
    kinds = [
        f"{name} (given {state[name].dtype}, expected {own[name].dtype})"
        for name in common
        if _kind(state[name]) != _kind(own[name])
    ]
    found = {
        "missing": sorted(missing),
        "unexpected": sorted(unexpected),
        "other shapes": shapes,
        "other types": kinds,
    }
    told = [f"{what}: {_some(names)}" for what, names in found.items() if names]
    if told:
        raise ModelError(
            f"{path}: these weights do not fit the network of the recipe. {'. '.join(told)}."
            " Check model.name and model.args, or take the weights of this network."
        )


def _kind(value: Tensor) -> tuple[bool, bool]:
    """What a cast must not change: whether numbers are whole, and whether they are real."""
    return value.is_floating_point(), value.is_complex()


def check_finite(state: dict[str, Tensor], path: Path) -> None:
    """Refuse weights that are no numbers, also where the cast to the network's precision made them so.

    Raises:
        ModelError: naming them.
    """
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ModelError(
            f"{path}: these weights are not finite (NaN or infinity) in the network's precision:"
            f" {_some(bad)}. The training that made them has failed; take an earlier checkpoint."
        )


def _check_constants(state: dict[str, Tensor], constants: dict[str, Tensor], path: Path) -> None:
    """Refuse a file whose normalisation is not the recipe's; bfloat16 may be a per cent off."""
    for name, value in constants.items():
        if not torch.allclose(state[name].cpu(), value.cpu(), rtol=0.01, atol=1e-6):
            raise ModelError(
                f"{path}: {name} is {state[name].flatten().tolist()}, but the recipe's model.args.normalise"
                f" gives {value.flatten().tolist()}. Give the recipe the values that the network was trained"
                " with."
            )


def _some(names: Iterable[str]) -> str:
    """The first few of a list, and how many there are."""
    listed = list(names)
    more = f", ... ({len(listed)} in all)" if len(listed) > _SHOWN else ""
    return ", ".join(listed[:_SHOWN]) + more


def _first_sentence(error: Exception) -> str:
    """The first sentence of a library's message, on one line; the whole stays as the cause."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
