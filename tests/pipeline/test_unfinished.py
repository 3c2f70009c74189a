"""Unfinished work: `madx inspect` tells of it, and it goes when its stage is finished, unless it may be merged yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Answer, Cli

from madx.pipeline import attacking
from madx.pipeline.context import RunningStage
from madx.pipeline.unfinished import RECORD, described, remove_earlier, remove_own, unfinished
from madx.rundir import CHECKPOINTS, RunDirectory

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

GATES = "verify.gates=[{metric: clean_accuracy, at_least: 0.01}]"
"""So few images can decide it."""
JUDGED = ("verify.images=20", "verify.chunk=20", GATES)
LONGER = ("verify.images=60", "verify.chunk=20", GATES)
"""Three chunks."""


def verify(cli: Cli, folder: Path, settings: tuple[str, ...], *options: object, run: str = "run") -> Answer:
    chosen = [word for setting in settings for word in ("--set", setting)]
    return cli("verify", folder / "tiny.yaml", "--run-dir", folder / run, "--force", *chosen, *options)


def killed(cli: Cli, folder: Path, settings: tuple[str, ...], *options: object) -> None:
    """A verification that is stopped as soon as its first chunk is on disk."""
    keep = attacking.store_chunk

    def dies(*arguments: Any) -> None:
        keep(*arguments)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacking, "store_chunk", dies)
        assert verify(cli, folder, settings, *options).code == 130


def kept(folder: Path, run: str = "run") -> list[str]:
    return sorted(path.name for path in (folder / run / CHECKPOINTS).rglob("*.npz"))


@pytest.fixture(scope="module")
def judged(released: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a module's tests find the verdict that the first of them reaches."""
    return Path(shutil.copytree(released, tmp_path_factory.mktemp("judged") / "copy"))


@pytest.fixture
def workspace(judged: Path, tmp_path: Path, cli: Cli) -> Path:
    """A private copy of a run that has a verdict, reached some time ago."""
    if not (judged / "run/verdict.json").exists():
        assert verify(cli, judged, JUDGED).code in (0, 1, 3)
        manifest = judged / "run/manifest.json"
        content = json.loads(manifest.read_text())
        content["stages"]["verify"]["finished"] = "2026-01-01T00:00:00Z"
        manifest.write_text(json.dumps(content))
    return Path(shutil.copytree(judged, tmp_path / "copy"))


@pytest.mark.parametrize(
    ("settings", "options", "differs", "said"),
    [
        (LONGER, (), ["verify.images"], "another verification was begun later and is not finished"),
        (JUDGED, ("--again",), [], "the same verification was begun later and is not finished"),
    ],
    ids=["another recipe", "again"],
)
def test_inspect_says_that_the_verdict_is_not_of_the_last_verification(
    settings: tuple[str, ...], options: tuple[str, ...], differs: list[str], said: str, workspace: Path, cli: Cli
) -> None:
    before = cli("inspect", workspace / "run")
    assert "unfinished" not in before.out
    killed(cli, workspace, settings, *options)
    [work] = json.loads(cli("inspect", workspace / "run", "--json").out)["unfinished"]
    facts = {"stage": "verify", "later": True, "differs_in": differs, "chunks": 1, "shards": [], "problem": None}
    assert facts.items() <= work.items()
    told = cli("inspect", workspace / "run").out
    assert "unfinished verify  begun and not finished, last at 20" in told
    assert "; 1 chunk of images" in told
    assert told.index("verdict: ") < told.index(said)
    assert all(f"differs from the finished verify in {name}" in told for name in differs)
    assert verify(cli, workspace, settings, *options).code in (0, 1, 3)
    assert "unfinished" not in cli("inspect", workspace / "run").out


def test_what_another_recipe_began_goes_when_the_stage_is_finished_and_not_before(workspace: Path, cli: Cli) -> None:
    killed(cli, workspace, LONGER)
    assert "verify: up to date" in verify(cli, workspace, JUDGED).err, "nothing was finished"
    killed(cli, workspace, ("verify.images=40", "verify.chunk=20", GATES))
    assert len(kept(workspace)) == 2, "neither is finished"
    answer = verify(cli, workspace, JUDGED, "--again")
    assert "what it had begun for another recipe or other files is removed" in " ".join(answer.err.split())
    assert not (workspace / "run" / CHECKPOINTS).exists()


@pytest.mark.slow
def test_a_shard_stays_until_it_is_merged(workspace: Path, released: Path, cli: Cli) -> None:
    assert verify(cli, workspace, LONGER, "--shard", "2/2").code == 3
    told = cli("inspect", workspace / "run").out
    assert "unfinished verify  shard 2/2, to be merged; last at 20" in told
    assert "shard 2/2 of another verification was begun later" in told
    assert "is removed" not in verify(cli, workspace, JUDGED, "--again").err
    assert kept(workspace) == ["ort-cpu-fp32-00001.npz"]
    shutil.copytree(released / "run", workspace / "whole")
    answer = verify(cli, workspace, LONGER, "--merge", workspace / "run", run="whole")
    assert answer.code in (0, 1, 3), answer.err
    assert "merged 1 chunks of images" in answer.err


NOTES = {"key": "k", "made_of": {}, "merged": [], "shards": []}


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """A run whose verify stage was just recorded, with much that is unfinished beside it."""
    contents: dict[str, dict[str, Any] | None] = {
        "verify-1111111111111111": NOTES,
        "verify-2222222222222222": NOTES | {"merged": ["a.npz"]},
        "verify-3333333333333333": NOTES | {"shards": ["1/2"]},
        "verify-4444444444444444": {"damaged": True},
        "verify-5555555555555555": None,
        "prune-6666666666666666": None,
    }
    for name, notes in contents.items():
        folder = tmp_path / CHECKPOINTS / name
        folder.mkdir(parents=True)
        (folder / "curve.pt").write_bytes(b"x")
        if notes is not None:
            (folder / RECORD).write_text(json.dumps(notes))
    key = "1" * 64
    said: list[str] = []
    return SimpleNamespace(
        run=RunDirectory(tmp_path),
        stage=RunningStage(key, {"stage": "verify"}),
        checkpoints=f"{CHECKPOINTS}/verify-{key[:16]}",
        progress=SimpleNamespace(say=said.append, said=said),
    )


def left(context: Any) -> list[str]:
    return sorted(path.name for path in context.run.path(CHECKPOINTS).iterdir())


def test_only_the_finished_stage_loses_what_is_not_of_shards(context: Any) -> None:
    remove_earlier(context)
    own, shard, damaged, other = "verify-1111", "verify-3333", "verify-4444", "prune-6666"
    assert [name[:-12] for name in left(context)] == [other, own, shard, damaged]
    assert len(context.progress.said) == 1
    remove_earlier(context)
    assert len(context.progress.said) == 1, "nothing was removed, so nothing is to be said"


def test_work_that_goes_on_while_it_is_looked_at_is_no_error(context: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    [one, *_] = [one for one in unfinished(context.run) if one.stage == "verify"]
    stat, seen = Path.stat, []

    def vanishing(path: Path, **options: Any) -> Any:
        if path.name == "curve.pt":
            seen.append(path)
            path.unlink(missing_ok=True)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", vanishing)
    assert described(one, {"key": "1" * 64, "finished": "2026-01-01T00:00:00Z"})["differs_in"] == []
    assert seen
    shutil.rmtree(one.folder)
    assert described(one, None)["chunks"] is None


def test_its_own_is_removed_and_the_folder_of_all_with_the_last(context: Any) -> None:
    before = left(context)
    remove_own(context)
    assert left(context) == [name for name in before if name != "verify-1111111111111111"]
    for name in left(context)[1:]:
        shutil.rmtree(context.run.path(CHECKPOINTS) / name)
    context.stage, context.checkpoints = RunningStage(made_of={"stage": "prune"}), f"{CHECKPOINTS}/{left(context)[0]}"
    remove_own(context)
    assert not context.run.path(CHECKPOINTS).exists()
