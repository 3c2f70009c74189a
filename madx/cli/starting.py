"""`madx init`: a first recipe, with or without data to write it for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from madx.artifacts import write_atomically
from madx.cli import show
from madx.data.inspecting import Found, look
from madx.errors import ArtifactError, DataError
from madx.progress import listening
from madx.recipe import DataConfig, Recipe, TrainConfig, commented_recipe
from madx.recipe.short import with_paths_from

_NAMED = 20
"""Classes that a recipe's notes name."""


def write_recipe(path: Path, data: Path | None, keys: dict[str, Any], *, force: bool) -> str:
    """Write a commented recipe; returns what to do with it.

    Raises:
        ArtifactError: there is a file already, and nobody insists.
        DataError: the data cannot be read, or something has to be said of them first.
    """
    if path.exists() and not force:
        raise ArtifactError(f"{path} already exists and was not touched; give another path, or --force")
    if keys and data is None:
        raise DataError("--set says more of --data, which was not given")
    recipe, notes = (None, ()) if data is None else _for_data(_found(data, keys), path.parent)
    write_atomically(path, commented_recipe(recipe, notes), remedy="give another path")
    judges = recipe is not None and not recipe.has_network
    return f"madx verify {path} --engine model.onnx" if judges else f"madx run {path}"


def _found(data: Path, keys: dict[str, Any]) -> Found:
    with listening(show.progress_for(quiet=False)):
        return look(data, keys)


def _for_data(found: Found, folder: Path) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe for what was found, with what there is to know of it; of test images alone nothing can be trained."""
    if found.question:
        raise DataError(f"{found.question}. Say it here, too: --set KEY=VALUE, as with madx data inspect")
    section = with_paths_from({"data": found.keys}, folder)["data"]
    train = TrainConfig() if "train" in found.parts else None
    return Recipe(train=train, data=DataConfig.model_validate(section)), tuple(_notes(found))


def _notes(found: Found) -> list[str]:
    notes = []
    for name, part in found.parts.items():
        told = f"{name}: {part['images']} images, {part['classes']} classes, [C, H, W] = {part['shape']}"
        notes.append(f"{told}: {', '.join(part['by_class'])}{', ...' if part['classes'] > _NAMED else ''}")
    return [" ".join(_on_one_line(note).split()) for note in notes]


def _on_one_line(text: str) -> str:
    """A comment has no letters that could end it."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
