"""What the terminal shows: progress bars for people, plain lines for logs, JSON for machines."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from madx.cli import volume
from madx.cli.progress import Overall, duration
from madx.progress import Progress, Silent

if TYPE_CHECKING:
    from madx.pipeline.shards import ShardReport
    from madx.verify import Verdict

T = TypeVar("T")

_PIPE_CLOSED = 141
_INDENT = 15
"""Columns before the words of a gate: two blanks and its outcome."""
_PLAIN_SECONDS = 15.0
"""A plain log gets a line of progress this often."""


class TerminalProgress:
    """Bars with an estimate of the time left, on stderr, so that stdout stays the command's answer."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.overall: Overall | None = None
        """Of a whole run: a second bar under each step's own."""

    def track(self, items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:
        """Yield `items` under a bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Bars(*columns, TextColumn("left"), _Left(), console=self.console, transient=True) as bars:
            task = bars.add_task(description, total=total, completed=done)
            whole = self._whole(bars, description, done / total) if total else None
            for count, item in enumerate(items, start=done + 1):
                yield item
                bars.advance(task)
                if whole is not None and self.overall is not None:
                    self.overall.advance(count / total)
                    bars.update(whole, completed=_percent(self.overall), left=self.overall.seconds_left)

    def _whole(self, bars: Bars, description: str, done: float) -> TaskID | None:
        """The second bar, where this step is a piece of a run."""
        if self.overall is None or not self.overall.begin(description, done=done):
            return None
        at = _percent(self.overall)
        return bars.add_task("overall, %", total=100, completed=at, left=self.overall.seconds_left)

    def say(self, message: str) -> None:
        """Print one line."""
        self.console.print(message, highlight=False, markup=False)


class _Left(TimeRemainingColumn):
    """A whole run's time left is what `Overall` says; rich would take all steps for equally long."""

    def render(self, task: Task) -> Text:
        """Of one bar."""
        left = task.fields.get("left")
        return super().render(task) if left is None else Text(duration(left), style="progress.remaining")


def _percent(overall: Overall) -> int:
    return int(100 * overall.share)


class PlainProgress:
    """Lines without colour or cursor movement, for logs and CI."""

    def __init__(self) -> None:
        self.overall: Overall | None = None
        """Of a whole run: told at the end of each line of progress."""

    def track(self, items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:
        """Yield `items`, with a line every few seconds that tells the share done and the time left."""
        started = last = time.monotonic()
        piece = self.overall is not None and total > 0 and self.overall.begin(description, done=done / total)
        for count, item in enumerate(items, start=1):
            yield item
            whole = ""
            if piece and self.overall is not None:
                self.overall.advance((done + count) / total)
                whole = f"; {self.overall}"
            now = time.monotonic()
            if now - last > _PLAIN_SECONDS and done + count < total:
                left = (now - started) / count * (total - done - count)
                self.say(f"{description}: {done + count}/{total}, about {left:.0f} s left{whole}")
                last = now

    def say(self, message: str) -> None:
        """Print one line."""
        print(message, file=sys.stderr, flush=True)


def progress_for(*, quiet: bool) -> Progress:
    """Bars where a person looks, lines elsewhere and with `quiet` (for --json); nothing with --quiet."""
    if volume.is_quiet():
        return Silent()
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal and not quiet else PlainProgress()


def print_json(content: Any) -> None:
    """A command's answer for machines, on stdout."""
    text = json.dumps(content, indent=2, allow_nan=False)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever read us (`| head`) has left; 1 would read as a failed gate
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_PIPE_CLOSED) from None


def verdict(found: Verdict, run_dir: Path, headline: Callable[[Console], None], *, new: bool) -> None:
    """Print the verdict, a line for each gate; `headline` says on the console what decided it."""
    from madx.report import words

    if not new:
        print(f"nothing to do: {run_dir} is up to date with the recipe; this is its verdict")
    console = Console(highlight=False, soft_wrap=True)
    engine = ""
    for gate in found.gates:
        if gate.engine != engine:
            engine = gate.engine
            console.print(escape(engine))
        outcome = gate.outcome.value
        lead = f"  {_coloured(outcome)}{' ' * (_INDENT - 2 - len(outcome))}"
        console.print(f"{lead}{escape(_hanging(console, words.clause(gate)))}")
        if outcome == "INCONCLUSIVE":  # the number alone may look like a pass
            for sentence in gate.evidence[1:] or gate.evidence:
                console.print(f"{' ' * _INDENT}{escape(_hanging(console, words.clean(sentence)))}")
    for warning in found.warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(_hanging(console, words.clean(warning), indent=9))}")
    console.print(f"verdict: [bold]{_coloured(found.outcome.value)}[/bold]")
    headline(console)
    console.print(f"report:  {escape(str(run_dir / 'report.html'))}")


def shard(found: ShardReport, run_dir: Path, *, as_json: bool) -> None:
    """Print what a shard came to, and that it is no verdict."""
    if as_json:
        shown = {"number": found.shard.number, "of": found.shard.of, "chunks": found.chunks, "in_all": found.in_all}
        facts = {"images": found.images, "engines": found.engines, "missing": found.missing, "run_dir": str(run_dir)}
        print_json({"outcome": None, "shard": shown | facts})
        return
    for engine in found.engines:
        print(f"{engine}: {len(found.chunks)} of {found.in_all} chunks ({found.images} images) are in {run_dir}")
    for engine, reason in found.missing.items():
        print(f"{engine}: missing: {reason}")
    print(f"no verdict: this is shard {found.shard}, and nothing was judged")
    print(
        f"when the other shards are done, in a copy of the same run: madx verify RECIPE --merge {run_dir} --merge ..."
    )


def _hanging(console: Console, text: str, *, indent: int = _INDENT) -> str:
    """Words after `indent` columns, wrapped between words where a person looks; a log has a line for each sentence."""
    if not console.is_terminal:
        return text
    tied = text.replace(" %", "\xa0%")
    lines = textwrap.wrap(tied, max(20, console.width - indent), break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines).replace("\xa0%", " %")


def _coloured(outcome: str) -> str:
    colour = {"PASS": "green", "FAIL": "red"}.get(outcome, "yellow")
    return f"[{colour}]{outcome}[/{colour}]"
