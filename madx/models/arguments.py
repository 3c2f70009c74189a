"""model.args against the signature of the architecture: which names are legal and what each must hold.

The signature is the only list: a new keyword-only parameter with a type is checked, and named in errors, too.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError
from torch import nn

from madx.errors import ModelError

Size = Annotated[int, Field(strict=True, ge=1)]
"""A width, a stride or a depth: a whole number from 1; True and "64" are none."""

Builder = Callable[..., nn.Module]
"""(shape, classes, *, the architecture's own arguments) to a network."""

RESERVED = "normalise"
"""The argument that every architecture has and madx itself applies."""


def check_arguments(builder: Builder, given: Mapping[str, Any], *, name: str) -> dict[str, Any]:
    """Check what a recipe gives an architecture.

    Args:
        builder: The architecture; its keyword-only parameters and their annotations say what is legal.
        given: model.args without `normalise`.
        name: model.name, for messages.

    Returns:
        The arguments, lists turned into tuples where the architecture takes tuples.

    Raises:
        ModelError: An argument does not exist, or values are of the wrong type, length or range.
    """
    legal = [key for key, value in inspect.signature(builder).parameters.items() if value.kind is value.KEYWORD_ONLY]
    unknown = [str(key) for key in given if key not in legal]
    if unknown:
        raise ModelError(
            f"model.args has {', '.join(map(repr, unknown))}, which {name} does not take;"
            f" legal are {', '.join([*legal, RESERVED])}."
        )
    hints = get_type_hints(builder, include_extras=True)
    checked, problems = {}, []
    for key, value in given.items():
        try:
            checked[key] = TypeAdapter(hints[key]).validate_python(value)
        except ValidationError as error:
            problems.append(f"model.args.{key} is {value!r}: {tell(error)}")
    if problems:
        raise ModelError(f"{'; '.join(problems)}. ({name} by default: {_defaults(builder, list(given))}.)")
    return checked


def tell(error: ValidationError) -> str:
    """What pydantic found, on one line: place within the value and complaint."""
    found = [(".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()]
    return ", ".join(f"{place}: {message}" if place else message for place, message in found)


def _defaults(builder: Builder, names: list[str]) -> str:
    """The named arguments as they are without a recipe: an example of what is legal."""
    parameters = inspect.signature(builder).parameters
    return ", ".join(f"{name}: {_plain(parameters[name].default)}" for name in names)


def _plain(value: Any) -> Any:
    """A tuple as YAML writes it."""
    return list(value) if isinstance(value, tuple) else value
