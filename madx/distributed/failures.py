"""How a job of many processes fails: with one message, from one process, and at once."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from datetime import timedelta
from pathlib import Path

from madx.distributed.launch import Place, in_short, launcher_store, place_in, store_is_there
from madx.errors import DistributedError

_COUNT, _REASON = "madx/failures", "madx/reason"
_COURTESY = 0.5
"""Seconds that process 0 is given to report a failure that all processes share."""
_FAREWELL = 2.0
"""Seconds after which a process that has nothing to add ends, so that the one that reports has been heard."""


def announce(message: str) -> str | None:
    """Make `message` the reason why the job fails, unless another process was first; process 0 is if it is in time.

    torchrun's summary then ends with the reason, on every machine. A process that was not first stays a moment, so that
    the launcher does not end the one that tells the user.

    Returns:
        What to tell the user; None if another process tells it.
    """
    place = _place()
    if place is None:
        return message
    if not store_is_there():  # nobody hears it, and looking for a store would be a wait for processes that never come
        leave_note(message)
        return message
    if place.rank:
        time.sleep(_COURTESY)
        message = f"process {place.rank} of {place.size} on {socket.gethostname()}: {message}"
    # Without the launcher, or the one who was first: better told twice than not at all.
    with contextlib.suppress(RuntimeError, ValueError):
        board = launcher_store()
        if board.add(_COUNT, 1) > 1:
            board.wait([_REASON], timedelta(seconds=_FAREWELL))
            leave_note(board.get(_REASON).decode())
            time.sleep(_FAREWELL)
            return None
        board.set(_REASON, message)
    leave_note(message)
    return message


def leave_note(message: str) -> None:
    """Put `message` where torchrun looks for the cause of a process's end; its summary then ends with it."""
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": {"message": f"madx: {message}", "extraInfo": {"timestamp": str(int(time.time()))}}}
        with contextlib.suppress(OSError):  # the summary is a courtesy
            Path(path).write_text(json.dumps(content), encoding="utf-8")


def lost_contact(error: BaseException) -> DistributedError | None:
    """What `error` means if it is the network's way of saying that another process is gone."""
    if not isinstance(error, RuntimeError) or _place() is None:
        return None
    from torch.distributed import DistError

    text = str(error)
    if not (isinstance(error, DistError) or "gloo" in text.lower() or "nccl" in text.lower()):
        return None
    return DistributedError(
        f"another process of this job ended or cannot be reached ({in_short(error)}); its own message or the "
        "launcher's summary says why (exit code -9: killed, often for want of memory). Run the same command again to "
        "continue where it stopped"
    )


def _place() -> Place | None:
    try:
        return place_in(os.environ)
    except DistributedError:
        return None
