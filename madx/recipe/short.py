"""A recipe out of the few words of a command line: the least that judging a finished ONNX file takes.

What was not said has the recipe's own defaults, and what decides the verdict is written out, so that the text can be
committed, reviewed and repeated.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from madx.errors import RecipeError
from madx.recipe.data import DATA_FILES
from madx.recipe.dialect import Dumper
from madx.recipe.gates import GateConfig
from madx.recipe.metrics import about
from madx.recipe.models import RECIPE_VERSION, EngineConfig, VerifyConfig
from madx.recipe.reading import parse_value

_GATE = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([^\s<>=]+)\s*")
_SIDES = {"<=": "at_most", ">=": "at_least"}
_FORM = (
    "METRIC<=BOUND or METRIC>=BOUND, for example 'robust_drop<=0.02', or as a recipe has it: "
    "'{metric: robust_drop, at_most: 0.02, confidence: 0.99}'"
)


def gate_of(text: str) -> dict[str, Any]:
    """A gate as `--gate` writes it, as an entry of verify.gates that is not validated yet.

    Raises:
        RecipeError: it is of neither form.
    """
    if text.lstrip().startswith("{"):
        found = parse_value(text, f"--gate {text!r}")
        if isinstance(found, dict):
            return found
    match = _GATE.fullmatch(text)
    if match is None:
        raise RecipeError(f"--gate {text!r} is not of the form {_FORM}")
    metric, side, bound = match.groups()
    return {"metric": metric, _SIDES[side]: parse_value(bound, f"--gate {text!r}")}


def usual_gates() -> list[dict[str, Any]]:
    """What may be lost against a reference: as much robustness as recipes allow by default, and no more accuracy."""
    usual = next(gate for gate in VerifyConfig().gates if gate.metric == "robust_drop")
    told = {"at_most": usual.bound, "confidence": usual.confidence}
    return [{"metric": metric, **told} for metric in ("robust_drop", "clean_drop")]


def consented(gates: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same gates; those on robustness accept that attacks had nothing but queries."""
    return [{**gate, "query_only": True} if _on_robustness(gate) else dict(gate) for gate in gates]


def _on_robustness(gate: Mapping[str, Any]) -> bool:
    metric = about(str(gate.get("metric")))
    return metric is not None and bool(metric.on_robustness)


def check_for_one_engine(gates: Iterable[GateConfig]) -> None:
    """Where nothing is compared, the verdict rests on a bound that somebody named.

    Raises:
        RecipeError: a gate needs a reference, or none says how much robustness is enough.
    """
    if comparing := [gate.metric for gate in gates if gate.compares]:
        raise RecipeError(
            f"a gate on {comparing[0]} compares, and there is nothing to compare with: give --reference old.onnx, or "
            "gates of one engine: robust_accuracy, clean_accuracy"
        )
    if all(gate.metric != "robust_accuracy" for gate in gates):
        raise RecipeError(
            "without --reference there is nothing to compare with, so say how much robustness is enough: "
            "--gate 'robust_accuracy>=0.4', say, or give --reference old.onnx"
        )


def name_of(engine: Path) -> str:
    """A recipe's name after an engine's file."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", engine.stem).strip("-._") or "engine"


def skeleton(engine: Path, *, seed: int, threat: Mapping[str, Any], verify: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's content, still without its data and its engine's precision."""
    return {
        "version": RECIPE_VERSION,
        "name": name_of(engine),
        "seed": seed,
        "data": {},
        "threat": dict(threat),
        "verify": dict(verify),
    }


def with_precision(content: Mapping[str, Any], precision: str) -> dict[str, Any]:
    """The content with the usual engine in that precision, where it is not the usual one and nothing names engines."""
    usual = EngineConfig()
    export = content.get("export") or {}
    if precision == usual.precision or "engines" in export:
        return dict(content)
    return {**content, "export": {**export, "engines": [{"kind": usual.kind, "precision": precision}]}}


def seen_from(path: Path, folder: Path) -> str:
    """A path of the command line as a recipe in `folder` writes it; an absolute one stays as it was typed."""
    if path.is_absolute():
        return str(path)
    typed = Path.cwd() / path
    if path.name in ("", ".."):
        found = os.path.realpath(typed)
    else:  # a link keeps its name, which tells what it leads to; '..' behind a link is the folder above its target
        found = os.path.join(os.path.realpath(typed.parent), path.name)  # noqa: PTH118
    return Path(os.path.relpath(found, os.path.realpath(folder))).as_posix()


def with_paths_from(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The content with its paths, which are the command line's, as a recipe in `folder` writes them."""
    found = dict(content)
    for section, names in (("data", DATA_FILES), ("model", ("weights",))):
        if isinstance(content.get(section), Mapping):
            given = content[section]
            files = {name: seen_from(Path(given[name]), folder) for name in names if isinstance(given.get(name), str)}
            found[section] = {**given, **files}
    return found


def text_of(content: Mapping[str, Any], *, head: str) -> str:
    """The YAML of a recipe's content, one line for each gate; `head` is a comment above it."""
    lines = [f"# {line}" for line in head.splitlines()]
    verify = content.get("verify")
    if not isinstance(verify, Mapping):
        return "\n".join([*lines, *(_block({name: value}) for name, value in content.items())]) + "\n"
    lines += [_block({name: value}) for name, value in content.items() if name != "verify"]
    lines.append("verify:")
    lines += [f"  {_block({name: value})}" for name, value in verify.items() if name != "gates"]
    if isinstance(gates := verify.get("gates"), list):
        lines += ["  gates:", *(f"    - {_flow(gate)}" for gate in gates)]
    elif "gates" in verify:
        lines.append(f"  {_block({'gates': gates})}")
    return "\n".join(lines) + "\n"


def _block(entry: Mapping[str, Any]) -> str:
    """One key and its value on one line."""
    return _flow(dict(entry))[1:-1]


def _flow(value: Any) -> str:
    return yaml.dump(
        value, Dumper=Dumper, default_flow_style=True, width=1_000_000, sort_keys=False, allow_unicode=True
    ).strip()
