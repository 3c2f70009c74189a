"""Real builds with TensorRT-RTX, which needs no GPU to build, and what happens where a builder is missing or fails."""

import dataclasses
import os
import subprocess
import sys

import pytest
from deploy_cases import SHAPE, exported

from madx.deploy import tensorrt
from madx.deploy.engine import backend
from madx.deploy.tensorrt_build import MODULES
from madx.errors import EngineError
from madx.recipe import EngineConfig


@pytest.fixture(scope="module")
def rtx():
    made = backend("tensorrt-rtx")
    available = made.availability()
    if not available.can_build:
        promised = "tensorrt-rtx" in os.environ.get("MADX_PROMISED_ENGINES", "").split(",")
        (pytest.fail if promised else pytest.skip)(available.reason)
    return made


@pytest.mark.parametrize(("precision", "convolution"), [("fp32", "Float"), ("fp16", "Half")])
def test_a_real_build_has_the_precision_of_its_file(rtx, precision, convolution):
    config = EngineConfig(kind="tensorrt-rtx", precision=precision, max_batch=16)
    built = rtx.build(exported("residual", precision), config, batch=4)
    assert built.suffix == ".plan"
    assert built.facts["bytes"] == len(built.payload) > 10_000
    assert built.facts["flags"] == {"sparse_weights": True, "tf32": False, "strongly_typed": True}
    assert built.facts["profile"] == {"min": [1, *SHAPE], "opt": [4, *SHAPE], "max": [16, *SHAPE]}
    assert built.facts["build_seconds"] > 0
    choices = {"profiling_verbosity": "detailed", "compute_capabilities": [], "optimisation_level": 3}
    assert choices.items() <= built.facts.items()  # in the words of the builder's own objects
    assert built.facts["sparse"]["eligible"] is None  # TensorRT-RTX says nothing of sparsity, and neither do we
    convolutions = [layer for layer in built.facts["layers"] if layer["kind"] == "correlation"]
    assert len(convolutions) == exported("residual").facts["nodes"]["Conv"]
    assert all(layer["inputs"][0] == layer["outputs"][0] == convolution for layer in convolutions)


def test_a_built_engine_cannot_run_without_a_gpu(rtx, monkeypatch):
    monkeypatch.setattr(tensorrt, "gpu_names", list)
    available = rtx.availability()
    assert (available.can_build, available.can_run, available.remedy) == (True, False, "")
    with pytest.raises(EngineError, match="built and recorded, cannot run here: no NVIDIA GPU"):
        rtx.load(b"plan", EngineConfig(kind="tensorrt-rtx"))


def test_what_the_builder_refuses_is_said_without_noise(rtx):
    broken = dataclasses.replace(exported("residual"), payload=exported("residual").payload[:500])
    with pytest.raises(EngineError, match=r"tensorrt-rtx-fp32 could not be built: .*Failed to parse") as caught:
        rtx.build(broken, EngineConfig(kind="tensorrt-rtx"), batch=1)
    assert "cudaError 35" not in str(caught.value)


def test_the_child_finds_this_madx_from_any_folder(rtx, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rtx.availability().can_build
    assert list(tmp_path.iterdir()) == []


def _ended(returncode, stderr=""):
    return lambda *_: subprocess.CompletedProcess([], returncode, "", stderr)


ENDS = {
    "crash": (_ended(-11), "could not be built: the builder crashed .SIGSEGV"),
    "error": (_ended(1, "Traceback\n  ...\nMemoryError: no memory\n\n"), "could not be built: MemoryError: no memory"),
    "silent": (_ended(7), "exit code 7 and no message"),
}


@pytest.mark.parametrize("case", ENDS)
def test_a_builder_that_dies_does_not_take_madx_with_it(case, monkeypatch):
    child, message = ENDS[case]
    monkeypatch.setattr(tensorrt, "_child", child)
    available = backend("tensorrt-rtx").availability()
    assert not available.can_build
    monkeypatch.setattr(
        tensorrt.TensorRtBackend, "availability", lambda _: dataclasses.replace(available, can_build=True)
    )
    with pytest.raises(EngineError, match=message):
        backend("tensorrt-rtx").build(exported("plain"), EngineConfig(kind="tensorrt-rtx"), batch=1)


@pytest.mark.parametrize(("kind", "extra"), [("tensorrt", "madx[tensorrt]"), ("tensorrt-rtx", "madx[rtx]")])
def test_a_missing_builder_names_the_extra(kind, extra, monkeypatch):
    found = '{"missing": "No module named \'tensorrt\'"}'
    monkeypatch.setattr(tensorrt, "_child", lambda *_: subprocess.CompletedProcess([], 0, found, ""))
    available = backend(kind).availability()
    assert not available.can_build
    assert not available.can_run
    with pytest.raises(EngineError, match=r"cannot be built here: .*No module named") as caught:
        backend(kind).build(exported("plain"), EngineConfig(kind=kind), batch=1)
    assert f'pip install "{extra}"' in str(caught.value)


@pytest.mark.parametrize(("kind", "extra"), [("tensorrt", "madx[tensorrt]"), ("tensorrt-rtx", "madx[rtx]")])
def test_a_package_that_is_missing_where_a_plan_is_loaded_names_the_extra(kind, extra, monkeypatch):
    monkeypatch.setattr(tensorrt, "gpu_names", lambda: ["a GPU"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setitem(sys.modules, MODULES[kind], None)  # as Python does for a module that must not be imported
    with pytest.raises(EngineError, match=r"cannot run here: .* cannot be imported .*; install it with: ") as caught:
        backend(kind).load(b"plan", EngineConfig(kind=kind))
    assert f'pip install "{extra}"' in str(caught.value)


def test_full_tensorrt_needs_a_gpu_to_build(monkeypatch):
    found = '{"tensorrt": "10.14.1", "polygraphy": "0.53.6"}'
    monkeypatch.setattr(tensorrt, "_child", lambda *_: subprocess.CompletedProcess([], 0, found, ""))
    monkeypatch.setattr(tensorrt, "gpu_names", list)
    assert not backend("tensorrt").availability().can_build
    monkeypatch.setattr(tensorrt, "gpu_names", lambda: ["a GPU"])
    assert backend("tensorrt").availability().can_run


@pytest.mark.parametrize("batch", [0, 17])
def test_a_batch_outside_the_profile_is_refused(batch):
    with pytest.raises(EngineError, match=f"batches of {batch}, outside 1 to its max_batch 16"):
        backend("tensorrt-rtx").build(exported("plain"), EngineConfig(kind="tensorrt-rtx", max_batch=16), batch=batch)


def test_a_file_of_another_precision_is_refused():
    with pytest.raises(EngineError, match="ONNX file of precision fp32"):
        backend("tensorrt-rtx").build(exported("plain"), EngineConfig(kind="tensorrt-rtx", precision="fp16"), batch=1)


def test_a_python_that_cannot_be_started_is_no_crash(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    available = backend("tensorrt-rtx").availability()
    assert (available.can_build, "does not start" in available.reason) == (False, True)
