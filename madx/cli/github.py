"""On GitHub's runners the verdict is also shown where people look: in the summary of the step, and as annotations."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from madx.verify import Verdict


def publish(verdict: Verdict, headline: str, markdown: Callable[[], str], *, as_json: bool) -> None:
    """Append the report to the step's summary and print annotations; nothing elsewhere than in a workflow.

    Args:
        verdict: what was decided.
        headline: by which gate, and what to type next.
        markdown: reads the report for pull requests; asked only where there is a summary.
        as_json: stdout is for JSON alone.
    """
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        _append(Path(path), markdown())
    if os.environ.get("GITHUB_ACTIONS") == "true" and not as_json:
        from madx.report.github import annotate

        for line in annotate(verdict, headline):
            print(line)


def _append(path: Path, markdown: str) -> None:
    """What earlier commands of the step wrote counts against its limit; a file that fails must not hide the verdict."""
    from madx.report.github import SUMMARY_LIMIT, step_summary

    try:
        room = SUMMARY_LIMIT - (path.stat().st_size if path.exists() else 0)
        if text := step_summary(markdown, room - 1):
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text + "\n")
    except OSError as error:
        print(f"madx: the summary of the step could not be written: {error}", file=sys.stderr)
