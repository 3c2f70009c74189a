"""Files of a run that somebody edited and vouched for anew in the manifest: one clear message, and no traceback."""

import json
import shutil
from pathlib import Path

import pytest

from madx.artifacts import sha256_file

DAMAGES = {
    "no text": lambda text: text.replace(b'"', b"\xff", 1),
    "cut off": lambda text: text[: len(text) // 2],
    "not a number": lambda _: b'{"schema": NaN}',
    "a list": lambda _: b"[]",
    "nothing in it": lambda _: b"{}",
    "null": lambda _: b"null",
    "a number": lambda _: b"17",
}
FILES = ("verdict.json", "engines/ort-cpu-fp32/build.json", "coverage.json", "saliency.json", "parity.json")


@pytest.fixture(scope="module")
def verified(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(released, tmp_path_factory.mktemp("verified") / "run"))


@pytest.fixture
def workspace(verified: Path, tmp_path: Path, cli) -> Path:
    if not (verified / "run/verdict.json").exists():
        assert cli("verify", verified / "tiny.yaml", "--run-dir", verified / "run").code in (0, 1, 3)
    return Path(shutil.copytree(verified, tmp_path / "copy"))


def vouched(run: Path, name: str, content: bytes) -> None:
    """Write it, and let the manifest say that this is what its stage wrote."""
    before = sha256_file(run / name)
    (run / name).write_bytes(content)
    manifest = (run / "manifest.json").read_text()
    assert before in manifest
    (run / "manifest.json").write_text(manifest.replace(before, sha256_file(run / name)))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_whatever_a_vouched_file_holds_nothing_crashes(workspace: Path, cli, name: str, damage: str) -> None:
    run = workspace / "run"
    vouched(run, name, DAMAGES[damage]((run / name).read_bytes()))
    for command in (
        ["report", workspace / "tiny.yaml", "--run-dir", run],
        ["inspect", run],
        ["inspect", run, "--json"],
    ):
        answer = cli(*command)
        assert answer.code in (0, 1, 2, 3), (command, answer.err[-2000:])
        assert "Traceback" not in answer.err
        if answer.code == 2:
            assert len(answer.err.strip().splitlines()) < 6, answer.err
    if name == "verdict.json":
        assert cli("report", workspace / "tiny.yaml", "--run-dir", run).code == 2


def test_the_undamaged_run_is_reported(workspace: Path, cli) -> None:
    assert cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "run").code in (0, 1, 3)
    assert json.loads((workspace / "run/verdict.json").read_text())["gates"]
