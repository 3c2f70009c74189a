import subprocess
import sys

import numpy as np
import pytest
from deploy_cases import tiny_onnx

from madx.deploy.engine import Availability, availabilities, backend, in_chunks, kinds
from madx.deploy.ort import OrtBackend
from madx.errors import EngineError
from madx.recipe import EngineConfig


def test_the_registry_knows_what_a_recipe_may_name():
    assert list(kinds()) == EngineConfig.model_json_schema()["properties"]["kind"]["enum"]
    assert all(backend(kind).kind == kind for kind in kinds())


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(EngineError, match=r"no engine kind 'tflite'; known kinds are ort-cpu, ort-cuda, openvino"):
        backend("tflite")


def test_every_kind_says_what_it_can_do_and_what_is_missing():
    found = availabilities()
    assert found.keys() == set(kinds())
    assert found["ort-cpu"].can_run
    for kind, available in found.items():
        assert available.reason, kind
        assert available.can_build or not available.can_run or kind == "tensorrt"
        assert available.remedy.startswith("pip install") or not available.remedy


MISSING = {
    "ort-cpu": ("onnxruntime", "pip install onnxruntime"),
    "ort-cuda": ("onnxruntime", "madx[ort-gpu]"),
    "openvino-cpu": ("openvino", "madx[openvino]"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_package_names_the_pip_line(kind, monkeypatch):
    module, remedy = MISSING[kind]
    monkeypatch.setitem(sys.modules, module, None)  # as Python does for a module that must not be imported
    available = backend(kind).availability()
    assert not available.can_build
    assert not available.can_run
    assert remedy in available.remedy
    assert available.explanation == f"{available.reason}; install it with: {available.remedy}"
    with pytest.raises(EngineError, match=r"cannot run here: .* cannot be imported .*pip install") as caught:
        backend(kind).load(b"", EngineConfig(kind=kind))
    assert remedy in str(caught.value)


def test_cuda_without_its_provider_names_the_gpu_package(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(
        EngineError, match=r"has no CUDAExecutionProvider; install it with: pip install \"madx\[ort-gpu\]"
    ):
        backend("ort-cuda").load(b"", EngineConfig(kind="ort-cuda"))


def test_cuda_without_a_gpu_is_no_matter_of_pip(monkeypatch):
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr("madx.deploy.ort.gpu_names", list)
    available = backend("ort-cuda").availability()
    assert (available.can_run, available.remedy, available.explanation) == (False, "", available.reason)
    assert "no NVIDIA GPU" in available.reason


def test_a_session_that_fell_back_to_the_cpu_is_refused(monkeypatch):
    """ONNX Runtime's own behaviour on a machine whose CUDA is broken, played by a session that ignores the wish."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    fallen_back = lambda payload, options, providers: real(payload, options)  # noqa: E731, ARG005
    monkeypatch.setattr(onnxruntime, "InferenceSession", fallen_back)
    monkeypatch.setattr(OrtBackend, "availability", lambda _: Availability(True, True, "pretended"))
    payload = tiny_onnx().SerializeToString()
    with pytest.raises(EngineError, match="could not start CUDAExecutionProvider and fell back"):
        backend("ort-cuda").load(payload, EngineConfig(kind="ort-cuda"))


def test_importing_the_room_loads_no_engine_and_no_torch():
    code = (
        "import sys, madx.deploy.engine as e\n"
        "[e.backend(kind) for kind in e.kinds()]\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'tensorrt_rtx', 'polygraphy'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (4, [4]), (5, [4, 1]), (11, [4, 4, 3])])
def test_chunks_cover_all_images_in_order(count, sizes):
    images = np.arange(count * 3, dtype=np.float32).reshape(count, 3, 1, 1)
    chunks = list(in_chunks(images, 4))
    assert [len(chunk) for chunk in chunks] == sizes
    np.testing.assert_array_equal(np.concatenate(chunks), images)
