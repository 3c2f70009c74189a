"""What moves on a machine while something is timed: clocks, temperatures, load, and the time that others took.

A reading maps the name of a source to a number, in the unit that `SOURCES` gives; a source that this machine does not
have is absent from it, never 0. Shares are in [0, 1] and cover the time since the reading before.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from madx.errors import MadxError
from madx.machine import usable_cpus

Reading = Mapping[str, float]

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "cpu_mhz": "clock of the CPUs that madx may use, mean, MHz",
        "cpu_celsius": "hottest thermal zone, °C",
        "gpu_mhz": "clock of the GPU's multiprocessors, MHz",
        "gpu_celsius": "temperature of the GPU, °C",
        "load": "load average over one minute",
        "others": "share of the usable CPUs' time that other processes took",
        "steal": "share of a CPU's time with work that the hypervisor gave to other machines, the worst of them",
        "waiting": "share of the time that the engine's threads could have run and waited for a CPU, the worst of them",
    }
)
"""Every source that a reading may have, in words."""

_TICKS_WINDOW = 0.25
"""Seconds: the kernel counts a CPU's time in ticks of 10 ms, so a share over less would be mostly rounding."""
_WORK = 0.1
"""Share of its time in which a CPU must have had work, to tell what the hypervisor took of it."""
_NVML_GRAPHICS_TEMPERATURE = 0
_NVML_SM_CLOCK = 1


class Sensors:
    """Reads the sources that this machine has; one that stops answering is absent from then on, never an error.

    Args:
        gpu: whether to read the GPU too; an idle one tells nothing of an engine on the CPU.
        root: where /proc and /sys are.
        clock: seconds, for the window of the shares that the kernel counts in ticks.
    """

    def __init__(
        self, *, gpu: bool = False, root: Path = Path("/"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root, self._clock = root, clock
        self._cpus = sorted(usable_cpus())
        self._gpu = _Gpu.find() if gpu else None
        self._waits, self._waits_at = self._thread_waits(), clock()
        self._ticks, self._since = self._cpu_times(), clock()
        self._shares: dict[str, float] = {}

    def read(self) -> Reading:
        """One number for each source that is there."""
        found = {
            "cpu_mhz": self._cpu_mhz(),
            "cpu_celsius": self._celsius(),
            "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            "waiting": self._waiting(),
            **self._tick_shares(),
            **(self._gpu.read() if self._gpu else {}),
        }
        return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}

    def _cpu_mhz(self) -> float | None:
        """From cpufreq where there is one; virtual machines have only /proc/cpuinfo, and often a constant there."""
        folder = self._root / "sys/devices/system/cpu"
        texts = (_text(folder / f"cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in self._cpus)
        if clocks := [int(text) / 1000 for text in texts if text.strip().isdigit()]:
            return fmean(clocks)
        rows = (line.partition(":") for line in _text(self._root / "proc/cpuinfo").splitlines())
        listed = [_number(value) for key, _, value in rows if key.strip() == "cpu MHz"]
        usable = [listed[cpu] for cpu in self._cpus if cpu < len(listed)]
        return fmean(usable) if usable else None

    def _celsius(self) -> float | None:
        texts = (_text(path) for path in (self._root / "sys/class/thermal").glob("thermal_zone*/temp"))
        degrees = [int(text) / 1000 for text in texts if text.strip().lstrip("-").isdigit()]
        return max(degrees, default=None)

    def _thread_waits(self) -> dict[str, int]:
        """Nanoseconds that each thread of this process could have run and waited for a CPU, since it began."""
        rows = ((path.parent.name, _text(path).split()) for path in (self._root / "proc/self/task").glob("*/schedstat"))
        return {thread: int(row[1]) for thread, row in rows if len(row) == 3}

    def _waiting(self) -> float | None:
        """The kernel's own account of what a neighbour cost: exact, and blind to load that does not touch us."""
        before, since = self._waits, self._waits_at
        self._waits, self._waits_at = self._thread_waits(), self._clock()
        waits = [waited - before[thread] for thread, waited in self._waits.items() if thread in before]
        elapsed = self._waits_at - since
        return min(max(waits) / (1e9 * elapsed), 1.0) if waits and elapsed > 0 else None

    def _cpu_times(self) -> _Ticks | None:
        rows = {
            name: fields for name, *fields in map(str.split, _text(self._root / "proc/stat").splitlines()) if fields
        }
        counted = np.array(
            [[float(field) for field in rows[f"cpu{cpu}"][:8]] for cpu in self._cpus if f"cpu{cpu}" in rows]
        )
        if counted.size == 0 or counted.shape[1] < 8:
            return None
        total, idle, steal = counted.sum(axis=1), counted[:, 3] + counted[:, 4], counted[:, 7]
        return _Ticks(total=total, busy=total - idle - steal, steal=steal, own=time.process_time())

    def _tick_shares(self) -> dict[str, float]:
        """Where the readings come faster than the window, the shares of the last whole window stand."""
        if self._clock() - self._since < _TICKS_WINDOW:
            return self._shares
        before, self._ticks, self._since = self._ticks, self._cpu_times(), self._clock()
        if before is None or self._ticks is None or not self._ticks.follows(before):
            self._shares = {}
        else:
            self._shares = self._ticks.shares_since(before)
        return self._shares


@dataclass(frozen=True)
class _Ticks:
    """Of each usable CPU, in ticks; `own` is this process's CPU time in seconds."""

    total: NDArray[np.float64]
    busy: NDArray[np.float64]
    steal: NDArray[np.float64]
    own: float

    def follows(self, before: _Ticks) -> bool:
        """Whether time went by on the same CPUs: one may have gone offline."""
        return self.total.shape == before.total.shape and bool(self.total.sum() > before.total.sum())

    def shares_since(self, before: _Ticks) -> dict[str, float]:
        total, busy = self.total - before.total, np.maximum(self.busy - before.busy, 0)
        stolen = np.maximum(self.steal - before.steal, 0)  # a guest that was moved may see it fall
        own = (self.own - before.own) * os.sysconf("SC_CLK_TCK")
        others = min(max((busy.sum() - own) / total.sum(), 0.0), 1.0)
        wanted = np.where(busy + stolen > _WORK * total, busy + stolen, np.inf)
        pooled = stolen.sum() / max((busy + stolen).sum(), 1.0)  # of a thread that wanders, no CPU has much
        return {"others": float(others), "steal": float(max((stolen / wanted).max(), pooled))}


class _Gpu:
    """The first GPU that CUDA shows to this process, through the driver's own library: a call takes microseconds."""

    def __init__(self, library: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def find(cls) -> _Gpu | None:
        """None without a driver or a GPU."""
        try:
            library = ctypes.CDLL("libnvidia-ml.so.1")
        except OSError:
            return None
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
        handle = ctypes.c_void_p()
        if library.nvmlInit_v2() != 0:
            return None
        if first.isdigit():
            missing = library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(int(first)), ctypes.byref(handle))
        else:
            missing = library.nvmlDeviceGetHandleByUUID(first.encode(), ctypes.byref(handle))
        return None if missing else cls(library, handle)

    def read(self) -> dict[str, float]:
        """What the driver answers; nothing where it does not."""
        queries = {
            "gpu_celsius": (self._library.nvmlDeviceGetTemperature, _NVML_GRAPHICS_TEMPERATURE),
            "gpu_mhz": (self._library.nvmlDeviceGetClockInfo, _NVML_SM_CLOCK),
        }
        values = {}
        for name, (query, kind) in queries.items():
            value = ctypes.c_uint()
            if query(self._handle, ctypes.c_int(kind), ctypes.byref(value)) == 0:
                values[name] = float(value.value)
        return values


@dataclass(frozen=True)
class Watch:
    """What tells the time and the state of the machine while engines are timed; a test has its own."""

    clock: Callable[[], float] = time.monotonic
    """Seconds."""
    read: Callable[[], Reading] = dict
    """A reading of the machine; by default there is nothing to read."""

    @classmethod
    def over_this_machine(cls, *, gpu: bool = False) -> Watch:
        """With every sensor that this machine has; `gpu` for engines that run on one."""
        return cls(read=Sensors(gpu=gpu).read)


def check_names(names: Mapping[str, object]) -> None:
    """Refuse a source that nobody could explain.

    Raises:
        MadxError: naming it.
    """
    if unknown := sorted(set(names) - set(SOURCES)):
        raise MadxError(f"unknown sources {unknown} in a reading of the machine; known ones are {', '.join(SOURCES)}")


def _text(path: Path) -> str:
    """What the kernel says there; nothing where there is no such file, or a thread has ended meanwhile."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
