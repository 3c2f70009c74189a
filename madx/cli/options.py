"""Options that several commands share or that belong together: a dataclass of them is one parameter of a command.

`grouped` shows the fields of such a parameter to Typer as options of their own, so that a command with a dozen options
still is a function of a few values.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from madx.errors import RecipeError

if TYPE_CHECKING:
    from madx.pipeline import Given
    from madx.pipeline.shards import Shard

_FROM_OUTSIDE = "An engine from outside"
_IN_PIECES = "In pieces"


RecipeFile = Annotated[Path, typer.Argument(help="The recipe (YAML).", show_default=False)]
MaybeRecipe = Annotated[
    Path | None,
    typer.Argument(
        metavar="RECIPE",
        help="The recipe (YAML); without one, --engine, --data and --eps say what is judged.",
        show_default=False,
    ),
]
RunDir = Annotated[
    Path | None, typer.Option("--run-dir", help="The run directory; without it, runs/<name of the recipe>.")
]
OutDir = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        "--out",
        help="The run directory; without it, runs/<name of the recipe>, or runs/<name>-engine with --engine.",
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key, e.g. prune.sparsity=0.6.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON on stdout.")]


@dataclass(frozen=True)
class Baseline:
    """What to compare with."""

    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="RUN|BUNDLE",
            help="Compare with the last release instead of the dense engine, measured again beside the new one: a run "
            "directory, an .onnx with a .safetensors of the same name beside it, or a folder with one of each.",
        ),
    ] = None

    def given(self) -> Given:
        """The paths, as the pipeline takes them."""
        from madx.pipeline import Given

        return Given(**{field.name: getattr(self, field.name, None) for field in dataclasses.fields(Given)})


@dataclass(frozen=True)
class Insist:
    """Going on where madx advises against it."""

    force: Annotated[
        bool, typer.Option("--force", help="Measure although a gate cannot pass with so many images (see madx plan).")
    ] = False


@dataclass(frozen=True)
class Pieces:
    """A verification whose images are attacked by processes that know nothing of each other."""

    shard: Annotated[
        str | None,
        typer.Option(
            "--shard",
            metavar="I/N",
            help="Only attack the Ith of N parts of the images, in a copy of the run; no verdict, exit code 3.",
            rich_help_panel=_IN_PIECES,
        ),
    ] = None
    merge: Annotated[
        list[Path] | None,
        typer.Option(
            "--merge",
            metavar="DIR",
            help="Take over what shards measured in this run directory (once for each), then verify.",
            rich_help_panel=_IN_PIECES,
        ),
    ] = None

    def chosen(self) -> Shard | None:
        """The shard that is asked for, if any.

        Raises:
            RecipeError: it is not of the form I/N, or there is also something to merge.
        """
        if self.shard is None:
            return None
        if self.merge:
            raise RecipeError("--shard measures a part and --merge judges the whole; give one of them")
        from madx.pipeline.shards import Shard

        return Shard.parse(self.shard)


class Part(StrEnum):
    """A part of a verification that can be measured by itself."""

    LATENCY = "latency"


@dataclass(frozen=True)
class Again(Insist):
    """Measuring although there is a verdict."""

    again: Annotated[bool, typer.Option("--again", help="Measure again; the verdict says how often it was.")] = False
    only: Annotated[
        Part | None,
        typer.Option(
            "--only",
            help="Time again, keep what the attacks and all else have measured, and judge; the verdict says how often.",
        ),
    ] = None

    def only_latency(self, pieces: Pieces) -> bool:
        """Whether nothing but latency is to be measured.

        Raises:
            RecipeError: something else is asked for as well.
        """
        if self.only is None:
            return False
        others = {"--again": self.again, "--shard": pieces.shard, "--merge": pieces.merge}
        if asked := [option for option, value in others.items() if value]:
            raise RecipeError(f"--only latency keeps what {' and '.join(asked)} would measure; give one of them")
        return True


@dataclass(frozen=True)
class Outside(Baseline):
    """An engine that no run of madx made."""

    engine: Annotated[
        Path | None,
        typer.Option(
            "--engine",
            metavar="ONNX",
            help="Judge this ONNX file; the recipe, or --data and --eps and the options beside them, say how.",
            rich_help_panel=_FROM_OUTSIDE,
        ),
    ] = None
    twin: Annotated[
        Path | None,
        typer.Option(
            "--twin",
            metavar="WEIGHTS",
            help="Weights (.safetensors, .pt) of its torch network, the recipe's model; without them attacks can only "
            "query the engine, and gates on robustness do not pass.",
            rich_help_panel=_FROM_OUTSIDE,
        ),
    ] = None
    reference: Annotated[
        Path | None,
        typer.Option(
            "--reference",
            metavar="ONNX",
            help="The ONNX file to compare it with; without one, gates that compare are inconclusive.",
            rich_help_panel=_FROM_OUTSIDE,
        ),
    ] = None
    reference_twin: Annotated[
        Path | None,
        typer.Option(
            "--reference-twin",
            metavar="WEIGHTS",
            help="Weights of the reference's torch network.",
            rich_help_panel=_FROM_OUTSIDE,
        ),
    ] = None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let Typer see the fields of every parameter that is one of the dataclasses here."""
    hints = get_type_hints(command, include_extras=True)
    plain, groups = [], {}
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            groups[parameter.name] = kind
        else:
            plain.append(parameter)
    fields = [_option(kind, field) for kind in groups.values() for field in dataclasses.fields(kind)]

    @functools.wraps(command)
    def called(**values: Any) -> None:
        for name, kind in groups.items():
            values[name] = kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
        command(**values)

    shown = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*plain, *fields)]
    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def _option(kind: type, field: dataclasses.Field[Any]) -> inspect.Parameter:
    annotation = get_type_hints(kind, include_extras=True)[field.name]
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)
