"""A TensorRT plan on a GPU: our own inference loop, because Polygraphy's runner times the transfers too.

Canonical layout: input and output live in float32 GPU buffers that are allocated once, [B, C, H, W] and [B, K]; work is
enqueued on a stream of its own, never on the default stream. A timer first runs plainly, then captures a CUDA graph and
replays it between two CUDA events; TensorRT-RTX captures graphs itself. torch serves for memory, streams and events.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from madx.deploy.engine import Availability, Engine, Images, Logits, Rows, batch_of, checked_images, in_chunks
from madx.deploy.tensorrt_build import MODULES
from madx.errors import EngineError


class Device(Protocol):
    """What the loop needs of a GPU; a fake one on the CPU lets the loop be tested without."""

    name: str
    stream: int
    """Handle of the stream that all work is enqueued on."""

    def empty(self, *shape: int) -> Any:
        """A float32 buffer with `data_ptr()`."""
        ...

    def write(self, buffer: Any, images: Images) -> None:
        """Fill the first rows of a buffer."""
        ...

    def read(self, buffer: Any, rows: int) -> Logits:
        """The first rows of a buffer, after all enqueued work."""
        ...

    def synchronize(self) -> None:
        """Wait for all enqueued work."""
        ...

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Record what `enqueue` enqueues, and return what replays it; RuntimeError if it cannot be captured."""
        ...

    def seconds(self, run: Callable[[], None]) -> float:
        """Device time between the start and the end of what `run` enqueues."""
        ...


class CudaDevice:
    """The current GPU of torch, with one stream."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        cuda: Any = torch.cuda
        self._stream = cuda.Stream()
        self._start, self._end = (cuda.Event(enable_timing=True) for _ in range(2))
        self.name: str = cuda.get_device_name()
        self.stream = int(self._stream.cuda_stream)

    def empty(self, *shape: int) -> Any:
        """A float32 buffer on the GPU."""
        return self._torch.empty(shape, dtype=self._torch.float32, device="cuda")

    def write(self, buffer: Any, images: Images) -> None:
        """Copy images into the first rows of a buffer, on the stream."""
        with self._torch.cuda.stream(self._stream):
            buffer[: len(images)].copy_(self._torch.tensor(images))

    def read(self, buffer: Any, rows: int) -> Logits:
        """The first rows as a numpy array; the copy waits for the stream."""
        with self._torch.cuda.stream(self._stream):
            logits: Logits = buffer[:rows].cpu().numpy()
        return logits

    def synchronize(self) -> None:
        """Wait for the stream."""
        self._stream.synchronize()

    def capture(self, enqueue: Callable[[], None]) -> Callable[[], None]:
        """Capture a CUDA graph on the stream. Other threads may use CUDA meanwhile."""
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            enqueue()

        def replay() -> None:
            with self._torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def seconds(self, run: Callable[[], None]) -> float:
        """Time between two CUDA events on the stream, around `run`."""
        self._start.record(self._stream)
        run()
        self._end.record(self._stream)
        self._end.synchronize()
        return float(self._start.elapsed_time(self._end)) / 1000


@dataclass(frozen=True)
class _Lane:
    """An execution context with buffers for up to a fixed number of images."""

    name: str
    context: Any
    source: Any
    result: Any
    device: Device

    def aim(self, shape: tuple[int, ...]) -> None:
        """Set the input's shape and both addresses."""
        done = (
            self.context.set_input_shape("input", shape)
            and self.context.set_tensor_address("input", self.source.data_ptr())
            and self.context.set_tensor_address("logits", self.result.data_ptr())
        )
        if not done:
            raise EngineError(f"{self.name}: TensorRT refuses images {list(shape)}")

    def enqueue(self) -> None:
        """One inference on the stream."""
        if not self.context.execute_async_v3(self.device.stream):
            raise EngineError(f"{self.name}: TensorRT could not enqueue the inference")


class TensorRtEngine:
    """A deserialised plan on a GPU."""

    callers = 1

    def __init__(self, trt: Any, plan: Any, name: str, device: Device) -> None:
        self.name = name
        self._trt, self._plan, self._device = trt, plan, device
        _, *image = (int(side) for side in plan.get_tensor_shape("input"))
        self._shape = (image[0], image[1], image[2])
        self._classes = int(plan.get_tensor_shape("logits")[1])
        self._max_batch = int(plan.get_tensor_profile_shape("input", 0)[2][0])
        self._lane: _Lane | None = self._new_lane(self._max_batch)
        started = time.perf_counter()
        self(np.zeros((1, *self._shape), np.float32))
        first = time.perf_counter() - started
        graph = self._graph_mode()
        self.timing = f"device time, CUDA events, {graph}"
        self.facts: dict[str, Any] = {
            trt.__name__: trt.__version__,
            "device": device.name,
            "max_batch": self._max_batch,
            "first_call_seconds": first,
            "cuda_graph": graph,
        }

    def __call__(self, images: Images) -> Logits:
        """Logits [B, K] of float32 images [B, C, H, W], in pieces of the profile's largest batch."""
        lane = self._open()
        checked = checked_images(images, self._shape, self.name)
        logits = []
        for chunk in in_chunks(checked, self._max_batch):
            self._device.write(lane.source, chunk)
            lane.aim(chunk.shape)
            lane.enqueue()
            logits.append(self._device.read(lane.result, len(chunk)))
        return np.concatenate(logits)

    def timer(self, images: Images, rows: Rows | None = None) -> Callable[..., float]:
        """Device seconds of one inference, in a context of its own, so that later calls cannot disturb it."""
        self._open()
        pool = checked_images(images, self._shape, self.name)
        checked = batch_of(pool, rows, 0)
        if len(checked) > self._max_batch:
            raise EngineError(
                f"{self.name} cannot time {len(checked)} images in one call; its profile ends at {self._max_batch}, "
                "so raise the engine's max_batch or lower verify.latency.batch"
            )
        lane = self._new_lane(len(checked))
        self._device.write(lane.source, checked)
        run = self._prepared(lane, checked.shape)

        def seconds(number: int = 0) -> float:
            if rows is not None:
                self._device.write(lane.source, np.ascontiguousarray(batch_of(pool, rows, number)))
            return self._device.seconds(run)

        return seconds

    def close(self) -> None:
        """Release contexts, buffers and plan."""
        self._lane = self._plan = None

    def _open(self) -> _Lane:
        if self._lane is None:
            raise EngineError(f"{self.name} was closed; load it again before using it")
        return self._lane

    def _new_lane(self, batch: int) -> _Lane:
        context = self._new_context()
        if context is None:
            raise EngineError(f"{self.name}: TensorRT could not create an execution context; is GPU memory exhausted?")
        context.nvtx_verbosity = self._trt.ProfilingVerbosity.NONE  # a detailed build slows every enqueue otherwise
        source, result = self._device.empty(batch, *self._shape), self._device.empty(batch, self._classes)
        return _Lane(self.name, context, source, result, self._device)

    def _new_context(self) -> Any:
        """For TensorRT-RTX a context that captures graphs itself and compiles a kernel for each shape at once."""
        if not hasattr(self._trt, "CudaGraphStrategy"):
            return self._plan.create_execution_context()
        config = self._plan.create_runtime_config()
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        strategies = self._trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return self._plan.create_execution_context(config)

    def _graph_mode(self) -> str:
        """How a timer runs: decided once, so that every number of this engine is of one kind."""
        if hasattr(self._trt, "CudaGraphStrategy"):
            return "CUDA graph by TensorRT-RTX"
        lane = self._new_lane(1)
        try:
            self._captured(lane, (1, *self._shape))
        except (RuntimeError, EngineError) as error:
            return f"plain enqueue (no CUDA graph: {' '.join(str(error).split())[:200]})"
        return "CUDA graph"

    def _prepared(self, lane: _Lane, shape: tuple[int, ...]) -> Callable[[], None]:
        """What runs one inference on images already in place, warmed up."""
        if self.facts["cuda_graph"] == "CUDA graph":
            return self._captured(lane, shape)
        lane.aim(shape)
        lane.enqueue()
        self._device.synchronize()
        return lane.enqueue

    def _captured(self, lane: _Lane, shape: tuple[int, ...]) -> Callable[[], None]:
        """A captured inference; TensorRT needs one plain run after a change of shape before it can be captured."""
        lane.aim(shape)
        lane.enqueue()
        self._device.synchronize()
        return self._device.capture(lane.enqueue)


def load_plan(payload: bytes, kind: str, name: str, remedy: str) -> Engine:
    """Deserialise a plan on the current GPU.

    Raises:
        EngineError: torch has no CUDA, the package is missing, or the plan does not fit this GPU or version.
    """
    import torch

    if not torch.cuda.is_available():
        raise EngineError(
            f"{name} cannot run here: torch {torch.__version__} does not see the GPU; install a CUDA build of torch"
        )
    try:
        trt = importlib.import_module(MODULES[kind])
    except (ImportError, OSError) as error:
        missing = Availability.missing(kind, error, remedy)
        raise EngineError(f"{name} cannot run here: {missing.explanation}") from error
    return TensorRtEngine(trt, deserialised(trt, payload, name), name, CudaDevice())


def deserialised(trt: Any, payload: bytes, name: str) -> Any:
    """The plan as an engine object; TensorRT reports a failure only to its logger, so the log becomes the error."""
    said: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                said.append(" ".join(message.split()))

    logger = Log()
    runtime = trt.Runtime(logger)
    plan = runtime.deserialize_cuda_engine(payload)
    if plan is None:
        raise EngineError(
            f"{name}: the plan cannot be loaded on this GPU with {trt.__name__} {trt.__version__}: {' | '.join(said)}"
        )
    return _Plan(plan, runtime, logger)


class _Plan:
    """An engine object together with the runtime and the logger that must outlive it."""

    def __init__(self, plan: Any, *owners: object) -> None:
        self._plan, self._owners = plan, owners

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plan, name)
