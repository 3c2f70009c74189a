"""The command line under torchrun: what two processes write, how they fail, and what becomes of the exit code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, Cli
from process_cases import torchrun

from madx.artifacts import sha256_file
from madx.cli import main
from madx.rundir import LOCK

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")]

PROMISED = "export.engines=[{kind: ort-cpu}, {kind: ort-cuda}]"
"""The second engine is missing here, so the verdict is INCONCLUSIVE."""
SETTINGS = (
    *("--set", PROMISED, "--set", "verify.gates=[{metric: clean_drop, at_most: 0.99}]"),
    *("--set", "prune.finetune=null", "--set", "prune.recalibration_batches=3"),
    *("--set", "prune.batches=auto", "--set", "prune.settled=0.3", "--set", "prune.max_batches=7"),
    *("--set", "prune.criterion=mad", "--set", "prune.learning.steps=3"),
    *("--set", "train.epochs=1", "--set", "verify.latency.seconds=0.5"),
)
SAME = (
    *("dense/model.safetensors", "saliency.safetensors", "saliency.json", "masks.safetensors", "coverage.json"),
    *("pruned/model.safetensors", "pruned/finetuning.json", "pruned-fp32.onnx", "parity.json"),
)


REDONE = ("saliency.safetensors", "measurements/ort-cpu-fp32.npz")
"""Without these files, the prune stage and the verification are done again, and the ONNX files stay as they are."""


def alone(*words: object) -> int:
    """`madx WORDS` in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["madx", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def accuracies(run_dir: Path) -> dict[str, Any]:
    """Everything of the measurements that is not a time."""
    with np.load(run_dir / "measurements/ort-cpu-fp32.npz") as content:
        return {name: content[name].tolist() for name in content.files if not name.startswith("latency")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, in "one" by one process, in "two" by two, whose words are in "output.json"."""
    place = tmp_path_factory.mktemp("torchrun")
    recipe = place / "tiny.yaml"
    recipe.write_text(TINY)
    assert alone("run", recipe, "--run-dir", place / "one", *SETTINGS) == 3
    shutil.copytree(place / "one", place / "two")
    for name in REDONE:
        (place / "two" / name).unlink()
    finished = torchrun("run", recipe, "--run-dir", place / "two", *SETTINGS, "--json")
    words = {"code": finished.returncode, "out": finished.stdout, "err": finished.stderr}
    (place / "output.json").write_text(json.dumps(words))
    return place


def test_two_processes_write_what_one_writes(folder: Path) -> None:
    for name in SAME:
        assert sha256_file(folder / "two" / name) == sha256_file(folder / "one" / name), name
    assert accuracies(folder / "two") == accuracies(folder / "one")
    stages = json.loads((folder / "two/manifest.json").read_text())["stages"]
    processes = {name: record["processes"] for name, record in stages.items()}
    assert processes == {"train": 1, "prune": 2, "export": 1, "verify": 2, "report": 1}


def test_one_process_speaks_and_torchruns_own_words_come_with_the_verdict(folder: Path) -> None:
    output = json.loads((folder / "output.json").read_text())
    assert json.loads(output["out"])["outcome"] == "INCONCLUSIVE"
    for words in ("train: up to date", "prune: running", "export: up to date", "verify: running"):
        assert output["err"].count(words) == 1, words
    assert output["code"] == 1, "what torchrun ends with if a process of it does not end with 0"
    assert "madx: exit code 3; torchrun itself ends with 1 for every code but 0" in output["err"]
    assert "traceback : madx: exit code 3 (inconclusive); nothing crashed" in output["err"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--exit-code"], 3),
        ([], 0),
        # A verdict of another recipe is no verdict, whatever it was.
        (["--exit-code", "--set", "verify.images=60"], 2),
        (["--set", "verify.images=60"], 0),
    ],
)
def test_the_verdicts_exit_code_can_be_asked_for(
    folder: Path, tmp_path: Path, cli: Cli, words: list[str], code: int
) -> None:
    shutil.copytree(folder / "two", tmp_path / "two")
    answer = cli("report", folder / "tiny.yaml", "--run-dir", tmp_path / "two", *SETTINGS, *words)
    assert answer.code == code, answer.err
    assert ("report.html" in answer.out) == (code != 2)


def test_a_job_fails_with_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    finished = torchrun("train", "tiny.yaml", "--run-dir", "run", "--set", "train.batch_size=63", cwd=tmp_path)
    assert finished.returncode == 1
    said = [line for line in finished.stderr.splitlines() if line.startswith("madx:")]
    assert len(said) == 1, finished.stderr
    assert "a batch of 63 images cannot be shared evenly by 2 processes" in said[0]
    assert "exitcode  : 2 " in finished.stderr
    assert not (tmp_path / "run").exists()


BREAKS = """
import os
import numpy as np

def data():
    if os.environ["RANK"] == "1" and "{mode}" == "unreadable":
        raise OSError("the disk of the second node is gone")
    seed = int(os.environ["RANK"]) if "{mode}" == "other images" else 0
    images, labels = np.random.default_rng(seed).random((600, 1, 8, 8), dtype=np.float32), np.arange(600) % 3
    return {{"train": (images[200:], labels[200:]), "test": (images[:200], labels[:200])}}
"""


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("unreadable", "process 1 of 2 on "),
        ("other images", "processes 0 and 1 do not agree on images.gate, images.selection, images.train"),
    ],
)
def test_what_is_wrong_in_one_process_ends_all_of_them_at_once(tmp_path: Path, mode: str, message: str) -> None:
    (tmp_path / "of_this_job.py").write_text(BREAKS.format(mode=mode))
    (tmp_path / "own.yaml").write_text(TINY.replace("{name: digits,", "{name: factory, factory: 'of_this_job:data',"))
    finished = torchrun("train", "own.yaml", "--run-dir", "run", cwd=tmp_path)
    said = [line for line in finished.stderr.splitlines() if line.startswith("madx:")]
    assert len(said) == 1, finished.stderr
    assert message in said[0]


def test_one_process_finishes_what_two_were_killed_at(folder: Path, tmp_path: Path) -> None:
    """The chunks of the verification that a killed job has finished are taken over, and the rest is the same."""
    small = ("--set", "verify.chunk=10")
    runs = {name: shutil.copytree(folder / "one", tmp_path / name) for name in ("whole", "killed")}
    recipe = folder / "tiny.yaml"
    assert alone("run", recipe, "--run-dir", runs["whole"], *SETTINGS, *small) == 3
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "madx"]
    words = ["run", str(recipe), "--run-dir", str(runs["killed"]), *SETTINGS, *small]
    with (tmp_path / "log").open("w") as log:
        job = subprocess.Popen([*command, *words], stdout=log, stderr=log)
        deadline = time.monotonic() + 100
        while len(list(runs["killed"].rglob("*-000*.npz"))) < 2 and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(int((runs["killed"] / LOCK).read_text()), signal.SIGKILL)  # process 0; torchrun ends the other
        job.wait()
    assert list(runs["killed"].rglob("*-000*.npz")), (tmp_path / "log").read_text()
    assert alone("run", recipe, "--run-dir", runs["killed"], *SETTINGS, *small) == 3
    assert accuracies(runs["killed"]) == accuracies(runs["whole"])


def test_a_job_may_measure_a_shard(folder: Path, tmp_path: Path) -> None:
    small = ("--set", "verify.chunk=10")
    runs = {name: shutil.copytree(folder / "one", tmp_path / name) for name in ("whole", "shard", "merged")}
    recipe = folder / "tiny.yaml"
    told = torchrun("verify", recipe, "--run-dir", runs["shard"], *SETTINGS, *small, "--shard", "1/2")
    assert "no verdict: this is shard 1 of 2" in told.stdout, told.stderr
    assert "exit code 3" in told.stderr
    assert len(list(runs["shard"].rglob("*-000*.npz"))) >= 2
    assert alone("verify", recipe, "--run-dir", runs["whole"], *SETTINGS, *small) == 3
    merge = ("--merge", runs["shard"])
    assert alone("verify", recipe, "--run-dir", runs["merged"], *SETTINGS, *small, *merge) == 3
    assert accuracies(runs["merged"]) == accuracies(runs["whole"])
