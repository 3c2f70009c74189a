"""The user's own code, named 'module:callable' in a recipe: how it is found, and how its failures are told.

The current directory is importable, as it is for `python -m`, and stays so: a factory may import its helpers
when it is called. An error inside the user's code becomes one sentence with its file and line; the original
stays as the cause.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from madx.artifacts import sha256_bytes, sha256_file
from madx.errors import MadxError

USER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What a mistake in the user's code raises; anything else, a `MadxError` too, passes unchanged."""


def load_callable(name: str, *, error: type[MadxError]) -> Callable[..., Any]:
    """Import the callable that `name` says.

    Args:
        name: 'package.module:callable', looked for in the current directory, then where Python looks.
        error: The kind of error to raise, so that it names the right section of the recipe.

    Returns:
        The callable, not called.

    Raises:
        MadxError: Of kind `error`: the name is malformed, the import fails, or no such callable is there.
    """
    module_name, colon, attribute = name.partition(":")
    if not (colon and attribute.isidentifier() and all(part.isidentifier() for part in module_name.split("."))):
        raise error(f"{name!r} is not of the form 'package.module:callable', for example 'my_code:build'.")
    module = _import(module_name, name, error)
    if not hasattr(module, attribute):
        raise error(f"{name}: the module {module_name} ({_origin(module)}) has no {attribute!r}; {_offer(module)}.")
    found = getattr(module, attribute)
    if not callable(found):
        raise error(f"{name}: {attribute!r} is {type(found).__name__}, expected a function or class to call.")
    return found  # type: ignore[no-any-return]  # callable() narrows Any to Any


def source_digest(factory: str, *, error: type[MadxError]) -> str:
    """SHA-256 over the Python files of the package that the recipe names, or of the folder of a lone module."""
    load_callable(factory, error=error)
    return code_digest(factory, error=error)


def code_digest(name: str, *, error: type[MadxError]) -> str:
    """The same of 'module:attribute', whose module was imported before, whatever the attribute is."""
    source = sys.modules[name.partition(":")[0]].__file__
    if source is None:
        raise error(f"{name} has no source file, so madx could not tell when it changes; define it in a .py file")
    top = sys.modules[name.partition(":")[0].partition(".")[0]]
    folders = [Path(folder) for folder in getattr(top, "__path__", [])]
    code = [path for folder in folders for path in folder.rglob("*.py")] or list(Path(source).parent.glob("*.py"))
    return sha256_bytes("".join(sha256_file(path) for path in sorted(code)).encode())


def describe(problem: BaseException) -> str:
    """One line about an error in the user's code: its type, its text and the last line of their own."""
    text = " ".join(str(problem).split()) or "no message"
    frames = [frame for frame in traceback.extract_tb(problem.__traceback__) if _is_users(frame.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(problem).__name__}: {text}{place}"


def _import(module_name: str, name: str, error: type[MadxError]) -> ModuleType:
    """Import a module with the current directory first on the path."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()  # a file written a moment ago is found too
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        if problem.name is None or not f"{module_name}.".startswith(f"{problem.name}."):
            raise error(f"{name}: {module_name} needs a module that is missing: {describe(problem)}.") from problem
        raise error(
            f"{name}: there is no module {problem.name!r} in the current directory ({here}) or among the"
            " installed packages; run madx where the file lies, or install it."
        ) from problem
    except USER_ERRORS as problem:
        raise error(f"{name}: importing {module_name} failed with {describe(problem)}.") from problem


def _is_users(filename: str) -> bool:
    """Whether a frame is the user's: not madx's, not of an installed package, not of the import system."""
    ours = Path(__file__).parent
    return not (filename.startswith("<") or "-packages" in filename or Path(filename).is_relative_to(ours))


def _origin(module: ModuleType) -> str:
    """Where a module came from, which shows a name that another package took."""
    return getattr(module, "__file__", None) or "no file"


def _offer(module: ModuleType) -> str:
    """The callables a module defines itself, for an error message."""
    own = [name for name, value in vars(module).items() if _is_offered(module, name, value)]
    return f"it defines {', '.join(sorted(own)[:5])}" if own else "it defines no function or class"


def _is_offered(module: ModuleType, name: str, value: object) -> bool:
    """Whether a name of a module is public, callable and its own."""
    return not name.startswith("_") and callable(value) and getattr(value, "__module__", "") == module.__name__
