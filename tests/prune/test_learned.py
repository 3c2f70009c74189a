"""Learned scores: they find what magnitude misses, resume to the bit, and leave the network alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small_networks import Lambda, conv, head, plain
from torch import Tensor, nn

from madx.errors import TrainingError
from madx.models import state_digest
from madx.prune import CRITERIA, Task, learn_scores, unstructured_masks
from madx.prune.learned import ranks_in_layer, scaled_by_fan_in
from madx.recipe import LearningConfig
from madx.seeds import torch_generator

Batch = tuple[Tensor, Tensor, torch.Generator]

LEARNED = [name for name, criterion in CRITERIA.items() if criterion.learner]


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


@pytest.mark.parametrize("name", LEARNED)
def test_learning_finds_what_magnitude_misses(name: str) -> None:
    model, batches = misleading()
    start = CRITERIA["magnitude"](model, *batches[0])

    def keep(scores: dict[str, Tensor]) -> dict[str, Tensor]:
        return unstructured_masks(model, scores, 0.5)

    config = LearningConfig(steps=100, precision="fp32")
    scores = learn_scores(model, batches, start, CRITERIA[name].learner, Task(config, keep, clean))
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


def learn(
    model: nn.Module,
    batches: list[Batch],
    name: str,
    *,
    state: dict[str, Any] | None = None,
    checkpoint: Kept | None = None,
) -> dict[str, Tensor]:
    start = CRITERIA["magnitude"](model, *images(1)[0])
    return learn_scores(
        model,
        batches,
        start,
        CRITERIA[name].learner,
        Task(LearningConfig(steps=30), lambda scores: unstructured_masks(model, scores, 0.5), noise),
        state=state,
        checkpoint=checkpoint,
    )


@pytest.mark.parametrize("name", LEARNED)
def test_an_interrupted_run_ends_with_the_same_scores(name: str, network: nn.Module) -> None:
    whole = learn(network, images(30), name)
    kept = Kept()
    learn(network, images(27), name, checkpoint=kept)
    assert kept.saves == 1
    assert kept.state is not None
    assert kept.state["step"] == 25
    resumed = learn(network, images(30)[25:], name, state=kept.state)
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
            CRITERIA["mad"].learner,
            Task(LearningConfig(steps=1), lambda scores: {name: score > 0.5 for name, score in scores.items()}, clean),
        )


def test_so_does_a_slope_that_is_not_finite() -> None:
    """A root has no gradient at zero: the loss is finite, and NaN would be removed beyond any budget."""

    def root(m: nn.ModuleDict, x: Tensor) -> Tensor:
        hidden = m["one"](x)
        logits: Tensor = m["two"](hidden) + (0 * hidden).square().sum().sqrt()
        return logits

    network = Lambda(root, one=nn.Linear(4, 4), two=nn.Linear(4, 3))
    names = ["parts.one.weight", "parts.two.weight"]
    with pytest.raises(TrainingError, match=r"slopes of the masks of parts.one.weight are not finite at step 0"):
        learn_scores(
            network,
            [(torch.rand(2, 4), torch.tensor([0, 1]), torch.Generator())],
            {name: torch.rand_like(dict(network.named_parameters())[name]) for name in names},
            CRITERIA["mad"].learner,
            Task(LearningConfig(steps=1), lambda scores: {name: score > 0 for name, score in scores.items()}, clean),
        )


def test_ranks() -> None:
    scores = {"a": torch.tensor([[3.0, -1.0], [9.0, 9.0]]), "b": torch.tensor([0.0, 100.0])}
    layer = ranks_in_layer(scores)
    torch.testing.assert_close(layer["a"] * 4, torch.tensor([[2.0, 1.0], [3.0, 4.0]]))
    torch.testing.assert_close(layer["b"] * 2, torch.tensor([1.0, 2.0]))


def test_hydra_starts_within_kaimings_bound() -> None:
    scaled = scaled_by_fan_in({"w": torch.tensor([[0.5, 2.0, 1.0], [0.0, 0.0, 0.0]]), "zero": torch.zeros(2)})
    torch.testing.assert_close(scaled["w"], 2**0.5 * torch.tensor([[0.25, 1.0, 0.5], [0.0, 0.0, 0.0]]))
    assert torch.equal(scaled["zero"], torch.zeros(2))


def test_every_step_attacks_and_descends_the_network_that_the_scores_prune(network: nn.Module) -> None:
    """One step by hand: masks of the rule, the attack on the masked network, batch statistics, w dL/d(w m), Adam."""
    ((x, y, generator),) = images(1)
    start = CRITERIA["magnitude"](network, x, y, generator)
    dense = {name: value.detach().clone() for name, value in network.named_parameters()}
    seen: list[dict[str, Tensor]] = []

    def attack(given: nn.Module, points: Tensor, _: Tensor, __: torch.Generator) -> Tensor:
        assert not any(module.training for module in given.modules())
        seen.append({name: value.detach().clone() for name, value in given.state_dict().items()})
        return points + 0.01

    task = Task(LearningConfig(steps=2, precision="fp32"), lambda s: unstructured_masks(network, s, 0.5), attack)
    two = [(x, y, generator)] * 2
    scores = learn_scores(network, two, start, CRITERIA["mad"].learner, task)
    first = ranks_in_layer(start)
    masks = unstructured_masks(network, first, 0.5)
    by_hand = plain().train()
    by_hand.load_state_dict(network.state_dict())
    with torch.no_grad():
        for name, value in by_hand.named_parameters():
            if name in masks:
                value.mul_(masks[name])
                assert torch.equal(seen[0][name], value)
    nn.functional.cross_entropy(by_hand(x + 0.01), y).backward()
    moved = {name: value.clone().requires_grad_() for name, value in first.items()}
    adam = torch.optim.Adam(list(moved.values()), lr=0.01, betas=(0.9, 0.99))
    for name, value in by_hand.named_parameters():
        if name in moved:
            assert value.grad is not None
            moved[name].grad = value.grad * dense[name]
    adam.step()
    again = unstructured_masks(network, {name: value.detach() for name, value in moved.items()}, 0.5)
    for name, mask in again.items():
        assert torch.equal(seen[1][name], dense[name] * mask)
    assert torch.equal(seen[1]["0.1.running_mean"], by_hand.state_dict()["0.1.running_mean"])
    adam.param_groups[0]["lr"] = 0.005  # half a cosine: half of the rate in the second of two steps
    assert all(0 < (scores[name] - moved[name].detach()).abs().max() <= 0.0075 for name in scores)


@pytest.mark.parametrize("name", ["mad", "hydra", "taylor"])
def test_frozen_and_unused_layers_do_not_end_it(name: str) -> None:
    network = Lambda(
        lambda parts, x: parts["head"](parts["body"](x).mean((2, 3))), body=conv(2, 6), head=head(6), idle=head(6)
    ).eval()
    network.parts["body"].requires_grad_(False)
    ((x, y, generator),) = images(1)
    start = CRITERIA[name](network, x, y, generator)
    if CRITERIA[name].learner:
        start = learn(network, images(3), name)
    assert {"parts.body.weight", "parts.head.weight"} <= set(start)
    assert not network.parts["body"].weight.requires_grad
