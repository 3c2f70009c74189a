"""How much a command says: `--quiet` and `--verbose`, before the command's name or after it.

Quiet leaves the answer and errors; verbose adds how long stages took, and of an error where it came from.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from madx.errors import RecipeError

if TYPE_CHECKING:
    from madx.pipeline import StageReport
    from madx.progress import Progress

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but the answer and errors.")]
Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Also say how long stages took, and of an error where it came from.")
]


@dataclass
class _Chosen:
    """By the command line that this process is at work on."""

    quiet: bool = False
    verbose: bool = False


_CHOSEN = _Chosen()


def reset() -> None:
    """Start anew with a command line."""
    _CHOSEN.quiet = _CHOSEN.verbose = False


def choose(*, quiet: bool, verbose: bool) -> None:
    """Take over what was asked for here; what was asked for elsewhere on the command line stays.

    Raises:
        RecipeError: both were.
    """
    _CHOSEN.quiet |= quiet
    _CHOSEN.verbose |= verbose
    if _CHOSEN.quiet and _CHOSEN.verbose:
        raise RecipeError("--quiet and --verbose were both given; give one of them")


def is_quiet() -> bool:
    """Whether only the answer is wanted."""
    return _CHOSEN.quiet


def audible(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command both options; the function itself needs no parameter for them."""

    @functools.wraps(command)
    def called(*, quiet: bool, verbose: bool, **values: Any) -> None:
        choose(quiet=quiet, verbose=verbose)
        command(**values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in (("quiet", Quiet), ("verbose", Verbose))
    ]
    shown = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *added]
    called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return called


def tell_seconds(progress: Progress, reports: Iterable[StageReport]) -> None:
    """With --verbose, how long each stage took."""
    if _CHOSEN.verbose:
        for report in reports:
            progress.say(f"{report.name}: {f'{report.seconds:.1f} s' if report.done else 'nothing was done'}")


def details(error: BaseException) -> str:
    """With --verbose, where an error came from: it and all that led to it, the first cause first; else nothing."""
    if not _CHOSEN.verbose:
        return ""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.insert(0, cause)
        cause = cause.__cause__ or cause.__context__  # also where the message stands for it
    return "\n".join(map(_told, chain))


def _told(error: BaseException) -> str:
    """Its traceback, without the way through the parser of the command line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "typer" not in Path(frame.filename).parts]
    lines = traceback.format_exception_only(error)
    return "".join(["Traceback (most recent call last):\n", *traceback.format_list(frames), *lines])
