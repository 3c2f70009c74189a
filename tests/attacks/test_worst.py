"""Margins, and the memory of the worst point: against lists kept by hand."""

from __future__ import annotations

import math

import attack_cases
import pytest
import torch

from madx.attacks import Worst, wrong_margin


@pytest.mark.parametrize(
    ("row", "label", "margin"),
    [
        ([1.0, 5.0, 2.0], 0, 4.0),
        ([1.0, 5.0, 2.0], 1, -3.0),
        ([3.0, 3.0, 3.0], 2, 0.0),
        ([-2.0, -7.0], 1, 5.0),
        ([math.inf, 0.0], 0, -math.inf),
        ([math.nan, 0.0], 0, math.inf),
        ([0.0, math.nan], 0, math.inf),
        ([math.inf, math.inf], 0, math.inf),
    ],
)
def test_margins(row: list[float], label: int, margin: float) -> None:
    logits = torch.tensor([row, row])
    assert wrong_margin(logits, torch.tensor([label, label])).tolist() == [margin, margin]


def test_the_worst_point_is_kept_however_the_images_are_shown() -> None:
    draws = attack_cases.generator(3)
    images = torch.rand(6, 1, 2, 2, generator=draws)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    worst = Worst(images, labels)
    seen: list[list[tuple[float, torch.Tensor]]] = [[] for _ in images]
    for _ in range(8):
        rows = torch.randperm(6, generator=draws)[:4]
        points, logits = torch.rand(4, 1, 2, 2, generator=draws), torch.randn(4, 3, generator=draws)
        worst.see(rows, points, logits)
        for row, point, margin in zip(rows.tolist(), points, wrong_margin(logits, labels[rows]), strict=True):
            seen[row].append((float(margin), point))
    for row, history in enumerate(seen):
        margin, point = max(history, key=lambda entry: entry[0])
        assert float(worst.margins[row]) == margin
        assert torch.equal(worst.points[row], point)


def test_an_image_that_was_never_shown_is_its_own_worst_point() -> None:
    images = torch.rand(2, 1, 2, 2, generator=attack_cases.generator())
    worst = Worst(images, torch.tensor([0, 1]))
    worst.see(torch.tensor([1]), images[1:] / 2, torch.tensor([[3.0, 0.0]]))
    assert torch.equal(worst.points, torch.stack([images[0], images[1] / 2]))
    assert worst.margins.tolist() == [-math.inf, 3.0]
    assert worst.standing().tolist() == [0]


@pytest.mark.parametrize(
    ("rows", "fallen"),
    [
        ([[10.0, 0.0], [10.0, 10.1]], False),  # an engine in float16 may undo it
        ([[10.0, 0.0], [10.0, 10.21]], True),
        ([[1e4, 1e4 - 10], [1e4, 1e4 + 0.25]], True),  # what is added to every class is no reason to go on
        ([[-10.0, -20.0], [-10.0, -9.9]], False),
        ([[1.0, 0.0]], False),
        ([[0.0, 1.0]], True),
        ([[math.nan, 1.0]], True),
    ],
)
def test_an_image_falls_when_rounding_cannot_undo_it(rows: list[list[float]], fallen: bool) -> None:
    worst = Worst(torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    for row in rows:
        worst.see(torch.tensor([0]), torch.zeros(1, 1, 1, 1), torch.tensor([row]))
    assert worst.fallen.tolist() == [fallen]


def test_a_class_far_below_the_others_does_not_make_an_example_look_uncertain() -> None:
    worst = Worst(torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    worst.see(torch.tensor([0]), torch.zeros(1, 1, 1, 1), torch.tensor([[2.0, 5.0, 0.0, -1.0, -3e4]]))
    assert worst.fallen.all()


def test_what_has_fallen_stays_fallen() -> None:
    worst = Worst(torch.zeros(1, 1, 1, 1), torch.tensor([0]))
    for row in ([0.0, 5.0], [5.0, 0.0]):
        worst.see(torch.tensor([0]), torch.zeros(1, 1, 1, 1), torch.tensor([row]))
    assert worst.standing().tolist() == []
    assert worst.margins.tolist() == [5.0]
