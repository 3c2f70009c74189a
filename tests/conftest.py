"""What several rooms' tests share: a tiny recipe on an offline data set, and the command line called in-process."""

import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

for pool in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(pool, "1")  # before torch and numpy look: tests run side by side, one thread each

from hypothesis import HealthCheck, settings  # noqa: E402

from madx.cli import main  # noqa: E402
from madx.data.places import candidates  # noqa: E402

ROOT = Path(__file__).parent.parent

# How long an example takes says what else the machine is doing.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

TINY = """
name: tiny
threads: 1
data: {name: digits, selection: 100}
model: {name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}
threat: {eps: 0.1}
train: {epochs: 3, batch_size: 64, evaluations: 2, selection_images: 100, average: 0.9, augment: none,
        attack: {steps: 2}, selection_attack: {steps: 2}, precision: fp32}
prune:
  criterion: mad-paper
  batches: 2
  batch_size: 64
  round_to: 8
  attack: {steps: 2}
  recalibration_batches: 2
  recalibration_rounds: 1
  learning: {precision: fp32}
  finetune: {epochs: 2, batch_size: 64, evaluations: 2, selection_images: 100, average: 0.9, augment: none,
             attack: {steps: 2}, selection_attack: {steps: 2}, precision: fp32}
export: {parity_images: 32}
verify:
  attack: {steps: 3}
  images: 120
  chunk: 50
  latency: {seconds: 1, pairs: 30, block_calls: 5}
"""


@dataclass(frozen=True)
class Answer:
    """What one call of the command line came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Answer]


def pytest_collection_finish() -> None:
    """Each timed measurement collects garbage first: what all imports made, torch's above all, is none, and is many."""
    gc.collect()
    gc.freeze()


def call_in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`madx ARGUMENTS` in this process; a traceback instead of an exit code fails the test."""

    def call(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["madx", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Answer(int(ended.value.code or 0), printed.out, printed.err)

    return call


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Call `madx ARGUMENTS` in this process, on a clock that the test owns, and spared what `quick_runs` says."""
    from quick_runs import quick_runs

    with quick_runs():
        yield call_in_process(monkeypatch, capsys)


@pytest.fixture
def timed_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """The same with the engines' real timers, for slow tests: a busy machine may make gates on latency INCONCLUSIVE."""
    return call_in_process(monkeypatch, capsys)


@pytest.fixture
def tiny_recipe(tmp_path: Path) -> Path:
    """The tiny recipe as a file."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's tests find the dense network that the first of them trains."""
    return tmp_path_factory.mktemp("trained")


@pytest.fixture
def folder(trained: Path, tmp_path: Path, cli: Cli) -> Path:
    """A recipe and a run whose dense network is ready."""
    if not (trained / "run").exists():
        (trained / "tiny.yaml").write_text(TINY)
        assert cli("train", trained / "tiny.yaml", "--run-dir", trained / "run", "--set", "train.epochs=1").code == 0
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe and a run that has engines and no verdict; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("released")
    (folder / "tiny.yaml").write_text(TINY)
    from quick_runs import quick_runs

    for command in ("train", "prune", "export"):
        with quick_runs(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["madx", command, str(folder / "tiny.yaml"), "--run-dir", str(folder / "run")])
            with pytest.raises(SystemExit) as ended:
                main()
        assert ended.value.code == 0
    return folder


@pytest.fixture
def from_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are looked for from there; `make data` puts them there."""
    monkeypatch.chdir(ROOT)
    assert any(place.is_dir() for place in candidates("fashion-mnist")), "Fashion-MNIST is missing: make data"


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """(run directory, the finished process) of `madx run recipes/fashion-mnist.yaml`."""
    run = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "-m", "madx", "run", "recipes/fashion-mnist.yaml", "--run-dir", str(run)]
    return run, subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)
