"""The training loop: it learns, keeps the best, holds masks, counts its steps, and stops when the loss is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
import train_cases
from torch import Tensor, nn
from train_cases import Recording, Watching

from madx.errors import ExitCode, RecipeError, TrainingError
from madx.recipe import AttackConfig, ThreatConfig
from madx.train import TrainingJob, evaluate, loop, train_
from madx.train.job import batches

METHODS = [
    pytest.param({}, id="pgd-ce"),
    pytest.param({"loss": "trades", "beta": 2.0}, id="trades"),
    pytest.param({"loss": "mart", "beta": 2.0}, id="mart"),
    pytest.param({"method": "fgsm"}, id="fgsm"),
    pytest.param({"precision": "bf16"}, id="bf16"),
]


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)


def script(monkeypatch: pytest.MonkeyPatch, robust: Iterable[float]) -> None:
    """Evaluations that return these robust accuracies, one after the other."""
    values = iter(robust)
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: (0.9, next(values)))


PATIENCE = {
    # patience: (robust accuracies of five evaluations, how many of them are made)
    "a gain comes in time": (2, [0.3, 0.2, 0.4, 0.4, 0.5], 5),
    "no gain for two": (2, [0.3, 0.5, 0.5, 0.4, 0.9], 4),
    "none at all": (1, [0.3, 0.3, 0.9, 0.9, 0.9], 2),
    "the start was best": (3, [0.3, 0.2, 0.1, 0.0, 0.9], 4),
    "without patience": (None, [0.3, 0.2, 0.1, 0.0, 0.1], 5),
}


@pytest.mark.parametrize("name", PATIENCE)
def test_training_ends_when_evaluations_bring_no_gain(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And so does one that is taken up after a kill, without another step."""
    patience, robust, made = PATIENCE[name]
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: (0.9, robust[kept.made()]))
    job, kept = train_cases.training_job(epochs=2.5, evaluations=5, patience=patience), Log()
    watch = train_cases.Watching()
    log = train_(train_cases.network(), job, checkpoint=kept, progress=watch)
    assert [entry.robust for entry in log] == robust[:made]
    assert len(watch.items) == log[-1].step == job.steps * made / 5
    again = train_cases.Watching()
    assert train_(train_cases.network(), job, checkpoint=kept, progress=again) == log
    assert again.items == []


class Log(train_cases.Recording):
    """Knows how many evaluations were saved."""

    def made(self) -> int:
        state = self.load()
        return len(state["log"]) if state else 0


@pytest.mark.parametrize("changes", METHODS)
def test_robust_accuracy_rises(changes: dict[str, Any]) -> None:
    module, job = train_cases.network(), train_cases.training_job(**{"epochs": 4, **changes})
    attack, threat, fresh = AttackConfig(steps=5, restarts=2), ThreatConfig(eps=0.05), train_cases.split(100, seed=9)
    _, before = evaluate(module, fresh, attack, threat, seed=8)
    log = train_(module, job)
    clean, after = evaluate(module, fresh, attack, threat, seed=8)
    assert before < 0.6
    assert after > 0.9
    assert clean >= after
    assert [entry.step for entry in log] == [8, 16, 24]
    assert log[-1].robust > 0.9
    assert not any(part.training for part in module.modules())


@pytest.mark.parametrize("network", [train_cases.network, train_cases.dropping])
def test_the_same_job_gives_the_same_weights_whatever_the_global_random_state(network: Callable[[], nn.Module]) -> None:
    states, logs = [], []
    for seed in (1, 2):
        module = network()
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        logs.append(train_(module, train_cases.training_job()))
        states.append(module.state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert train_cases.same(*states)
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("robust", [[0.1, 0.8, 0.3], [0.9, 0.2, 0.1], [0.1, 0.2, 0.3], [0.0, 0.0, 0.4]])
def test_the_weights_of_the_best_evaluation_are_returned(monkeypatch: pytest.MonkeyPatch, robust: list[float]) -> None:
    script(monkeypatch, robust)
    module, kept = train_cases.network(), Recording()
    log = train_(module, train_cases.training_job(), checkpoint=kept)
    assert [entry.robust for entry in log] == robust
    at_best = kept.states()[log[robust.index(max(robust))].step - 1]
    assert train_cases.same(module.state_dict(), at_best["average"])


@pytest.mark.parametrize(("method", "kept_at"), [("pgd", 4), ("fgsm", 4), ("clean", 8)])
def test_adversarial_training_keeps_the_most_robust_weights_and_clean_training_the_most_accurate(
    monkeypatch: pytest.MonkeyPatch, method: str, kept_at: int
) -> None:
    values = iter([(0.8, 0.5), (0.9, 0.4), (0.7, 0.3)])
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: next(values))
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    module, kept = train_cases.network(), Recording()
    train_(module, train_cases.training_job(method=method), checkpoint=kept)
    assert train_cases.same(module.state_dict(), kept.states()[kept_at - 1]["average"])


def by_hand(job: TrainingJob) -> dict[str, Tensor]:
    """Ordinary training at a constant rate, as any tutorial has it; removed entries are zeroed after every step."""
    module = train_cases.network().train()
    optimiser = torch.optim.SGD(module.parameters(), lr=job.config.lr, momentum=0.9, nesterov=True)
    masks = job.masks or {}
    with torch.no_grad():
        for name, mask in masks.items():
            module.get_parameter(name).mul_(mask)
    for images, labels in batches(job, 0):
        optimiser.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        for name, mask in masks.items():
            module.get_parameter(name).grad.mul_(mask)
        optimiser.step()
    return module.state_dict()


def test_clean_training_is_ordinary_training_and_makes_no_example(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked: list[object] = []
    monkeypatch.setattr(loop, "last_iterate", lambda *given, **_: attacked.append(given))
    masks = {"0.weight": torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5}
    plain = {"augment": "none", "average": 0, "schedule": "constant", "weight_decay": 0, "evaluations": 1}
    job = train_cases.training_job(method="clean", masks=masks, **plain)
    module = train_cases.network()
    log = train_(module, job)
    assert attacked == []
    expected = by_hand(job)
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    assert 0 < log[-1].robust < log[-1].clean, "what it does to robustness is measured all the same"


@pytest.mark.usefixtures("every_step")
def test_the_average_is_the_running_mean_with_a_decay_that_rises() -> None:
    module, kept = train_cases.network(), Recording()
    mean = {name: value.double() for name, value in module.state_dict().items()}
    train_(module, train_cases.training_job(average=0.5), checkpoint=kept)
    for step, state in enumerate(kept.states(), start=1):
        decay = min(0.5, step / (step + 9))
        for name, value in state["module"].items():
            mean[name] = decay * mean[name] + (1 - decay) * value.double()
            expected = value.double() if "num_batches" in name else mean[name]
            torch.testing.assert_close(state["average"][name].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("every_step")
def test_without_an_average_the_last_weights_are_kept() -> None:
    module, kept = train_cases.network(), Recording()
    train_(module, train_cases.training_job(average=0, evaluations=1), checkpoint=kept)
    last = kept.states()[-1]
    assert all(train_cases.same(state["average"], state["module"]) for state in kept.states())
    assert train_cases.same(module.state_dict(), last["module"])


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="nesterov"),
        pytest.param({"momentum": 0.9, "nesterov": False, "weight_decay": 0.1}, id="momentum"),
        pytest.param({"method": "fgsm", "average": 0.99}, id="fgsm"),
        pytest.param({"method": "clean"}, id="clean"),
        pytest.param({"precision": "bf16", "loss": "mart"}, id="bf16-mart"),
    ],
)
@pytest.mark.parametrize("prepared", [True, False], ids=["pruned", "not pruned yet"])
def test_masked_entries_are_zero_after_every_step(changes: dict[str, Any], prepared: bool) -> None:
    module, draws, kept = train_cases.network(), torch.Generator().manual_seed(0), Recording()
    shapes = {name: module.get_parameter(name).shape for name in ("0.weight", "4.weight", "4.bias")}
    masks = {name: torch.rand(shape, generator=draws) < 0.5 for name, shape in shapes.items()}
    masks["4.bias"] = torch.tensor([True, False])
    if prepared:
        with torch.no_grad():
            for name, mask in masks.items():
                module.get_parameter(name).mul_(mask)
    start = {name: value.detach().clone() for name, value in module.named_parameters()}
    train_(module, train_cases.training_job(masks=masks, **changes), checkpoint=kept)
    weights = [module.state_dict()]
    for state in kept.states():
        weights += [state["module"], state["average"], *([state["best"]] if state["best"] else [])]
    for name, mask in masks.items():
        assert all(not bool(state[name][~mask].any()) for state in weights), f"{name} grew back"
        assert bool((module.get_parameter(name)[mask] != start[name][mask]).all()), f"{name} was not trained"


@pytest.mark.parametrize(
    ("epochs", "batch", "evaluations", "steps", "marks"),
    [
        (2, 16, 3, 12, [4, 8, 12]),
        (1.5, 16, 2, 9, [4, 9]),
        (0.5, 16, 10, 3, [1, 2, 3]),
        (0.01, 16, 10, 1, [1]),
        (1, 96, 1, 1, [1]),
        (2, 36, 1, 4, [4]),
        (1.2, 16, 4, 7, [2, 4, 5, 7]),
    ],
)
def test_steps_fractions_of_epochs_and_evaluations(
    monkeypatch: pytest.MonkeyPatch, epochs: float, batch: int, evaluations: int, steps: int, marks: list[int]
) -> None:
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: (0.5, 0.5))
    job = train_cases.training_job(epochs=epochs, batch_size=batch, evaluations=evaluations)
    watch = Watching()
    log = train_(train_cases.network(), job, progress=watch)
    assert job.steps == steps == len(watch.items)
    assert watch.told == (steps, 0)
    assert [entry.step for entry in log] == marks
    assert [line.split(":")[0] for line in watch.lines] == [f"step {mark}/{steps}" for mark in marks]
    assert all(len(labels) == batch for _, labels in watch.items)


def test_every_epoch_is_a_permutation_of_its_own() -> None:
    watch, job = Watching(), train_cases.training_job(epochs=3)
    train_(train_cases.network(), job, progress=watch)
    rows = torch.cat([images.flatten(1) for images, _ in watch.items])
    epochs = [rows[first : first + 96] for first in (0, 96, 192)]
    everything = job.train.tensors()[0].flatten(1).unique(dim=0)
    assert all(torch.equal(epoch.unique(dim=0), everything) for epoch in epochs)
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(epochs))


def test_every_step_draws_numbers_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def noting(images: Tensor, _kind: str, generator: torch.Generator) -> Tensor:
        drawn.append(float(torch.rand(1, generator=generator)))
        return images

    monkeypatch.setattr(loop, "augment", noting)
    train_(train_cases.network(), train_cases.training_job())
    assert len(set(drawn)) == len(drawn) == 12


def test_a_split_without_a_whole_batch_is_refused() -> None:
    job = train_cases.training_job(count=10)
    with pytest.raises(RecipeError, match="10 images, fewer than one batch of 16; lower batch_size"):
        train_(train_cases.network(), job)


@pytest.mark.parametrize("changes", [{"lr": 1e30}, {"lr": 1e30, "loss": "mart"}, {"lr": 1e30, "precision": "bf16"}])
def test_a_loss_that_is_not_finite_ends_the_training(changes: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match=r"at step \d+; lower lr \(given: 1e\+30\)") as caught:
        train_(train_cases.network(), train_cases.training_job(evaluations=1, **changes))
    assert caught.value.exit_code == ExitCode.INCONCLUSIVE


class WithIdleLayers(nn.Module):
    """A network plus layers whose gradient is exactly zero, so that only weight decay could move them."""

    def __init__(self) -> None:
        super().__init__()
        self.used = train_cases.network()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)
        with torch.no_grad():
            for parameter in (*self.conv.parameters(), *self.norm.parameters()):
                parameter.fill_(2.0)

    def forward(self, images: Tensor) -> Tensor:
        return self.used(images) + 0 * self.norm(self.conv(images)).sum()


@pytest.mark.usefixtures("every_step")
def test_weight_decay_takes_weights_and_leaves_biases_and_batchnorm() -> None:
    module, kept = WithIdleLayers(), Recording()
    job = train_cases.training_job(momentum=0, nesterov=False, weight_decay=0.1, schedule="constant", lr=0.05)
    train_(module, job, checkpoint=kept)
    last = kept.states()[-1]["module"]
    shrunk = 2.0 * (1 - 0.05 * 0.1) ** job.steps
    torch.testing.assert_close(last["conv.weight"], torch.full((2, 1, 3, 3), shrunk), rtol=1e-5, atol=0)
    for name in ("conv.bias", "norm.weight", "norm.bias"):
        assert torch.equal(last[name], torch.full((2,), 2.0)), name


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize(
    "changes", [{"momentum": 0.9, "nesterov": True}, {"momentum": 0.8, "nesterov": False}], ids=str
)
def test_the_first_two_steps_are_sgds_by_the_book(monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    """With the attack and the augmentation out of the way, the update is a formula."""
    monkeypatch.setattr(loop, "last_iterate", lambda _gradient, images, _targets, **_: images)
    plain = {"augment": "none", "schedule": "constant", "lr": 0.05, "weight_decay": 0.01}
    kept, watch, model = Recording(), Watching(), train_cases.network().train()
    job = train_cases.training_job(**(plain | changes))
    train_(train_cases.network(), job, checkpoint=kept, progress=watch)
    velocity = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for (images, labels), state in zip(watch.items[:2], kept.states(), strict=False):
        model.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        with torch.no_grad():
            for name, value in model.named_parameters():
                gradient = value.grad + (0.01 * value if value.dim() > 1 else 0)
                velocity[name] = changes["momentum"] * velocity[name] + gradient
                step = gradient + changes["momentum"] * velocity[name] if changes["nesterov"] else velocity[name]
                value.sub_(0.05 * step)
                torch.testing.assert_close(state["module"][name], value.detach(), rtol=1e-4, atol=1e-6)


def test_no_loss_is_told_before_the_first_step() -> None:
    before, after = (loop._describe(loop.Evaluation(step, 0.5, 0.25, 0.0, ""), 30) for step in (0, 15))
    assert before == "step 0/30: clean 50.0%, robust 25.0% (selection)"
    assert after == "step 15/30: clean 50.0%, robust 25.0% (selection), loss 0.000"
