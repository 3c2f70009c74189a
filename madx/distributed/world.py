"""Who works on what, and how the results come together: what a stage knows of the other processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from madx.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
V = TypeVar("V")


class World:
    """A job of one process."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return 0

    @property
    def size(self) -> int:
        """How many processes work together."""
        return 1

    @property
    def first(self) -> bool:
        """Whether this process holds the run directory and talks to the user."""
        return True

    @property
    def apart(self) -> bool:
        """Whether this process is on its own for now, while others wait for what it finds."""
        return False

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank; values are picklable and not on a GPU, here and below."""
        return [value]

    def share(self, function: Callable[[], T]) -> T:
        """Process 0 calls `function` while the others wait idle; all return its value or raise its MadxError."""
        return function()

    def map(self, function: Callable[[V], T], items: Iterable[V]) -> Iterator[T]:
        """Like the builtin: item n is worked on by process n % size, and all get all results, in order.

        Args:
            function: a MadxError that it raises is raised in every process, at that item.
            items: the same in every process, and cheap: every process runs through all of them.
        """
        return map(function, items)

    def own(self, items: Sequence[V]) -> Sequence[V]:
        """Those of the items that `map` gives to this process, in its order."""
        return items[self.rank :: self.size]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, on whatever device it is; same bits in every process."""

    def rows(self, count: int) -> slice:
        """The part of `count` images that is this process's.

        Raises:
            RecipeError: the processes cannot share them evenly, so an average over processes would be none over images.
        """
        if count % self.size:
            raise RecipeError(
                f"a batch of {count} images cannot be shared evenly by {self.size} processes; choose a batch_size that "
                f"is a multiple of {self.size}, or another --nproc-per-node"
            )
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def data_parallel(self, module: nn.Module) -> nn.Module:
        """`module` with process 0's values in every process, and gradients that are the average over all of them."""
        return module


SINGLE = World()
"""The job of a process that was started by itself."""
