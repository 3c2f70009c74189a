"""Masked gradients, as the outcomes of the attacks show them: what only queries turn; and work left unfinished."""

from dataclasses import replace

import numpy as np
import pytest
from accuracy_cases import gallery, sound

from madx.verify import Accuracy
from madx.verify.signs import left_over, masking, signs_of_attacks
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


@pytest.mark.parametrize("without_twins", [False, True])
@pytest.mark.parametrize(
    ("fell", "images", "a_sign"),
    [
        (0, 267, False),
        (5, 267, False),  # 1.9 %, and 1 % could be the truth
        (7, 267, True),
        (11, 667, False),
        (12, 667, True),  # more images tell smaller shares
    ],
)
def test_attacks_that_turn_clearly_more_in_twice_the_time_had_not_finished(fell, images, a_sign, without_twins):
    found = sound(doubled=fell, of=images)
    if without_twins:
        found = replace(found, reference=None, candidate=None)
    said = f"Twice the {'queries' if without_twins else 'steps'} turn {fell} more of {images} images of the candidate"
    assert [said in sentence for sentence in signs_of_attacks(found)] == [True] * a_sign
    assert [said in sentence for sentence in left_over(found)] == [True] * (fell > 0 and not a_sign)


def test_a_gate_on_the_candidate_alone_is_not_told_of_the_reference():
    found = sound()
    found = replace(found, doubled_reference=np.arange(300) < 30)
    assert len(signs_of_attacks(found)) == 1
    assert signs_of_attacks(found, alone=True) == left_over(found, alone=True) == ()
