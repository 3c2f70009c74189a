"""YAML in, validated `Recipe` out; and its canonical text, which stage keys are made of."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from madx.errors import RecipeError
from madx.recipe.data import DATA_FILES
from madx.recipe.dialect import Loader
from madx.recipe.models import KINDS_OF_ATTACK, RECIPE_VERSION, Recipe

_UNREADABLE = (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError)
"""The safe loader lets impossible dates, bad values of explicit tags and deep nesting through as bare errors."""
_SHOWN = 200
"""Characters of a wrong value that an error repeats."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe file, apply `--set` overrides such as "prune.sparsity=0.6", validate, resolve its paths.

    Raises:
        RecipeError: with one line per mistake.
    """
    return resolve_paths(load_written(path, overrides), path.resolve().parent)


def load_written(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The same with its paths as they are written there: what is passed on shall not name folders of one machine.

    Raises:
        RecipeError: with one line per mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}; `madx init {path}` writes a commented one") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"the recipe {path} is not UTF-8 text ({error.reason}); expected a YAML file") from None
    except OSError as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}; expected a YAML file") from None
    return parse_recipe(text, source=str(path), overrides=overrides)


def parse_recipe(text: str, *, source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Validate the YAML `text` of `source`; its paths stay as they are written.

    Raises:
        RecipeError: with one line per mistake, each naming the key, what was given and what was expected.
    """
    content = _parse_yaml(text, source)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, this is a {type(content).__name__}")
    for override in overrides:
        apply_override(content, override)
    version = content.get("version", RECIPE_VERSION)
    if isinstance(version, int) and version > RECIPE_VERSION:
        raise RecipeError(
            f"{source}: the recipe is of version {version}, this madx reads up to version {RECIPE_VERSION}; "
            "update madx (pip install -U madx)"
        )
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise RecipeError("\n".join(f"{source}: {line}" for line in lines)) from None


def resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    """The recipe with absolute paths; relative ones are taken from `base`.

    Raises:
        RecipeError: a path cannot be resolved, such as one of an unknown user's home.
    """

    def resolved(path: Path | None) -> Path | None:
        try:
            return None if path is None else (base / path.expanduser()).resolve()
        except (RuntimeError, ValueError, OSError) as error:
            raise RecipeError(f"the path {str(path)!r} cannot be resolved: {error}") from None

    files = {name: resolved(getattr(recipe.data, name)) for name in DATA_FILES}
    data = recipe.data.model_copy(update=files)
    model = recipe.model.model_copy(update={"weights": resolved(recipe.model.weights)})
    return recipe.model_copy(update={"data": data, "model": model})


def require_network(recipe: Recipe) -> None:
    """Where networks are made; only judging a file from outside does without.

    Raises:
        RecipeError: the recipe neither trains one nor has weights of one.
    """
    if not recipe.has_network:
        raise RecipeError(
            "the recipe has nothing to train or prune: give a train section, or model.weights of a robust network; to "
            "judge a finished ONNX file, which needs neither, give madx verify --engine model.onnx"
        )


def canonical_json(value: BaseModel | dict[str, Any] | list[Any]) -> str:
    """The one spelling of a configuration: sorted keys, no blanks. Equal configurations have equal text."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of the recipe, for editors."""
    return Recipe.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def parse_value(text: str, source: str) -> Any:
    """One value as a recipe writes it; RecipeError, naming `source`, if it is no YAML."""
    return _parse_yaml(text, source)


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=Loader)
    except _UNREADABLE as error:
        told = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        hint = "; YAML is indented with blanks, not tabs" if "'\\t'" in told else ""
        raise RecipeError(f"{source}: not valid YAML: {told}{hint}") from None


def apply_override(content: dict[str, Any], override: str) -> None:
    """Set one key of a recipe that is not validated yet, as `--set section.key=value` says; else RecipeError."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise RecipeError(f"--set {override!r} is not of the form section.key=value, for example prune.sparsity=0.6")
    section = content
    for depth, name in enumerate(names[:-1]):
        nested = section.get(name)
        if nested is None:
            nested = section[name] = {}
        if not isinstance(nested, dict):
            raise RecipeError(f"--set {override!r}: {'.'.join(names[: depth + 1])} is not a section of the recipe")
        section = nested
    section[names[-1]] = _parse_yaml(text, f"--set {override!r}")


def _explain(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part not in KINDS_OF_ATTACK)
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        legal = _keys_at(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), legal, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(legal))}"
        return f"unknown key {where!r}; {hint}"
    message = detail["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
    message = message[:1].lower() + message[1:]
    if detail["type"] == "value_error":
        return f"{where}: {message}" if where else message
    if detail["type"].startswith("bool"):
        message = "input should be true or false"
    return f"{where}: {message} (given: {_short(repr(given))})"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the recipe knows in the section at `location`."""
    section: type[BaseModel] = Recipe
    for name in location:
        if name not in section.model_fields:
            continue  # a place in a list, or pydantic's name for one of several kinds of value
        section = _section_of(section.model_fields[name].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _section_of(argument):
            return found
    return None
