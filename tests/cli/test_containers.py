"""A user id without an account and without a home, as containers give: no command may need either."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import madx

NO_ACCOUNT = """
import pwd

def nobody(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")

pwd.getpwuid = nobody
"""
"""Python's own start imports a module of that name, in children too."""
HOMES = {"none": {}, "not there": {"HOME": "/no/such/home"}, "no folder": {"HOME": "/dev/null"}}


@pytest.fixture(params=["none"])
def homeless(request: pytest.FixtureRequest, tmp_path: Path):
    """`madx ARGUMENTS` in a child without an account, in an environment that holds nothing else than it must."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_ACCOUNT)
    kept = {name: os.environ[name] for name in ("PATH", "MADX_DATA", "OMP_NUM_THREADS") if name in os.environ}
    path = os.pathsep.join([str(tmp_path / "site"), str(Path(madx.__file__).parents[1])])

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "madx", *map(str, arguments)],
            env=kept | HOMES[request.param] | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


@pytest.mark.parametrize(
    "homeless", ["none", *(pytest.param(home, marks=pytest.mark.slow) for home in list(HOMES)[1:])], indirect=True
)
def test_doctor_needs_no_home(homeless) -> None:
    done = homeless("doctor", "--json")
    assert (done.returncode, done.stderr) == (0, ""), "libraries complain of the missing home"
    found = json.loads(done.stdout)["engines"]
    assert all("home" not in engine["reason"].lower() for engine in found.values())
    assert found["ort-cpu"]["can_run"] is True


@pytest.mark.slow
def test_from_the_export_to_the_report_no_home_is_needed(homeless, released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "copy"))
    found = json.loads(homeless("doctor", "--json").stdout)["engines"]
    here = [kind for kind, engine in found.items() if engine["can_run"]]
    engines = ", ".join(f"{{kind: {kind}}}" for kind in here)
    settings = (f"export.engines=[{engines}]", "verify.images=20", "verify.gates=[{metric: clean_drop, at_most: 0.9}]")
    words = [word for setting in settings for word in ("--set", setting)]
    done = homeless("run", folder / "tiny.yaml", "--run-dir", folder / "run", *words)
    assert done.returncode in (0, 1, 3), done.stderr
    assert (folder / "run/report.html").stat().st_size > 10_000
    assert not [word for word in ("matplotlib", "telemetry", "HOME") if word in done.stderr], done.stderr


def test_a_folder_in_nobody_s_home_is_one_clear_message(homeless, tmp_path: Path) -> None:
    (tmp_path / "weights.yaml").write_text("data: {name: digits}\nmodel: {weights: ~nobody-at-all/net.pt}\n")
    done = homeless("run", tmp_path / "weights.yaml", "--run-dir", tmp_path / "run")
    assert (done.returncode, "~nobody-at-all" in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize("command", ["doctor", "train"])
def test_data_in_nobody_s_home_is_one_clear_message(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("MADX_DATA", "~nobody-at-all/data")
    (tmp_path / "r.yaml").write_text("train: {epochs: 1}\n")
    answer = cli(command, *([tmp_path / "r.yaml", "--run-dir", tmp_path / "run"] if command == "train" else []))
    assert (answer.code, "MADX_DATA is '~nobody-at-all/data'" in " ".join(answer.err.split())) == (2, True), answer.err
