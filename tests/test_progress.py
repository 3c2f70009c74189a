"""The silent progress hands items through, one at a time and unchanged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from madx.progress import Progress, Silent


def test_items_pass_unchanged_and_only_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    progress: Progress = Silent()
    tracked = progress.track(items(), "work", total=4, done=2)
    assert made == []
    assert next(tracked) == 0
    assert made == [0]
    assert list(tracked) == [1, 2, 3]
    progress.say("a line")
    assert capsys.readouterr() == ("", "")


def test_an_error_of_the_items_is_not_swallowed() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(Silent().track(items(), "work", total=2))
