"""From a launcher's environment variables to a world."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from madx.distributed.group import Group
from madx.distributed.world import SINGLE, World
from madx.errors import DistributedError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.distributed_c10d import Store

_STEP_LIMIT = timedelta(minutes=10)
"""How long one process may be behind the others in a training step, or in coming to the job at all."""
_PATIENCE = timedelta(days=7)
"""How long the others wait while process 0 builds engines or measures, or one of them attacks its images."""


@dataclass(frozen=True)
class Place:
    """What a launcher tells a process: its number in the job, how many there are, its number on its machine."""

    rank: int
    size: int
    local_rank: int


def join(device: str) -> World:
    """The world of this process: `SINGLE`, or the group that torchrun (or another launcher) has started it in.

    Args:
        device: the recipe's: with "cpu" no GPU is touched; otherwise each process takes the GPU of its local rank.

    Raises:
        DistributedError: the launcher's variables are incomplete, the others do not come, or there are too few GPUs.
    """
    place = place_in(os.environ)
    if place is None:
        return SINGLE
    from torch import cuda

    steps, objects = _meet(place)
    group = Group(place.rank, place.size, tensors=steps, objects=objects)
    if not _all_on_gpus(group, wanted=device != "cpu" and cuda.is_available()):
        return group
    _take_gpu(place)
    return Group(place.rank, place.size, tensors=_new_group("nccl", _STEP_LIMIT), objects=objects)


def place_in(environment: Mapping[str, str]) -> Place | None:
    """What RANK, WORLD_SIZE and LOCAL_RANK say; None for one process.

    Raises:
        DistributedError: they do not make sense.
    """
    size = environment.get("WORLD_SIZE", "1")
    if size == "1":
        return None
    numbers = {name: environment.get(name, "") for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")}
    wrong = [] if environment.get("MASTER_ADDR") else ["MASTER_ADDR"]
    wrong += [name for name, text in numbers.items() if not text.isdecimal()]
    if wrong:
        raise DistributedError(
            f"WORLD_SIZE is {size!r}, so this is one process of several, but {', '.join(wrong)} is not set or no "
            "number; start madx with torchrun, or unset WORLD_SIZE"
        )
    rank, local_rank, count, _ = (int(text) for text in numbers.values())
    if rank >= count:
        raise DistributedError(f"RANK is {rank} and WORLD_SIZE is {count}; expected a rank from 0 to {count - 1}")
    return Place(rank, count, local_rank)


def launcher_store() -> Store:
    """The launcher's key-value store: the processes meet there, and a failure is announced there.

    Raises:
        RuntimeError, ValueError: torch's words for a store that cannot be reached; it is looked for only once.
    """
    found = _looked_for_store()
    if isinstance(found, Exception):
        raise found
    return found


def store_is_there() -> bool:
    """Whether `launcher_store` answers without waiting for other processes: they have met there, or torchrun runs it.

    Variables of a launcher alone say little: a job script may export them to commands that are no part of a job.
    """
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return agent or _looked_for_store.cache_info().currsize > 0


@functools.cache
def _looked_for_store() -> Store | RuntimeError | ValueError:
    from torch.distributed.rendezvous import rendezvous

    try:
        found: Store = next(iter(rendezvous("env://", timeout=_STEP_LIMIT)))[0]
    except (RuntimeError, ValueError) as error:
        return error
    return found


def _meet(place: Place) -> tuple[ProcessGroup, ProcessGroup]:
    """Two gloo groups of all processes: one for the steps of a training, one that waits for as long as it takes."""
    from torch import distributed
    from torch.distributed.distributed_c10d import PrefixStore

    try:
        meeting = PrefixStore("madx", launcher_store())
        distributed.init_process_group(
            "gloo", store=meeting, rank=place.rank, world_size=place.size, timeout=_STEP_LIMIT
        )
        return _new_group("gloo", _STEP_LIMIT), _new_group("gloo", _PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise DistributedError(
            f"process {place.rank} of {place.size} did not reach the others ({in_short(error)}); do all machines "
            "reach MASTER_ADDR at MASTER_PORT, and does GLOO_SOCKET_IFNAME name the network between them?"
        ) from None


def _new_group(backend: str, limit: timedelta) -> ProcessGroup:
    from torch import distributed

    group: ProcessGroup = distributed.new_group(backend=backend, timeout=limit)
    return group


def _all_on_gpus(group: Group, *, wanted: bool) -> bool:
    answers = group.gather(wanted)
    if len(set(answers)) > 1:
        raise DistributedError(
            f"process {answers.index(True)} has a GPU and process {answers.index(False)} has none; set device: cpu, or "
            "use machines that are alike"
        )
    return wanted


def _take_gpu(place: Place) -> None:
    from torch import cuda

    if place.local_rank >= cuda.device_count():
        raise DistributedError(
            f"this machine has {cuda.device_count()} GPUs and at least {place.local_rank + 1} processes; use "
            f"--nproc-per-node {cuda.device_count()}, or device: cpu"
        )
    cuda.set_device(place.local_rank)


def in_short(error: BaseException) -> str:
    """What a C++ library says, without the place in its source, the stack, and advice for its own developers."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[[^]]*\]\s*", "", line).split(". ")[0]


def leave() -> None:
    """End the process groups: their threads would race the interpreter's end, and an abort there hides a PASS."""
    torch_distributed = sys.modules.get("torch.distributed")
    if torch_distributed is not None and torch_distributed.is_available() and torch_distributed.is_initialized():
        torch_distributed.destroy_process_group()
