"""ONNX Runtime on the CPU and on CUDA. The engine's bytes are the ONNX file; the runtime optimises it when loading.

Spinning is off: verification interleaves two engines in one process, and the idle threads of one would burn the cores
that the other is timed on. The choice is recorded in the engine's facts, as are the threads.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from madx.clocks import CallTime, clocked, cpu_clock_is_fine
from madx.deploy.engine import (
    Availability,
    BuiltEngine,
    Engine,
    Images,
    Logits,
    Rows,
    batch_of,
    build_by_loading,
    check_runs,
    checked_images,
    with_facts,
)
from madx.deploy.external import NONE, Data, for_a_runtime
from madx.deploy.int8 import HIGH, LOW
from madx.deploy.interface import Interface, Tensor
from madx.deploy.runtime_words import explain
from madx.errors import EngineError, RefusedFileError
from madx.machine import gpu_names, physical_cores

if TYPE_CHECKING:
    from madx.deploy.check import OnnxArtifact
    from madx.recipe import EngineConfig

_PRECISE = {"CUDAExecutionProvider": {"use_tf32": "0"}}
"""float32 is what it says: kernels of 10-bit mantissas differ by batch more than rounding explains."""
_FATAL_ONLY = 4
"""Errors arrive as exceptions; on standard error they would stand a second time."""
_SPINNING = "session.intra_op.allow_spinning"
_EXACT_SUMS = "session.x64quantprecision"
_WHOLE_NUMBERS = (
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
    "MatMulIntegerToFloat",
    "ConvInteger",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
)
_FLOATS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose")
"""Products as the runtime names them once it has optimised a graph, in int8 and in float32."""
NO_ENTRIES: Mapping[str, str] = MappingProxyType({})


class OrtBackend:
    """ONNX Runtime on the CPU; with another execution provider, a subclass."""

    provider = "CPUExecutionProvider"
    remedy = "pip install onnxruntime"
    """What brings it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def availability(self) -> Availability:
        """Whether the package is there, offers the provider, and finds what that runs on."""
        try:
            onnxruntime = _imported()
        except (ImportError, OSError) as error:
            return Availability.missing("onnxruntime", error, self.remedy)
        version = f"onnxruntime {onnxruntime.__version__}"
        if self.provider not in onnxruntime.get_available_providers():
            return Availability(False, False, f"{version} has no {self.provider}", self.remedy)
        if lacks := self.lacks():
            return Availability(False, False, f"{version} {lacks}")
        return Availability(True, True, version)

    def lacks(self) -> str:
        """What this machine has not that no package brings; nothing if it has all."""
        return ""

    def build(self, onnx: OnnxArtifact, config: EngineConfig, *, batch: int) -> BuiltEngine:  # noqa: ARG002
        """Take the ONNX file as it is, after proving that the runtime loads it; of an int8 file, what is int8."""
        built = build_by_loading(self, onnx, config)
        on_cpu = self.provider == OrtBackend.provider  # what a GPU makes of such a file nobody has seen
        if onnx.precision != "int8" or not on_cpu:
            return built
        chosen = kernels(onnx)
        low, high = (sum(chosen[kind] for kind in kinds) for kinds in (_WHOLE_NUMBERS, _FLOATS))
        return with_facts(built, {LOW: low, HIGH: high})

    def load(
        self, payload: bytes, config: EngineConfig, *, interface: Interface | None = None, data: Data = NONE
    ) -> Engine:
        """Load an ONNX file into a session; EngineError if the provider is missing or refuses the file."""
        check_runs(self, config)
        with for_a_runtime(payload, data) as model:
            return OrtEngine(model, config, self.provider, interface)


class CudaBackend(OrtBackend):
    """ONNX Runtime on an NVIDIA GPU."""

    provider = "CUDAExecutionProvider"
    remedy = 'pip install "madx[ort-gpu]"'

    def lacks(self) -> str:
        """The provider is in the package whether there is a GPU or not."""
        return "" if gpu_names() else "has CUDA, but the driver shows no NVIDIA GPU"


class OrtEngine:
    """An ONNX Runtime session."""

    def __init__(self, model: str, config: EngineConfig, provider: str, interface: Interface | None = None) -> None:
        self.name = config.name
        self._device = "cuda" if provider.startswith("CUDA") else "cpu"
        self.timing = "host call, preallocated I/O"
        if self._device == "cuda":
            self.timing = "host call until the GPU is done, preallocated I/O on the GPU"
        threads = config.threads or physical_cores()
        self._one_thread = self._device == "cpu" and threads == 1 and cpu_clock_is_fine()
        self.callers = max(1, physical_cores() // threads) if self._device == "cpu" else 1
        self._session: Any = _session(model, config.name, provider, threads)
        self._interface = interface or _canonical(self._session)
        self.facts: dict[str, Any] = {"onnxruntime": _imported().__version__, **_facts(self._session)}
        self.facts |= self._interface.facts()

    def __call__(self, images: Images) -> Logits:
        """Logits [B, K] of float32 images [B, C, H, W]."""
        checked = checked_images(images, self._interface.shape, self.name)
        self._open()
        return self._interface.answers(checked, self._output)

    def timer(self, images: Images, rows: Rows | None = None) -> Callable[..., CallTime]:
        """Seconds of one run with inputs and outputs bound to memory that is allocated once."""
        from onnxruntime import OrtValue

        session, interface = self._open(), self._interface
        pool = interface.fed(checked_images(images, interface.shape, self.name))
        first = batch_of(pool, rows, 0).copy()
        interface.check_timed(len(first), self.name)
        output = self._output(first)
        result = np.empty(output.shape, output.dtype)
        bound = [OrtValue.ortvalue_from_numpy(array, self._device, 0) for array in (first, result)]
        binding = session.io_binding()
        binding.bind_ortvalue_input(interface.input, bound[0])
        binding.bind_ortvalue_output(interface.output, bound[1])

        def infer() -> None:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        def run(number: int = 0) -> CallTime:
            _keep_alive = bound  # the binding only borrows the arrays' memory
            if rows is not None:
                bound[0].update_inplace(np.ascontiguousarray(batch_of(pool, rows, number)))
            return clocked(infer, one_thread=self._one_thread)

        return run

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _output(self, tensor: Tensor) -> Tensor:
        """The file's own output tensor of its own input tensor."""
        with _explained(f"{self.name} failed on {list(tensor.shape)}"):
            found: Tensor = self._open().run([self._interface.output], {self._interface.input: tensor})[0]
        return found

    def _open(self) -> Any:
        if self._session is None:
            raise EngineError(f"{self.name} was closed; load it again before using it")
        return self._session


def answers_of(payload: bytes, images: Images, *, precise: bool) -> Tensor:
    """What the CPU makes of images with a file of one input and one output.

    Args:
        payload: the ONNX file; everything is inside it.
        images: [B, C, H, W].
        precise: whether products of int8 are added up in 32 bits on every CPU, whatever that costs.
    """
    with for_a_runtime(payload, NONE) as model:
        session = _session(model, "the int8 file", OrtBackend.provider, 1, {_EXACT_SUMS: "1"} if precise else {})
    with _explained(f"the int8 file failed on {list(images.shape)}"):
        found: Tensor = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def kernels(onnx: OnnxArtifact) -> Counter[str]:
    """How many nodes of each operator ONNX Runtime's CPU makes of a file."""
    from onnx import load_model

    with tempfile.TemporaryDirectory() as folder, for_a_runtime(onnx.payload, onnx.data) as model:
        written = Path(folder) / "optimised.onnx"
        _session(model, "the int8 file", OrtBackend.provider, 1, written=written)
        return Counter(node.op_type for node in load_model(written).graph.node)


def every_output(payload: bytes, images: Images) -> dict[str, Tensor]:
    """All outputs of an ONNX file by name, for looking into it; EngineError if the CPU refuses it."""
    with for_a_runtime(payload, NONE) as model:
        session = _session(model, "the graph with its values shown", OrtBackend.provider, 1)
    names = [output.name for output in session.get_outputs()]
    with _explained(f"the graph with its values shown failed on {list(images.shape)}"):
        found = session.run(names, {session.get_inputs()[0].name: images})
    return dict(zip(names, found, strict=True))


def _imported() -> Any:
    """ONNX Runtime without its telemetry, which runs in threads beside what is timed and wants files in a home."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn any error that ONNX Runtime raises into a RefusedFileError."""
    try:
        yield
    except _ort_errors() as error:
        raise RefusedFileError(f"{what}: {explain(error)}") from error


def _ort_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises: its own classes share no base but Exception. Asked for only when there is an error."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError)


def _session(
    model: str,
    name: str,
    provider: str,
    threads: int,
    entries: Mapping[str, str] = NO_ENTRIES,
    written: Path | None = None,
) -> Any:
    """A session that runs on `provider` and on nothing else in its place.

    Args:
        model: path or bytes of the file, as `for_a_runtime` gives it.
        name: of the engine, for errors.
        provider: where it runs.
        threads: of one operator.
        entries: further settings, as ONNX Runtime names them.
        written: where the graph is written as it is run.
    """
    onnxruntime = _imported()
    options = onnxruntime.SessionOptions()
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    for entry, value in {_SPINNING: "0", **entries}.items():
        options.add_session_config_entry(entry, value)
    if written is not None:
        options.optimized_model_filepath = str(written)
    with _explained(f"{name}: ONNX Runtime refuses the file"):
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, _PRECISE.get(provider, {}))])
    if session.get_providers()[0] != provider:  # ONNX Runtime falls back to the CPU with no more than a warning
        raise EngineError(f"{name}: ONNX Runtime could not start {provider} and fell back to the CPU")
    return session


def _facts(session: Any) -> dict[str, Any]:
    """How the session runs, in its own words: what was asked for is one thing, what it took another."""
    options = session.get_session_options()
    return {
        "provider": session.get_providers()[0],
        "intra_op_threads": options.intra_op_num_threads,
        "inter_op_threads": options.inter_op_num_threads,
        "spinning": options.get_session_config_entry(_SPINNING) != "0",
        "execution": options.execution_mode.name.removeprefix("ORT_").lower(),
        "graph_optimisation": options.graph_optimization_level.name.removeprefix("ORT_ENABLE_").lower(),
    }


def _canonical(session: Any) -> Interface:
    """Of one of madx's own exports."""
    _, channels, height, width = session.get_inputs()[0].shape
    return Interface.canonical((channels, height, width), session.get_outputs()[0].shape[1])
