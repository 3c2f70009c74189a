"""What a terminal and a log are shown of a verdict: the same words, broken between words where a person looks."""

import os
import re
from pathlib import Path

import pytest
import report_cases as cases
from rich.console import Console

from madx.cli import show
from madx.cli.answer import print_headline
from madx.report import Invocation


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None) -> str:
    """A verdict whose gates are undecided, as a terminal of so many columns shows it, or a log."""

    def console(**options: object) -> Console:
        return Console(**options, force_terminal=columns is not None, width=columns, no_color=True)  # type: ignore[arg-type]

    monkeypatch.setattr(show, "Console", console)
    content = cases.UNDECIDED

    def headline(console: Console) -> None:
        print_headline(console, content.headline, Invocation("a.yaml"))

    show.verdict(content.verdict, Path("runs/a"), headline, new=True)
    return re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_terminal_breaks_lines_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    log = shown(monkeypatch, capsys, None)
    told = shown(monkeypatch, capsys, columns)
    assert told.split() == log.split(), "the words differ"
    assert max(len(line) for line in told.splitlines() if not line.startswith("next:")) <= columns
    assert not any(line.strip().startswith("%") for line in told.splitlines()), "a number without its unit"


def test_a_log_keeps_a_sentence_on_its_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = shown(monkeypatch, capsys, None).split(os.linesep)
    assert max(map(len, lines)) > 120
    assert len([line for line in lines if line.startswith("  INCONCLUSIVE ")]) == 2


@pytest.mark.parametrize("columns", [60, 200, None])
def test_the_headline_follows_the_verdict_with_a_command_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int | None
) -> None:
    lines = shown(monkeypatch, capsys, columns).splitlines()
    verdict = lines.index("verdict: INCONCLUSIVE")
    assert lines[verdict + 1].startswith("why:     Robust accuracy lost 2.6 points")
    assert any(re.match(r"next:    madx (verify|run) a\.yaml --set \S+", line) for line in lines[verdict + 2 :])
    assert lines[-1].startswith("report:")
