"""Processes that are not alike are refused before any work, and only process 0 writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import TINY

from madx.data import Split
from madx.distributed import SINGLE, World
from madx.errors import ArtifactError, DistributedError, RecipeError
from madx.pipeline import Context, keys, run_stages, stage_named
from madx.pipeline.stages import begin
from madx.progress import Silent
from madx.recipe import Recipe
from madx.rundir import RunDirectory

Facts = dict[str, Any]


class Beside(World):
    """One of two processes; the other one's facts are this one's, changed by `change`."""

    def __init__(self, change: Callable[[Facts], None], *, first: bool = True) -> None:
        self.change, self.is_first = change, first

    @property
    def size(self) -> int:
        return 2

    @property
    def first(self) -> bool:
        return self.is_first

    def gather(self, value: Any) -> list[Any]:
        other = yaml.safe_load(yaml.safe_dump(value))
        self.change(other)
        return [value, other]

    def share(self, function: Callable[[], Any]) -> Any:  # noqa: ARG002
        pytest.fail("the work has begun")


def context(tmp_path: Path, world: World, **changes: Any) -> Context:
    recipe = Recipe.model_validate(yaml.safe_load(TINY) | {"threads": None} | changes)
    return Context(recipe, RunDirectory(tmp_path / "run"), Silent(), world)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda facts: facts["tools"].update(torch="1.0"), "tools.torch"),
        (lambda facts: facts["train"].update(seed=7), "train.seed"),
        (lambda facts: facts["train"]["model"].update(code="other"), "train.model.code"),
        (lambda facts: facts["train"].update(device="cuda"), "train.device"),
        (lambda facts: facts["images"].update(gate="other"), "images.gate"),
        (lambda facts: facts.update(stages=["prune"]), "stages"),
    ],
)
def test_what_differs_is_named(tmp_path: Path, change: Callable[[Facts], None], named: str) -> None:
    with pytest.raises(DistributedError, match=rf"processes 0 and 1 do not agree on {named};"):
        run_stages(context(tmp_path, Beside(change)), [stage_named("train")])


def test_processes_work_on_the_same_shard(tmp_path: Path) -> None:
    other = Beside(lambda facts: facts.update({"--shard or --merge": "--shard 2 of 2"}))
    with pytest.raises(DistributedError, match="do not agree on --shard or --merge;"):
        begin(context(tmp_path, other), stage_named("train"), part="--shard 1 of 2")


def test_all_of_a_stage_and_a_part_of_it_are_not_the_same(tmp_path: Path) -> None:
    other = Beside(lambda facts: facts.update({"--shard or --merge": "--shard 2 of 2"}))
    with pytest.raises(DistributedError, match="do not agree on --shard or --merge;"):
        run_stages(context(tmp_path, other), [stage_named("train")])


def test_a_part_never_forgets_files_from_outside_whatever_it_is_called(tmp_path: Path) -> None:
    found = context(tmp_path, SINGLE)
    found.run.record_stage("take", {"depends": {"given": {"baseline": {}}}}, [])
    with pytest.raises(ArtifactError, match="give them again"):
        begin(found, stage_named("verify"), part="")
    assert found.run.stage("take") is not None


def test_copies_of_a_folder_have_times_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Facts] = []
    for stamp in ("copied today", "copied yesterday"):
        monkeypatch.setattr(Split, "stamp", stamp)
        found = context(tmp_path, Beside(compared.append))
        assert keys.train(found)["data"]["files"] == {"train": stamp, "selection": stamp}
        with pytest.raises(pytest.fail.Exception, match="the work has begun"):
            run_stages(found, [stage_named("train")])
    assert compared[0] == compared[1]
    assert compared[0]["images"].keys() == {"train", "selection", "gate"}


@pytest.mark.parametrize(
    ("stage", "changes"),
    [("train", {"train": {"batch_size": 63}}), ("prune", {"prune": {"finetune": {"batch_size": 7}}})],
)
def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, stage: str, changes: Facts) -> None:
    with pytest.raises(RecipeError, match="cannot be shared evenly by 2 processes"):
        run_stages(context(tmp_path, Beside(lambda _: None), **changes), [stage_named(stage)])


@pytest.mark.parametrize("first", [True, False])
def test_only_process_0_writes(tmp_path: Path, first: bool) -> None:
    found = context(tmp_path, Beside(lambda _: None, first=first))
    assert found.write_bytes("a/bytes", b"x") == "a/bytes"
    assert found.write_json("b.json", {}) == "b.json"
    assert found.write_tensors("c.safetensors", {"c": torch.zeros(2)}) == "c.safetensors"
    found.checkpoint("work").save({"step": 1})
    written = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(written) == (4 if first else 0)
