"""Versions of what the numbers rest on."""

from __future__ import annotations

import platform
from importlib import metadata

import madx

_TOOLS = (
    *("torch", "numpy", "scipy"),
    *("scikit-learn", "pillow", "pyarrow"),  # they decode images
    *("onnx", "onnx-ir", "onnxscript", "onnxconverter-common", "ml_dtypes", "protobuf"),  # they write the ONNX file
    *("onnxruntime", "onnxruntime-gpu", "openvino"),
    *("tensorrt", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "polygraphy"),
)
"""Every package whose version can change the bytes or the numbers of a stage."""


def tool_versions() -> dict[str, str]:
    """Version by tool; what is not installed is left out."""
    versions = {"madx": madx.__version__, "python": platform.python_version()}
    for tool in _TOOLS:
        try:
            versions[tool] = metadata.version(tool)
        except metadata.PackageNotFoundError:
            continue
    return versions
