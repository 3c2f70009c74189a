"""TensorRT and TensorRT-RTX: building in a process of its own, and the way to a loaded engine.

The engine's bytes are the serialised plan. TensorRT-RTX builds on a machine without a GPU and leaves the choice of
kernels to the GPU it runs on; TensorRT builds on the GPU it will run on. Neither runs without one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madx.deploy import tensorrt_log
from madx.deploy.engine import Availability, BuiltEngine, Engine, require_same_precision
from madx.deploy.external import NONE, Data
from madx.deploy.interface import Interface
from madx.deploy.tensorrt_build import FACTS, LOG, MODEL, PLAN, REQUEST, Request
from madx.errors import EngineError, RefusedFileError
from madx.machine import gpu_names

if TYPE_CHECKING:
    from madx.deploy.check import OnnxArtifact
    from madx.recipe import EngineConfig

_REMEDIES = {"tensorrt": 'pip install "madx[tensorrt]"', "tensorrt-rtx": 'pip install "madx[rtx]"'}


class TensorRtBackend:
    """TensorRT or TensorRT-RTX, as `kind` names it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def availability(self) -> Availability:
        """Ask a fresh process what it can import; TensorRT also needs a GPU to build."""
        found = self._probe()
        if "missing" in found:
            return Availability.missing(self.kind, found["missing"], _REMEDIES[self.kind])
        versions = ", ".join(f"{name} {version}" for name, version in found.items())
        if gpu_names():
            return Availability(True, True, versions)
        return Availability(self.kind == "tensorrt-rtx", False, f"{versions}; no NVIDIA GPU to run on")

    def build(self, onnx: OnnxArtifact, config: EngineConfig, *, batch: int) -> BuiltEngine:
        """Build a plan for 1 to `config.max_batch` images whose tactics are chosen for `batch` of them."""
        require_same_precision(onnx, config)
        _check_interface(onnx.interface, config.name)
        if not 1 <= batch <= config.max_batch:
            raise EngineError(
                f"{config.name} is to be tuned for batches of {batch}, outside 1 to its max_batch {config.max_batch}; "
                "raise max_batch or lower verify.latency.batch"
            )
        available = self.availability()
        if not available.can_build:
            raise EngineError(f"{config.name} cannot be built here: {available.explanation}")
        request = Request(self.kind, onnx.input_shape, batch, config.max_batch)
        with tempfile.TemporaryDirectory(prefix="madx-build-") as folder:
            return _built_in(Path(folder), request, onnx.whole, config.name)

    def load(
        self,
        payload: bytes,
        config: EngineConfig,
        *,
        interface: Interface | None = None,
        data: Data = NONE,  # noqa: ARG002  # a plan has its weights inside
    ) -> Engine:
        """Load a plan onto the GPU; EngineError where there is none, or the plan was not made for it."""
        _check_interface(interface, config.name)
        if not gpu_names():
            raise EngineError(f"{config.name}: built and recorded, cannot run here: no NVIDIA GPU")
        from madx.deploy.tensorrt_run import load_plan

        return load_plan(payload, self.kind, config.name, _REMEDIES[self.kind])

    def _probe(self) -> dict[str, str]:
        done = _child("--probe", self.kind)
        if done.returncode:
            return {"missing": _how_it_ended(done)}
        found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return found


def _check_interface(interface: Interface | None, name: str) -> None:
    """RefusedFileError for a file that is fed otherwise than madx's own: plans are built and run in that layout."""
    if interface is not None and interface != Interface.canonical(interface.shape, interface.classes):
        told = "; ".join(interface.describe().values())
        raise RefusedFileError(
            f"{name} takes ONNX files in madx's own layout: input 'input' float32 [batch, C, H, W] in [0, 1], output "
            f"'logits' [batch, K], any batch; this one is {told}. Export it so, or judge it with an ort-cpu, ort-cuda "
            "or openvino-cpu engine"
        )


def _built_in(folder: Path, request: Request, model: bytes, name: str) -> BuiltEngine:
    """Let the child build in `folder` and collect what it leaves."""
    (folder / REQUEST).write_text(json.dumps(asdict(request)))
    (folder / MODEL).write_bytes(model)
    done = _child(str(folder))
    log = (folder / LOG).read_text(encoding="utf-8", errors="replace") if (folder / LOG).is_file() else ""
    if done.returncode:
        said = tensorrt_log.problems(log)[:3] or [_how_it_ended(done)]
        raise EngineError(f"{name} could not be built: {' | '.join(said)}")
    facts: dict[str, Any] = json.loads((folder / FACTS).read_text())
    facts["sparse"] = asdict(tensorrt_log.sparse_layers(log))
    facts["layers"] = [asdict(layer) for layer in tensorrt_log.built_layers(log)]
    facts["log"] = tensorrt_log.excerpt(log)
    return BuiltEngine.of((folder / PLAN).read_bytes(), ".plan", facts)


def _child(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the build program with this Python and this madx, wherever the current folder is."""
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "madx.deploy.tensorrt_build", *arguments]
    environment = {**os.environ, "PYTHONPATH": path}
    try:
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:  # a Python that this user may not start, or no process left
        return subprocess.CompletedProcess(command, 1, "", f"{sys.executable} does not start: {error.strerror}")


def _how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """The last line that a failed child wrote, or the signal that killed it."""
    if done.returncode < 0:
        return f"the builder crashed ({signal.Signals(-done.returncode).name})"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"the builder ended with exit code {done.returncode} and no message"
