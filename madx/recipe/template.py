"""A commented recipe, written from the models themselves so that comments and code cannot disagree."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel

from madx.recipe.dialect import Dumper
from madx.recipe.models import Recipe
from madx.recipe.section import Section
from madx.recipe.training import TrainConfig
from madx.recipe.values import as_number, radius

_WIDTH = 100


_WHOLE = "A madx recipe: one run from data to verdict. `madx run <this file>` does all of it."
_JUDGING = "A madx recipe to judge finished networks by: `madx verify <this file> --engine model.onnx`."


def commented_recipe(recipe: Recipe | None = None, notes: Sequence[str] = ()) -> str:
    """YAML of `recipe` (by default all defaults, with training), each field under its description and legal values.

    `notes` are comments that go before all of it.
    """
    whole = recipe is None or recipe.has_network
    lines = [f"# {line}" for line in (_WHOLE if whole else _JUDGING, *notes)] + [""]
    lines += _section_lines(recipe or Recipe(train=TrainConfig()), indent=0)
    return "\n".join(lines).rstrip() + "\n"


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """YAML of a whole recipe as a verdict records it (JSON), for reports."""
    shown = dict(recipe)
    if isinstance(threat := recipe.get("threat"), Mapping) and "eps" in threat:
        shown["threat"] = {**threat, "eps": _radius(threat["eps"])}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _radius(eps: Any) -> Any:
    """The value itself where it would not be read back as the same."""
    return radius(eps) if isinstance(eps, float) and as_number(radius(eps)) == eps else eps


def _section_lines(section: BaseModel, *, indent: int) -> list[str]:
    lines: list[str] = []
    schema = type(section).model_json_schema()["properties"]
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        nested = isinstance(value, Section)
        description = type(value).__doc__ if nested and indent == 0 else field.description
        if indent == 0 and lines:
            lines.append("")
        lines += _comment(f"{description or ''}{_choices(schema[name])}", indent)
        pad = " " * indent
        if nested:
            lines.append(f"{pad}{name}:")
            lines += _section_lines(value, indent=indent + 2)
        elif isinstance(value, tuple) and not value:
            lines.append(f"{pad}{name}: []")
        elif isinstance(value, tuple):
            lines.append(f"{pad}{name}:")
            lines += [f"{pad}  - {_inline(item)}" for item in value]
        else:
            lines.append(f"{pad}{name}: {_inline(_radius(value) if name == 'eps' else value)}")
    return lines


def _choices(schema: dict[str, Any]) -> str:
    return f" One of: {', '.join(map(str, schema['enum']))}." if "enum" in schema else ""


def _comment(text: str, indent: int) -> list[str]:
    prefix = " " * indent + "# "
    return textwrap.wrap(" ".join(text.split()), _WIDTH, initial_indent=prefix, subsequent_indent=prefix)


def _inline(value: Any) -> str:
    """One YAML value on one line, without the fields of a section that stand at their defaults."""
    if isinstance(value, Section):
        value = json.loads(value.model_dump_json(exclude_defaults=True)) or json.loads(value.model_dump_json())
    elif not isinstance(value, str | int | float | bool | dict | type(None)):
        value = str(value)
    text = yaml.dump(value, Dumper=Dumper, default_flow_style=True, width=10_000, sort_keys=False).strip()
    return text.removesuffix("...").strip()
