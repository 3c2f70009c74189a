"""Python pickles of arrays, read without running anything that is in them.

A pickle is a program: it names functions, has them called, and sets their state. Here it is given only stand-ins, which
make arrays of plain numbers and plain containers; any other name ends the reading. NumPy's own functions are not
given, because they trust what they are told: a forged state of a dtype or an array makes them read foreign memory.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.data.places import read_whole
from madx.errors import DataError

_BROKEN = (
    pickle.UnpicklingError,
    struct.error,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    UnicodeError,
    ValueError,
)
"""What a damaged pickle raises."""
_PLAIN = r"[biuf][1-9]\d?|[SU][1-9]\d{0,6}"
"""NumPy's names of the types that are read: truth values, numbers and text."""


class PickledArray:
    """An array out of a pickle; it is kept apart from NumPy's own, whose state a pickle could set again."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        """Empty, until its state is set."""
        self.array: NDArray[Any] = np.empty(0, np.uint8)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def __setstate__(self, state: Any) -> None:
        """As ndarray's: version (left out by old ones), shape, dtype, whether the first axis runs fastest, bytes."""
        shape, dtype, fortran, content = state[-4:]
        self.array = _shaped(content, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """Stands for a dtype; of its state only the order of the bytes is taken."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        text = _text(code)
        if not re.fullmatch(f"[<>=|]?({_PLAIN})", text):
            raise DataError(
                f"it holds an array of type {text}; expected numbers, truth values or text. Save that array alone "
                "(np.savez), or let a factory of yours read it (data.name: factory)"
            )
        self.dtype = np.dtype(text)

    def __setstate__(self, state: Any) -> None:
        """Version, order of the bytes, and what only arrays of other types have."""
        if any(part is not None for part in state[2:5]):
            raise DataError("it holds an array of records; save plain arrays instead (np.savez)")
        order = _text(state[1])
        if order not in ("<", ">", "=", "|"):
            raise ValueError("a type with an unknown order of bytes")
        self.dtype = self.dtype.newbyteorder(order)  # type: ignore[arg-type]


class _Maker:
    """A function that a pickle may call; as an object without attributes, for those of a function could be set."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *given: Any) -> Any:
        return self._make(*given)

    def __setstate__(self, state: Any) -> None:
        raise ValueError("it sets the state of a function")


def _text(value: Any) -> str:
    """Text, which is bytes where Python 2 wrote it."""
    found = value.decode("ascii") if isinstance(value, bytes) else value
    if not isinstance(found, str):
        raise TypeError(f"expected text, found a {type(value).__name__}")
    return found


def _shaped(content: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    """An array of exactly these bytes."""
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not isinstance(dtype, _Dtype) or not isinstance(content, bytes | bytearray):
        raise TypeError("an array that is not made of a type and bytes")
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise ValueError("an array whose shape is no list of numbers")
    if math.prod(sizes) * dtype.dtype.itemsize != len(content):
        raise ValueError(f"an array of shape {list(sizes)} and type {dtype.dtype} has {len(content)} bytes")
    if not content:
        return np.empty(sizes, dtype.dtype)
    return np.frombuffer(content, dtype.dtype).reshape(sizes, order="F" if _text(order) == "F" else "C")


def _reconstruct(*_given: Any) -> PickledArray:
    """NumPy makes an empty array first, and sets its state then."""
    return PickledArray()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any, *_more: Any) -> PickledArray:
    made = PickledArray()
    made.array = _shaped(content, dtype, shape, order)
    return made


def _scalar(dtype: Any, content: Any) -> Any:
    return _shaped(content, dtype, (), "C").item()


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    """Bytes, as old protocols keep them; other codecs unpack or are programs of their own."""
    if _text(codec) not in ("latin1", "latin-1"):
        raise ValueError(f"it decodes with {codec!r}, and bytes in pickles are latin1")
    if not isinstance(text, str):
        raise TypeError("it encodes what is no text")
    return text.encode("latin1")


def _bytes(*given: Any) -> bytes:
    """Never of a number, which would be that many zeros."""
    if not given:
        return b""
    return bytes(given[0]) if isinstance(given[0], bytes | bytearray) else _encode(*given)


def _checked(keys: Iterable[Any]) -> list[Any]:
    """Keys of dictionaries and sets: plain ones only, for the hash of tuples in tuples may take for ever."""
    found = list(keys)
    if odd := {type(key) for key in found} - {str, bytes, int, float, bool, type(None)}:
        raise DataError(
            f"a dictionary or set in it has a {odd.pop().__name__} for a key; expected text or numbers. Save arrays "
            "instead (np.savez)"
        )
    return found


def _dict(pairs: Any = ()) -> dict[Any, Any]:
    items = [(key, value) for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)]
    return dict(zip(_checked(key for key, _ in items), (value for _, value in items), strict=True))


_BUILTINS = MappingProxyType(
    {
        "list": _Maker(list),
        "tuple": _Maker(tuple),
        "dict": _Maker(_dict),
        "set": _Maker(lambda items=(): set(_checked(items))),
        "frozenset": _Maker(lambda items=(): frozenset(_checked(items))),
        "bytes": _Maker(_bytes),
        "bytearray": _Maker(_bytes),
    }
)
_HARMLESS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "numpy": {"ndarray": _Maker(_reconstruct), "dtype": _Maker(lambda code, *_copied: _Dtype(code))},
        "multiarray": {"_reconstruct": _Maker(_reconstruct), "scalar": _Maker(_scalar)},
        "numeric": {"_frombuffer": _Maker(_frombuffer)},
        "_codecs": {"encode": _Maker(_encode)},
        "builtins": _BUILTINS,
        "__builtin__": _BUILTINS,
        "collections": {"OrderedDict": _Maker(_dict)},
    }
)
"""Module (of NumPy's own, by its last name, which moved from core to _core) -> what a pickle may name, its stand-in."""


_GROWING = frozenset(
    {
        *_BUILTINS.values(),
        _HARMLESS["_codecs"]["encode"],
        _HARMLESS["collections"]["OrderedDict"],
        _HARMLESS["multiarray"]["scalar"],
    }
)
"""What makes copies of what it is given."""
_SLACK = 2**20
"""Bytes and entries beyond those of the file that may be made: a small one may repeat itself."""


class _Arrays(pickle._Unpickler):
    """Python's unpickler that is written in Python: in the faster one keys cannot be looked at before they count."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left = len(content) + _SLACK
        """What may still be made by calls: each piece of the file is made something once."""

    def find_class(self, module: str, name: str) -> Any:
        """Only what makes arrays."""
        own = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        found = _HARMLESS.get(own, {}).get(name)
        if found is None:
            raise DataError(
                f"it names {module}.{name}, which is no plain array: reading it would run code. Save arrays instead "
                "(np.savez), or let a factory of yours read it (data.name: factory)"
            )
        return _Maker(partial(self._counted, found)) if found in _GROWING else found

    def _counted(self, make: Callable[..., Any], *given: Any) -> Any:
        """What `make` makes: a few bytes of a pickle may have one piece of it copied for ever."""
        made = make(*given)
        self._left -= len(made) if hasattr(made, "__len__") else 1
        if self._left < 0:
            raise DataError(
                "it makes more of its content than there is, without end (a hostile file?). Save arrays instead "
                "(np.savez)"
            )
        return made


def _take_bytearray(unpickler: Any) -> None:
    """As Python does it, but the bytes come before the memory for them: a size alone may say anything."""
    (size,) = struct.unpack("<Q", unpickler.read(8))
    content = unpickler.read(size)
    if len(content) < size:
        raise EOFError("it ends within its bytes")
    unpickler.append(bytearray(content))


def _with_keys(code: bytes, keys: slice) -> Callable[[Any], None]:
    """What the unpickler does at `code`, after a look at the entries on its stack that become keys."""
    plain = pickle._Unpickler.dispatch[code[0]]

    def checked(unpickler: Any) -> None:
        _checked(unpickler.stack[keys])
        plain(unpickler)

    return checked


_EVERY, _SECOND = slice(None), slice(None, None, 2)
_Arrays.dispatch = {
    **pickle._Unpickler.dispatch,
    pickle.SETITEM[0]: _with_keys(pickle.SETITEM, slice(-2, -1)),
    pickle.SETITEMS[0]: _with_keys(pickle.SETITEMS, _SECOND),
    pickle.DICT[0]: _with_keys(pickle.DICT, _SECOND),
    pickle.ADDITEMS[0]: _with_keys(pickle.ADDITEMS, _EVERY),
    pickle.FROZENSET[0]: _with_keys(pickle.FROZENSET, _EVERY),
    pickle.BYTEARRAY8[0]: _take_bytearray,
}


def load_arrays(path: Path) -> Any:
    """What the pickle holds, made of `PickledArray`, numbers, text and plain containers; text of Python 2 as bytes.

    Raises:
        DataError: the file is damaged, or holds anything else.
    """
    try:
        return _Arrays(read_whole(path)).load()
    except DataError as problem:
        raise DataError(f"{path} is not read as a pickle: {problem}") from None
    except _BROKEN as error:
        raise DataError(f"{path} is not a whole pickle ({error or type(error).__name__})") from None
