"""Decoding runs ahead of computing: while one batch is worked on, the next is loaded by a thread of its own.

What is loaded, and in which order, is the same as without; an error belongs to the batch that it came from. It is one
batch ahead and no more, so that memory stays bounded. When whoever asked is done, or failed, the thread ends before
anything else is done, so that nothing is decoded beside what is timed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from itertools import chain, islice, pairwise
from types import TracebackType
from typing import Generic, Self, TypeVar

from madx.machine import usable_cpus
from madx.progress import listener

K = TypeVar("K")
T = TypeVar("T")
DECODERS = 8
"""Threads at most; Pillow decodes outside of Python's lock."""
_HANDFUL, _BLOCK = 32, 64
"""Small pieces of work that a thread takes at once, and handfuls that wait for the threads: a million pieces that wait
would take a gigabyte."""
_SHORT = 2000
"""Small pieces of work of which no progress is told."""


class Ahead(Generic[K, T]):
    """`load`, which has the next key's value loaded while its caller works on the last one's.

    Whoever asks for another key than the next one is given what `load` gives: what is foreseen decides when something
    is loaded, never what. To be used in a `with`.
    """

    def __init__(self, load: Callable[[K], T], keys: Sequence[K]) -> None:
        """`keys` are those that will be asked for, in that order."""
        self._load, self._following = load, dict(pairwise(keys))
        self._worker = _worker()
        self._waiting: dict[K, Future[T]] = {}

    def __call__(self, key: K) -> T:
        """What `load` gives for `key`, or the error that it raises."""
        begun = self._waiting.pop(key, None)
        self._forget()
        found = self._load(key) if begun is None else begun.result()
        if key in self._following:
            following = self._following[key]
            self._waiting[following] = self._worker.submit(self._load, following)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget()
        self._worker.shutdown(cancel_futures=True)

    def _forget(self) -> None:
        for begun in self._waiting.values():
            begun.cancel()
        self._waiting.clear()


def ahead(load: Callable[[K], T], keys: Iterable[K]) -> Iterator[T]:
    """`map(load, keys)`, one value ahead of whoever takes them; `keys` are taken two ahead, in the caller's thread."""
    worker, begun = _worker(), None
    try:
        for key in keys:
            ready, begun = begun, worker.submit(load, key)
            if ready is not None:
                yield ready.result()
        if begun is not None:
            yield begun.result()
    finally:
        worker.shutdown(cancel_futures=True)


def _worker() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="madx-ahead")


@cache
def decoders() -> ThreadPoolExecutor:
    """The threads that decode image files, kept until the process ends. Nothing that they do may wait for them."""
    return ThreadPoolExecutor(min(DECODERS, len(usable_cpus())), thread_name_prefix="madx-decode")


def spread(function: Callable[[K], T], items: Sequence[K], what: str) -> Iterator[T]:
    """`map(function, items)` by the decoders' threads, a bounded number of them at a time, with progress."""
    handfuls = (items[start : start + _HANDFUL] for start in range(0, len(items), _HANDFUL))
    blocks = iter(lambda: list(islice(handfuls, _BLOCK)), [])
    done = (decoders().map(lambda some: [function(item) for item in some], block) for block in blocks)
    values = chain.from_iterable(chain.from_iterable(done))
    return values if len(items) <= _SHORT else listener().track(values, what, total=len(items))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=decoders.cache_clear)  # a child has the pool, and none of its threads
