"""The average of a criterion over batches: halves, resuming, and what must not go on."""

from __future__ import annotations

import copy
from typing import Any, get_args

import pytest
import torch
from small_networks import plain
from torch import Tensor, nn

from madx.errors import TrainingError
from madx.prune import CRITERIA, IMAGE_FREE, average_saliency, mad_saliency, optimise_masks
from madx.prune.curvature import scored_parameters
from madx.recipe import PruneConfig
from madx.seeds import torch_generator

Batch = tuple[Tensor, Tensor, torch.Generator]


class Kept:
    """A checkpoint in memory that keeps every state it is given, as a file would: by value."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def load(self) -> dict[str, Any] | None:
        return self.states[-1] if self.states else None

    def save(self, state: dict[str, Any]) -> None:
        self.states.append(copy.deepcopy(state))


def batches(count: int, start: int = 0) -> list[Batch]:
    """Batch number n has its own images, whoever asks."""
    made = []
    for number in range(start, count):
        generator = torch_generator(0, "batch", number)
        made.append((torch.rand(4, 2, 4, 4, generator=generator), torch.arange(4) % 5, generator))
    return made


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


def test_criteria_are_the_recipes() -> None:
    assert set(CRITERIA) == set(get_args(PruneConfig.model_fields["criterion"].annotation))
    assert set(CRITERIA) >= IMAGE_FREE


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_fit_their_parameters(name: str, network: nn.Module) -> None:
    ((x, y, generator),) = batches(1)
    scores = CRITERIA[name](network, x, y, generator)
    parameters = scored_parameters(network)
    assert list(scores) == list(parameters)
    for key, score in scores.items():
        assert score.shape == parameters[key].shape
        assert score.dtype == torch.float32
        assert score.isfinite().all()
        assert not score.requires_grad
        assert score.unique().numel() > 1


@pytest.mark.parametrize("name", CRITERIA)
def test_image_free_means_what_it_says(name: str, network: nn.Module) -> None:
    (x, y, _), (other, _, _) = batches(2)
    one, two = (CRITERIA[name](network, images, y, torch_generator(0, "same")) for images in (x, other))
    assert all(torch.equal(one[key], two[key]) for key in one) == (name in IMAGE_FREE)


def test_what_the_criteria_are(network: nn.Module) -> None:
    ((x, y, _),) = batches(1)
    parameters = scored_parameters(network)
    expected = mad_saliency(network, x, y, optimise_masks(network, x, y))
    for key, score in CRITERIA["mad-paper"](network, x, y, torch_generator(0)).items():
        assert torch.equal(score, expected[key])
    for key, score in CRITERIA["magnitude"](network, x, y, torch_generator(0)).items():
        assert torch.equal(score, torch.where(parameters[key] < 0, -parameters[key], parameters[key]))
    one, same, other = (CRITERIA["random"](network, x, y, torch_generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_average_and_halves(count: int, network: nn.Module) -> None:
    given = batches(count)
    single = [CRITERIA["mad-paper"](network, x, y, generator) for x, y, generator in batches(count)]
    saliency = average_saliency(network, given, CRITERIA["mad-paper"])
    assert saliency.batches == count
    for key, score in saliency.scores.items():
        torch.testing.assert_close(score, torch.stack([scores[key] for scores in single]).mean(0))
        for half, part in zip(saliency.halves, (single[::2], single[1::2]), strict=True):
            assert (key in half) == bool(part)
            if part:
                torch.testing.assert_close(half[key], torch.stack([scores[key] for scores in part]).mean(0))


@pytest.mark.parametrize("end", [13, 10])
def test_a_killed_run_continues_to_the_same_bits(end: int, network: nn.Module) -> None:
    kept = Kept()
    whole = average_saliency(network, batches(end), CRITERIA["random"], checkpoint=kept)
    assert [state["batches"] for state in kept.states] == [5, 10]
    for state in kept.states:
        before = copy.deepcopy(state)
        start = state["batches"]
        for _ in range(2):  # twice: taking a state up does not use it up
            resumed = average_saliency(
                network, batches(end, start), CRITERIA["random"], start=start, state=state, checkpoint=Kept()
            )
            assert resumed.batches == whole.batches
            pairs = zip((resumed.scores, *resumed.halves), (whole.scores, *whole.halves), strict=True)
            assert all(torch.equal(a[key], b[key]) for a, b in pairs for key in whole.scores)
        assert all(torch.equal(a[key], b[key]) for a, b in zip(state["sums"], before["sums"], strict=True) for key in a)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bad", [0, 1])
def test_scores_that_are_not_finite(value: float, bad: int, network: nn.Module) -> None:
    calls = []

    def criterion(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        scores = CRITERIA["random"](model, x, y, generator)
        if len(calls) == bad:
            scores["1.0.bias"][3] = value
        calls.append(1)
        return scores

    with pytest.raises(TrainingError, match=r"saliency of 1\.0\.bias is not finite"):
        average_saliency(network, batches(3), criterion)


def test_no_batch(network: nn.Module) -> None:
    with pytest.raises(TrainingError, match="no batch"):
        average_saliency(network, [], CRITERIA["random"])
