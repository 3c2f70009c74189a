"""The machine that engines and latencies belong to, in words that differ when the hardware does.

What counts is what this process may use: logical CPUs that it may run on, GPUs that the driver shows it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from pathlib import Path
from typing import Any

_TOPOLOGY = Path("/sys/devices/system/cpu")
_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")
"""Of this process, as a container sees it (version 2)."""
_GIVEN_BACK = ("inactive_file", "active_file", "slab_reclaimable")
"""Of what a group holds, as memory.stat names it."""
_NAME_LENGTH = 256
_INSTRUCTION_SETS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimd", "bf16", "sve", "i8mm"),
)
"""As /proc/cpuinfo spells them, of x86 and ARM."""


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Processor, usable logical CPUs, GPUs and operating system."""
    return {
        "processor": processor_name(),
        "cpus": len(usable_cpus()),
        "gpus": gpu_names(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def processor_name() -> str:
    """The processor's model as the kernel names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """Which of the instruction sets that decide a network's speed the kernel shows; none where it does not tell."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return []
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return [name for name in _INSTRUCTION_SETS if name in value.split()]
    return []


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


def available_memory(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int | None:
    """Bytes that a process can take without anything being killed for it; None where the kernel does not tell.

    A container may have less than the machine: what its control group holds already counts, but for what the kernel
    gives back when it is short: files in memory, however often they were looked at, and its own tables of them.
    """
    if not meminfo.is_file():
        return None
    told = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    if "MemAvailable" not in told:
        return None
    free = sum(int(told.get(name, "0 kB").split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        held = (line.partition(" ") for line in (group / "memory.stat").read_text().splitlines())
        cached = sum(int(size) for name, _, size in held if name in _GIVEN_BACK)
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used) + cached))


def gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows to this process; none without a driver.

    Needs neither torch nor CUDA's toolkit.
    """
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return []
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return []
    return [_gpu_name(driver, number) for number in range(count.value)]


def let_waiting_threads_sleep() -> None:
    """Keep torch's threads from spinning for long at the end of a piece of work, until the last of them is there.

    On two cores with busy neighbours, GNU OpenMP's own 300,000 turns made a pass on two threads take three times as
    long as on one; with no turn at all it took a fifth longer on a quiet machine. OpenMP reads the setting when torch
    is imported; whoever set one of the two already is obeyed.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def stand_in_for_home() -> None:
    """Give libraries what they look for in a user's account and home where a container has neither.

    torch names its cache after the user, matplotlib keeps its fonts in the home: without, one stops with a KeyError and
    the other complains, or stops too. What is put in their place goes with the process. A '~' stays what it was.
    """
    import getpass

    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # which of them depends on Python's version
        os.environ["LOGNAME"] = f"uid_{os.getuid()}"
    if {"MPLCONFIGDIR", "XDG_CONFIG_HOME"} & os.environ.keys() or _home_is_writable():
        return
    import atexit
    import shutil
    import tempfile

    try:
        folder = tempfile.mkdtemp(prefix="madx-matplotlib-")
    except OSError:
        return  # nothing can be written anywhere; whoever has to says so
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["MPLCONFIGDIR"] = folder


def _home_is_writable() -> bool:
    try:
        home = Path.home()
        return home.is_dir() and os.access(home, os.W_OK)
    except RuntimeError:  # there is none
        return False


def _gpu_name(driver: ctypes.CDLL, number: int) -> str:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(_NAME_LENGTH)
    answers = driver.cuDeviceGet(ctypes.byref(device), number), driver.cuDeviceGetName(name, _NAME_LENGTH, device)
    return name.value.decode(errors="replace") if answers == (0, 0) else "NVIDIA GPU without a name"
