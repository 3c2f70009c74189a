"""What each stage depends on: its part of the recipe, the user's files, and the machine where it matters.

Paths play no part, contents do: a run directory that is moved with its recipe stays up to date.
"""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path
from typing import Any

import madx
from madx.artifacts import sha256_file
from madx.deploy.engine import backend
from madx.errors import DataError
from madx.machine import describe_machine
from madx.pipeline.context import Context
from madx.recipe import DataConfig, Recipe


def train(context: Context) -> dict[str, Any]:
    """Everything that decides the dense weights."""
    recipe = context.recipe
    weights = recipe.model.weights
    return _common(recipe) | {
        "weights": sha256_file(weights) if weights else None,
        "train": recipe.train.model_dump(mode="json") if recipe.train else None,
    }


def prune(context: Context) -> dict[str, Any]:
    """Everything beside the dense weights that decides the pruned ones."""
    return _common(context.recipe) | {"prune": context.recipe.prune.model_dump(mode="json")}


def export(context: Context) -> dict[str, Any]:
    """ONNX and engines; engines belong to the machine they were built on and to the runtimes it had."""
    recipe = context.recipe
    return _common(recipe) | {
        "export": recipe.export.model_dump(mode="json"),
        "attack": recipe.verify.attack.model_dump(mode="json"),
        "batch": recipe.verify.latency.batch,
        "can_build": {engine.name: backend(engine.kind).availability().can_build for engine in recipe.export.engines},
        "machine": describe_machine(),
    }


def verify(context: Context) -> dict[str, Any]:
    """Measurements and gates; latency belongs to the machine it was measured on."""
    recipe = context.recipe
    return _common(recipe) | {
        "verify": recipe.verify.model_dump(mode="json"),
        "engines": [engine.model_dump(mode="json") for engine in recipe.export.engines],
        "can_run": {engine.name: backend(engine.kind).availability().can_run for engine in recipe.export.engines},
        "machine": describe_machine(),
    }


def report(context: Context) -> dict[str, Any]:
    """How reports look belongs to madx's version, what they show to the files they are made from."""
    return {"madx": madx.__version__, "recipe": context.recipe.model_dump(mode="json", exclude={"data", "model"})}


def _common(recipe: Recipe) -> dict[str, Any]:
    return {
        "seed": recipe.seed,
        "data": recipe.data.model_dump(mode="json", exclude={"path"}) | {"files": _identity(recipe.data)},
        "model": recipe.model.model_dump(mode="json", exclude={"weights"}),
        "threat": recipe.threat.model_dump(mode="json"),
    }


@functools.cache
def _identity(config: DataConfig) -> str | None:
    """What tells that the user's own files changed; the published sets are checked by their readers."""
    if config.path is None or config.name not in ("npz", "imagefolder"):
        return None
    if not config.path.exists():
        raise DataError(f"there is no {config.path}; data.path must name the data of data.name: {config.name}")
    if config.path.is_file():
        return sha256_file(config.path)
    return _listing_digest(config.path)


def _listing_digest(folder: Path) -> str:
    """SHA-256 over names and sizes of all files; reading a whole ImageNet to hash it would take longer than the run."""
    digest = hashlib.sha256(platform.system().encode())
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\x1f{path.stat().st_size}\n".encode())
    return digest.hexdigest()
