"""What GitHub shows of a verdict beside the log: the summary of the step, and annotations.

A step's summary holds 1 MiB, and of each kind of annotation a step shows ten. Workflow commands are lines
`::error title=T::MESSAGE` in which some characters are written as %XX (actions/toolkit, packages/core/src/command.ts).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Literal

from madx.report import words
from madx.verify import GateResult, Outcome, Verdict

SUMMARY_LIMIT = 1024 * 1024
"""Bytes of a step's summary; GitHub drops a longer one whole."""
ANNOTATION_LIMIT = 10
"""Of each kind in a step; GitHub drops the others without a word."""
_LONGEST_TITLE, _LONGEST_MESSAGE = 255, 4000
"""Characters; an engine's error may hold a whole log."""
Kind = Literal["error", "warning", "notice"]
_CUT = "\n> The rest is cut, as a step's summary holds 1 MiB: see report.html of the run.\n"
_BORDER = re.compile(r"### |<details>")


def step_summary(markdown: str, room: int = SUMMARY_LIMIT) -> str:
    """The Markdown report, cut at the border of a section where it has more than `room` bytes.

    It begins with the verdict, so that goes last; empty if not even the notice that it was cut has room.
    """
    if len(markdown.encode()) <= room:
        return markdown
    kept, left = "", room - len(_CUT.encode())
    if left < 0:
        return ""
    for section in _sections(markdown):
        left -= len(section.encode())
        if left < 0:
            break
        kept += section
    return kept + _CUT


def annotate(verdict: Verdict, headline: str) -> tuple[str, ...]:
    """Workflow commands for a verdict, at most ten of each kind.

    An error for each gate that failed, a warning for each that decides nothing and for each warning of the verdict, and
    a notice with the verdict itself.

    Args:
        verdict: what was decided.
        headline: by which gate, and what to type next.
    """
    failed, open_ = (_gates(verdict, outcome) for outcome in (Outcome.FAIL, Outcome.INCONCLUSIVE))
    warnings = [("madx warning", sentence) for sentence in verdict.warnings]
    said = f"{words.tally(verdict.gates, verdict.outcome)}\n{headline}"
    groups: tuple[tuple[Kind, Sequence[tuple[str, str]]], ...] = (
        ("error", failed),
        ("warning", [*open_, *warnings]),
        ("notice", [(f"madx: {verdict.outcome.value}", said)]),
    )
    return tuple(chain.from_iterable(_commands(kind, found) for kind, found in groups))


def command(kind: Kind, title: str, message: str) -> str:
    """One workflow command, on one line whatever is in the texts."""
    return f"::{kind} title={_property(title[:_LONGEST_TITLE])}::{_data(message[:_LONGEST_MESSAGE])}"


def _gates(verdict: Verdict, outcome: Outcome) -> list[tuple[str, str]]:
    return [_gate(gate) for gate in verdict.gates if gate.outcome is outcome]


def _gate(gate: GateResult) -> tuple[str, str]:
    title = f"madx {gate.outcome.value}: {words.title(gate.metric)} on {gate.engine}"
    return title, "\n".join([words.clause(gate), *gate.evidence])


def _commands(kind: Kind, found: Sequence[tuple[str, str]]) -> Iterator[str]:
    """As many as a step shows; the last of them tells how many there would be more."""
    shown = found if len(found) <= ANNOTATION_LIMIT else found[: ANNOTATION_LIMIT - 1]
    for title, message in shown:
        yield command(kind, title, message)
    if len(shown) < len(found):
        yield command(kind, "madx: and more", f"{len(found) - len(shown)} more are in the report")


def _data(text: str) -> str:
    return words.clean(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _sections(markdown: str) -> Iterator[str]:
    """From one heading or folded part to the next; what is within a fence is no border."""
    section, fence = "", ""
    for line in markdown.splitlines(keepends=True):
        mark = re.match("`{3,}", line)
        if mark and not fence:
            fence = mark[0]
        elif mark and line.strip() == fence:
            fence = ""
        elif not fence and section and _BORDER.match(line):
            yield section
            section = ""
        section += line
    yield section
