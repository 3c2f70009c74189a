"""Learned scores: they find what magnitude misses, resume to the bit, and leave the network alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_networks import plain
from torch import Tensor, nn

from madx.errors import TrainingError
from madx.models import state_digest
from madx.prune import CRITERIA, LEARNERS, Task, learn_scores, unstructured_masks
from madx.prune.learned import ranks_in_layer, ranks_in_network, scaled_by_fan_in
from madx.recipe import LearningConfig
from madx.seeds import torch_generator

Batch = tuple[Tensor, Tensor, torch.Generator]


def clean(_: nn.Module, x: Tensor, __: Tensor, ___: torch.Generator) -> Tensor:
    """An attack of no strength."""
    return x


def noise(_: nn.Module, x: Tensor, __: Tensor, generator: torch.Generator) -> Tensor:
    """An attack that draws."""
    return (x + 0.1 * torch.rand(x.shape, generator=generator)).clamp(0, 1)


class Kept:
    """A checkpoint in memory."""

    def __init__(self, state: dict[str, Any] | None = None) -> None:
        self.state = state
        self.saves = 0

    def load(self) -> dict[str, Any] | None:
        return self.state

    def save(self, state: dict[str, Any]) -> None:
        self.saves += 1
        self.state = copy.deepcopy(state)


def misleading() -> tuple[nn.Module, list[Batch]]:
    """Two features decide the class; the two with the largest weights are noise."""
    layer = nn.Linear(4, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 1.0, 4.0, -4.0], [-1.0, -1.0, -4.0, 4.0]])
    made = []
    for number in range(100):
        generator = torch_generator(0, "misleading", number)
        x = torch.randn(64, 4, generator=generator)
        made.append((x, (x[:, 0] + x[:, 1] < 0).long(), generator))
    return nn.Sequential(layer).eval(), made


@pytest.mark.parametrize("name", LEARNERS)
def test_learning_finds_what_magnitude_misses(name: str) -> None:
    model, batches = misleading()
    start = CRITERIA["magnitude"](model, *batches[0])

    def keep(scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return unstructured_masks(model, scores, 0.5)

    config = LearningConfig(steps=100, precision="fp32")
    scores = learn_scores(model, batches, start, LEARNERS[name], Task(config, keep, clean))
    assert keep(start)["0.weight"].tolist() == [[False, False, True, True]] * 2
    assert keep(scores)["0.weight"].tolist() == [[True, True, False, False]] * 2


def images(count: int) -> list[Batch]:
    made = []
    for number in range(count):
        generator = torch_generator(0, "image", number)
        made.append((torch.rand(8, 2, 4, 4, generator=generator), torch.arange(8) % 5, generator))
    return made


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


def learn(model: nn.Module, batches: list[Batch], name: str, checkpoint: Kept | None = None) -> dict[str, Tensor]:
    start = CRITERIA["magnitude"](model, *batches[0])
    return learn_scores(
        model,
        batches,
        start,
        LEARNERS[name],
        Task(LearningConfig(steps=30), lambda scores: unstructured_masks(model, scores, 0.5), noise),
        checkpoint=checkpoint,
    )


@pytest.mark.parametrize("name", LEARNERS)
def test_an_interrupted_run_ends_with_the_same_scores(name: str, network: nn.Module) -> None:
    whole = learn(network, images(30), name)
    kept = Kept()
    learn(network, images(27), name, kept)
    assert kept.saves == 1
    assert kept.state is not None
    assert kept.state["step"] == 25
    resumed = learn(network, images(30), name, Kept(kept.state))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    start = CRITERIA["magnitude"](network, *images(1)[0])
    assert not all(torch.equal(whole[key].argsort(), start[key].argsort()) for key in whole)


def test_the_network_stays_as_it_is(network: nn.Module) -> None:
    before, modes = state_digest(network), [module.training for module in network.modules()]
    scores = learn(network, images(5), "mad")
    assert state_digest(network) == before
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(score.dtype == torch.float32 and not score.requires_grad for score in scores.values())


def test_a_loss_that_is_not_finite_ends_it(network: nn.Module) -> None:
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(TrainingError, match="loss of the masked network is nan at step 0"):
        learn_scores(
            network,
            images(1),
            {name: torch.rand(value.shape) for name, value in network.named_parameters() if value.dim() > 1},
            LEARNERS["mad"],
            Task(LearningConfig(steps=1), lambda _: {}, clean),
        )


def test_ranks() -> None:
    scores = {"a": torch.tensor([[3.0, -1.0], [9.0, 9.0]]), "b": torch.tensor([0.0, 100.0])}
    network, layer = ranks_in_network(scores), ranks_in_layer(scores)
    torch.testing.assert_close(network["a"] * 6, torch.tensor([[3.0, 1.0], [4.0, 5.0]]))
    torch.testing.assert_close(network["b"] * 6, torch.tensor([2.0, 6.0]))
    torch.testing.assert_close(layer["a"] * 4, torch.tensor([[2.0, 1.0], [3.0, 4.0]]))
    torch.testing.assert_close(layer["b"] * 2, torch.tensor([1.0, 2.0]))


def test_hydra_starts_within_kaimings_bound() -> None:
    scaled = scaled_by_fan_in({"w": torch.tensor([[0.5, 2.0, 1.0], [0.0, 0.0, 0.0]]), "zero": torch.zeros(2)})
    torch.testing.assert_close(scaled["w"], 2**0.5 * torch.tensor([[0.25, 1.0, 0.5], [0.0, 0.0, 0.0]]))
    assert torch.equal(scaled["zero"], torch.zeros(2))
