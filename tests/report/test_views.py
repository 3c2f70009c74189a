from itertools import pairwise

import numpy as np
import pytest
from accuracy_cases import unseen
from report_cases import CONTENTS

from madx.report import views
from madx.verify import Accuracy


def accuracy(seed, images=60):
    """Random outcomes; an image that had fallen on both engines is not attacked again."""
    generator = np.random.default_rng(seed)
    clean, attacked, standing = generator.random((2, images)) < 0.8, [], []
    reference, candidate = clean
    for _ in range(3):
        attacked.append(reference | candidate)
        standing.append((generator.random((2, images)) < 0.7) & attacked[-1])
        reference, candidate = reference & standing[-1][0], candidate & standing[-1][1]
    tables = np.stack(standing, axis=1)
    return Accuracy(
        index=np.arange(images),
        labels=np.zeros(images, dtype=np.int64),
        clean_reference=clean[0],
        clean_candidate=clean[1],
        attacks=("one", "two", "three"),
        attacked=np.stack(attacked),
        standing_reference=tables[0],
        standing_candidate=tables[1],
        overrun=np.zeros(3),
        **unseen(3),
    )


@pytest.mark.parametrize("seed", range(5))
def test_counts_end_at_the_robust_accuracy_of_the_gates(seed):
    value = accuracy(seed)
    rows = views.count_rows(value)
    assert [row.label for row in rows] == ["clean images", "after one", "and after two", "and after three"]
    assert rows[0].reference == value.clean_reference.sum()
    assert rows[-1].reference == value.robust_reference.sum()
    assert rows[-1].candidate == value.robust_candidate.sum()
    for row in rows:
        assert row.lost - row.gained == row.reference - row.candidate
        assert row.drop == pytest.approx((row.reference - row.candidate) / 60)
    assert all(later.reference <= row.reference for row, later in pairwise(rows))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        ({}, "no record of its build"),
        ({"built": False, "reason": "no GPU"}, "not built: no GPU"),
        ({"built": True, "can_run": False, "reason": "no driver"}, "built; cannot run here: no driver"),
        ({"built": True, "can_run": True, "reason": ""}, "built; not measured"),
    ],
)
def test_status_of_an_engine_that_was_not_measured(build, expected):
    assert views.EngineView("e", build, None, ()).status == expected


@pytest.mark.parametrize("name", ["lone", "queries"])
def test_what_was_not_measured_is_said_and_not_counted(name):
    (measured,) = CONTENTS[name].measurements
    rows = views.count_rows(measured.accuracy)
    assert all((row.reference, row.lost, row.gained, row.drop) == (None, None, None, None) for row in rows)
    assert {row.before for row in rows} == {row.change for row in rows} == {"not measured"}
    assert views.roles(measured) == ("reference", "engine")
