"""Arrays and tensors in dictionaries and pairs, which may lie in each other, by their names."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.pickles import PickledArray
from madx.data.places import few, require_memory
from madx.data.rows import Pixels, in_memory
from madx.errors import DataError

Load = Callable[[], Pixels]
"""Gives the array, so that only what is meant is read."""
_NESTED = 4
"""Dictionaries in each other that are looked into."""


def flat(content: Any, path: Path) -> dict[str, Load]:
    """Arrays and tensors of nested dictionaries and pairs, by their names with dots; whatever is no array is left.

    Raises:
        DataError: containers that hold each other without end, or an array that claims more than the file has: either
            would keep madx at work for ever.
    """
    found: dict[str, Load] = {}
    seen: set[int] = set()
    waiting = deque([("", content, 0)])
    while waiting:
        name, value, depth = waiting.popleft()
        parts = _parts(value, path)
        if parts and (depth == _NESTED or id(value) in seen):
            why = f"is nested deeper than {_NESTED} levels" if depth == _NESTED else "is there in two places"
            raise DataError(f"{path}: the {type(value).__name__} {name!r} {why}; save one dictionary of arrays")
        seen.add(id(value))
        waiting += [(joined(name, part), item, depth + 1) for part, item in parts.items()]
        if load := None if parts else _array_of(value, f"{path}: {name}"):
            if name in found:
                raise DataError(f"{path} has two arrays called {name}; save them under different names")
            found[name] = load
    return found


def _parts(value: Any, path: Path) -> dict[str, Any]:
    """What a dictionary or a pair of images and labels holds."""
    if isinstance(value, tuple | list) and len(value) == 2 and all(hasattr(item, "shape") for item in value):
        return {"x": value[0], "y": value[1]}
    if _is_of_samples(value):
        return {"x": [item[0] for item in value], "y": [item[1] for item in value]}
    if not isinstance(value, Mapping):
        return {}
    named = [(_called(key), key) for key in value]
    if len(dict(named)) < len(named):
        told = few([name for name, _ in named])
        raise DataError(f"{path}: a dictionary has two keys that read the same, among {told}; rename one")
    return {name: value[key] for name, key in named}


def _is_of_samples(value: Any) -> bool:
    """Whether a list has an image and its number for each sample."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(item, tuple | list) and len(item) == 2 for item in value)
        and all(hasattr(image, "shape") and isinstance(label, int) for image, label in value)
    )


def _called(key: Any) -> str:
    """Text, or a number; of anything else only the type, for the text of tuples in tuples may have no end."""
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    plain = isinstance(key, str) or (isinstance(key, int) and abs(key) < 2**63)
    return str(key) if plain else f"({type(key).__name__})"


def _array_of(value: Any, where: str) -> Load | None:
    """What loads the value if it is an array, a tensor or a list of whole numbers."""
    if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
        return lambda: _numbers(value, where)
    if isinstance(value, list) and value and all(hasattr(item, "shape") for item in value):
        return lambda: _stacked(value, where)
    if isinstance(value, PickledArray):
        return lambda: value.array
    if isinstance(value, np.ndarray):
        return lambda: value
    if hasattr(value, "detach"):
        return lambda: as_numpy(_whole(value, where))
    return None


def _numbers(value: list[int], where: str) -> NDArray[Any]:
    try:
        return np.array(value, np.int64)
    except OverflowError:
        raise DataError(f"{where} has numbers of more than 64 bits; expected class numbers") from None


def _stacked(value: list[Any], where: str) -> NDArray[Any]:
    """Images that are kept one by one."""
    loads = [load for item in value if (load := _array_of(item, where))]
    shapes = {tuple(item.shape) for item in value}
    if len(loads) < len(value) or len(shapes) > 1:
        raise DataError(f"{where} is a list of arrays of {len(shapes)} shapes; images must be of one size: resize them")
    first = in_memory(loads[0]())
    require_memory(Path(where), 2 * first.nbytes * len(value))
    return np.stack([in_memory(load()) for load in loads])


def _whole(tensor: Any, where: str) -> Any:
    """A tensor that has all its entries in the file: strides of zero make an endless one of a few bytes."""
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.is_meta:
        raise DataError(f"{where} is a sparse, quantised or empty (meta) tensor; save a dense one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DataError(
            f"{where} has the shape {list(tensor.shape)}, but the file holds fewer entries than that (an expanded "
            "tensor?); save tensor.contiguous()"
        )
    return tensor


def as_numpy(tensor: Any) -> NDArray[Any]:
    """A tensor as NumPy has it; of floats NumPy does not know bfloat16."""
    plain = tensor.detach().cpu()
    try:
        found: NDArray[Any] = plain.numpy()
    except TypeError:
        found = plain.float().numpy()
    return found


def joined(first: str, second: str) -> str:
    """A name in a dictionary or file that has a name itself."""
    return f"{first}.{second}" if first else second
