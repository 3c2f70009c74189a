"""How long work tells what it does: a stage is handed a `Progress` and never knows whether a terminal listens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """What a stage may say while it works."""

    def track(self, items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:
        """Yield `items`, showing how many of `total` are behind; `done` of them were finished by an earlier run."""
        ...

    def say(self, message: str) -> None:
        """Show one line that stays."""
        ...


def listener() -> Progress:
    """Who listens to what is read now: readers are called from deep inside, and have nobody to hand a progress down."""
    return _listening.get()


@contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Within: `progress` is told of long work of readers."""
    token = _listening.set(progress)
    try:
        yield
    finally:
        _listening.reset(token)


class Silent:
    """Progress that shows nothing: the default of every stage and of the tests."""

    def track(self, items: Iterable[T], description: str, *, total: int, done: int = 0) -> Iterator[T]:  # noqa: ARG002
        """Yield `items` unchanged."""
        yield from items

    def say(self, message: str) -> None:
        """Drop the message."""


_listening: ContextVar[Progress] = ContextVar("listening", default=Silent())  # noqa: B039 - it has no state
