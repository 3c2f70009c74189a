"""What is said of a saliency in words."""

import pytest
import report_cases as cases

from madx.report import saliency_views


def test_rows_follow_the_network():
    shown = saliency_views.layer_rows(cases.saliency({"b": 1.0, "a": 2.0, "": 3.0}))
    assert [(row.name, row.mean, row.kept) for row in shown] == [
        ("b", 1.0, 0.25),
        ("a", 2.0, 0.25),
        ("the network", 3.0, 0.25),
    ]
    assert saliency_views.layer_rows({}) == ()


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ({"a": 1.0, "b": 9.0, "c": 2.0}, "Highest mean saliency: b (4.5 times that of the median layer), then c."),
        (
            {"a": 1e-9, "b": 1e-5, "c": 1e-9},
            "Highest mean saliency: b (10,000 times that of the median layer), then a.",
        ),
        ({"a": -1.0, "b": -9.0, "c": 2.0}, "Highest mean saliency: c, then a."),
        ({"a": 1.0, "b": 2.0}, ""),
    ],
)
def test_the_most_sensitive_layers(means, expected):
    assert saliency_views.most_sensitive(saliency_views.layer_rows(cases.saliency(means))) == expected


@pytest.mark.parametrize(
    ("overlaps", "enough", "said"), [((0.9,), 0.9, "has settled"), ((0.89,), 0.9, "has not settled")]
)
def test_settled_is_what_the_record_says(overlaps, enough, said):
    assert said in saliency_views.settled(cases.saliency(overlaps=overlaps, enough=enough))


def test_masks_in_bfloat16_are_named():
    record = cases.saliency()
    assert saliency_views.basis(record).startswith("Criterion: mad-paper, averaged over")
    assert saliency_views.basis(record | {"precision": "bf16"}).startswith(
        "Criterion: mad-paper, masks in bfloat16, averaged over"
    )


def test_nothing_is_said_of_halves_that_were_not_compared():
    assert saliency_views.settled(cases.saliency(overlaps=())) == ""
    assert saliency_views.curve({}) == ()
