"""One job of many processes, as torchrun starts it: who works on what, and how the results come together.

A stage asks its `World`. The plain `World` is one process, and everything in it is the builtin thing: `map` is map,
`share` is a call. A `Group` does the same with many processes in lockstep, and the results are the same. Inside a
function that is handed to `map` or `share` a process is on its own: a world asked there behaves like a plain one.

Process 0 alone touches the run directory and the terminal. What the others need from it comes through `share`.
"""

from madx.distributed.failures import announce, leave_note, lost_contact
from madx.distributed.launch import join, leave
from madx.distributed.world import SINGLE, World

__all__ = ["SINGLE", "World", "announce", "join", "leave", "leave_note", "lost_contact"]
