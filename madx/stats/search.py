"""Where a test's answer changes: the limit of an interval is the last hypothesis that the test itself refutes."""

from __future__ import annotations

from collections.abc import Callable


def arithmetic(one: float, other: float) -> float:
    """The mean of two numbers."""
    return (one + other) / 2


def refuted_edge(
    refuted: Callable[[float], bool],
    *,
    inside: float,
    outside: float,
    middle: Callable[[float, float], float] = arithmetic,
) -> float:
    """The refuted value that is nearest to `inside`: bisection down to neighbouring floats.

    Because the limit is found by asking the test, test and interval cannot disagree.

    Args:
        refuted: the test; between `inside` and `outside` its answer changes once.
        inside: a value that it does not refute.
        outside: a value that it refutes.
        middle: of two values; a geometric mean where they span magnitudes.
    """
    while min(inside, outside) < (half := middle(inside, outside)) < max(inside, outside):
        if refuted(half):
            outside = half
        else:
            inside = half
    return outside
