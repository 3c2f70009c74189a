"""What Markdown is made of: tables, names, blocks of code, and free text that nothing acts upon."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

from madx.verify import Outcome

SYMBOLS = {Outcome.PASS: "✅", Outcome.FAIL: "❌", Outcome.INCONCLUSIVE: "⚠️"}
_MARKUP = re.compile(r"([\\`*_\[\]#|~$])")
_MOST_CHARACTERS = 2000
"""Of one sentence: an engine's error may hold a whole log, and a step summary has a limit of one MiB."""


def table(headings: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """A heading with a colon at its end is a column of numbers."""
    yield "| " + " | ".join(heading.rstrip(":") for heading in headings) + " |"
    yield "| " + " | ".join("---:" if heading.endswith(":") else "---" for heading in headings) + " |"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def columns(roles: tuple[str, str], before: str = "", after: str = "") -> tuple[str, str]:
    """Headings of a column of numbers for each of the two engines, which have these names."""
    reference, candidate = roles
    return f"{before}{reference}{after}:", f"{before}{candidate}{after}:"


def outcome(found: Outcome) -> str:
    """Its symbol and its name."""
    return f"{SYMBOLS[found]} {found.value}"


def text(free: str) -> str:
    """Free text on one line, with nothing that Markdown or HTML would act upon."""
    line = " ".join(free.split())
    shown = line if len(line) <= _MOST_CHARACTERS else f"{line[:_MOST_CHARACTERS]} … (cut)"
    return _MARKUP.sub(r"\\\1", html.escape(shown, quote=False))


def code(name: str) -> str:
    """A name in code style; as HTML, since a code span of Markdown has no escapes."""
    return f"<code>{text(name)}</code>"


def fenced(content: str, language: str = "yaml") -> Iterator[str]:
    """A code block whose fence is longer than any run of backticks within."""
    longest = max((len(run) for run in re.findall("`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    yield from (f"{fence}{language}", content.rstrip(), fence)
