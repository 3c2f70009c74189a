"""How far a whole run is: the share of its estimated work that is done, and the time left at the speed seen so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

_PRIOR = 0.05
"""Share of the work for which the estimate is believed: the first seconds of a run say little about its speed."""


class Piece(NamedTuple):
    """One piece of the work."""

    stage: str
    name: str
    """As `Progress.track` is told it; a piece that is never tracked counts once a later one begins."""
    seconds: float
    """Estimated."""


class Overall:
    """Where a run stands; told of pieces as they begin and go on, and of stages as they end."""

    def __init__(self, pieces: Iterable[Piece], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.pieces = list(pieces)
        self._clock, self._started = clock, clock()
        self._place, self._share, self._found_done = 0, 0.0, 0.0

    def begin(self, name: str, *, done: float = 0.0) -> bool:
        """The next piece of that name begins, of which an earlier run did the share `done`; whether there is one."""
        places = range(self._place + (self._share >= 1), len(self.pieces))
        place = next((place for place in places if self.pieces[place].name == name), None)
        if place is None:
            return False
        self._place, self._share = place, done
        self._found_done += done * self.pieces[place].seconds
        return True

    def advance(self, share: float) -> None:
        """So much of the piece that began last is done."""
        self._share = share

    def end(self, stage: str) -> None:
        """A stage is done, whatever became of its pieces; one that had none is told too."""
        places = [place for place, piece in enumerate(self.pieces) if piece.stage == stage]
        if places and places[-1] >= self._place:
            self._place, self._share = places[-1], 1.0

    @property
    def share(self) -> float:
        """Of the estimated work, from 0 to 1."""
        return self._done / self._total if self._total else 1.0

    @property
    def seconds_left(self) -> float:
        """The work that is left, at the speed of what was done since the start: estimates are corrected as one goes."""
        believed = _PRIOR * self._total
        if not believed:
            return 0.0
        worked = self._done - self._found_done
        return (self._total - self._done) * (self._clock() - self._started + believed) / (worked + believed)

    def __str__(self) -> str:
        return f"overall {self.share:.0%}, about {duration(self.seconds_left)} left"

    @property
    def _total(self) -> float:
        return sum(piece.seconds for piece in self.pieces)

    @property
    def _done(self) -> float:
        behind = sum(piece.seconds for piece in self.pieces[: self._place])
        return behind + (self._share * self.pieces[self._place].seconds if self.pieces else 0.0)


def duration(seconds: float) -> str:
    """As people say it: 12 s, 7 min, 1 h 20 min, 3 d 4 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"
