"""What a terminal and a log are shown of a verdict: the same words, broken between words where a person looks."""

import os
import re
from pathlib import Path

import pytest
import report_cases as cases
from rich.console import Console

from madx.cli import show


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None) -> str:
    """A verdict whose gates are undecided, as a terminal of so many columns shows it, or a log."""

    def console(**options: object) -> Console:
        return Console(**options, force_terminal=columns is not None, width=columns, no_color=True)  # type: ignore[arg-type]

    monkeypatch.setattr(show, "Console", console)
    show.verdict(cases.UNDECIDED.verdict, Path("runs/a"), new=True)
    return re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_breaks_lines_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    log = shown(monkeypatch, capsys, None)
    told = shown(monkeypatch, capsys, columns)
    assert told.split() == log.split(), "the words differ"
    assert max(map(len, told.splitlines())) <= columns
    assert not any(line.strip().startswith("%") for line in told.splitlines()), "a number without its unit"


def test_a_log_keeps_a_sentence_on_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(monkeypatch, capsys, None).split(os.linesep)
    assert max(map(len, lines)) > 120
    assert len([line for line in lines if line.startswith("  INCONCLUSIVE ")]) == 2
