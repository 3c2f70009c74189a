"""What a launcher says is read once, and what makes no sense is refused before anybody waits for anybody."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from madx.distributed import SINGLE, announce, join, launch
from madx.distributed.launch import Place, place_in
from madx.errors import DistributedError, ExitCode

GOOD = {"RANK": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        (GOOD, Place(rank=1, size=2, local_rank=0)),
        (GOOD | {"RANK": "0"}, Place(rank=0, size=2, local_rank=0)),
    ],
)
def test_the_place_of_a_process(environment: dict[str, str], place: Place | None) -> None:
    assert place_in(environment) == place


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "") for name in GOOD),
        ("RANK", "two"),
        ("RANK", "-1"),
        ("LOCAL_RANK", "0.5"),
        ("WORLD_SIZE", "many"),
        ("MASTER_PORT", "abc"),
    ],
)
def test_half_a_launcher_is_refused(name: str, value: str) -> None:
    given = GOOD | {name: value}
    with pytest.raises(DistributedError, match=rf"{name} is not set or no number.*torchrun") as caught:
        place_in(given)
    assert caught.value.exit_code == ExitCode.INCONCLUSIVE


def test_a_rank_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DistributedError, match="RANK is 2 and WORLD_SIZE is 2; expected a rank from 0 to 1"):
        place_in(GOOD | {"RANK": "2"})


def test_alone_there_is_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert join("auto") is SINGLE


@pytest.mark.parametrize("error", [RuntimeError("no such host. Stack"), ValueError("port out of range")])
def test_a_store_that_cannot_be_reached_is_looked_for_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    calls: list[str] = []

    def rendezvous(url: str, **_: object) -> Iterator[object]:
        calls.append(url)
        raise error

    monkeypatch.setattr(import_module("torch.distributed.rendezvous"), "rendezvous", rendezvous)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)
    launch._looked_for_store.cache_clear()
    assert not launch.store_is_there()
    try:
        with pytest.raises(DistributedError, match=r"process 1 of 2 did not reach the others .*MASTER_ADDR"):
            join("cpu")
        assert announce("lost") is not None
    finally:
        launch._looked_for_store.cache_clear()
    assert calls == ["env://"]


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    launch._take_gpu(Place(rank=5, size=8, local_rank=1))
    assert taken == [1]
    with pytest.raises(DistributedError, match="has 2 GPUs and at least 4 processes; use --nproc-per-node 2"):
        launch._take_gpu(Place(rank=7, size=8, local_rank=3))


@pytest.mark.parametrize(("answers", "gpus"), [([True, True], True), ([False, False], False)])
def test_gpus_are_used_where_all_have_one(answers: list[bool], gpus: bool) -> None:
    group = SimpleNamespace(gather=lambda _: answers)
    assert launch._all_on_gpus(group, wanted=answers[0]) is gpus  # type: ignore[arg-type]


def test_a_machine_without_a_gpu_among_others_is_refused() -> None:
    group = SimpleNamespace(gather=lambda _: [False, True])
    with pytest.raises(DistributedError, match="process 1 has a GPU and process 0 has none; set device: cpu"):
        launch._all_on_gpus(group, wanted=True)  # type: ignore[arg-type]
