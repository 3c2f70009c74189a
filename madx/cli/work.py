"""How a command works on a run directory: it holds the lock, keeps stdout for the answer, ends with an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

import typer

from madx.cli import show
from madx.distributed import join, leave_note
from madx.errors import ExitCode
from madx.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

    from madx.pipeline import Context, Given
    from madx.recipe import Recipe
    from madx.report import Invocation

_INTERRUPTED = 130
"""Ctrl-C, as shells report it."""
_HOW_TO_ASK = "`madx report RECIPE --exit-code` ends with the verdict's own"
_LAUNCHERS_CODE = f"exit code {{:d}}; torchrun itself ends with 1 for every code but 0. {_HOW_TO_ASK}"


def at_hand(
    recipe: Recipe,
    written: Recipe,
    root: Path,
    *,
    given: Given,
    typed: Invocation,
    as_json: bool,
    accepted: Callable[[], None] | None = None,
) -> Context:
    """A run with what its stages need; of several processes one shows how it goes."""
    from madx.pipeline import Context
    from madx.rundir import RunDirectory

    world = join(recipe.device)
    progress = show.progress_for(quiet=as_json) if world.first else Silent()
    return Context(recipe, RunDirectory(root), progress, world, given, written, typed, accepted=accepted)


@contextlib.contextmanager
def at_work(context: Context) -> Iterator[None]:
    """Hold the run directory; what the user's own code prints meanwhile goes to stderr, stdout is for the answer."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        context.world.share(lambda: stack.enter_context(context.run.locked()))
        try:
            yield
        except KeyboardInterrupt:
            if context.world.first:
                print("madx: stopped; run the same command again to continue where it stopped")
            raise typer.Exit(_INTERRUPTED) from None


def end(context: Context, code: ExitCode, tell: Callable[[], None]) -> NoReturn:
    """Give the answer, and end with its exit code."""
    several = context.world.size > 1

    def told() -> None:
        tell()
        if several and code:
            print(f"madx: {_LAUNCHERS_CODE.format(code)}", file=sys.stderr)
            leave_note(f"exit code {code:d} ({code.name.lower()}); nothing crashed. {_HOW_TO_ASK}")
        sys.stdout.flush()  # the launcher ends what is left as soon as one process has ended

    context.world.share(told)
    raise typer.Exit(int(code))
