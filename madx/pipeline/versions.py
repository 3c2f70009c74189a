"""Versions of what the numbers rest on."""

from __future__ import annotations

import platform
from importlib import metadata

import madx

_TOOLS = (
    "torch",
    "numpy",
    "torch-pruning",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx-cu12",
    "polygraphy",
)


def tool_versions() -> dict[str, str]:
    """Version by tool; what is not installed is left out."""
    versions = {"madx": madx.__version__, "python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
