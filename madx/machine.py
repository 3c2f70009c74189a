"""The machine that engines and latencies belong to, in words that differ when the hardware does."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any


@functools.cache
def describe_machine() -> dict[str, Any]:
    """Processor, usable logical CPUs, GPUs and operating system."""
    return {
        "processor": processor_name(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpu_names(),
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


def _gpu_names() -> list[str]:
    """Names of the NVIDIA GPUs that the driver's own tool lists; none without a driver."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [name.strip() for name in answer.stdout.splitlines() if name.strip()]
