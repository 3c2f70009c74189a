"""`madx recipe` and `madx data`: the recipe's format, and data sets that can be fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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

    found = load_recipe(recipe, overrides or ())
    only = "" if found.has_network else " for madx verify --engine; it has nothing to train or prune"
    print(f"{recipe}: a valid recipe{only}")


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


def more_keys(pairs: list[str] | None) -> dict[str, Any]:
    """Keys of a data section, as `--set` gives them.

    Raises:
        DataError: one is not of the form key=value.
    """
    from madx.errors import DataError
    from madx.recipe.reading import parse_value

    parted = [pair.partition("=") for pair in pairs or ()]
    if wrong := [name for name, equals, _ in parted if not equals]:
        raise DataError(f"--set {wrong[0]!r} is not of the form key=value, for example image_size=224")
    return {name.removeprefix("data."): parse_value(text, f"--set {name}") for name, _, text in parted}


@data_app.command("inspect")
def data_inspect(
    path: Annotated[Path, typer.Argument(help="A file or folder of images.")],
    keys: Annotated[
        list[str] | None,
        typer.Option("--set", help="More of the data section, such as image_size=224; may be given more than once."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option("--sheet", metavar="PNG", help="Draw a few images of every class, as the network is given them."),
    ] = None,
) -> None:
    """Say what madx reads there: parts, classes, sizes, copies, what is unclear, and the section to paste."""
    from madx.data.inspecting import look
    from madx.data.sheet import write_sheet
    from madx.errors import DataError
    from madx.progress import listening

    with listening(show.progress_for(quiet=False)):
        found = look(path, more_keys(keys))
    if sheet is not None and found.sources:
        write_sheet(found.sources, sheet, of=path)
    print(f"{path}: data.name: {found.name}")
    for name, part in found.parts.items():
        print(f"{name}: {part['images']} images, {part['classes']} classes, [C, H, W] = {part['shape']}")
        for key in ("by_class", "kinds", "sizes"):
            if told := ", ".join(f"{what}: {count}" for what, count in part.get(key, {}).items()):
                print(f"  {key.replace('_', ' ')}: {told}")
    for remark in found.remarks:
        print(f"- {remark}")
    if sheet is not None:
        print(f"- {sheet} shows some of them" if found.sources else f"- {sheet} was not drawn: nothing could be read")
    print(f"\n{found.section}")
    if found.question:
        raise DataError(found.question)
