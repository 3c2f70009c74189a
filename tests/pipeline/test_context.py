"""A run's context: nothing changes it, and what is read once is read once, whichever stage asks."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from quick_runs import quick_runs

from madx.distributed import World
from madx.errors import ArtifactError
from madx.models.precision import Probe, Timing
from madx.pipeline import Context, Given, context, run_stages
from madx.pipeline.context import Once, RunningStage
from madx.pipeline.plan import plan
from madx.pipeline.timing import begin_timing_again
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

SLOW_FP32 = Probe((Timing("fp32", False, 1.0, 0.0), Timing("bf16", False, 0.25, 1e-3)))
SHARES = 23
"""Times that all processes of a job must meet while a run that has its engines is verified and reported; files that all
of them need are one each. It was 45 when each step of process 0 was one too."""


class Counted(World):
    """Counts how often all processes would have to meet, and knows when process 0 is at work alone."""

    def __init__(self) -> None:
        self.depth, self.shares = 0, 0

    @property
    def apart(self) -> bool:
        return self.depth > 0

    def share(self, function: Callable[[], Any]) -> Any:
        self.shares += self.depth == 0
        self.depth += 1
        try:
            return function()
        finally:
            self.depth -= 1


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def opened(folder: Path, **more: Any) -> Context:
    return Context(load_recipe(folder / "tiny.yaml"), RunDirectory(folder / "run"), Listening(), **more)


@pytest.mark.parametrize("kind", [Context, RunningStage, Once])
def test_no_field_can_be_set_from_outside(tiny_recipe: Path, kind: type) -> None:
    run = opened(tiny_recipe.parent)
    one = {Context: run, RunningStage: run.stage, Once: run.once}[kind]
    for field in fields(kind):
        with pytest.raises(FrozenInstanceError):
            setattr(one, field.name, None)


def test_all_stages_read_the_data_once_and_meet_few_times(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, read = Path(shutil.copytree(released, tmp_path / "copy")), Counter[str]()
    for name in ("load_splits", "kept_probe"):
        real = getattr(context, name)
        monkeypatch.setattr(
            context, name, lambda *given, name=name, real=real, **more: (read.update([name]), real(*given, **more))[1]
        )
    run = opened(folder, world=Counted())
    with quick_runs():
        done = [one.name for one in run_stages(run) if one.done]
    assert done == ["verify", "report"]
    assert read == {"load_splits": 1, "kept_probe": 1}
    assert run.splits is replace(run, stage=RunningStage("another")).splits
    assert run.stage == RunningStage(), "the caller's context is of no stage"
    assert len([line for line in run.progress.said if line.startswith("data digits: ")]) > 0
    assert len(run.progress.said) == len(set(run.progress.said)), "something was said twice"
    assert run.world.shares <= SHARES


def test_what_process_0_finds_alone_is_not_kept_by_it_alone(tiny_recipe: Path, tmp_path: Path) -> None:
    """Else it would go on where the others wait for it, and they would take its next answer for this one."""
    (tmp_path / "last").mkdir()
    (tmp_path / "last/net.onnx").write_bytes(b"an engine")
    (tmp_path / "last/net.safetensors").write_bytes(b"its twin")
    run = opened(tiny_recipe.parent, world=Counted(), given=Given(baseline=tmp_path / "last"))
    assert run.world.share(lambda: run.taken) == ("baseline",)
    before = run.world.shares
    assert run.taken == ("baseline",)
    assert run.world.shares == before + 1, "they meet"
    assert run.taken == ("baseline",)
    assert run.world.shares == before + 1, "and all know it now"


def test_files_from_outside_are_read_together_before_timing_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "last").mkdir()
    (tmp_path / "last/net.onnx").write_bytes(b"an engine")
    (tmp_path / "last/net.safetensors").write_bytes(b"its twin")
    world, depths, read = Counted(), [], context.sources
    monkeypatch.setattr(context, "sources", lambda *given: (depths.append(world.depth), read(*given))[1])
    run = opened(tiny_recipe.parent, world=world, given=Given(baseline=tmp_path / "last"), only_latency=True)
    with pytest.raises(ArtifactError, match="holds no verdict"):
        begin_timing_again(run)
    assert depths == [1]


def test_what_was_accepted_is_told_once(tiny_recipe: Path) -> None:
    told: list[str] = []
    run = opened(tiny_recipe.parent, accepted=lambda: told.append("accepted"))
    for _ in range(2):
        run_stages(run, [])
    assert told == ["accepted"]


def test_a_plan_measures_for_itself(released: Path, tmp_path: Path) -> None:
    """It keeps nothing in the manifest and says nothing, so the run must still measure and say it."""
    run = opened(Path(shutil.copytree(released, tmp_path / "copy")))
    splits = run.splits
    with quick_runs():
        plan(run, progress=Silent())
    assert set(run.once.done) == {"splits"}
    assert run.splits is splits


def test_a_slow_precision_is_told_of_once_and_only_where_a_setting_asks_for_it(tiny_recipe: Path) -> None:
    run = opened(tiny_recipe.parent, once=Once({"probe": SLOW_FP32, "probe said": None}))
    run = replace(run, once=replace(run.once, done=run.once.done | {"splits": run.splits}))
    run.progress.said.clear()
    for _ in range(2):
        assert str(run.compute_format("fp32")) == "fp32"
    assert run.progress.said == []
    for stage in ("prune", "verify"):
        replace(run, stage=RunningStage(stage)).compute_format("fp32", setting="train.precision")
    [told] = run.progress.said
    assert told.startswith("train.precision: fp32 takes 4 times as long")
