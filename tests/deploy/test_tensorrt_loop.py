"""The inference loop against a fake GPU: buffers in main memory, and a context that computes through raw addresses.

The fake checks what TensorRT demands: shapes within the profile, addresses set before running, a stream that is not
the default one, and one plain run between a change of shape and a capture. The real loop runs in test_tensorrt_gpu.py.
"""

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from deploy_cases import SHAPE, images

from madx.deploy.tensorrt_run import TensorRtEngine, deserialised
from madx.errors import EngineError

MAX_BATCH, CLASSES = 4, 5


def expected(batch):
    """The fake network: weighted pixel sums."""
    weights = np.linspace(-1, 1, CLASSES, dtype=np.float32)
    return batch.reshape(len(batch), -1).mean(1, keepdims=True, dtype=np.float32) * weights


def at(address, *shape):
    return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(address)).reshape(shape)


class FakeDevice:
    name, stream = "fake GPU", 7

    def __init__(self, *, capturable=True):
        self.capturing, self.capturable, self.captures = False, capturable, 0

    def empty(self, *shape):
        return torch.full(shape, torch.nan)

    def write(self, buffer, batch):
        buffer[: len(batch)] = torch.tensor(batch)

    def read(self, buffer, rows):
        return buffer[:rows].clone().numpy()

    def synchronize(self):
        pass

    def capture(self, enqueue):
        if not self.capturable:
            raise RuntimeError("operation not permitted\nwhen stream is capturing")
        self.capturing = True
        enqueue()
        self.capturing = False
        self.captures += 1
        return enqueue

    def seconds(self, run):
        run()
        return 0.25


class FakeContext:
    def __init__(self, device):
        self.device, self.shape, self.addresses, self.plain_runs, self.runs = device, None, {}, 0, 0
        self.nvtx_verbosity = "DETAILED"

    def set_input_shape(self, name, shape):
        self.shape, self.plain_runs = shape, 0
        return name == "input" and 1 <= shape[0] <= MAX_BATCH

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return name in ("input", "logits")

    def execute_async_v3(self, stream):
        if stream != self.device.stream or (self.device.capturing and not self.plain_runs):
            return False
        self.plain_runs += not self.device.capturing
        self.runs += 1
        result = expected(at(self.addresses["input"], *self.shape))
        at(self.addresses["logits"], *result.shape)[:] = result
        return True


class FakePlan:
    def __init__(self, device):
        self.device, self.contexts, self.configs = device, [], []

    def get_tensor_shape(self, name):
        return {"input": (-1, *SHAPE), "logits": (-1, CLASSES)}[name]

    def get_tensor_profile_shape(self, name, profile):
        assert (name, profile) == ("input", 0)
        return [(1, *SHAPE), (2, *SHAPE), (MAX_BATCH, *SHAPE)]

    def create_runtime_config(self):
        return SimpleNamespace()

    def create_execution_context(self, config=None):
        self.configs.append(config)
        self.contexts.append(FakeContext(self.device))
        return self.contexts[-1]


VERBOSITY = SimpleNamespace(NONE="NONE")
TRT = SimpleNamespace(__name__="tensorrt", __version__="10.14", ProfilingVerbosity=VERBOSITY)
RTX = SimpleNamespace(
    __name__="tensorrt_rtx",
    __version__="1.7",
    ProfilingVerbosity=VERBOSITY,
    CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
    DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
)


def loaded(trt=TRT, **device):
    fake = FakeDevice(**device)
    plan = FakePlan(fake)
    return TensorRtEngine(trt, plan, "tensorrt-fp32", fake), plan, fake


@pytest.mark.parametrize("trt", [TRT, RTX], ids=["tensorrt", "rtx"])
@pytest.mark.parametrize("batch", [1, 3, MAX_BATCH, MAX_BATCH + 1, 3 * MAX_BATCH])
def test_batches_beyond_the_profile_are_split(trt, batch):
    engine, plan, _ = loaded(trt)
    np.testing.assert_allclose(engine(images(batch)), expected(images(batch)), rtol=1e-6)
    assert all(context.nvtx_verbosity == "NONE" for context in plan.contexts)


def test_a_timer_replays_a_captured_graph_on_its_own_images():
    engine, plan, device = loaded()
    assert engine.timing == "device time, CUDA events, CUDA graph"
    captures = device.captures
    timed = engine.timer(images(3))
    assert device.captures == captures + 1
    context = plan.contexts[-1]
    runs = context.runs
    engine(images(2, seed=9))  # another shape and other images in between
    assert timed() == 0.25
    assert context.runs == runs + 1  # one call, one inference
    np.testing.assert_allclose(at(context.addresses["logits"], 3, CLASSES), expected(images(3)), rtol=1e-6)


def test_where_capture_fails_every_timer_enqueues_and_says_so():
    engine, plan, _ = loaded(capturable=False)
    assert engine.timing.startswith("device time, CUDA events, plain enqueue (no CUDA graph: operation not permitted")
    timed = engine.timer(images(2))
    runs = plan.contexts[-1].runs
    timed()
    assert plan.contexts[-1].runs == runs + 1


def test_rtx_captures_by_itself_and_compiles_eagerly():
    engine, plan, device = loaded(RTX)
    engine.timer(images(2))()
    assert device.captures == 0
    assert engine.timing == "device time, CUDA events, CUDA graph by TensorRT-RTX"
    wanted = {"cuda_graph_strategy": "whole", "dynamic_shapes_kernel_specialization_strategy": "eager"}
    assert [vars(config) for config in plan.configs] == [wanted] * 2


def test_the_names_that_the_loop_uses_exist_in_tensorrt_rtx():
    trt = pytest.importorskip("tensorrt_rtx")
    names = {
        trt: ("Runtime", "ILogger", "ProfilingVerbosity", "CudaGraphStrategy"),
        trt.ProfilingVerbosity: ("NONE", "DETAILED"),
        trt.CudaGraphStrategy: ("WHOLE_GRAPH_CAPTURE",),
        trt.DynamicShapesKernelSpecializationStrategy: ("EAGER",),
        trt.IRuntimeConfig: tuple(vars(RTX_CONFIG)),
        trt.ICudaEngine: ("get_tensor_shape", "get_tensor_profile_shape", "create_runtime_config"),
        trt.IExecutionContext: ("set_input_shape", "set_tensor_address", "execute_async_v3", "nvtx_verbosity"),
        trt.ILogger: ("Severity", "log"),
    }
    missing = [f"{owner}.{name}" for owner, wanted in names.items() for name in wanted if not hasattr(owner, name)]
    assert missing == []


RTX_CONFIG = SimpleNamespace(cuda_graph_strategy="", dynamic_shapes_kernel_specialization_strategy="")


def test_facts_keep_the_first_call_apart():
    engine, _, _ = loaded()
    assert engine.facts["first_call_seconds"] > 0
    assert (engine.facts["device"], engine.facts["tensorrt"], engine.facts["max_batch"]) == ("fake GPU", "10.14", 4)


def test_what_cannot_be_timed_or_run_is_refused():
    engine, _, _ = loaded()
    with pytest.raises(EngineError, match="cannot time 5 images in one call; its profile ends at 4"):
        engine.timer(images(5))
    with pytest.raises(EngineError, match="not float64"):
        engine(images(2).astype(np.float64))
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        engine(images(2))


@pytest.mark.parametrize(
    ("method", "message"),
    [("execute_async_v3", "could not enqueue"), ("set_input_shape", r"refuses images \[2, 3, 8, 8\]")],
)
def test_a_false_from_tensorrt_is_an_error(method, message, monkeypatch):
    engine, _, _ = loaded()
    monkeypatch.setattr(FakeContext, method, lambda *_: False)
    with pytest.raises(EngineError, match=message):
        engine(images(2))


def test_a_plan_that_does_not_load_is_explained_by_the_log():
    trt = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match=r"cannot be loaded on this GPU with tensorrt_rtx .*magicTag"):
        deserialised(trt, b"junk" * 100, "tensorrt-rtx-fp32")
