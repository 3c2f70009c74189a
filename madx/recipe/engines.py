"""Kinds of engine: which class builds and loads them, and where they run. Nothing of a runtime is imported here."""

from __future__ import annotations

from dataclasses import dataclass

from madx.tables import Table


@dataclass(frozen=True)
class EngineKind:
    """A runtime with the processor that it uses."""

    backend: str
    """'module:Class' of its `madx.deploy.engine.Backend`, which is called with the kind's name."""
    on_gpu: bool
    """Whether it runs on a GPU: then the CPU time of a call is not what the call takes."""


ENGINE_KINDS: Table[EngineKind] = Table(
    "madx.engines",
    EngineKind,
    {
        "ort-cpu": EngineKind("madx.deploy.ort:OrtBackend", on_gpu=False),
        "ort-cuda": EngineKind("madx.deploy.ort:CudaBackend", on_gpu=True),
        "openvino-cpu": EngineKind("madx.deploy.openvino:OpenVinoBackend", on_gpu=False),
        "tensorrt": EngineKind("madx.deploy.tensorrt:TensorRtBackend", on_gpu=True),
        "tensorrt-rtx": EngineKind("madx.deploy.tensorrt:TensorRtBackend", on_gpu=True),
    },
    runs=lambda kind: [kind.backend.partition(":")[0]],
)
"""By the name that a recipe calls it."""
