"""Every engine that can run here computes what torch computes. A new engine is tested by a new row of ENGINES.

A machine says which engines it promises in MADX_PROMISED_ENGINES, separated by commas: a promised engine that is not
available fails, any other skips with the reason.
"""

import math
import os
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest
from deploy_cases import NETS, exported, images, logits_of, net

from madx.clocks import cpu_clock_is_fine
from madx.deploy import ort
from madx.deploy.engine import backend
from madx.errors import EngineError
from madx.recipe import EngineConfig

ENGINES = {
    # kind, precision: largest difference of a logit of order 1. float16 has 11 bits, so 5e-4 an operation.
    ("ort-cpu", "fp32"): 1e-5,
    ("ort-cpu", "fp16"): 5e-3,
    ("openvino-cpu", "fp32"): 1e-5,
    ("openvino-cpu", "fp16"): 5e-3,
    ("ort-cuda", "fp32"): 1e-4,
}
BATCHES = (1, 7, 129)


@pytest.fixture(params=ENGINES, ids="-".join)
def row(request):
    kind, precision = request.param
    available = backend(kind).availability()
    if not available.can_run:
        promised = kind in os.environ.get("MADX_PROMISED_ENGINES", "").split(",")
        (pytest.fail if promised else pytest.skip)(f"{kind}: {available.reason}")
    return EngineConfig(kind=kind, precision=precision, threads=1), ENGINES[request.param]


@pytest.fixture
def engine(row):
    config, _ = row
    loaded = backend(config.kind).load(exported("residual", config.precision).payload, config)
    yield loaded
    loaded.close()


@pytest.mark.parametrize("name", NETS)
def test_logits_are_those_of_torch(row, name):
    config, tolerance = row
    built = backend(config.kind).build(exported(name, config.precision), config, batch=1)
    loaded = backend(config.kind).load(built.payload, config)
    module = net(name)
    for batch in BATCHES:
        logits = loaded(images(batch))
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, logits_of(module, images(batch)), rtol=0, atol=tolerance)
    loaded.close()


def test_an_image_gets_the_same_logits_in_any_company(engine, row):
    alone = np.concatenate([engine(image[None]) for image in images(7)])
    np.testing.assert_allclose(engine(images(7)), alone, rtol=0, atol=row[1])


def test_results_are_not_overwritten_by_the_next_call(engine):
    first = engine(images(3))
    kept = first.copy()
    engine(images(3, seed=1))
    np.testing.assert_array_equal(first, kept)


def test_strided_images_are_read_right(engine, row):
    whole = images(6)
    np.testing.assert_allclose(engine(whole[::2]), engine(np.ascontiguousarray(whole[::2])), rtol=0, atol=row[1])


def timer_and_buffer(engine, row, monkeypatch, pool, rows=None):
    """A timer, and the output buffer that it allocates."""
    if row[0].kind == "ort-cuda":
        pytest.skip("its buffer lies on the GPU")
    buffers = []
    empty = np.empty
    monkeypatch.setattr(np, "empty", lambda *given: buffers.append(empty(*given)) or buffers[-1])
    timed = engine.timer(pool, rows)
    monkeypatch.undo()
    shape = (len(pool) if rows is None else rows.shape[1], 10)
    (buffer,) = (buffer for buffer in buffers if buffer.shape == shape)
    return timed, buffer


def test_the_timer_computes_the_logits_of_its_own_images(engine, row, monkeypatch):
    """The output buffer that a timer allocates is caught, poisoned and looked into after a timed run."""
    batch = images(5)
    timed, buffer = timer_and_buffer(engine, row, monkeypatch, batch)
    expected = engine(batch)
    batch[:] = 0  # the timer has its own copy
    buffer[:] = np.nan
    started = time.perf_counter()
    seconds = timed().seconds
    assert 0 < seconds <= time.perf_counter() - started
    np.testing.assert_allclose(buffer, expected, rtol=0, atol=row[1])


def test_each_number_is_a_batch_of_its_own_images(engine, row, monkeypatch):
    """Of two engines the same ones are timed: a batch that stayed in place would be a fast path for one image."""
    pool, rows = images(9), np.array([[0, 1, 2], [8, 4, 4], [7, 0, 3]])
    timed, buffer = timer_and_buffer(engine, row, monkeypatch, pool, rows)
    expected = engine(pool)
    for number in (2, 0, 1, 2):
        assert timed(number).seconds > 0
        np.testing.assert_allclose(buffer, expected[rows[number]], rtol=0, atol=row[1])


def test_two_timers_and_calls_do_not_disturb_each_other(engine):
    small, large = engine.timer(images(1)), engine.timer(images(64))
    before = engine(images(9))
    assert all(run().seconds > 0 for run in (small, large, small, large))
    np.testing.assert_array_equal(engine(images(9)), before)


def test_an_engine_of_one_thread_has_its_cpu_time_and_one_of_two_has_none(row):
    """Of several threads the CPU times add up to what nobody waits for."""
    config, _ = row
    runtime = backend(config.kind)
    payload = exported("residual", config.precision).payload
    for threads, known in ((1, cpu_clock_is_fine()), (2, False)):
        with closing(runtime.load(payload, config.model_copy(update={"threads": threads}))) as engine:
            took = engine.timer(images(64))()
        on_cpu = config.kind != "ort-cuda"
        assert math.isfinite(took.cpu) is (known and on_cpu)
        if math.isfinite(took.cpu):
            assert 0 < took.cpu < 1.1 * took.seconds + 1e-3


BAD_IMAGES = {
    "float64": (images(2).astype(np.float64), "not float64"),
    "no batch": (images(1)[0], r"\[B, 3, 8, 8\] with B >= 1, not \[3, 8, 8\]"),
    "empty": (images(1)[:0], r"not \[0, 3, 8, 8\]"),
    "other size": (np.zeros((2, 3, 9, 8), np.float32), r"not \[2, 3, 9, 8\]"),
    "channels last": (np.zeros((2, 8, 8, 3), np.float32), r"not \[2, 8, 8, 3\]"),
    "a list": ([[1.0]], "not list"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_wrong_images_are_refused(engine, case):
    bad, message = BAD_IMAGES[case]
    for use in (engine, engine.timer):
        with pytest.raises(EngineError, match=message):
            use(bad)


def test_a_closed_engine_says_so(engine):
    engine.close()
    for use in (engine, engine.timer):
        with pytest.raises(EngineError, match="was closed"):
            use(images(1))


@pytest.mark.parametrize("payload", [b"", b"junk", b"junk" * 100], ids=["empty", "junk", "long junk"])
def test_bytes_that_are_no_model_are_refused(row, payload):
    config, _ = row
    with pytest.raises(EngineError, match=f"{config.name}: .* refuses the file"):
        backend(config.kind).load(payload, config)


def test_the_build_is_bound_to_the_checked_file(row):
    config, _ = row
    artifact = exported("residual", config.precision)
    built = backend(config.kind).build(artifact, config, batch=4)
    assert (built.payload, built.sha256, built.suffix) == (artifact.payload, artifact.sha256, ".onnx")
    assert built.facts["bytes"] == len(built.payload)
    assert built.facts["build_seconds"] > 0
    other = exported("residual", "fp16" if config.precision == "fp32" else "fp32")
    with pytest.raises(EngineError, match="ONNX file of precision"):
        backend(config.kind).build(other, config, batch=4)


def test_names_and_facts_say_how_it_runs(engine, row):
    config, _ = row
    assert engine.name == config.name
    assert "preallocated" in engine.timing
    if config.kind == "ort-cpu":
        assert {"intra_op_threads": 1, "inter_op_threads": 1, "spinning": False}.items() <= engine.facts.items()
    if config.kind == "openvino-cpu":
        assert (engine.facts["threads"], engine.facts["streams"]) == (1, 1)
        assert engine.facts["arithmetic"] == "f32" or config.precision == "fp16"


def test_the_facts_of_a_session_are_its_own_words():
    """Whatever was asked for: another version, or another default, is not to be hidden behind what madx meant."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 3, 2
    options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    payload = exported("residual").payload
    session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
    assert ort._facts(session) == {
        "provider": "CPUExecutionProvider",
        "intra_op_threads": 3,
        "inter_op_threads": 2,
        "spinning": True,
        "execution": "parallel",
        "graph_optimisation": "basic",
    }
    engine = backend("ort-cpu").load(payload, EngineConfig(kind="ort-cpu", threads=2))
    assert engine.facts == ort._facts(engine._session) | {"onnxruntime": onnxruntime.__version__}
    assert (engine.facts["spinning"], engine.facts["graph_optimisation"]) == (False, "all")


@pytest.mark.parametrize("kind", ["ort-cpu", "openvino-cpu"])
def test_no_runtime_starts_its_telemetry(kind, tmp_path):
    """Its threads would run beside what is timed, and its files want a home."""
    if not backend(kind).availability().can_run:
        pytest.skip(f"{kind} does not run here")
    code = f"""
import sys
from madx.deploy.engine import backend
assert backend({kind!r}).availability().can_run
print(*[name for name in sys.modules if "telemetry" in name and sys.modules[name] is not None])
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert [name for name in child.stdout.split() if name.startswith("openvino_telemetry")] == []
    assert list(tmp_path.rglob("*")) == []
