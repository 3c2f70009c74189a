"""OpenVINO on the CPU. The engine's bytes are the ONNX file; OpenVINO compiles it when loading, with a dynamic batch.

On CPUs with bfloat16 units OpenVINO computes in bfloat16 unless told otherwise, also for a float32 file. That changes
logits by a thousand times more than float32 does, so the precision is set here, and read back after compiling.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import closing
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
from madx.machine import physical_cores

if TYPE_CHECKING:
    from madx.deploy.check import OnnxArtifact
    from madx.recipe import EngineConfig

_TELEMETRY = "openvino_telemetry"
_PRODUCTS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_WHOLE_NUMBERS = ("i8", "u8")
_REMEDY = 'pip install "madx[openvino]"'


class OpenVinoBackend:
    """OpenVINO's CPU plugin."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def availability(self) -> Availability:
        """Whether OpenVINO can be imported and shows a CPU."""
        try:
            openvino = _imported()
        except (ImportError, OSError) as error:
            return Availability.missing("openvino", error, _REMEDY)
        version = f"openvino {openvino.__version__.split('-')[0]}"
        if "CPU" not in openvino.Core().available_devices:
            return Availability(False, False, f"{version} has no CPU plugin for this machine", _REMEDY)
        return Availability(True, True, version)

    def build(self, onnx: OnnxArtifact, config: EngineConfig, *, batch: int) -> BuiltEngine:  # noqa: ARG002
        """Take the ONNX file as it is, after proving that OpenVINO compiles it; of an int8 file, what is int8."""
        built = build_by_loading(self, onnx, config)
        if onnx.precision != "int8":
            return built
        with (
            for_a_runtime(onnx.payload, onnx.data) as model,
            closing(OpenVinoEngine(model, config, built.interface)) as engine,
        ):
            products = engine.product_types()
        low = sum(kind in _WHOLE_NUMBERS for kind in products)
        return with_facts(built, {LOW: low, HIGH: len(products) - low})

    def load(
        self, payload: bytes, config: EngineConfig, *, interface: Interface | None = None, data: Data = NONE
    ) -> Engine:
        """Compile an ONNX file for the CPU; EngineError if OpenVINO is missing or refuses the file."""
        check_runs(self, config)
        with for_a_runtime(payload, data) as model:
            return OpenVinoEngine(model, config, interface)


class OpenVinoEngine:
    """A compiled OpenVINO model with one stream."""

    timing = "host call, preallocated I/O"
    callers = 1
    """Its one request answers one call at a time."""

    def __init__(self, model: str, config: EngineConfig, interface: Interface | None = None) -> None:
        openvino = _imported()
        self.name = config.name
        threads = config.threads or physical_cores()
        self._one_thread = threads == 1 and cpu_clock_is_fine()
        core = openvino.Core()
        precision = _precision(core, config)
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": precision,
        }
        core.set_property({"ENABLE_MMAP": False})  # weights beside the file are read, not kept open
        try:
            self._model: Any = core.compile_model(core.read_model(model), "CPU", properties)
        except RuntimeError as error:
            raise RefusedFileError(f"{self.name}: OpenVINO refuses the file: {explain(error)}") from error
        self._interface = interface or _canonical(self._model)
        self._request: Any = self._model.create_infer_request()
        self.facts: dict[str, Any] = {
            "openvino": openvino.__version__,
            "device": core.get_property("CPU", "FULL_DEVICE_NAME"),
            "threads": int(self._model.get_property("INFERENCE_NUM_THREADS")),
            "hint": str(self._model.get_property("PERFORMANCE_HINT")),
            "streams": int(self._model.get_property("NUM_STREAMS")),
            "arithmetic": self._model.get_property("INFERENCE_PRECISION_HINT").to_string(),
        }
        self.facts |= self._interface.facts()
        if self.facts["arithmetic"] != precision:
            raise EngineError(
                f"{self.name}: OpenVINO computes in {self.facts['arithmetic']} though {precision} was asked for"
            )

    def __call__(self, images: Images) -> Logits:
        """Logits [B, K] of float32 images [B, C, H, W]."""
        checked = checked_images(images, self._interface.shape, self.name)
        self._open()
        return self._interface.answers(checked, self._output)

    def timer(self, images: Images, rows: Rows | None = None) -> Callable[..., CallTime]:
        """Seconds of one synchronous request of its own, on input and output memory that is allocated once."""
        openvino, model, interface = _imported(), self._open(), self._interface
        pool = interface.fed(checked_images(images, interface.shape, self.name))
        checked = batch_of(pool, rows, 0).copy()
        interface.check_timed(len(checked), self.name)
        output = self._output(checked)
        result = np.empty(output.shape, output.dtype)
        request = model.create_infer_request()
        request.set_tensor(model.input(interface.input), openvino.Tensor(checked, shared_memory=True))
        request.set_tensor(model.output(interface.output), openvino.Tensor(result, shared_memory=True))

        def run(number: int = 0) -> CallTime:
            _keep_alive = (checked, result)  # the request only borrows their memory
            if rows is not None:
                checked[...] = batch_of(pool, rows, number)
            return clocked(request.infer, one_thread=self._one_thread)

        return run

    def product_types(self) -> list[str]:
        """In which type each convolution and matrix product is computed, as OpenVINO names it: 'u8', 'f32'."""
        told = (node.get_rt_info() for node in self._open().get_runtime_model().get_ordered_ops())
        kinds = [{name: _word(info[name]) for name in ("layerType", "runtimePrecision")} for info in told]
        return [kind["runtimePrecision"] for kind in kinds if kind["layerType"] in _PRODUCTS]

    def close(self) -> None:
        """Release the compiled model and its request."""
        self._model = self._request = None

    def _output(self, tensor: Tensor) -> Tensor:
        """The file's own output tensor of its own input tensor."""
        model = self._open()
        try:
            self._request.infer({model.input(self._interface.input): tensor}, share_inputs=False, share_outputs=False)
            found: Tensor = self._request.get_tensor(model.output(self._interface.output)).data.copy()
        except RuntimeError as error:
            raise RefusedFileError(f"{self.name} failed on {list(tensor.shape)}: {explain(error)}") from error
        return found

    def _open(self) -> Any:
        if self._model is None:
            raise EngineError(f"{self.name} was closed; load it again before using it")
        return self._model


def _imported() -> Any:
    """OpenVINO without its telemetry, which reports to its maker, and does not start for a user without a home."""
    alone = _TELEMETRY not in sys.modules
    if alone:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # Python's sign for a module that cannot be imported
    try:
        import openvino
    finally:
        if alone:
            del sys.modules[_TELEMETRY]
    return openvino


def _precision(core: Any, config: EngineConfig) -> str:
    """f32 for a float32 file; f16 for a float16 file where the CPU computes in it, else f32."""
    halves = "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "f16" if config.precision == "fp16" and halves else "f32"


def _word(value: Any) -> str:
    """What a runtime's node says of itself: a text, or an object around one."""
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _canonical(model: Any) -> Interface:
    """Of one of madx's own exports."""
    shape = model.input(0).partial_shape
    channels, height, width = (shape[axis].get_length() for axis in (1, 2, 3))
    return Interface.canonical((channels, height, width), model.output(0).partial_shape[1].get_length())
