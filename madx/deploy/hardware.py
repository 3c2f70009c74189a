"""What the machine offers an engine: CPU cores that are not hyper-threads of each other, and NVIDIA GPUs."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")


def usable_cpus() -> set[int]:
    """Logical CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(cpus: set[int] | None = None, topology: Path = _TOPOLOGY) -> int:
    """Number of distinct cores behind the logical CPUs `cpus`, by default those this process may run on.

    Two hyper-threads of a core share its arithmetic units, so an engine gains nothing from a thread on each. Where the
    kernel does not tell the topology, every logical CPU counts.
    """
    cores = set()
    for cpu in usable_cpus() if cpus is None else cpus:
        siblings = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        cores.add(siblings.read_text().strip() if siblings.is_file() else str(cpu))
    return len(cores)


def nvidia_gpus() -> int:
    """Number of NVIDIA GPUs that the driver shows to this process; 0 without a driver. Needs neither torch nor CUDA."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
