"""What single values of a recipe may be: numbers, fractions such as "8/255", counts, factories, arguments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from madx import tables

_ONE_STEP = 1e-6
"""As near to a whole number of steps as a decimal of a recipe is written."""


def not_bool(value: Any) -> Any:
    """Python counts true and false as 1 and 0; a recipe does not."""
    if isinstance(value, bool):
        raise ValueError(f"{str(value).lower()} is not a number")
    return value


def as_number(value: Any) -> Any:
    """Accept "8/255" where a number is expected; everything else is left to pydantic."""
    if not isinstance(value, str):
        return not_bool(value)
    top, slash, bottom = value.partition("/")
    try:
        return float(top) / float(bottom) if slash else float(top)
    except ZeroDivisionError:
        raise ValueError(f"the fraction {value!r} divides by zero; write for example '8/255'") from None
    except ValueError:
        raise ValueError(f"{value!r} is neither a number nor a fraction such as '8/255'") from None


def radius(eps: float) -> str:
    """An eps as people write it: in steps of 8-bit images where it is one ("8/255"), else as a decimal."""
    steps = round(255 * eps)
    if steps < 1 or steps % 255 == 0 or abs(255 * eps - steps) >= _ONE_STEP:
        return f"{eps:.4g}"
    return f"{steps}/255"


def _count_or_auto(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """One message instead of one for each kind of value that would do."""
    try:
        return handler(value)
    except ValidationError:
        raise ValueError(f"{repr(value)[:60]} is neither a whole number from 1 on nor auto") from None


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """Only what JSON can hold, because the arguments are part of the run's key and of its record."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"only text, finite numbers, true, false, null, lists and mappings can stand here: {error}"
        ) from None
    return value


@dataclass(frozen=True)
class RowOf:
    """Of a text in a recipe: the name of a row of a table, madx's own or an installed package's."""

    group: str
    own: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All that would do here and now."""
        return (*self.own, *(name for name in tables.installed(self.group) if name not in self.own))

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A text that `known` lets through."""
        return no_info_after_validator_function(self.known, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The names that there are, for editors and comments."""
        return {**handler(schema), "enum": list(self.names)}

    def known(self, name: str) -> str:
        """The name itself, if there is such a row."""
        if name in self.own or name in tables.installed(self.group):
            return name
        *most, last = (f"'{one}'" for one in self.names)
        raise ValueError(
            f"{name!r} is none of {', '.join(most)} or {last}; packages add to these as entry points of {self.group}"
        )


def _factory(value: str) -> str:
    """`package.module:callable`, as Python's own entry points write it."""
    module, colon, name = value.partition(":")
    if not (colon and name.isidentifier() and all(part.isidentifier() for part in module.split("."))):
        raise ValueError(f"{value!r} is not of the form 'package.module:callable'")
    return value


FEWEST_IMAGES = 3
"""That engines are compared on: an engine's contract takes so many to check."""
_USUAL_BATCH = 128


def fitting_batch(named: int | None, images: int) -> int:
    """The batch size that a recipe names, or else the usual one as far as there are `images` to fill it."""
    return named if named is not None else max(1, min(_USUAL_BATCH, images))


Number = Annotated[float, BeforeValidator(as_number), Field(allow_inf_nan=False)]
Share = Annotated[Number, Field(ge=0, lt=1)]
FactoryName = Annotated[str, AfterValidator(_factory)]
Integer = Annotated[int, BeforeValidator(not_bool)]


def _number_as_text(value: object) -> object:
    """Folders are often called 0, 1, 2, and YAML reads that as numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _prefix_as_text(value: object) -> object:
    """YAML reads the prefix of the second part of a Sequential, `1.`, as a number."""
    if isinstance(value, float) and value.is_integer():
        return f"{int(value)}."
    return value


Count = Annotated[Integer, Field(ge=1)]
CountOrAuto = Annotated[Count | Literal["auto"], WrapValidator(_count_or_auto)]
ClassName = Annotated[str, BeforeValidator(_number_as_text)]
NamePrefix = Annotated[str, BeforeValidator(_prefix_as_text)]
"""What names of weights begin with."""
ImageCount = Annotated[Integer, Field(ge=FEWEST_IMAGES)]
"""Images that engines are compared on."""
Arguments = Annotated[dict[str, Any], AfterValidator(_plain)]
