"""Judged again is not measured again, and neither is free: what is counted, and when measurements are kept."""

from types import SimpleNamespace

import pytest

from madx.artifacts import write_atomically, write_json
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


def test_timing_alone_is_counted_beside_measuring(tmp_path):
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "34"}}
    assert counted(context, engine, STRICT, kept=()) == Attempts(1, 0)
    assert counted(context, engine, STRICT, kept=(), timed=["one"]) == Attempts(1, 0, timed_again=1)
    assert counted(context, engine, LOOSE, kept=(), timed=["one"]) == Attempts(1, 1, timed_again=2)
    assert counted(context, engine, LOOSE, kept=["one"]) == Attempts(1, 1, timed_again=2)
    last = judged(context.run, counted(context, engine, LOOSE, kept=()))
    assert last == Attempts(2, 1, timed_again=2)
    context.run.path("manifest.json").unlink()
    assert counted(context, engine, LOOSE, kept=(), timed=["one"]) == Attempts(2, 1, timed_again=3)


def test_counts_of_a_verdict_from_before_timings_were_counted_are_taken_up(tmp_path):
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "34"}}
    counted(context, engine, STRICT, kept=())
    [(subject, kept)] = context.run.attempts().items()
    kept.pop("timed_again")
    judged(context.run, Attempts(1, 0), attempts={subject: kept})
    context.run.path("manifest.json").unlink()
    assert counted(context, engine, STRICT, kept=()) == Attempts(2, 0)


def test_gates_in_another_order_are_the_same_gates(tmp_path):
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "34"}}
    for gates in (STRICT + LOOSE, LOOSE + STRICT):
        assert counted(context, engine, gates, kept=["one"]).gates_changed == 0


def judged(run, counts, *, attempts=None):
    """A verdict as the verify stage leaves it, with all counts or with those that are given."""
    provenance = counts.to_json() | {"attempts": run.attempts() if attempts is None else attempts}
    write_json(run.path("verdict.json"), {"provenance": provenance})
    return counts


def test_a_manifest_that_was_deleted_takes_no_count_along(tmp_path):
    context = SimpleNamespace(run=RunDirectory(tmp_path))
    one, other = {"one": {"pruned": "12"}}, {"one": {"pruned": "34"}}
    for engines, gates in ((one, STRICT), (one, LOOSE), (other, STRICT)):
        last = judged(context.run, counted(context, engines, gates, kept=()))
    assert last == Attempts(1, 0)
    before = context.run.attempts()
    context.run.path("manifest.json").unlink()
    assert counted(context, other, STRICT, kept=()) == Attempts(2, 0)
    assert context.run.attempts().keys() == before.keys()
    assert judged(context.run, counted(context, one, LOOSE, kept=())) == Attempts(3, 1)
    assert counted(context, one, STRICT, kept=()) == Attempts(4, 2)


def test_the_larger_count_is_taken_up(tmp_path):
    """As where an older manifest was put back; an older verdict takes nothing away from a newer manifest."""
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "12"}}
    contents = []
    for gates in (STRICT, LOOSE, STRICT):
        judged(context.run, counted(context, engine, gates, kept=()))
        names = ("manifest.json", "verdict.json")
        contents.append({name: context.run.path(name).read_bytes() for name in names})
    assert contents[0]["manifest.json"] != contents[2]["manifest.json"]
    for older in ("manifest.json", "verdict.json"):
        for name, content in (contents[2] | {older: contents[0][older]}).items():
            context.run.path(name).write_bytes(content)
        assert counted(context, engine, STRICT, kept=()) == Attempts(4, 2), older


def test_a_verdict_without_an_engine_has_lost_nothing(tmp_path):
    context = SimpleNamespace(run=RunDirectory(tmp_path))
    assert judged(context.run, counted(context, {}, STRICT, kept=())) == Attempts(1, 0)
    assert counted(context, {"one": {"pruned": "12"}}, STRICT, kept=()) == Attempts(1, 0)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("verdict.json", "{"),
        ("verdict.json", "[]"),
        ("verdict.json", '{"provenance": {"attempt": 2}}'),
        ("verdict.json", '{"provenance": {"attempts": {"x": {"attempt": "many"}}}}'),
        ("measurements/ort-cpu-fp32.npz", "images"),
    ],
    ids=["not JSON", "no object", "no counts", "no number", "no verdict"],
)
def test_what_was_judged_without_a_count_is_never_known_again(tmp_path, name, content):
    context, engine = SimpleNamespace(run=RunDirectory(tmp_path)), {"one": {"pruned": "12"}}
    write_atomically(tmp_path / name, content)
    for number, engines in enumerate((engine, engine, {"other": {"pruned": "34"}}), start=1):
        found = judged(context.run, counted(context, engines, STRICT, kept=()))
        assert found == Attempts(1 if engines != engine else number, 0, known=False)
        context.run.path("manifest.json").unlink()


@pytest.mark.parametrize(
    ("attempts", "said"),
    [
        (Attempts(1, 0), []),
        (Attempts(2, 0), ["measured 2 times"]),
        (Attempts(1, 1), ["changed once"]),
        (Attempts(3, 2), ["measured 3 times", "changed 2 times"]),
        (Attempts(1, 0, known=False), ["is not known"]),
        (Attempts(1, 0, timed_again=1), ["timed again once on these engines, and of 2 timings this is the last"]),
        (Attempts(2, 0, timed_again=3), ["measured 2 times", "of 5 timings"]),
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
    ],
    ids=["bound", "metric", "images", "sequential", "not sequential before", "queries are to be checked", "seed"],
)
def test_gates_measure_nothing_unless_they_stop_it_or_rest_on_queries(before, now, same):
    assert (measuring(before) == measuring(now)) is same
