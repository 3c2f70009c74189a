"""The last number that a test refutes, to the very float."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from madx.stats.search import refuted_edge


@given(st.floats(-5, 5), st.sampled_from([(-6.0, 6.0), (-5.5, 1e3)]))
def test_the_edge_is_found_to_the_float_from_either_side(edge, ends):
    low, high = ends
    asked = []

    def at_least(value):
        asked.append(value)
        return value >= edge

    assert refuted_edge(at_least, inside=low, outside=high) == edge
    assert refuted_edge(lambda value: value <= edge, inside=high, outside=low) == edge
    assert all(low < value < high for value in asked), "the ends themselves are known, and nothing beyond them is"
    assert len(asked) < 1200


def test_where_all_is_refuted_the_limit_is_beside_the_estimate():
    assert refuted_edge(lambda _: True, inside=1.0, outside=2.0) == math.nextafter(1.0, 2.0)
    assert refuted_edge(lambda _: False, inside=1.0, outside=2.0) == 2.0
    assert refuted_edge(lambda _: True, inside=1.0, outside=1.0) == 1.0


@pytest.mark.parametrize("edge", [1e-5, 0.97, 3e5])
def test_a_geometric_middle_spans_magnitudes_in_few_steps(edge):
    asked = []

    def at_most(value):
        asked.append(value)
        return value <= edge

    found = refuted_edge(at_most, inside=1e6, outside=1e-6, middle=lambda a, b: math.sqrt(a * b))
    assert found == pytest.approx(edge, rel=1e-15)
    assert at_most(found)
    assert asked[0] == pytest.approx(1.0)
