"""The commands. Each one parses, calls the room that does the work, and shows what came back."""

from __future__ import annotations

import contextlib
import errno
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import madx
from madx.cli import show, volume
from madx.cli.answer import print_files, show_reports, tell_verdict
from madx.cli.formats import data_app, more_keys, recipe_app
from madx.cli.options import (
    Again,
    AsJson,
    Baseline,
    Insist,
    MaybeRecipe,
    OutDir,
    Overrides,
    Pieces,
    RecipeFile,
    RunDir,
    grouped,
)
from madx.cli.short import ShortForm
from madx.cli.volume import Quiet, Verbose, audible
from madx.cli.work import at_hand, at_work, end
from madx.distributed import announce, leave, lost_contact
from madx.errors import ArtifactError, DataError, EngineError, ExitCode, MadxError
from madx.machine import let_waiting_threads_sleep, stand_in_for_home

if TYPE_CHECKING:
    from madx.pipeline import Context, Given
    from madx.pipeline.alone import Asked
    from madx.pipeline.shards import Shard

app = typer.Typer(
    name="madx",
    help="Prune robust image classifiers, deploy them, and prove on the engine what was won and what was kept.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(recipe_app, name="recipe")
app.add_typer(data_app, name="data")

_CRASHED = 70
"""A bug in madx (EX_SOFTWARE of sysexits.h): Python's own 1 would read as "a gate failed"."""
_BUG = "this is a bug in madx, not a verdict; please report it with the lines above"


def main() -> None:
    """Run the command line; the process ends with an exit code of `ExitCode`, or 70 after a crash."""
    volume.reset()
    stand_in_for_home()
    let_waiting_threads_sleep()
    try:
        app(prog_name="madx")  # also when started as python -m madx
    except MadxError as error:
        _refuse(error)
    except Exception as error:
        if (known := lost_contact(error) or _about_a_path(error)) is not None:
            _refuse(known)
        if (told := announce(_BUG)) is not None:
            traceback.print_exc()
            print(f"madx: {told}", file=sys.stderr, flush=True)
        sys.exit(_CRASHED)
    finally:
        leave()


def _about_a_path(error: Exception) -> MadxError | None:
    """The operating system's word on a path that no command can use is the user's matter, not a bug of madx."""
    unusable = (
        *(errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
        errno.EROFS,
    )
    if isinstance(error, OSError) and error.errno in unusable and error.filename is not None:
        return MadxError(f"{error.filename} cannot be used: {error.strerror}; give another path, or mend this one")
    return None


def _refuse(error: MadxError) -> NoReturn:
    """End with the error's message and exit code; of several processes one tells the message."""
    if (told := announce(str(error))) is not None:
        print(volume.details(error), end="", file=sys.stderr)
        Console(stderr=True, soft_wrap=True).print(f"[red]madx:[/red] {escape(told)}", highlight=False)
    sys.exit(int(error.exit_code))


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    volume.choose(quiet=quiet, verbose=verbose)
    if version:
        print(f"madx {madx.__version__}")
        raise typer.Exit


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the recipe.")] = Path("recipe.yaml"),
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Images to write it for: whatever `madx data inspect PATH` reads."),
    ] = None,
    keys: Annotated[
        list[str] | None, typer.Option("--set", help="More of its data section, such as image_size=224.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Write a recipe with every key, its default and a comment."""
    from madx.cli.starting import write_recipe

    then = write_recipe(path, data, more_keys(keys), force=force)
    print(f"wrote {path}; change what you need, then: {then}")


@app.command()
@audible
def train(recipe: RecipeFile, run_dir: RunDir = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Train the dense network, adversarially unless told otherwise (or take over the recipe's weights)."""
    _run_stage("train", recipe, run_dir, overrides, as_json)


@app.command()
@audible
def prune(recipe: RecipeFile, run_dir: RunDir = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Compute the saliency, prune, recalibrate and fine-tune."""
    _run_stage("prune", recipe, run_dir, overrides, as_json)


@app.command()
@audible
def export(recipe: RecipeFile, run_dir: RunDir = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Write and check the ONNX files and build the engines."""
    _run_stage("export", recipe, run_dir, overrides, as_json)


@app.command()
@audible
@grouped
def verify(
    outside: ShortForm,
    pieces: Pieces,
    again: Again,
    recipe: MaybeRecipe = None,
    run_dir: OutDir = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Measure the engines, judge the gates, write the reports; the exit code is the verdict's (3 with --shard)."""
    shard, only_latency = pieces.chosen(), again.only_latency(pieces)
    given, asked = outside.given(), outside.asked(recipe)
    if recipe is not None:
        context = _context(recipe, run_dir, overrides, as_json, given=given)
    else:
        context = _without_recipe(asked, run_dir, overrides, as_json, given=given)
    context = replace(context, only_latency=only_latency)
    if shard is not None:
        _run_shard(context, shard, as_json, again)
    repeated, merged = again.again or only_latency, pieces.merge or ()
    insist = {"force": again.force, "again": repeated}
    _run_to_verdict(["verify", "report"], context, as_json, **insist, merged=merged)


@app.command()
@audible
@grouped
def run(
    recipe: RecipeFile,
    against: Baseline,
    insist: Insist,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Do everything from data to verdict, and only what is not done yet; the exit code is the verdict."""
    context = _context(recipe, run_dir, overrides, as_json, given=against.given())
    _run_to_verdict(["train", "prune", "export", "verify", "report"], context, as_json, force=insist.force)


@app.command()
@audible
def plan(recipe: RecipeFile, run_dir: RunDir = None, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Say what a run does and takes here, and whether its gates can be decided (exit code 2 if not); do nothing."""
    from madx.cli import plan as room

    room.answer(_context(recipe, run_dir, overrides, as_json), as_json=as_json)


@app.command()
@audible
def report(
    recipe: RecipeFile,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="End with the verdict's exit code (torchrun ends with 1 or 0)."),
    ] = False,
) -> None:
    """Render the reports of a finished run again; nothing is measured."""
    from madx.pipeline import run_stages, stage_named
    from madx.pipeline.reporting import read_verdict

    context = _context(recipe, run_dir, overrides, as_json=False, makes=False)
    with at_work(context):
        # An exit code is believed: it must be that of this recipe, on this machine, and not of an earlier run.
        reports = run_stages(context, [stage_named("report")], again=["report"], current=exit_code)
        code = read_verdict(context)[0].exit_code if exit_code else ExitCode.PASSED
    volume.tell_seconds(context.progress, reports)
    end(context, code, lambda: print_files(context, "report"))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show what this machine can build and run, and what to install for the rest."""
    from madx.cli import doctor as room

    findings = room.examine()
    if as_json:
        show.print_json(findings)
    else:
        room.print_findings(findings)


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="A run directory; with --groups, a recipe.", show_default=False)],
    groups: Annotated[
        bool, typer.Option("--groups", help="Show which channels of the recipe's network go together, and what stays.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Show what is in a run directory, and whether its files still are what the stages wrote."""
    from madx.cli import inspect as room

    if groups:
        _show_groups(path, overrides, as_json)
        return

    findings = room.examine(path)
    if as_json:
        show.print_json(findings)
    else:
        room.print_findings(findings)
    if any(stage["changed"] for stage in findings["stages"].values()):
        again = "the command that made them makes them again"
        raise ArtifactError(f"{path}: files are no longer what their stages wrote; {again}")


def _show_groups(recipe: Path, overrides: list[str] | None, as_json: bool) -> None:
    """What can go of a recipe's network, before any of its hours are spent."""
    from madx.cli.groups import print_grouping
    from madx.pipeline.grouping import grouping

    with contextlib.redirect_stdout(sys.stderr):  # what the user's own code prints
        found = grouping(_context(recipe, None, overrides, as_json, makes=False))
    if as_json:
        show.print_json(found.to_json())
    else:
        print_grouping(found)


def _run_shard(context: Context, shard: Shard, as_json: bool, again: Again) -> NoReturn:
    """A part of the images; nothing is judged, so the exit code is not that of a verdict that passed."""
    from madx.pipeline.feasibility import check_gates
    from madx.pipeline.shards import measure_shard

    with at_work(context):
        check_gates(context, force=again.force, again=again.again)
        report = measure_shard(context, shard, again=again.again)
    end(context, ExitCode.INCONCLUSIVE, lambda: show.shard(report, context.run.root, as_json=as_json))


def _run_to_verdict(
    names: list[str],
    context: Context,
    as_json: bool,
    *,
    force: bool,
    again: bool = False,
    merged: Sequence[Path] = (),
) -> None:
    """Stages up to the verdict, which decides the exit code.

    `merged` are run directories of shards.
    """
    from madx.cli.plan import begin
    from madx.pipeline import run_stages, stage_named
    from madx.pipeline.feasibility import check_gates
    from madx.pipeline.reporting import read_verdict

    with at_work(context):
        check_gates(context, force=force, again=again)
        if merged:
            from madx.pipeline.merging import merge

            merge(context, merged, again=again)
        if context.only_latency:
            from madx.pipeline.timing import begin_timing_again

            begin_timing_again(context)
        stages = [stage_named(name) for name in names]
        ended = begin(context) if "train" in names else None
        reports = run_stages(context, stages, again=["verify"] if again else [], ended=ended)
        verdict, provenance = read_verdict(context)
    volume.tell_seconds(context.progress, reports)
    new = any(report.done for report in reports) or volume.is_quiet()
    end(context, verdict.exit_code, lambda: tell_verdict(context, verdict, provenance, new=new, as_json=as_json))


def _run_stage(name: str, recipe: Path, run_dir: Path | None, overrides: list[str] | None, as_json: bool) -> None:
    """One stage of a run, by itself; an engine that was promised and not built ends `export` with exit code 3."""
    from madx.pipeline import run_stages, stage_named

    context = _context(recipe, run_dir, overrides, as_json)
    with at_work(context):
        reports = run_stages(context, [stage_named(name)])
        missing = _missing_engines(context) if name == "export" else {}
    volume.tell_seconds(context.progress, reports)
    if as_json or not volume.is_quiet():
        context.world.share(lambda: show_reports(context, reports, as_json))
    if missing:
        raise EngineError("; ".join(f"{engine} was not built: {reason}" for engine, reason in missing.items()))


def _missing_engines(context: Context) -> dict[str, str]:
    from madx.pipeline import files

    engines = context.recipe.export.engines
    records = {engine.name: context.read_json(files.build(engine), "built", "reason") for engine in engines}
    return {name: record["reason"] for name, record in records.items() if not record["built"]}


def _context(
    recipe: Path,
    run_dir: Path | None,
    overrides: list[str] | None,
    as_json: bool,
    *,
    given: Given | None = None,
    makes: bool = True,
) -> Context:
    """The run of a recipe; one that `makes` networks needs something to make them of."""
    from madx.recipe import load_written, require_network, resolve_paths

    written = load_written(recipe, overrides or ())
    loaded = resolve_paths(written, recipe.resolve().parent)  # before torch: a typing error shall not cost seconds
    alone = given is not None and given.alone
    if makes and not alone:
        require_network(loaded)
    from madx.pipeline import Given

    given = given or Given()
    root = run_dir or Path("runs") / (f"{loaded.name}-engine" if alone else loaded.name)
    typed = given.typed(recipe, run_dir, overrides or ())
    return at_hand(loaded, written, root, given=given, typed=typed, as_json=as_json)


def _without_recipe(
    asked: Asked | None, run_dir: Path | None, overrides: list[str] | None, as_json: bool, *, given: Given
) -> Context:
    """The run of the recipe that the options stand for; the recipe is shown at once.

    It is written once the files are accepted: a run that is killed, or is a part, can be gone on with from it too.
    """
    from madx.cli.short import say
    from madx.pipeline.alone import stand_in
    from madx.recipe import resolve_paths

    assert asked is not None  # a recipe or this
    found = stand_in(asked, given, overrides or (), run_dir)
    loaded = resolve_paths(found.written, found.root.resolve())
    typed = given.typed(found.path, run_dir, ())  # the overrides are in it
    context = at_hand(
        loaded, found.written, found.root, given=given, typed=typed, as_json=as_json, accepted=found.write
    )
    say(context.progress, found, twins=given.twin is not None)
    try:
        context.splits  # noqa: B018 - read once, for all that follows
    except DataError as problem:
        raise found.told_of(problem) from None
    return context
