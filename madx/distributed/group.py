"""Several processes in lockstep, over torch.distributed."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from madx.distributed.world import World
from madx.errors import MadxError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.distributed import ProcessGroup

T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class _Outcome:
    """What a function came to: its value, or the error that it raised on purpose."""

    value: Any = None
    error: MadxError | None = None


class Group(World):
    """Several processes in lockstep: every method is called by all of them, in the same order.

    Args:
        rank: this process's number.
        size: how many there are.
        tensors: the process group of gradients and statistics (NCCL between GPUs).
        objects: a gloo group for everything else; waiting in it costs no processor time.
    """

    def __init__(self, rank: int, size: int, *, tensors: ProcessGroup, objects: ProcessGroup) -> None:
        self._rank, self._size = rank, size
        self._tensors, self._objects = tensors, objects
        self._apart = False

    @property
    def rank(self) -> int:
        """This process's number; 0 while it is on its own."""
        return 0 if self._apart else self._rank

    @property
    def size(self) -> int:
        """How many processes work together; 1 while this one is on its own."""
        return 1 if self._apart else self._size

    @property
    def first(self) -> bool:
        """Whether this process holds the run directory and talks to the user."""
        return self._rank == 0

    @property
    def apart(self) -> bool:
        """Whether this process is inside a function that was handed to `map` or `share`."""
        return self._apart

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank."""
        if self._apart:
            return super().gather(value)
        from torch import distributed

        values: list[Any] = [None] * self._size
        distributed.all_gather_object(values, value, group=self._objects)
        return values

    def share(self, function: Callable[[], T]) -> T:
        """Process 0 calls `function`; it starts when all others have arrived and wait, so none disturbs a timing."""
        if self._apart:
            return super().share(function)
        from torch import distributed

        distributed.barrier(group=self._objects)
        value: T = self._told(0, self._tried(function) if self.first else _Outcome())
        return value

    def map(self, function: Callable[[V], T], items: Iterable[V]) -> Iterator[T]:
        """In rounds of one item a process; every process hears the results one after the other, in the items' order."""
        if self._apart:
            yield from super().map(function, items)
            return
        queue = iter(items)
        while turn := list(itertools.islice(queue, self._size)):
            own = turn[self._rank : self._rank + 1]
            outcome = self._tried(functools.partial(function, own[0])) if own else _Outcome()
            for owner in range(len(turn)):
                yield self._told(owner, outcome)

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """All-reduce in place."""
        if self._apart:
            return
        from torch import distributed

        for tensor in tensors:
            distributed.all_reduce(tensor, group=self._tensors)

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """DistributedDataParallel; buffers are the caller's business, parameters without a gradient are none's."""
        if self._apart:
            return super().data_parallel(module)
        from torch.nn.parallel import DistributedDataParallel

        # Newer versions of torch (2.13) have another name for it.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        # The static graph is what lets a network have parameters that the loss does not reach.
        options: dict[str, Any] = {"process_group": self._tensors, "static_graph": True, buffers: False}
        return DistributedDataParallel(module, **options)

    def _tried(self, function: Callable[[], Any]) -> _Outcome:
        """Call `function` on its own; an error that madx raises on purpose becomes everybody's."""
        self._apart = True
        try:
            return _Outcome(value=function())
        except MadxError as error:
            return _Outcome(error=error)
        finally:
            self._apart = False

    def _told(self, owner: int, outcome: _Outcome) -> Any:
        """The value, or the error, that process `owner` has."""
        from torch import distributed

        box = [outcome]
        distributed.broadcast_object_list(box, src=owner, group=self._objects)
        if box[0].error is not None:
            raise box[0].error
        return box[0].value
