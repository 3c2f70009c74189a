"""`madx plan`: what a run does and takes here, and whether its gates can be decided; what `madx run` says of it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from madx.cli import show
from madx.cli.progress import Overall, Piece, duration
from madx.errors import ExitCode, MadxError, RecipeError
from madx.progress import Silent

if TYPE_CHECKING:
    from madx.pipeline import Context
    from madx.pipeline.plan import Plan, StagePlan
    from madx.verify.feasible import Feasibility

_GIGABYTE, _MEGABYTE = 1e9, 1e6
_WIDTH = 120
"""Columns where nobody looks through a terminal."""


def answer(context: Context, *, as_json: bool) -> NoReturn:
    """Print the plan; the exit code is 2 if a gate cannot pass."""
    from madx.pipeline.plan import plan

    if context.world.size > 1:
        raise RecipeError("madx plan is for one process; start it without torchrun")
    with contextlib.redirect_stdout(sys.stderr):  # what the user's own code prints
        found = plan(context)
    if as_json:
        show.print_json(found.to_json() | {"run_dir": str(context.run.root)})
    else:
        _print(found, context)
    raise typer.Exit(int(ExitCode.PASSED if found.decidable else ExitCode.USAGE))


def begin(context: Context) -> Callable[[str], None]:
    """Say how long the run will take and begin its overall progress; what is returned is told of stages that ended."""
    from madx.pipeline.plan import plan
    from madx.pipeline.stages import due

    progress = context.progress
    if not isinstance(progress, (show.TerminalProgress, show.PlainProgress)):
        return lambda _: None
    if context.world.size > 1 or not due(context):
        return lambda _: None
    try:
        found = plan(context, progress=Silent())
    except MadxError as problem:  # the stage that needs the network says what is wrong with it
        progress.say(f"how long this takes could not be estimated: {problem}")
        return lambda _: None
    shown = [stage for stage in found.stages if stage.reason and stage.parts]
    if not shown:
        return lambda _: None
    each = ", ".join(f"{stage.name} {duration(stage.seconds)}" for stage in shown)
    progress.say(f"about {duration(found.seconds)} here, at most: {each} (`madx plan` tells more)")
    overall = Overall(Piece(stage.name, part.name, part.seconds) for stage in shown for part in stage.parts)
    progress.overall = overall
    return overall.end


def _print(found: Plan, context: Context) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_WIDTH)
    table = Table("stage", "what", "", "here, at most", box=SIMPLE_HEAD, show_edge=False)
    for stage in found.stages:
        table.add_row(stage.name, escape(stage.what), escape(_state(stage)), _time(stage))
    console.print(table)
    console.print(f"in all about {duration(found.seconds)} here, at most" if found.seconds else "nothing to do")
    for sentence in _notes(found):
        console.print(escape(sentence))
    console.print()
    gates = Table(
        "gate", "bound", "can pass", "has", "needs at least", "likely needs*", box=SIMPLE_HEAD, show_edge=False
    )
    for gate in found.gates:
        gates.add_row(*_row(gate))
    console.print(gates)
    if any(gate.likely for gate in found.gates):
        console.print("* images for a chance of 80 % if nothing is lost on average and 1 / 3 / 10 % of them differ")
    if any(gate.true_ratio for gate in found.gates):
        console.print("* true speed-up for a chance of 80 % if an engine's loads differ by 0.5 / 1 / 2 % of its time")
    from madx.verify.feasible import explain

    for gate in found.gates:
        if sentence := explain(gate):
            console.print(f"[red]no:[/red] {escape(sentence)}", soft_wrap=True)
    console.print(f"run directory: {escape(str(context.run.root))}")


def _state(stage: StagePlan) -> str:
    return stage.reason or "up to date"


def _time(stage: StagePlan) -> str:
    if not stage.reason:
        return "-"
    return duration(stage.seconds) if stage.parts else "some seconds"


def _notes(found: Plan) -> list[str]:
    """What the times rest on, and memory and disk."""
    notes = []
    if found.precision:
        notes.append(found.precision)
    if (share := found.pace.pruned_share) is not None:
        which = "an example of the pruned network" if found.pace.example else "the pruned network"
        notes.append(f"timed just now: a pass of {which} takes {share:.0%} of a pass of the dense one")
    if found.memory is not None and found.disk is not None:
        notes.append(f"about {_bytes(found.memory)} of memory, {_bytes(found.disk)} of disk (rough)")
    return notes


def _bytes(count: int) -> str:
    return f"{count / _GIGABYTE:.1f} GB" if count >= _GIGABYTE else f"{max(1, round(count / _MEGABYTE))} MB"


def _row(found: Feasibility) -> tuple[str, ...]:
    gate = found.gate
    needs = "-" if found.needs is None else f"{found.needs:,} {found.unit}"
    has = f"{found.has:,} {found.unit}"
    if found.unit == "bytes":
        has = needs = "counted"
    likely = " / ".join(f"{images:,}" for images in found.likely.values())
    likely = likely or " / ".join(f"{ratio:.3f} times" for ratio in found.true_ratio.values())
    bound = f"{gate.direction.replace('_', ' ')} {gate.bound:g} at {gate.confidence:g}"
    return gate.metric, bound, found.answer, has, needs, likely or "-"
