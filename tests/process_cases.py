"""Jobs of several processes for tests: functions called in lockstep, and the command line under torchrun."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SECONDS = 200


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def together(size: int, function: Callable[..., Any], *given: Any) -> list[Any]:
    """What `function(world, *given)` returns in each of `size` processes; an exception is returned as it is."""
    context, port = multiprocessing.get_context("spawn"), free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(size)]
    jobs = [
        context.Process(target=_member, args=(rank, size, port, pipe[1], function, given))
        for rank, pipe in enumerate(pipes)
    ]
    for job in jobs:
        job.start()
    try:
        return [_answer(pipe[0]) for pipe in pipes]
    finally:
        for job in jobs:
            job.join(10)
            job.kill()


def _answer(pipe: Connection) -> Any:
    assert pipe.poll(SECONDS), "a process gave no answer"
    return pickle.loads(pipe.recv_bytes())


def _member(
    rank: int, size: int, port: int, pipe: Connection, function: Callable[..., Any], given: tuple[Any, ...]
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch

    from madx.distributed import join

    torch.set_num_threads(1)
    try:
        world = join("cpu")
        answer = function(world, *given)
        world.gather(None)  # process 0 holds the store: nobody leaves before all are done
    except Exception as error:  # the test looks at it
        answer = error
    pipe.send_bytes(pickle.dumps(answer))  # not send, which hands tensors over by a file that dies with this process


def torchrun(*words: object, size: int = 2, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`torchrun --standalone --nproc-per-node SIZE -m madx WORDS`."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "madx", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
        env=environment,
        cwd=cwd,
    )
