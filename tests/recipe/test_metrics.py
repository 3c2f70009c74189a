"""One row for each metric: whatever a recipe accepts is found, planned and named, and no other list is kept."""

import ast
from pathlib import Path

import numpy as np
import pytest
import report_cases

import madx
from madx.recipe import METRICS, GateConfig, recipe_schema
from madx.recipe.metrics import meanings, taking
from madx.report import words
from madx.verify import judge
from madx.verify.feasible import Samples, feasible

FOUND_BY = {"verify/findings.py", "verify/image_findings.py", "recipe/metrics.py"}
"""Where a metric's row stands, and where its function is named."""


def gate(name):
    metric = METRICS[name]
    return GateConfig(metric=name, **{metric.direction: 1.5 if metric.unit == "ratio" else 0.2})


def test_the_recipe_accepts_the_table_and_says_what_each_row_means():
    schema = recipe_schema()["$defs"]["GateConfig"]["properties"]
    assert schema["metric"]["enum"] == list(METRICS)
    assert all(f"{name}: {metric.meaning}" in schema["metric"]["description"] for name, metric in METRICS.items())
    assert {*taking("at_least").split(", "), *taking("at_most").split(", ")} == set(METRICS)
    assert schema["metric"]["description"].endswith(f"{meanings()}.")


@pytest.mark.parametrize("name", METRICS)
def test_every_row_is_found_and_planned_and_named(name):
    samples = Samples(np.arange(1000) % 10, images=1000, parity=256, most_parity=256, pairs=60, block_calls=20)
    assert feasible(gate(name), samples).answer in ("yes", "perhaps", "no")
    (result,) = judge([report_cases.measurements(pairs=200)], [gate(name)]).gates
    assert result.estimate is not None
    assert result.method
    assert words.title(name) == METRICS[name].title != name


def collections_of_metrics(path):
    """Sets, lists, tuples and dictionaries of a file that hold three metrics or more."""
    for node in ast.walk(ast.parse(path.read_text())):
        held = node.keys if isinstance(node, ast.Dict) else getattr(node, "elts", ())
        names = {one.value for one in held if isinstance(one, ast.Constant) and one.value in METRICS}
        if len(names) >= 3:
            yield node.lineno


def test_no_other_file_lists_them():
    package = Path(madx.__file__).parent
    lists = {
        path.relative_to(package).as_posix() for path in package.rglob("*.py") if any(collections_of_metrics(path))
    }
    assert lists == FOUND_BY
