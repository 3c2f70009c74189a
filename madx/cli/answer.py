"""The answer of `madx verify` and `madx run`: the verdict, what decided it, and what to type next."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from madx.cli import github, show

if TYPE_CHECKING:
    from madx.pipeline import Context, StageReport
    from madx.report import Headline, Invocation
    from madx.verify import Verdict

_LABEL = 9
"""Columns of "verdict: "."""


def tell_verdict(context: Context, verdict: Verdict, provenance: dict[str, Any], *, new: bool, as_json: bool) -> None:
    """Print it on stdout, for people or as JSON, and where GitHub shows it.

    Args:
        context: the finished run.
        verdict: that it came to.
        provenance: of the verdict.
        new: whether anything was done for it.
        as_json: one JSON value and nothing else.
    """
    from madx.pipeline import files
    from madx.report import headline

    decided, root = headline(verdict, provenance.get("recipe", {}), provenance), context.run.root
    if as_json:
        facts = {"headline": decided.to_json(context.typed), "provenance": provenance, "run_dir": str(root)}
        show.print_json(verdict.to_json() | facts)
    else:
        show.verdict(verdict, root, lambda console: print_headline(console, decided, context.typed), new=new)
    typed = context.typed.portable()
    lines = filter(None, (decided.sentence, decided.command(typed)))
    github.publish(
        verdict, "\n".join(lines), lambda: context.run.read(files.MARKDOWN).decode(errors="replace"), as_json=as_json
    )


def print_headline(console: Console, decided: Headline, typed: Invocation) -> None:
    """Why, and what to type; the command stays on one line, however long, so that it can be pasted."""
    from madx.report import words

    said = words.clean(f"{words.capital(decided.sentence)}.")
    if console.is_terminal:
        said = f"\n{' ' * _LABEL}".join(textwrap.wrap(said, max(20, console.width - _LABEL), break_on_hyphens=False))
    console.print(f"why:     {escape(said)}")
    if line := decided.command(typed):
        aim = f"  [dim]# {escape(decided.remedy.value)}[/dim]" if decided.remedy else ""
        console.print(f"next:    [bold]{escape(line)}[/bold]{aim}")


def show_reports(context: Context, reports: list[StageReport], as_json: bool) -> None:
    """What stages came to that have no verdict."""
    done = [report for report in reports if report.done]
    if as_json:
        stages = [{"name": report.name, "done": report.done, "seconds": report.seconds} for report in reports]
        show.print_json({"run_dir": str(context.run.root), "stages": stages})
        return
    for report in done:
        print(f"{report.name}: done in {report.seconds:.0f} s")
    if not done:
        print(f"nothing to do: {context.run.root} is up to date with the recipe")


def print_files(context: Context, stage: str) -> None:
    """The files that a stage wrote."""
    for name in context.run.hashes(stage):
        print(context.run.path(name))
