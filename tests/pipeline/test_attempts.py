"""Judged again is not measured again, and neither is free: what is counted, and when measurements are kept."""

import pytest

from madx.pipeline.attempts import Attempts, attempts
from madx.pipeline.keys import measuring

ENGINES, OTHERS = {"ort-cpu-fp32": {"dense": "12", "pruned": "34"}}, {"ort-cpu-fp32": {"dense": "12", "pruned": "56"}}
STRICT, LOOSE = [{"metric": "robust_drop", "at_most": 0.01}], [{"metric": "robust_drop", "at_most": 0.1}]


def verdict(engines, gates, **counts):
    return {"engines": engines, "gates": gates, **counts}


@pytest.mark.parametrize(
    ("earlier", "now", "kept", "counted"),
    [
        ({}, verdict(ENGINES, STRICT), False, Attempts(1, 0)),
        (verdict(ENGINES, STRICT, attempt=2), verdict(ENGINES, STRICT), False, Attempts(3, 0)),
        (verdict(ENGINES, STRICT, attempt=1), verdict(ENGINES, LOOSE), True, Attempts(1, 1)),
        (verdict(ENGINES, STRICT, attempt=1, gates_changed=1), verdict(ENGINES, LOOSE), False, Attempts(2, 2)),
        (verdict(OTHERS, STRICT, attempt=4, gates_changed=3), verdict(ENGINES, STRICT), False, Attempts(1, 0)),
    ],
    ids=["first", "again", "other gates", "other gates, again", "other engines"],
)
def test_what_is_counted(earlier, now, kept, counted):
    assert attempts(earlier, now, kept=kept) == counted


@pytest.mark.parametrize(
    ("counted", "said"),
    [
        (Attempts(1, 0), []),
        (Attempts(2, 0), ["measured 2 times"]),
        (Attempts(1, 1), ["changed once"]),
        (Attempts(3, 2), ["measured 3 times", "changed 2 times"]),
    ],
)
def test_what_is_warned_of(counted, said):
    warnings = counted.warnings()
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
