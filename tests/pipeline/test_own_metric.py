"""A package's metric that fails while it judges loses nothing, and one that is edited until it pleases is counted."""

import json
import shutil
import sys
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from conftest import Answer, Cli

from madx import tables
from madx.pipeline import files
from madx.recipe import METRICS, EngineConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

OUTSIDE = """
from own_judge import find
from madx.recipe import Metric

ROW = Metric("at_least", "share", "gate images", title="t", meaning="m", at_best="b", compares=False,
             on_robustness=False, find=find)
"""
JUDGE = """
from madx.verify.image_findings import share_finding


def find(accuracy, gate, sequential):
    return share_finding({right}, gate, word="right", sequential=sequential)
"""
WHOLE = JUDGE.format(right="accuracy.clean_candidate")
FAILS = JUDGE.format(right="accuracy.clean_candidate[:: 1 // int(accuracy.robust_candidate.all())]")
"""Not on the best data that there could be, which is tried before anything is measured."""
PLEASES = JUDGE.format(right="accuracy.clean_candidate | True")
GATE = "verify.gates=[{metric: own, at_least: 0.999}]"
MEASURED = files.measurements(EngineConfig())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A row of one package whose code is another's; call it with that code."""
    site = tmp_path / "site"
    (site / "extra-1.0.dist-info").mkdir(parents=True)
    (site / "extra-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (site / "extra-1.0.dist-info/entry_points.txt").write_text("[madx.metrics]\nown = own_row:ROW\n")
    monkeypatch.syspath_prepend(site)

    def install(judge: str) -> None:
        (site / "own_row.py").write_text(OUTSIDE)
        shutil.rmtree(site / "own_judge", ignore_errors=True)  # with what was compiled: files' times are coarse
        (site / "own_judge").mkdir()
        (site / "own_judge/__init__.py").write_text(judge)
        for name in ("own_row", "own_judge"):
            sys.modules.pop(name, None)
        tables.installed.cache_clear()

    yield install
    monkeypatch.undo()
    for name in ("own_row", "own_judge"):
        sys.modules.pop(name, None)
    tables.installed.cache_clear()


@pytest.fixture
def out(released: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    return folder / "out"


def verify(cli: Cli, out: Path, *options: str) -> Answer:
    engines = out.parent / "run/engines/ort-cpu-fp32"
    given = ("--engine", engines / "pruned.onnx", "--reference", engines / "dense.onnx")
    settings = ("--set", "verify.attack=quick", "--set", "verify.images=40", "--set", GATE, "--force")
    return cli("verify", out.parent / "tiny.yaml", "--out", out, *given, *settings, *options)


def counts(out: Path) -> tuple[int, int]:
    [kept] = json.loads((out / "manifest.json").read_text())["attempts"].values()
    return kept["attempt"], kept["gates_changed"]


def test_an_error_of_a_metric_loses_nothing_and_its_edits_are_counted(package, out: Path, cli: Cli) -> None:
    package(FAILS)
    answer = verify(cli, out)
    assert (answer.code, "'own' of madx.metrics" in answer.err) == (2, True), answer.err
    assert counts(out) == (1, 0), "whoever mends the package has seen that there is something to judge"
    assert not (out / "verdict.json").exists()
    assert not (out / MEASURED).exists()
    [pending] = (out / ".madx/checkpoints").rglob("measured/*.npz")
    measured = pending.read_bytes()

    package(WHOLE)
    answer = verify(cli, out)
    assert answer.code in (1, 3), answer.err
    assert ("and nothing is measured" in answer.err, "attacking" in answer.err) == (True, False)
    assert (counts(out), (out / MEASURED).read_bytes()) == ((1, 1), measured)
    assert not (out / ".madx/checkpoints").exists()
    provenance = json.loads((out / "verdict.json").read_text())["provenance"]
    assert provenance["measured_at"].keys() == {"ort-cpu-fp32"}

    package(PLEASES)
    answer = verify(cli, out)
    assert counts(out) == (1, 2), "the same bound, and another measure"
    warnings = json.loads((out / "verdict.json").read_text())["warnings"]
    assert any("gates were changed 2 times" in warning for warning in warnings)


def test_an_earlier_verdict_is_no_way_back_from_what_could_not_be_judged(package, out: Path, cli: Cli) -> None:
    """Measured again, with a gate that fails to judge; then the old recipe: its old verdict is not the last word."""
    plain = ("--set", "verify.gates=[{metric: clean_accuracy, at_least: 0.2}]")
    assert verify(cli, out, *plain).code == 0
    package(FAILS)
    sleep(1.1)  # records tell the second
    assert verify(cli, out, "--again").code == 2
    assert counts(out)[0] == 2
    answer = verify(cli, out, *plain)
    assert "measured again since, and not judged yet" in answer.err
    assert "and nothing is measured" in answer.err
    assert counts(out)[0] == 2
    assert any("measured 2 times" in one for one in json.loads((out / "verdict.json").read_text())["warnings"])
    assert "verify: up to date" in verify(cli, out, *plain).err


def test_what_was_not_judged_is_measured_again_where_somebody_changed_it(package, out: Path, cli: Cli) -> None:
    package(FAILS)
    assert verify(cli, out).code == 2
    [pending] = (out / ".madx/checkpoints").rglob("measured/*.npz")
    arrays = dict(np.load(pending))
    np.savez(pending, **{name: np.ones_like(value) if value.dtype == bool else value for name, value in arrays.items()})
    package(WHOLE)
    assert "and nothing is measured" not in verify(cli, out).err
    assert counts(out) == (2, 1)


@pytest.mark.usefixtures("package")
def test_the_code_behind_a_row_is_part_of_the_key_wherever_it_lies(package) -> None:
    package(WHOLE)
    before = METRICS.code("own")
    package(PLEASES)
    assert before != METRICS.code("own")
