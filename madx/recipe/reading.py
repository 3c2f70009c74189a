"""YAML in, validated `Recipe` out; and its canonical text, which stage keys are made of."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from madx.errors import RecipeError
from madx.recipe.models import RECIPE_VERSION, Recipe


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with duplicate keys as errors and 1e-3 as a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice in one section", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
    Loader=_Loader,
)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the recipe file, apply `--set` overrides such as "prune.sparsity=0.6", validate, resolve its paths.

    Raises:
        RecipeError: with one line per mistake.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"there is no recipe {path}; `madx init {path}` writes a commented one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error}") from None
    return parse_recipe(text, source=str(path), base=path.resolve().parent, overrides=overrides)


def parse_recipe(text: str, *, source: str, base: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Validate the YAML `text`; relative paths in it are taken from `base`.

    Raises:
        RecipeError: with one line per mistake, each naming the key, what was given and what was expected.
    """
    content = _parse_yaml(text, source)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise RecipeError(f"{source}: a recipe is a mapping of sections, this is a {type(content).__name__}")
    for override in overrides:
        _apply_override(content, override)
    version = content.get("version", RECIPE_VERSION)
    if isinstance(version, int) and version > RECIPE_VERSION:
        raise RecipeError(
            f"{source}: the recipe is of version {version}, this madx reads up to version {RECIPE_VERSION}; "
            "update madx (pip install -U madx)"
        )
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(detail) for detail in error.errors()]
        raise RecipeError("\n".join(f"{source}: {line}" for line in lines)) from None
    return _resolve_paths(recipe, base)


def canonical_json(value: BaseModel | dict[str, Any] | list[Any]) -> str:
    """The one spelling of a configuration: sorted keys, no blanks. Equal configurations have equal text."""
    content = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of the recipe, for editors."""
    return Recipe.model_json_schema() | {"$schema": "https://json-schema.org/draft/2020-12/schema"}


def _parse_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def _apply_override(content: dict[str, Any], override: str) -> None:
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
    where = ".".join(str(part) for part in detail["loc"])
    given = detail["input"]
    if detail["type"] == "extra_forbidden":
        legal = _keys_at(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), legal, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(legal))}"
        return f"unknown key {where!r}; {hint}"
    message = detail["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if detail["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (given: {given!r})"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the recipe knows in the section at `location`."""
    section: type[BaseModel] = Recipe
    for name in location:
        if isinstance(name, int):
            continue
        section = _section_of(section.model_fields[name].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        if found := _section_of(argument):
            return found
    return None


def _resolve_paths(recipe: Recipe, base: Path) -> Recipe:
    def resolved(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).resolve()

    data = recipe.data.model_copy(update={"path": resolved(recipe.data.path)})
    model = recipe.model.model_copy(update={"weights": resolved(recipe.model.weights)})
    return recipe.model_copy(update={"data": data, "model": model})
