"""The average of a criterion over batches: halves, rounds, stopping, resuming, and what must not go on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from small_networks import plain
from torch import Tensor, nn

from madx.errors import TrainingError
from madx.prune import CRITERIA, Saliency, Settling, average_scores, averaging, unstructured_masks
from madx.prune.averaging import Sums
from madx.prune.criteria import Criterion
from madx.prune.layers import scored_parameters
from madx.prune.settling import looks_at
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


def batches(count: int, start: int = 0) -> Iterator[Batch]:
    """Batch number n has its own images, whoever asks."""
    for number in range(start, count):
        generator = torch_generator(0, "batch", number)
        yield torch.rand(4, 2, 4, 4, generator=generator), torch.arange(4) % 5, generator


def noisy(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:  # noqa: ARG001
    """The weights themselves under noise of a tenth: the more batches, the closer the halves."""
    return {
        name: parameter.detach() + 0.1 * torch.randn(parameter.shape, generator=generator)
        for name, parameter in scored_parameters(model).items()
    }


def scored(network: nn.Module, batches: Iterable[Batch], criterion: Criterion = noisy) -> Iterator[dict[str, Tensor]]:
    """The scores of each batch, when they are asked for."""
    return (criterion(network, *batch) for batch in batches)


def previous(count: int) -> int:
    """The look before the one at `count` batches."""
    return max(number for number in range(count) if looks_at(number))


def halving(network: nn.Module, enough: float, *, stops: bool = True) -> Settling:
    return Settling(keep=lambda scores: unstructured_masks(network, scores, 0.5), enough=enough, stops=stops)


def assert_identical(one: Saliency, other: Saliency) -> None:
    assert (one.batches, one.curve) == (other.batches, other.curve)
    assert list(one.scores) == list(other.scores)
    assert all(torch.equal(one.scores[key], other.scores[key]) for key in one.scores)


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


@pytest.fixture
def _saves_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(averaging, "_SAVE_SECONDS", -1.0)


@pytest.mark.parametrize("count", [1, 2, 5, 6, 9])
def test_average_and_halves(count: int, network: nn.Module) -> None:
    single = [CRITERIA["mad-paper"](network, x, y, generator) for x, y, generator in batches(count)]
    saliency = average_scores(network, scored(network, batches(count), CRITERIA["mad-paper"]))
    assert saliency.batches == count
    assert saliency.curve == ()
    sums = Sums()
    for scores in single:
        sums.add_(scores)
    for key, score in saliency.scores.items():
        assert score.dtype == torch.float32
        torch.testing.assert_close(score, torch.stack([scores[key] for scores in single]).mean(0))
        for half, part in zip(sums.averages(), (single[::2], single[1::2]), strict=True):
            assert (key in half) == bool(part)
            if part:
                torch.testing.assert_close(half[key], torch.stack([scores[key] for scores in part]).mean(0))


@pytest.mark.parametrize(
    ("count", "looked_at"),
    [(1, []), (2, [2]), (3, [2, 3]), (4, [2, 4]), (8, [2, 4, 6, 8]), (21, [2, 4, 6, 8, 12, 16, 21])],
)
def test_the_curve_ends_with_the_last_batch(count: int, looked_at: list[int], network: nn.Module) -> None:
    heard: list[int] = []
    settling = Settling(
        keep=lambda scores: unstructured_masks(network, scores, 0.5),
        enough=0.0,  # reached at once, and still it goes on
        tell=lambda point: heard.append(point.batches),
    )
    saliency = average_scores(network, scored(network, batches(count)), settling=settling)
    assert saliency.batches == count
    assert [point.batches for point in saliency.curve] == heard == looked_at


def test_it_stops_when_the_halves_agree(network: nn.Module) -> None:
    whole = average_scores(network, scored(network, batches(48)), settling=halving(network, 0.0, stops=False))
    overlaps = {point.batches: point.overlap for point in whole.curve}
    assert overlaps[48] > overlaps[2] + 0.1, "the halves do not approach each other; the case shows nothing"
    enough = overlaps[16] - 1e-9
    agree = [count for count, overlap in overlaps.items() if overlap >= enough]
    first = next(count for number, count in enumerate(agree) if number and agree[number - 1] == previous(count))
    stopped = average_scores(network, scored(network, batches(48)), settling=halving(network, enough))
    assert stopped.batches == first < 48
    assert stopped.curve == tuple(point for point in whole.curve if point.batches <= first)
    assert_identical(stopped, average_scores(network, scored(network, batches(first)), settling=halving(network, 2.0)))


def test_it_takes_no_batch_too_many(network: nn.Module) -> None:
    """An adversarial batch costs an attack: none is made that is not used."""
    made: list[int] = []

    def counted() -> Iterator[Batch]:
        for number, batch in enumerate(batches(48)):
            made.append(number)
            yield batch

    saliency = average_scores(network, scored(network, counted()), settling=halving(network, 0.5))
    assert len(made) == saliency.batches < 48


@pytest.mark.parametrize("enough", [0.7, 2.0])
@pytest.mark.usefixtures("_saves_every_round")
def test_a_killed_run_continues_to_the_same_bits_and_the_same_decision(enough: float, network: nn.Module) -> None:
    kept, end = Kept(), 21
    whole = average_scores(network, scored(network, batches(end)), settling=halving(network, enough), checkpoint=kept)
    assert (whole.batches < end) == (enough < 1)
    assert [state["batches"] for state in kept.states] == [
        count for count in (2, 4, 6, 8, 12, 16, 20) if count <= whole.batches
    ]
    for state in kept.states:
        before = copy.deepcopy(state)
        for _ in range(2):  # twice: taking a state up does not use it up
            resumed = average_scores(
                network,
                scored(network, batches(end, state["batches"])),
                settling=halving(network, enough),
                state=state,
                checkpoint=Kept(),
            )
            assert_identical(resumed, whole)
        assert all(torch.equal(a[key], b[key]) for a, b in zip(state["sums"], before["sums"], strict=True) for key in a)


def test_checkpoints_are_not_written_all_the_time(network: nn.Module) -> None:
    kept = Kept()
    average_scores(network, scored(network, batches(9)), checkpoint=kept)
    assert kept.states == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bad", [0, 1, 4])
def test_scores_that_are_not_finite_end_it_at_once(value: float, bad: int, network: nn.Module) -> None:
    calls: list[int] = []

    def criterion(model: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        scores = CRITERIA["random"](model, x, y, generator)
        if len(calls) == bad:
            scores["1.0.bias"][3] = value
        calls.append(1)
        return scores

    with pytest.raises(TrainingError, match=r"saliency of 1\.0\.bias is not finite"):
        average_scores(network, scored(network, batches(30), criterion), settling=halving(network, 2.0))
    assert len(calls) <= bad + 4


def test_no_batch(network: nn.Module) -> None:
    with pytest.raises(TrainingError, match="no batch"):
        average_scores(network, [])
