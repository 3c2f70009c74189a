"""Two processes that share every batch end where one process ends: BatchNorm, training, evaluation, recalibration.

Every process is a torch of its own to start, so each of them works through all the cases at once.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
import train_cases
from process_cases import together
from torch import Tensor, nn
from train_cases import Killed, Recording

from madx.distributed import SINGLE, World
from madx.errors import RecipeError, TrainingError
from madx.recipe import AttackConfig, ThreatConfig
from madx.train import Evaluation, TrainingJob, evaluate, recalibrate_, train_
from madx.train.wholebatch import whole_batch_statistics

State = dict[str, Tensor]

TRAININGS: dict[str, dict[str, Any]] = {
    "pgd": {},
    "trades": {"loss": "trades", "beta": 2.0},
    "mart": {"loss": "mart", "beta": 2.0},
    "fgsm": {"method": "fgsm"},
    "clean": {"method": "clean"},
    "one weight average": {"average": 0},
}
TOLERANCE = 1e-9
"""In float64: float32 rounds the sum of two halves otherwise than that of the whole, on every CPU in its own way, and a
gradient near zero may change its sign with it."""


def widened(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
    return (given[0].double(),)


def exact_network(*, seed: int = 0) -> nn.Module:
    """The small network in float64."""
    module = train_cases.network(seed=seed).double()
    module.register_forward_pre_hook(widened)
    return module


class Direct(nn.BatchNorm2d):
    """A user's layer that calls `torch.batch_norm` without torch's layers."""

    def forward(self, images: Tensor) -> Tensor:
        running = (self.running_mean, self.running_var)
        return torch.batch_norm(images, self.weight, self.bias, *running, self.training, 0.1, self.eps, True)


NORMS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "1d": (nn.BatchNorm1d(3), (8, 3)),
    "1d on sequences": (nn.BatchNorm1d(3), (8, 3, 5)),
    "2d": (nn.BatchNorm2d(3), (8, 3, 4, 5)),
    "3d": (nn.BatchNorm3d(3), (8, 3, 2, 3, 2)),
    "no scale and shift": (nn.BatchNorm2d(3, affine=False), (8, 3, 4, 5)),
    "no tracking": (nn.BatchNorm2d(3, track_running_stats=False), (8, 3, 4, 5)),
    "cumulative": (nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 5)),
    "momentum and eps": (nn.BatchNorm2d(3, momentum=0.3, eps=0.1), (8, 3, 4, 5)),
    "torch's own function": (Direct(3), (8, 3, 4, 5)),
    "frozen": (nn.BatchNorm2d(3).eval(), (8, 3, 4, 5)),
}


class WithUnused(nn.Module):
    """A network with a layer that no image passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = exact_network(), nn.Linear(2, 2, dtype=torch.float64)
        for parameter in self.unused.parameters():
            nn.init.ones_(parameter)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.used(images)
        return logits


def masks() -> dict[str, Tensor]:
    return {"0.weight": torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5}


def trained(world: World, module: nn.Module, job: TrainingJob) -> tuple[State, list[Evaluation]]:
    log = train_(module, job, world=world)
    return module.state_dict(), log


def trainings(world: World) -> dict[str, tuple[State, list[Evaluation]]]:
    done = {
        name: trained(world, exact_network(), train_cases.training_job(masks=masks(), **changes))
        for name, changes in TRAININGS.items()
    }
    # Whoever is not process 0 comes with other weights; they must not count.
    done["start"] = trained(world, exact_network(seed=world.rank), train_cases.training_job())
    done["unused"] = trained(world, WithUnused(), train_cases.training_job())
    return done


def resumed(world: World) -> tuple[State, list[Evaluation]]:
    """Killed at the second evaluation as one process, and finished by as many as there are now."""
    kept = Recording(lives=2)
    with pytest.raises(Killed):
        train_(exact_network(), train_cases.training_job(), checkpoint=kept)
    kept.lives = None
    module = exact_network(seed=5)
    log = train_(module, train_cases.training_job(), checkpoint=kept, world=world)
    return module.state_dict(), log


def normalised(world: World) -> dict[str, list[Tensor]]:
    """Outputs, input gradients (this process's rows), parameter gradients and statistics of BatchNorm, in float64."""
    done = {}
    for name, (layer, shape) in NORMS.items():
        draws = torch.Generator().manual_seed(0)
        # A mean far from zero, where a careless variance would drown.
        whole = 100 + torch.randn(shape, generator=draws, dtype=torch.float64)
        weights = torch.randn(shape, generator=draws, dtype=torch.float64)
        rows, norm = world.rows(len(whole)), layer.double()
        images = whole[rows].clone().requires_grad_()
        with whole_batch_statistics(world):
            outputs = [norm(images), norm(images**2)]
        loss = ((outputs[0] + outputs[1]) * weights[rows]).sum()
        slopes = list(torch.autograd.grad(loss, [images, *norm.parameters()]))
        world.sum_(slopes[1:])
        done[name] = [outputs[1].detach(), *slopes, *(buffer.double() for buffer in norm.buffers())]
    return done


def measured(world: World) -> list[tuple[float, float]]:
    attack, threat, module = AttackConfig(steps=2, restarts=2), ThreatConfig(eps=0.05), train_cases.network(seed=3)
    return [evaluate(module, train_cases.split(count), attack, threat, seed=8, world=world) for count in (1, 260, 760)]


def recalibrated(world: World) -> State:
    module = train_cases.network()

    def images(number: int) -> Tensor:
        made = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        return made + module(made).mean().detach()  # made on the network itself

    recalibrate_(module, range(5), images=images, world=world)
    return module.state_dict()


def refusals(world: World) -> list[str]:
    """What every process says when one has a loss that is not finite, and when a batch cannot be shared."""
    texts = []
    jobs = [train_cases.training_job(lr=1e30, evaluations=1)]
    if world.size > 1:
        jobs.append(train_cases.training_job(batch_size=15))
    for job in jobs:
        with pytest.raises((TrainingError, RecipeError)) as caught:
            train_(train_cases.network(), job, world=world)
        texts.append(str(caught.value))
    return texts


class SkipsAtRandom(WithUnused):
    """A network with a layer that only some steps use, the same ones in every process."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        logits = super().forward(images)
        return logits + self.unused.weight.sum() if self.training and self.steps % 2 else logits


def refused_networks(world: World) -> dict[str, str]:
    """What is said of networks that several processes cannot share; nothing of theirs may be stored."""
    before = train_cases.network()
    own = nn.Sequential(nn.InstanceNorm2d(1, track_running_stats=True), before)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(train_cases.network())
    said = {}
    for name, module in {"own": own, "skips": SkipsAtRandom(), "sync": synchronised}.items():
        kept = Recording()
        with pytest.raises(TrainingError) as caught:
            train_(module, train_cases.training_job(), world=world, checkpoint=kept)
        said[name] = str(caught.value) if kept.load() is None else "something was stored"
    return said


def everything(world: World) -> dict[str, Any]:
    found = {
        "normalised": normalised(world),
        "trainings": trainings(world),
        "resumed": resumed(world),
        "measured": measured(world),
        "recalibrated": recalibrated(world),
        "refusals": refusals(world),
    }
    return found | ({"refused networks": refused_networks(world)} if world.size > 1 else {})


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = everything(SINGLE)
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def both() -> list[dict[str, Any]]:
    found = together(2, everything)
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
    return found


def assert_close(found: State, expected: State) -> None:
    torch.testing.assert_close(dict(found), dict(expected), rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", [*TRAININGS, "start", "unused"])
def test_training_is_that_of_one_process(alone: dict[str, Any], both: list[dict[str, Any]], name: str) -> None:
    (weights, log), (others, other_log) = (found["trainings"][name] for found in both)
    assert train_cases.same(weights, others)
    assert log == other_log
    expected, expected_log = alone["trainings"][name]
    assert_close(weights, expected)
    for entry, reference in zip(log, expected_log, strict=True):
        assert entry.loss == pytest.approx(reference.loss, rel=1e-5)
        assert replace(entry, loss=0) == replace(reference, loss=0)
    if name in TRAININGS:
        assert not bool(weights["0.weight"][~masks()["0.weight"]].any()), "a removed entry grew back"


def test_two_processes_finish_what_one_began(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    assert train_cases.same(alone["resumed"][0], alone["trainings"]["start"][0])
    assert_close(both[1]["resumed"][0], alone["resumed"][0])
    assert [entry.step for entry in both[1]["resumed"][1]] == [4, 8, 12]


@pytest.mark.parametrize("name", NORMS)
def test_batchnorm_sees_the_whole_batch(alone: dict[str, Any], both: list[dict[str, Any]], name: str) -> None:
    output, slope, *rest = alone["normalised"][name]
    for rank, found in enumerate(both):
        own_output, own_slope, *own_rest = found["normalised"][name]
        rows = slice(rank * 4, rank * 4 + 4)
        torch.testing.assert_close(own_output, output[rows], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(own_slope, slope[rows], rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(own_rest, rest, rtol=1e-9, atol=1e-9)


def test_evaluation_is_that_of_one_process(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    assert both[0]["measured"] == both[1]["measured"] == alone["measured"]
    assert 0 < alone["measured"][2][1] < alone["measured"][2][0]


def test_recalibration_is_that_of_one_process_to_the_bit(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    assert train_cases.same(both[0]["recalibrated"], alone["recalibrated"])
    assert train_cases.same(both[1]["recalibrated"], alone["recalibrated"])
    assert not train_cases.same(alone["recalibrated"], train_cases.network().state_dict())


def test_all_processes_refuse_alike(alone: dict[str, Any], both: list[dict[str, Any]]) -> None:
    assert both[0]["refusals"] == both[1]["refusals"]
    assert both[0]["refusals"][:1] == alone["refusals"]
    assert "a batch of 15 images cannot be shared evenly by 2 processes" in both[0]["refusals"][1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("own", "different weights at step 1: layers that keep statistics of their own .*; train with one process"),
        ("skips", "does not use the same layers in every step .*; train with one process"),
        ("sync", "SyncBatchNorm cannot be used here; use BatchNorm"),
    ],
)
def test_networks_that_cannot_be_shared_are_refused_by_all(both: list[dict[str, Any]], name: str, words: str) -> None:
    for found in both:
        assert re.search(words, found["refused networks"][name])


def test_without_a_group_nothing_is_intercepted() -> None:
    layer, images = nn.BatchNorm2d(3), torch.rand(4, 3, 2, 2)
    with whole_batch_statistics(SINGLE):
        inside = layer(images)
    assert inside.grad_fn is not None
    assert "NativeBatchNorm" in type(inside.grad_fn).__name__
