"""`madx recipe` and `madx data`: the recipe's format, and data sets that can be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from madx.cli import show
from madx.cli.options import Overrides, RecipeFile

recipe_app = typer.Typer(help="Recipes: their format.", no_args_is_help=True)
data_app = typer.Typer(help="Data sets: fetching them, looking into them.", no_args_is_help=True)


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


@data_app.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A file or folder of images.")],
    keys: Annotated[
        list[str] | None,
        typer.Option("--set", help="More of the data section, such as image_size=224; may be given more than once."),
    ] = None,
) -> None:
    """Say what madx reads there: parts, classes, sizes, copies, what is unclear, and the section to paste."""
    from madx.data.inspecting import look
    from madx.errors import DataError
    from madx.progress import listening
    from madx.recipe.reading import parse_value

    pairs = [key.partition("=") for key in keys or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise DataError(f"--set {wrong[0]!r} is not of the form key=value, for example image_size=224")
    more = {name.removeprefix("data."): parse_value(text, f"--set {name}") for name, _, text in pairs}
    with listening(show.progress_for(quiet=False)):
        found = look(path, more)
    print(f"{path}: data.name: {found.name}")
    for name, part in found.parts.items():
        print(f"{name}: {part['images']} images, {part['classes']} classes, [C, H, W] = {part['shape']}")
        for key in ("by_class", "kinds", "sizes"):
            if told := ", ".join(f"{what}: {count}" for what, count in part.get(key, {}).items()):
                print(f"  {key.replace('_', ' ')}: {told}")
    for remark in found.remarks:
        print(f"- {remark}")
    print(f"\n{found.section}")
    if found.question:
        raise DataError(found.question)
