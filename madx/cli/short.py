"""`madx verify --engine` without a recipe: its options, and what is said where they do not go together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from madx.cli.options import Outside
from madx.errors import RecipeError

if TYPE_CHECKING:
    from madx.pipeline.alone import Asked, StandIn
    from madx.progress import Progress

_PANEL = "Without a recipe"
_INSTEAD = {
    "--data": "data",
    "--eps": "threat.eps",
    "--norm": "threat.norm",
    "--gate": "verify.gates",
    "--attack": "verify.attack",
    "--seed": "seed",
    "--images": "verify.images",
    "--query-only": "query_only in its gates",
}
"""Where a recipe says the same."""


class Norm(StrEnum):
    """Norms of a perturbation."""

    LINF = "linf"
    L2 = "l2"


class Suite(StrEnum):
    """Attacks by name."""

    QUICK = "quick"
    STANDARD = "standard"
    PARANOID = "paranoid"


@dataclass(frozen=True)
class ShortForm(Outside):
    """An engine from outside, with a recipe or with what stands for one."""

    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="PATH",
            help="Labelled images to judge the engine on, all of them: whatever `madx data inspect PATH` reads.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Radius of the perturbation for images in [0, 1]: 8/255.", rich_help_panel=_PANEL),
    ] = None
    norm: Annotated[Norm | None, typer.Option("--norm", help="Its norm; without it, linf.", rich_help_panel=_PANEL)] = (
        None
    )
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="A condition of release, such as 'robust_drop<=0.02' (once for each); without any, at most 3 points "
            "of robust and of clean accuracy may be lost against the reference.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    attack: Annotated[
        Suite | None, typer.Option("--attack", help="The attacks; without it, standard.", rich_help_panel=_PANEL)
    ] = None
    seed: Annotated[int | None, typer.Option("--seed", help="Without it, 0.", rich_help_panel=_PANEL)] = None
    images: Annotated[
        int | None,
        typer.Option("--images", help="How many images are attacked; without it, all.", rich_help_panel=_PANEL),
    ] = None
    query_only: Annotated[
        bool,
        typer.Option(
            "--query-only",
            help="Let gates on robustness pass although attacks could only ask the engines, as no --twin was given.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    def asked(self, recipe: Path | None) -> Asked | None:
        """What stands for a recipe; None beside one.

        Raises:
            RecipeError: options for one form are given in the other, or one is missing.
        """
        given = [option for option in _INSTEAD if self._is_given(option)]
        if recipe is not None:
            if given:
                keys = ", ".join(_INSTEAD[option] for option in given)
                raise RecipeError(
                    f"{', '.join(given)} stands for a recipe, and {recipe} is one: leave it out, or change the recipe "
                    f"({keys}; --set KEY=VALUE does so for once)"
                )
            return None
        if self.engine is None:
            raise RecipeError(
                "a recipe is missing: madx verify RECIPE. To judge a finished ONNX file without one: madx verify "
                "--engine new.onnx --reference old.onnx --data images.npz --eps 8/255"
            )
        from madx.pipeline.alone import Asked

        if self.data is None or self.eps is None:
            missing = [option for option in ("--data", "--eps") if self._of(option) is None]
            raise RecipeError(
                f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing: without a recipe, say on "
                "which images (--data images.npz) and against which perturbations (--eps 8/255) the engine is judged"
            )
        return Asked(
            data=self.data,
            eps=self.eps,
            norm=(self.norm or Norm.LINF).value,
            attack=(self.attack or Suite.STANDARD).value,
            seed=self.seed or 0,
            images=self.images,
            gates=self.gate or (),
            query_only=self.query_only,
        )

    def _of(self, option: str) -> object:
        return getattr(self, option.removeprefix("--").replace("-", "_"))

    def _is_given(self, option: str) -> bool:
        value = self._of(option)
        return not (value is None or value is False or value == [])  # a seed of 0 is given


def say(progress: Progress, found: StandIn, *, twins: bool) -> None:
    """What will be judged, before any time is spent on it."""
    progress.say(f"no recipe was given; the options stand for this one, which will be {found.path}:")
    for line in found.text.splitlines():
        progress.say(f"  {line}")
    asks = any(gate.on_robustness and not gate.query_only for gate in found.written.verify.gates)
    if asks and not twins:
        progress.say(
            "without torch twins attacks can only ask the engines, so gates on robustness may fail and do not pass; "
            "give --twin and --reference-twin, or accept that with --query-only"
        )
