"""Judged again is not measured again, and neither is free: what is counted, and when measurements are kept."""

from types import SimpleNamespace

import pytest

from madx.pipeline.attempts import Attempts, counted, one_more
from madx.pipeline.keys import measuring
from madx.rundir import RunDirectory

STRICT, LOOSE = [{"metric": "robust_drop", "at_most": 0.01}], [{"metric": "robust_drop", "at_most": 0.1}]


@pytest.mark.parametrize(
    ("before", "gates", "kept", "expected"),
    [
        ({}, "strict", False, Attempts(1, 0)),
        ({"attempt": 2, "gates": "strict"}, "strict", False, Attempts(3, 0)),
        ({"attempt": 1, "gates": "strict"}, "loose", True, Attempts(1, 1)),
        ({"attempt": 1, "gates_changed": 1, "gates": "strict"}, "loose", False, Attempts(2, 2)),
    ],
    ids=["first", "again", "other gates", "other gates, measured again"],
)
def test_what_is_counted(before, gates, kept, expected):
    assert one_more(before, gates, kept=kept) == expected


def test_each_engine_is_counted_by_its_bytes_and_the_worst_is_told(tmp_path):
    context = SimpleNamespace(run=RunDirectory(tmp_path))
    first, second = {"one": {"dense": "12", "pruned": "34"}}, {"one": {"dense": "12", "pruned": "56"}}
    assert counted(context, first, STRICT, kept=()) == Attempts(1, 0)
    assert counted(context, second, STRICT, kept=()) == Attempts(1, 0)
    assert counted(context, first, LOOSE, kept=["one"]) == Attempts(1, 1)
    assert counted(context, first | {"two": {"pruned": "78"}}, LOOSE, kept=()) == Attempts(2, 1)
    assert counted(context, {}, LOOSE, kept=()) == Attempts(1, 0)


def test_gates_in_another_order_are_the_same_gates(tmp_path):
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "34"}}
    for gates in (STRICT + LOOSE, LOOSE + STRICT):
        assert counted(context, engine, gates, kept=["one"]).gates_changed == 0


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        (Attempts(1, 0), []),
        (Attempts(2, 0), ["measured 2 times"]),
        (Attempts(1, 1), ["changed once"]),
        (Attempts(3, 2), ["measured 3 times", "changed 2 times"]),
    ],
)
def test_what_is_warned_of(attempts, said):
    warnings = attempts.warnings()
    assert len(warnings) == len(said)
    assert all(word in warning for word, warning in zip(said, warnings, strict=True))


def depends(gates, *, sequential=False, images=100):
    return {"seed": 0, "verify": {"gates": gates, "sequential": sequential, "images": images}}


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (depends(STRICT), depends(LOOSE), True),
        (depends(STRICT), depends([{"metric": "speedup", "at_least": 2.0}]), True),
        (depends(STRICT), depends(STRICT, images=200), False),
        (depends(STRICT, sequential=True), depends(LOOSE, sequential=True), False),
        (depends(STRICT), depends(STRICT, sequential=True), False),
        (depends(STRICT), depends([STRICT[0] | {"query_only": True}]), False),
        (depends(STRICT), depends(STRICT) | {"seed": 1}, False),
        ({"verify": {"gates": STRICT}}, depends(LOOSE), False),
    ],
    ids=[
        "bound",
        "metric",
        "images",
        "sequential",
        "not sequential before",
        "queries are to be checked",
        "seed",
        "old",
    ],
)
def test_gates_measure_nothing_unless_they_stop_it_or_rest_on_queries(before, now, same):
    assert (measuring(before) == measuring(now)) is same
