"""Masked gradients, as the outcomes of the attacks show them: what only queries turn."""

import numpy as np
import pytest
from accuracy_cases import gallery

from madx.verify import Accuracy
from madx.verify.signs import masking
from madx.verify.suspicions import _no_queries


def accuracy(n, *, turned_by_queries, side="candidate", kinds=("white-box", "query")):
    """Half of the images fall to gradients on both engines, some more to queries on one of them."""
    clean = np.ones(n, dtype=bool)
    stands = np.arange(n) >= n // 2
    falls = (np.arange(n) >= n // 2) & (np.arange(n) < n // 2 + turned_by_queries)
    standing = {"reference": np.stack([stands, stands]), "candidate": np.stack([stands, stands])}
    standing[side][1] &= ~falls
    return Accuracy(
        index=np.arange(n),
        labels=np.zeros(n, dtype=np.int64),
        clean_reference=clean,
        clean_candidate=clean,
        attacks=("gradients", "square"),
        kinds=kinds,
        attacked=np.stack([clean, stands]),
        standing_reference=standing["reference"],
        standing_candidate=standing["candidate"],
        overrun=np.zeros(2),
        passes=np.zeros((2, 2), dtype=np.int64),
        gallery=gallery(0, 0),
    )


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize(
    ("n", "turned", "suspicious"),
    [
        (1000, 0, False),
        (1000, 2, False),  # 0.2 % is not more than 0.2 %
        (1000, 3, True),
        (4000, 8, False),
        (4000, 9, True),
        (100, 2, False),  # 2 %, but two images are an accident
    ],
)
def test_what_queries_gain_is_held_against_the_gradients(side, n, turned, suspicious):
    sentences = masking(accuracy(n, turned_by_queries=turned, side=side))
    assert [f"of the {side} engine" in sentence for sentence in sentences] == [True] * suspicious


def test_what_an_engine_in_the_loop_gains_is_no_masking():
    assert masking(accuracy(1000, turned_by_queries=50, kinds=("white-box", "engine in the loop"))) == ()


@pytest.mark.parametrize(("kinds", "warned"), [(("white-box", "query"), False), (("white-box", "8-bit"), True)])
def test_a_suite_without_queries_says_that_a_check_is_missing(kinds, warned):
    sentences = list(_no_queries(accuracy(1000, turned_by_queries=0, kinds=kinds)))
    assert ["masked gradients could have gone unseen" in sentence for sentence in sentences] == [True] * warned
