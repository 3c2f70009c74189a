"""A run that is killed with SIGKILL, again and again, continues and ends with what an undisturbed run ends with."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from madx.artifacts import sha256_file

SAME = ("dense/model.safetensors", "saliency.safetensors", "masks.safetensors", "pruned/model.safetensors")
"""Files whose bytes may not depend on kills."""


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "madx", "run", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ.copy())


def wait_for(condition, process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


def verdict_inputs(folder: Path) -> dict[str, object]:
    """Everything the verdict is made from that is not a time."""
    with np.load(folder / "run/measurements/ort-cpu-fp32.npz") as content:
        accuracy = {name: content[name].tolist() for name in content.files if not name.startswith("latency")}
    return accuracy | {name: sha256_file(folder / "run" / name) for name in SAME}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "tiny.yaml").write_text(TINY)
    assert start(folder).wait() in (0, 1, 3)
    return verdict_inputs(folder)


@pytest.mark.slow
def test_killed_at_every_milestone_and_in_between(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    run_dir = tmp_path / "run"
    milestones = [
        "training.pt",
        "dense/model.safetensors",
        "finetuning.pt",
        "pruned/model.safetensors",
        "dense-fp32.onnx",
        "engines/ort-cpu-fp32/build.json",
        "*.npz",  # the first images of the verification
        "curve-*.pt",
    ]
    killed = 0
    for milestone in milestones:
        process = start(tmp_path)
        wait_for(lambda milestone=milestone: any(run_dir.rglob(milestone)), process)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed >= 5, "hardly any kill hit a running process; the test shows nothing"
    assert start(tmp_path).wait() in (0, 1, 3)
    assert verdict_inputs(tmp_path) == undisturbed
    assert not (run_dir / ".madx/checkpoints").exists()
    assert not list(run_dir.rglob("*.part"))
