"""Masked gradients, as the outcomes of the attacks show them: what only queries turn; and work left unfinished."""

import itertools
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from accuracy_cases import compared, gallery, sound
from report_cases import measurements
from scipy.stats import binom

from madx.stats import clopper_pearson, tango_interval
from madx.verify import Accuracy
from madx.verify.signs import by_heart, left_over, masking, signs, signs_of_attacks
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


def clearly_more(share, of=200, confidence=0.95):
    """The fewest of so many images that one-sided show more than this share, by the binomial tail itself."""
    return next(count for count in range(of + 1) if binom.sf(count - 1, of, share) < 1 - confidence)


@pytest.mark.parametrize("side", ["reference", "candidate"])
@pytest.mark.parametrize(
    ("field", "enough", "said"),
    [
        ("blind", 1, "exactly zero on 1 of 200 images"),
        ("misled", clearly_more(0.05), "lead no attack"),
        ("unbounded", clearly_more(0.02), "lead nowhere"),
    ],
)
def test_gradients_are_accused_from_so_many_images_on_and_not_before(side, field, enough, said):
    for count in (0, enough - 1, enough, 200):
        spoiled = replace(getattr(sound(), side), **{field: np.arange(200) < count})
        found = signs_of_attacks(replace(sound(), **{side: spoiled}))
        if count < enough:
            assert found == ()
        else:
            (sentence,) = found
            assert f"{side}'s" in sentence
            assert said.replace("1 of", f"{count} of") in sentence


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_an_engine_that_is_right_where_its_own_twin_fell_is_no_more_robust(side):
    """And one that is wrong as often where the twin held is another matter: rounding goes both ways."""
    twin = np.arange(200) >= 60
    for higher, lower in itertools.product(range(0, 20), (0, 3, 10)):
        engine = (twin & (np.arange(200) >= 60 + lower)) | (np.arange(200) < higher)
        spoiled = replace(getattr(sound(), side), twin_right=twin, engine_right=engine)
        accused = tango_interval(200, higher, lower, confidence=0.95)[0] > 0.005
        found = signs_of_attacks(replace(sound(), **{side: spoiled}))
        said = f"{side} engine is right on {higher} of 200 adversarial examples"
        assert [said in sentence and f"wrong on {lower} " in sentence for sentence in found] == [True] * accused


@pytest.mark.parametrize("without_twins", [False, True])
def test_attacks_that_an_undefended_network_withstands_tell_nothing(without_twins):
    enough = clearly_more(0.1)
    for count in (0, enough - 1, enough):
        found = replace(sound(), undefended=np.arange(200) < count)
        found = replace(found, reference=None, candidate=None) if without_twins else found
        remedy = "standard or paranoid" if without_twins else "unit of images in [0, 1]"
        said = f"keeps {count} of its 200 answers"
        sentences = signs_of_attacks(found)
        assert [said in sentence and remedy in sentence for sentence in sentences] == [True] * (count == enough)


@pytest.mark.parametrize("robust", [False, True])
def test_an_engine_is_accused_of_knowing_the_images_beyond_chance_and_five_points(robust):
    """Both limits at 0.9995, so that of two thousand honest engines one is accused."""
    inside = np.arange(2000) < 1500
    value = compared(inside, inside)
    seen = set()
    for right in range(60, 160):
        outside = np.arange(200) < right
        checks = replace(sound(), **{f"elsewhere_{'robust' if robust else 'clean'}": outside})
        least = clopper_pearson(1500, 2000, confidence=0.9995)[0]
        most = clopper_pearson(right, 200, confidence=0.9995)[1]
        measured = replace(measurements(), accuracy=value, soundness=checks)
        found = by_heart(measured, robust=robust)
        assert bool(found) is (least - most > 0.05)
        assert by_heart(measured, robust=not robust) == ()
        seen.add(bool(found))
    assert seen == {False, True}


def test_what_was_not_tried_elsewhere_accuses_nobody():
    checks = replace(sound(), elsewhere_clean=None, elsewhere_robust=None)
    assert [by_heart(replace(measurements(), soundness=checks), robust=robust) for robust in (False, True)] == [(), ()]


@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_a_sign_on_either_side_is_told_unless_the_gate_is_on_the_candidate_alone(side):
    """Of the outcomes, of where the attacks were tried out, and what is no sign yet."""
    spoiled = replace(getattr(sound(), side), blind=np.arange(200) < 9)
    few, many = np.arange(300) < 1, np.arange(300) < 30
    masked = accuracy(1000, turned_by_queries=9, side=side)
    for doubled, signs_there, left in ((many, 3, 0), (few, 2, 1)):
        checks = replace(sound(), **{side: spoiled, f"doubled_{side}": doubled})
        measured = SimpleNamespace(accuracy=masked, soundness=checks)
        assert (len(signs(measured)), len(left_over(checks))) == (signs_there, left)
        told = side == "candidate"
        alone = len(signs(measured, alone=True)), len(left_over(checks, alone=True))
        assert alone == ((signs_there, left) if told else (0, 0))


@pytest.mark.parametrize("missing", ["clean_reference", "standing_reference"])
def test_without_a_reference_the_candidates_attacks_are_read_all_the_same(missing):
    masked = accuracy(1000, turned_by_queries=9)
    without = SimpleNamespace(**{**vars(masked), "images": masked.images, missing: None})
    assert len(masking(without)) == 1


def test_what_gradients_turned_before_the_queries_had_their_turn_is_theirs():
    """Attacks after the queries see only what is left, and no image counts twice or without being right."""
    n, right = 1000, np.arange(1000) < 900
    base = accuracy(n, turned_by_queries=0, kinds=("white-box", "query"))

    def turned(first, second, third, *, kinds=("white-box", "query", "query"), clean=right):
        falls = [np.isin(np.arange(n), list(rows)) for rows in (first, second, third)]
        stands = np.stack([~one for one in falls])
        value = replace(
            base,
            attacks=("a", "b", "c"),
            kinds=kinds,
            clean_candidate=clean,
            attacked=np.stack([np.ones(n, bool)] * 3),
            standing_candidate=stands,
            standing_reference=np.ones((3, n), bool),
            overrun=np.zeros(3),
            passes=np.zeros((3, 2), dtype=np.int64),
        )
        found = masking(value)
        return int(re.search(r"turned (\d+) of 1000", found[0])[1]) if found else 0

    assert turned(range(50), range(50), range(50)) == 0
    assert turned(range(50), range(40, 60), []) == 10
    assert turned(range(50), range(40, 60), range(55, 70)) == 20
    assert turned([], range(895, 905), []) == 5, "what was wrong all along was not turned"
    assert turned(range(50), range(50), range(40, 60), kinds=("white-box", "8-bit", "query")) == 10
    assert turned(range(10), range(20), [], kinds=("query", "query", "query")) == 0, "no gradient had its turn"
    assert turned(range(10), range(20), [], kinds=("query", "query", "8-bit")) == 0, "nor is rounding one"
