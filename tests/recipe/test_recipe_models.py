"""Recipes as values: frozen, with one canonical text, one schema, and a commented form that says the same."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from madx.errors import RecipeError
from madx.recipe import (
    METRICS,
    GateConfig,
    ModelConfig,
    Recipe,
    TrainConfig,
    VerifyConfig,
    canonical_json,
    commented_recipe,
    load_recipe,
    parse_recipe,
    radius,
    recipe_schema,
    recipe_text,
    resolve_paths,
)

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("**/*.yaml"))
FULL = """
name: full-1.0_x
seed: 3
threads: 1
data: {name: npz, path: images.npz, gate: 100}
model: {name: factory, factory: "my.code:net", args: {a: [1, "1e3", null], b: {c: 0.1, d: "yes"}}, weights: w.pt}
threat: {norm: l2, eps: 128/255}
train: {attack: {steps: 3}, lr: 1e-3}
prune: {structure: "2:4", finetune: null}
export: {engines: [{kind: tensorrt, precision: fp16, threads: 2}, {verify: false}]}
verify: {gates: [{metric: clean_accuracy, at_least: 0.1, confidence: 0.99}]}
"""


def parsed(text: str) -> Recipe:
    return resolve_paths(parse_recipe(text, source="r.yaml"), Path("/base"))


def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
    """The model and every model in its fields."""
    found, pending = set(), [model]
    while pending:
        kind: Any = pending.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found.add(kind)
            pending += [field.annotation for field in kind.model_fields.values()]
        pending += get_args(kind)
    return found


def test_there_are_recipes() -> None:
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_files_parse_and_round_trip(path: Path) -> None:
    recipe = load_recipe(path)
    assert parsed(commented_recipe(recipe)) == recipe
    assert recipe.name == path.stem


@pytest.mark.parametrize("text", [FULL, "train: {}", "train: {}\nmodel: {args: {x: '# no comment', y: 'a: b', z: ''}}"])
def test_commented_recipes_say_the_same(text: str) -> None:
    recipe = parsed(text)
    again = parsed(commented_recipe(recipe))
    assert again == recipe
    assert canonical_json(again) == canonical_json(recipe)


def test_the_default_recipe_is_complete_and_commented() -> None:
    text = commented_recipe()
    assert parsed(text) == Recipe(train=TrainConfig())
    assert set(yaml.safe_load(text)) == set(Recipe.model_fields)
    lines = text.splitlines()
    assert all(len(line) <= 100 or not line.lstrip().startswith("#") for line in lines)
    comments = " ".join(line.strip(" #") for line in lines if line.lstrip().startswith("#"))
    assert "One of: unstructured, channels, 2:4, channels+2:4." in comments
    for kind in sections(Recipe):
        for field in kind.model_fields.values():
            assert field.description or kind is Recipe, f"{kind.__name__} has a field without a description"


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12)
)
arguments = st.dictionaries(
    st.text(max_size=8), st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=3
)


@given(arguments=arguments, name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,8}\Z"), eps=st.floats(1e-12, 1))
@settings(max_examples=40)
def test_any_values_survive_the_commented_form(arguments: dict[str, Any], name: str, eps: float) -> None:
    recipe = Recipe(name=name, model=ModelConfig(args=arguments), threat={"eps": eps}, train=TrainConfig())
    again = parsed(commented_recipe(recipe))
    assert canonical_json(again) == canonical_json(recipe)


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (0.031372549, "8/255"),
        (0.0313726, "0.03137"),
        (0.0314, "0.0314"),
        (1 / 255, "1/255"),
        (0.1, "0.1"),
        (0.5, "0.5"),
        (128 / 255, "128/255"),
        (1.0, "1"),
        (2.0, "2"),
        (1e-9, "1e-09"),
    ],
)
def test_an_eps_is_shown_in_steps_of_8_bit_images(eps: float, text: str) -> None:
    assert radius(eps) == text


@pytest.mark.parametrize("eps", [8 / 255, 0.031372549, 0.1, 0.2, 51 / 255, 128 / 255])
def test_an_eps_is_written_as_a_fraction_where_it_is_read_back_as_the_same(eps: float) -> None:
    recipe = parsed(f"{{threat: {{norm: l2, eps: {eps!r}}}, train: {{}}}}")
    assert parsed(commented_recipe(recipe)).threat.eps == eps
    assert parsed(recipe_text(recipe.model_dump(mode="json"))) == recipe
    for text in (commented_recipe(recipe), recipe_text(recipe.model_dump(mode="json"))):
        assert ("eps: 8/255\n" in text) == (eps == 8 / 255)


def test_recipes_are_frozen() -> None:
    recipe = parsed(FULL)
    for section in (recipe, *(value for _, value in recipe if isinstance(value, BaseModel))):
        field = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, field, None)
        with pytest.raises(ValidationError, match="frozen"):
            delattr(section, field)
    assert all(kind.model_config["frozen"] and kind.model_config["extra"] == "forbid" for kind in sections(Recipe))


def test_defaults_are_not_shared() -> None:
    one, two = ModelConfig(), ModelConfig()
    one.args["leak"] = 1
    assert two.args == {}
    assert ModelConfig().args == {}


def test_canonical_text_does_not_depend_on_order_or_spelling() -> None:
    one = parsed("train: {lr: 0.1, epochs: 3}\nthreat: {norm: l2, eps: 1/2}\nmodel: {args: {a: 1, b: {c: 2, d: 3}}}")
    two = parsed(
        "model: {args: {b: {d: 3, c: 2}, a: 1}}\nthreat: {eps: 5.0e-1, norm: l2}\ntrain: {epochs: 3.0, lr: 1e-1}"
    )
    other = parsed("train: {lr: 0.1, epochs: 3}\nthreat: {norm: l2, eps: 1/2}\nmodel: {args: {a: 1, b: {c: 2, d: 4}}}")
    assert canonical_json(one) == canonical_json(two)
    assert canonical_json(one) != canonical_json(other)
    assert canonical_json({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    assert json.loads(canonical_json(one))["threat"]["eps"] == 0.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_canonical_text_has_no_nan(value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"x": value})


def test_an_explicit_default_is_the_default() -> None:
    written = parsed(commented_recipe())
    assert canonical_json(written) == canonical_json(parsed("train: {}"))


def test_schema_holds_every_section_and_field() -> None:
    schema = recipe_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False
    for kind in sections(Recipe) - {Recipe}:
        definition = schema["$defs"][kind.__name__]
        assert set(definition["properties"]) == set(kind.model_fields)
        assert definition["additionalProperties"] is False
        assert all("description" in entry for entry in definition["properties"].values())
    for reference in _references(schema):
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"]] if "$ref" in schema else []
        return own + [found for value in schema.values() for found in _references(value)]
    return [found for item in schema for found in _references(item)] if isinstance(schema, list) else []


def test_bounds_of_gates() -> None:
    assert GateConfig(metric="speedup", at_least=1.5).bound == 1.5
    assert GateConfig(metric="parity_flips", at_most=0.02).bound == 0.02
    assert GateConfig(metric="retention", at_least=0.95).direction == "at_least"
    assert GateConfig(metric="worst_class_drop", at_most=0).direction == "at_most"


def test_one_table_has_every_metric() -> None:
    told = VerifyConfig.model_fields["gates"].description or ""
    listed = re.match(r"All must pass. Metrics: (.*) \(at_least\); (.*) \(at_most\);", " ".join(told.split()))
    assert listed, told
    for names, direction in zip(listed.groups(), ("at_least", "at_most"), strict=True):
        assert names.split(", ") == [name for name, metric in METRICS.items() if metric.direction == direction]


def test_engine_names() -> None:
    assert [engine.name for engine in parsed(FULL).export.engines] == ["tensorrt-fp16", "ort-cpu-fp32"]


def test_errors_of_templates_are_recipe_errors_too() -> None:
    broken = commented_recipe().replace("sparsity: 0.5", "sparsity: 5")
    with pytest.raises(RecipeError, match=r"prune\.sparsity"):
        parsed(broken)
