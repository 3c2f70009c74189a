"""Python pickles of arrays, read without running anything that is in them.

A pickle is a program: it names functions and has them called. Here only those are known that make NumPy arrays and
plain containers; any other name ends the reading.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from madx.data.places import read_whole
from madx.errors import DataError

_HARMLESS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "numpy": frozenset({"ndarray", "dtype"}),
        "multiarray": frozenset({"_reconstruct", "scalar"}),
        "numeric": frozenset({"_frombuffer"}),
        "_codecs": frozenset({"encode"}),
        "builtins": frozenset({"bytes", "bytearray", "list", "dict", "tuple", "set", "frozenset"}),
        "__builtin__": frozenset({"bytes", "bytearray", "list", "dict", "tuple", "set", "frozenset"}),
        "collections": frozenset({"OrderedDict"}),
    }
)
"""Module (of NumPy's own, by its last name, which moved from core to _core) -> what a pickle may name there."""
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    UnicodeError,
    ValueError,
)
"""What a damaged pickle raises."""


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Only what makes arrays."""
        own = module.removeprefix("numpy.core.").removeprefix("numpy._core.")
        if name not in _HARMLESS.get(own, ()):
            raise DataError(
                f"it names {module}.{name}, which is no plain array: reading it would run code. Save arrays instead "
                "(np.savez), or let a factory of yours read it (data.name: factory)"
            )
        if own in ("multiarray", "numeric"):
            core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
            return super().find_class(f"{core}.{own}", name)
        return super().find_class(module, name)


def load_arrays(path: Path) -> Any:
    """What the pickle holds, made of arrays, numbers, text and plain containers; text of Python 2 as bytes.

    Raises:
        DataError: the file is damaged, or holds anything else.
    """
    try:
        return _Arrays(io.BytesIO(read_whole(path)), encoding="bytes").load()
    except DataError as problem:
        raise DataError(f"{path} is not read as a pickle: {problem}") from None
    except _BROKEN as error:
        raise DataError(f"{path} is not a whole pickle ({error or type(error).__name__})") from None
