"""`madx recipe` and `madx data`: the recipe's format, and data sets that can be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from madx.cli import show
from madx.cli.options import Overrides, RecipeFile

recipe_app = typer.Typer(help="Recipes: their format.", no_args_is_help=True)
data_app = typer.Typer(help="Data sets: fetching them.", no_args_is_help=True)


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the recipe's JSON Schema, for editors."""
    from madx.recipe import recipe_schema as schema

    show.print_json(schema())


@recipe_app.command("check")
def recipe_check(recipe: RecipeFile, overrides: Overrides = None) -> None:
    """Validate a recipe without doing anything."""
    from madx.recipe import load_recipe

    load_recipe(recipe, overrides or ())
    print(f"{recipe}: a valid recipe")


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="The data set; fashion-mnist is the one that can be fetched.")],
    folder: Annotated[Path, typer.Option("--to", help="Folder that gets a sub-folder of the data set's name.")] = Path(
        "datasets"
    ),
) -> None:
    """Fetch a data set and check its SHA-256."""
    from madx.data.fetch import fetch

    place = fetch(name, folder, show.progress_for(quiet=False))
    print(f"{name}: complete in {place}")
