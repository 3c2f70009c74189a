"""`madx verify --only latency`: what it keeps, what it counts, and what it refuses without touching anything."""

import html
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Answer, Cli
from quick_runs import quick_runs

from madx.artifacts import sha256_file, write_json
from madx.cli import main
from madx.pipeline import timing
from madx.pipeline.keys import beside_timings
from madx.rundir import RunDirectory

MEASURED = "run/measurements/ort-cpu-fp32.npz"


@pytest.fixture(scope="module")
def finished(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny recipe and its finished run."""
    folder = Path(shutil.copytree(released, tmp_path_factory.mktemp("finished") / "copy"))
    with quick_runs(seed=1), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["madx", "run", str(folder / "tiny.yaml"), "--run-dir", str(folder / "run")])
        with pytest.raises(SystemExit) as ended:
            main()
    assert ended.value.code in (0, 1, 3)
    return folder


@pytest.fixture
def workspace(finished: Path, tmp_path: Path) -> Path:
    """A private copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def time_again(cli: Cli, folder: Path, *options: object) -> Answer:
    return cli("verify", folder / "tiny.yaml", "--run-dir", folder / "run", "--only", "latency", *options)


def verdict(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run/verdict.json").read_text())
    return content


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / MEASURED) as content:
        return {name: content[name] for name in content.files}


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in folder.rglob("*")
        if path.is_file() and path.name != "lock"
    }


def test_times_are_new_and_nothing_else_is(workspace: Path, cli: Cli) -> None:
    before, first = arrays(workspace), verdict(workspace)
    answer = time_again(cli, workspace, "--set", "verify.latency.pairs=35")
    assert answer.code in (1, 3), answer.err
    assert "attacking" not in answer.err
    now, second = arrays(workspace), verdict(workspace)
    assert len(now["latency.order"]) >= 35
    assert not np.array_equal(before["latency.reference"], now["latency.reference"])
    kept = [name for name in before if not name.startswith(("latency.", "ladder."))]
    assert {name.partition(".")[0] for name in kept} >= {"accuracy", "parity", "soundness", "curve", "rest"}
    assert all(np.array_equal(before[name], now[name]) for name in kept)
    engines = [first["provenance"]["engines"], second["provenance"]["engines"]]
    assert engines[0] == engines[1]
    [drop] = [[gate for gate in each["gates"] if gate["metric"] == "robust_drop"] for each in (second,)]
    assert drop == [gate for gate in first["gates"] if gate["metric"] == "robust_drop"]
    assert cli("inspect", workspace / "run").code == 0


def test_the_headline_is_for_who_typed_the_command_and_files_are_for_all(
    finished: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = cli("verify", finished / "tiny.yaml", "--run-dir", finished / "run", "--json")
    headline = json.loads(answer.out)["headline"]
    assert headline.keys() == {"gate", "engine", "sentence", "remedy", "command"}
    typed = ["madx", "run", str(finished / "tiny.yaml"), "--run-dir", str(finished / "run")]
    assert shlex.split(headline["command"])[:5] in (typed, [typed[0], "verify", *typed[2:]])
    told = cli("verify", finished / "tiny.yaml", "--run-dir", finished / "run").out
    assert f"next:    {headline['command']}" in told
    for name in ("verdict.json", "report.html", "report.md", "junit.xml"):
        assert str(finished) not in (finished / "run" / name).read_text(), "a file that is passed on names a folder"
    portable = f"tiny.yaml --run-dir run{headline['command'].partition(typed[4])[2]}"
    for name in ("report.md", "junit.xml"):
        assert portable in html.unescape((finished / "run" / name).read_text())
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    told = cli("verify", finished / "tiny.yaml", "--run-dir", finished / "run").out
    assert "tiny.yaml --run-dir run" in next(line for line in told.splitlines() if line.startswith("::notice"))


def test_every_timing_is_counted_told_and_dated(workspace: Path, cli: Cli) -> None:
    first = verdict(workspace)
    times = [first["provenance"]["measured_at"]["ort-cpu-fp32"]]
    assert times[0]["latency"] == times[0]["rest"]
    for count in (1, 2):
        said = time_again(cli, workspace)
        provenance = verdict(workspace)["provenance"]
        assert (provenance["attempt"], provenance["timed_again"]) == (1, count)
        times.append(provenance["measured_at"]["ort-cpu-fp32"])
        earlier = provenance["earlier_timings"]
        assert [entry["timed"] for entry in earlier] == [time["latency"] for time in times[:-1]]
        assert {entry["metric"] for entry in earlier} == {"speedup"}
        assert f"of {count + 1} timings this is the last" in said.out
        assert said.out.count("(20") == count, "each earlier timing is told with its date"
    assert earlier[0]["estimate"] == first["gates"][0]["estimate"]
    assert {time["rest"] for time in times} == {times[0]["rest"]}
    assert times[2]["latency"] > times[0]["latency"]
    gates = ("--set", "verify.gates=[{metric: speedup, at_least: 1.4}]")
    cli("verify", workspace / "tiny.yaml", "--run-dir", workspace / "run", *gates)
    provenance = verdict(workspace)["provenance"]
    assert provenance["timed_again"] == 2, "judging again takes no count back"
    assert provenance["earlier_timings"] == earlier
    assert provenance["measured_at"]["ort-cpu-fp32"] == times[-1]


def test_gates_may_change_with_the_timings_and_that_is_counted_too(workspace: Path, cli: Cli) -> None:
    gates = "verify.gates=[{metric: p99_ratio, at_most: 5}, {metric: robust_drop, at_most: 0.9}]"
    answer = time_again(cli, workspace, "--set", gates)
    assert answer.code in (0, 1, 3), answer.err
    provenance = verdict(workspace)["provenance"]
    assert (provenance["attempt"], provenance["timed_again"], provenance["gates_changed"]) == (1, 1, 1)
    assert [gate["metric"] for gate in verdict(workspace)["gates"]] == ["p99_ratio", "robust_drop"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--set", "verify.images=60"), "changed: verify.images;"),
        (("--set", "verify.attack=quick"), "changed: verify.attack"),
        (("--set", "verify.latency.batch=2"), "verify.latency.batch"),
        (("--set", "verify.sequential=true"), "verify.sequential"),
        (("--set", "verify.gates=[{metric: robust_drop, at_most: 0.9, query_only: true}]"), "verify.gates"),
        (("--set", "threat.eps=0.2"), "changed: threat.eps"),
        (("--set", "prune.sparsity=0.3"), "the stage prune comes first"),
        (("--again",), "--again"),
        (("--shard", "1/2"), "--shard"),
        (("--merge", "elsewhere"), "--merge"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_touched(
    workspace: Path, cli: Cli, options: tuple[str, ...], words: str
) -> None:
    before = hashes(workspace)
    answer = time_again(cli, workspace, *options)
    assert answer.code == 2
    assert words in " ".join(answer.err.split())
    assert hashes(workspace) == before


def test_an_unknown_part_is_wrong_use(workspace: Path, cli: Cli) -> None:
    answer = cli("verify", workspace / "tiny.yaml", "--only", "accuracy")
    assert (answer.code, "latency" in answer.err) == (2, True)


def test_without_a_verdict_there_is_nothing_to_keep(workspace: Path, cli: Cli) -> None:
    assert cli("train", workspace / "tiny.yaml", "--run-dir", workspace / "new", "--set", "train.epochs=1").code == 0
    answer = cli("verify", workspace / "tiny.yaml", "--run-dir", workspace / "new", "--only", "latency")
    assert (answer.code, "holds no verdict" in " ".join(answer.err.split())) == (2, True)


def test_measurements_that_were_changed_are_not_kept(workspace: Path, cli: Cli) -> None:
    (workspace / MEASURED).write_bytes((workspace / MEASURED).read_bytes() + b"more")
    assert time_again(cli, workspace).code == 2


def test_other_engines_than_those_that_were_measured_are_not_timed(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest's hashes hold it already; this is the second lock."""
    real = timing.compared

    def swapped(*given: Any) -> Any:
        reference, candidate = real(*given)
        return candidate, reference

    monkeypatch.setattr(timing, "compared", swapped)
    before = hashes(workspace)
    answer = time_again(cli, workspace)
    assert (answer.code, "SHA-256 differ" in " ".join(answer.err.split())) == (2, True)
    assert hashes(workspace) == before


def test_nothing_that_was_timed_can_be_read_before_it_is_counted(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, keep = sha256_file(workspace / MEASURED), RunDirectory.keep_attempts

    def stop(*given: Any) -> None:
        keep(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "keep_attempts", stop)
    assert time_again(cli, workspace).code == 130
    monkeypatch.undo()
    assert sha256_file(workspace / MEASURED) == before
    [kept] = json.loads((workspace / "run/manifest.json").read_text())["attempts"].values()
    assert (kept["attempt"], kept["timed_again"]) == (1, 1)


def test_a_kill_between_the_files_loses_neither_attacks_nor_counts(
    workspace: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New timings beside an old verdict: nobody takes that verdict for theirs, and the attacks are still there."""
    before = arrays(workspace)

    def stop(path: Path, content: Any) -> None:
        if path.name == "verdict.json":  # it is written after the measurements
            raise KeyboardInterrupt
        write_json(path, content)

    monkeypatch.setattr("madx.pipeline.context.write_json", stop)
    assert time_again(cli, workspace).code == 130
    monkeypatch.undo()
    assert not np.array_equal(before["latency.reference"], arrays(workspace)["latency.reference"])
    shown = cli("report", workspace / "tiny.yaml", "--run-dir", workspace / "run", "--exit-code")
    assert shown.code == 2, "the old verdict is not shown beside new measurements"
    answer = time_again(cli, workspace, "--set", "verify.latency.pairs=31")
    assert answer.code in (1, 3), answer.err
    assert verdict(workspace)["provenance"]["timed_again"] == 2
    np.testing.assert_array_equal(arrays(workspace)["accuracy.attacked"], before["accuracy.attacked"])
    assert not (workspace / "run/.madx/checkpoints").exists()


def test_files_from_outside_are_given_again(finished: Path, workspace: Path, cli: Cli) -> None:
    baseline = ("--baseline", finished / "run")
    told = cli("verify", workspace / "tiny.yaml", "--run-dir", workspace / "run", *baseline)
    assert told.code in (0, 1, 3), told.err
    before = hashes(workspace)
    other = shutil.copytree(finished / "run", workspace.parent / "other")
    (other / "engines").rename(other / "moved")
    for options in ((), ("--baseline", finished / "run/dense-fp32.onnx"), ("--baseline", other)):
        assert time_again(cli, workspace, *options).code == 2
        assert hashes(workspace) == before
    answer = time_again(cli, workspace, *baseline)
    assert answer.code in (0, 1, 3), answer.err
    assert verdict(workspace)["provenance"]["timed_again"] == 1
    assert f"--baseline {finished / 'run'}" in answer.out.partition("next:")[2]


def depends(latency: dict[str, Any], *metrics: str, sequential: bool = False) -> dict[str, Any]:
    gates = [{"metric": metric} for metric in metrics]
    return {"verify": {"latency": {"batch": 1} | latency, "gates": gates, "sequential": sequential}, "seed": 0}


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (depends({"pairs": 60}), depends({"pairs": 90}), True),
        (depends({}), depends({"batch": 2}), False),
        (depends({}, "speedup"), depends({}, "p99_ratio"), True),
        (depends({}, "speedup", sequential=True), depends({"pairs": 90}, "speedup", sequential=True), True),
        (depends({}, "speedup", sequential=True), depends({}, "p99_ratio", sequential=True), False),
    ],
    ids=["pairs", "batch", "gates", "sequential", "gates that end the measuring"],
)
def test_what_may_change_beside_the_timings(before: dict[str, Any], now: dict[str, Any], same: bool) -> None:
    assert (beside_timings(before) == beside_timings(now)) is same
