"""A world of one process is the builtin thing, and a group of two gives what it gives, in the same order."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from process_cases import together

from madx.distributed import SINGLE, World, lost_contact
from madx.errors import DataError, RecipeError


def square(number: int) -> int:
    if number == 13:
        raise DataError(f"{number} is not squared")
    return number * number


def refused(function: Callable[[], Any]) -> tuple[str, str]:
    """The type and the text of the madx error that `function` raises."""
    with pytest.raises((DataError, RecipeError)) as caught:
        function()
    return type(caught.value).__name__, str(caught.value)


def until_it_is_refused(world: World) -> list[int]:
    """What came of the items before the one that is refused."""
    got: list[int] = []

    def collect() -> None:
        for value in world.map(square, [1, 2, 3, 13, 4, 5]):
            got.append(value)

    assert refused(collect) == ("DataError", "13 is not squared")
    return got


def answers(world: World) -> dict[str, Any]:
    """What every process must answer alike, however many there are."""
    return {
        "map": [list(world.map(square, range(count))) for count in (0, 1, 2, 3, 5)],
        "lazy": next(iter(world.map(square, iter([7, 8, 9])))),
        "refused in map": until_it_is_refused(world),
        "share": world.share(lambda: {"tensor": torch.arange(3), "first": world.first}),
        "refused in share": refused(lambda: world.share(lambda: square(13))),
        "nothing": world.share(lambda: None),
        "on its own": list(world.map(lambda n: (world.size, world.rank, world.gather(n), world.share(int)), [4, 5, 6])),
        "still in step": world.share(lambda: "yes"),
    }


def test_a_world_of_one() -> None:
    found = answers(SINGLE)
    assert found["map"] == [[], [0], [0, 1], [0, 1, 4], [0, 1, 4, 9, 16]]
    assert found["lazy"] == 49
    assert found["refused in map"] == [1, 4, 9]
    assert found["refused in share"] == ("DataError", "13 is not squared")
    assert found["on its own"] == [(1, 0, [4], 0), (1, 0, [5], 0), (1, 0, [6], 0)]
    assert (SINGLE.rank, SINGLE.size, SINGLE.first, SINGLE.gather("a")) == (0, 1, True, ["a"])
    module, values = torch.nn.Linear(2, 2), torch.arange(3)
    SINGLE.sum_([values])
    assert SINGLE.data_parallel(module) is module
    assert values.tolist() == [0, 1, 2]


def job(world: World) -> dict[str, Any]:
    answered = answers(world)
    counts = torch.tensor([1.0, 10.0]) * (world.rank + 1)
    world.sum_([counts])
    parallel = world.data_parallel(one_weight(float(world.rank + 1)))
    start = float(next(parallel.parameters()))
    parallel(torch.full((1, 1), world.rank + 1.0)).sum().backward()
    return {
        "answers": answered,
        "who": (world.rank, world.size, world.first),
        "gather": world.gather({"rank": world.rank}),
        "worked on": worked_on(world),
        "sum": counts.tolist(),
        "rows": (world.rows(10), refused(lambda: world.rows(9))),
        "start": start,
        "gradient": next(parallel.parameters()).grad.tolist(),
        "idle": processor_seconds(lambda: world.share(lambda: time.sleep(1.5))),
    }


def one_weight(value: float) -> torch.nn.Module:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, value)
    return layer


def worked_on(world: World) -> list[int]:
    """The items that this process has worked on."""
    own: list[int] = []
    assert list(world.map(lambda n: own.append(n) or n, range(5))) == list(range(5))
    return own


def processor_seconds(function: Callable[[], Any]) -> float:
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    function()
    return spent() - before


def test_two_processes() -> None:
    first, second = together(2, job)
    assert isinstance(first, dict), first
    assert isinstance(second, dict), second
    for found in (first, second):
        expected = answers(SINGLE)
        assert torch.equal(found["answers"].pop("share")["tensor"], expected.pop("share")["tensor"])
        assert found["answers"] == expected
        assert found["gather"] == [{"rank": 0}, {"rank": 1}]
        assert found["sum"] == [3.0, 30.0]
        assert found["start"] == 1.0, "every process starts with what process 0 has"
        assert found["gradient"] == [[1.5]], "gradients are averaged over the processes"
        assert found["idle"] < 0.2, "waiting for process 0 must leave the machine to it: it may be timing an engine"
        kind, text = found["rows"][1]
        assert (kind, "a batch of 9 images cannot be shared evenly by 2 processes" in text) == ("RecipeError", True)
    assert (first["who"], second["who"]) == ((0, 2, True), (1, 2, False))
    assert (first["worked on"], second["worked on"]) == ([0, 2, 4], [1, 3])
    assert (first["rows"][0], second["rows"][0]) == (slice(0, 5), slice(5, 10))


def crashes(world: World) -> None:
    def breaks() -> None:
        raise ZeroDivisionError("a bug")

    world.share(breaks)


def test_a_bug_in_one_process_does_not_leave_the_other_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = together(2, crashes)
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, RuntimeError)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert lost_contact(second) is not None, "what the network says must be understood"
