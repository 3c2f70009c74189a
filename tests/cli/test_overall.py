"""The progress of a whole run: its share of the estimated work, and the time left at the speed seen so far."""

import io

import pytest
from rich.console import Console

from madx.cli import show
from madx.cli.progress import Overall, Piece, duration

PIECES = (
    Piece("prune", "saliency", 20.0),
    Piece("prune", "(accuracy)", 10.0),
    Piece("prune", "rounds", 10.0),
    Piece("prune", "rounds", 10.0),
    Piece("verify", "attacks", 50.0),
)


class Clock:
    """Seconds as a test wants them."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def overall(clock: Clock) -> Overall:
    return Overall(PIECES, clock=clock)


def test_pieces_add_up_and_one_that_is_never_shown_counts_when_the_next_begins(overall: Overall) -> None:
    assert overall.share == 0
    assert overall.begin("saliency")
    overall.advance(0.5)
    assert overall.share == pytest.approx(0.1)
    overall.advance(1.0)
    assert overall.share == pytest.approx(0.2)
    assert overall.begin("rounds")
    assert overall.share == pytest.approx(0.3)
    overall.advance(1.0)
    assert overall.begin("rounds")
    assert overall.share == pytest.approx(0.4)
    overall.end("prune")
    assert overall.share == pytest.approx(0.5)
    overall.end("export")
    assert overall.share == pytest.approx(0.5)
    overall.end("verify")
    assert overall.share == 1
    assert overall.seconds_left == 0


def test_what_is_no_piece_changes_nothing(overall: Overall) -> None:
    overall.begin("attacks")
    overall.advance(0.5)
    assert not overall.begin("something else")
    assert not overall.begin("saliency"), "it is behind"
    assert overall.share == pytest.approx(0.75)


def test_the_time_left_follows_the_real_speed(overall: Overall, clock: Clock) -> None:
    assert overall.seconds_left == pytest.approx(100)
    overall.begin("saliency")
    overall.advance(1.0)
    clock.now += 60  # thrice as long as estimated
    assert overall.seconds_left == pytest.approx(80 * 65 / 25)
    overall.end("prune")
    assert overall.seconds_left == pytest.approx(50 * 65 / 55)


def test_what_an_earlier_run_did_says_nothing_of_the_speed(overall: Overall, clock: Clock) -> None:
    clock.now += 50
    overall.end("prune")
    overall.begin("attacks", done=0.8)
    assert overall.share == pytest.approx(0.9)
    assert overall.seconds_left == pytest.approx(10)


def test_a_run_with_nothing_to_do_is_done() -> None:
    overall = Overall(())
    assert (overall.share, overall.seconds_left) == (1.0, 0.0)
    assert not overall.begin("anything")
    overall.end("verify")


def test_a_log_tells_it_with_each_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(show, "_PLAIN_SECONDS", -1.0)
    progress = show.PlainProgress()
    progress.overall = Overall(PIECES)
    assert list(progress.track(range(4), "saliency", total=4)) == [0, 1, 2, 3]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition("overall ")[2].partition(",")[0] for line in lines] == ["5%", "10%", "15%"]
    list(progress.track(range(2), "something else", total=2))
    assert "overall" not in capsys.readouterr().err


def test_a_terminal_has_a_second_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    progress = show.TerminalProgress(console)
    progress.overall = Overall(PIECES)
    list(progress.track(range(4), "attacks", total=4))
    assert progress.overall.share == 1
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "overall" in shown
    list(show.TerminalProgress(quiet := Console(file=io.StringIO(), force_terminal=True)).track([1], "it", total=1))
    assert "overall" not in quiet.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (3590, "1 h"), (4800, "1 h 20 min"), (200_000, "2 d 8 h")],
)
def test_durations_are_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said
