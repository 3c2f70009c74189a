"""Whatever kills a training, the resumed one ends with the same bits; and FGSM that collapses is rolled back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import train_cases
from torch import Tensor
from train_cases import Killed, Recording, Watching

from madx.artifacts import FileCheckpoint
from madx.recipe import AttackConfig
from madx.train import Evaluation, TrainingJob, loop, train_

KINDS = [
    pytest.param({"epochs": 1.5, "evaluations": 2}, id="pgd"),
    pytest.param({"epochs": 1.5, "loss": "trades", "precision": "bf16", "evaluations": 2}, id="trades-bf16"),
    pytest.param({"epochs": 1.5, "loss": "mart", "momentum": 0.5, "evaluations": 2}, id="mart"),
    pytest.param({"epochs": 1.5, "method": "fgsm", "average": 0, "evaluations": 2}, id="fgsm"),
    pytest.param({"epochs": 1.5, "method": "clean", "evaluations": 2}, id="clean"),
    pytest.param({"epochs": 1.5, "evaluations": 3, "patience": 3}, id="patient"),
]


def masks() -> dict[str, Tensor]:
    return {"0.weight": torch.rand(6, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5}


def whole(job: TrainingJob) -> tuple[dict[str, Tensor], list[Evaluation]]:
    module = train_cases.network()
    log = train_(module, job)
    return module.state_dict(), log


@pytest.mark.parametrize("changes", KINDS)
def test_killed_after_every_single_step_it_ends_with_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = train_cases.training_job(masks=masks(), **changes)
    weights, log = whole(job)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    file = FileCheckpoint(tmp_path / "training.pt", "key")
    for life in range(job.steps - 1):  # each process does one step more
        watch = Watching(death=1)
        with pytest.raises(Killed):
            train_(train_cases.network(seed=life), job, checkpoint=file, progress=watch)
        assert watch.told == (job.steps, life)
    module = train_cases.network(seed=99)
    resumed = train_(module, job, checkpoint=file)
    assert resumed == log
    assert train_cases.same(module.state_dict(), weights)


def test_a_layer_that_draws_for_itself_draws_the_same_after_a_kill() -> None:
    job, kept = train_cases.training_job(epochs=1.5, evaluations=2), Recording()
    module, resumed = train_cases.dropping(), train_cases.dropping(seed=9)
    log = train_(module, job)
    with pytest.raises(Killed):
        train_(train_cases.dropping(), job, checkpoint=kept, progress=Watching(death=6))
    torch.rand(5)  # whatever else the new process has drawn
    assert train_(resumed, job, checkpoint=kept) == log
    assert train_cases.same(resumed.state_dict(), module.state_dict())


@pytest.mark.parametrize("death", [1, 4, 5, 6, 7, 8])
def test_batches_that_end_midway_cost_only_what_was_not_saved(death: int) -> None:
    """Without the clock, states are kept at evaluations (after steps 4 and 9) alone."""
    job = train_cases.training_job(epochs=1.5, evaluations=2)
    weights, log = whole(job)
    kept = Recording()
    with pytest.raises(Killed):
        train_(train_cases.network(), job, checkpoint=kept, progress=Watching(death=death))
    assert [state["step"] for state in kept.states()] == ([4] if death >= 4 else [])
    module, watch = train_cases.network(), Watching()
    assert train_(module, job, checkpoint=kept, progress=watch) == log
    assert watch.told == (9, 4 if death >= 4 else 0)
    assert train_cases.same(module.state_dict(), weights)


def test_killed_between_the_last_save_and_the_end_nothing_is_trained_again() -> None:
    job = train_cases.training_job()
    weights, log = whole(job)
    kept = Recording(lives=3)
    with pytest.raises(Killed):
        train_(train_cases.network(), job, checkpoint=kept)
    module, watch = train_cases.network(seed=5), Watching()
    kept.lives = None
    assert train_(module, job, checkpoint=kept, progress=watch) == log
    assert watch.items == []
    assert train_cases.same(module.state_dict(), weights)
    assert not module.training


def test_saving_often_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    job = train_cases.training_job()
    weights, log = whole(job)
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    module, kept = train_cases.network(), Recording()
    assert train_(module, job, checkpoint=kept) == log
    assert len(kept.saved) == job.steps
    assert train_cases.same(module.state_dict(), weights)


@pytest.fixture
def attacks(monkeypatch: pytest.MonkeyPatch) -> list[AttackConfig]:
    """The attack of every training step, in order."""
    used: list[AttackConfig] = []
    original: Callable[..., Tensor] = loop.last_iterate

    def noting(*given: Any, attack: AttackConfig, **named: Any) -> Tensor:
        used.append(attack)
        return original(*given, attack=attack, **named)

    monkeypatch.setattr(loop, "last_iterate", noting)
    return used


def collapse(
    monkeypatch: pytest.MonkeyPatch, robust: list[float], checkpoint: Recording, **changes: Any
) -> list[Evaluation]:
    values = iter(robust)
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: (0.9, next(values)))
    job = train_cases.training_job(**({"method": "fgsm", "evaluations": 4} | changes))
    return train_(train_cases.network(), job, checkpoint=checkpoint)


def test_fgsm_that_collapses_goes_back_to_the_best_weights_and_on_with_pgd(
    monkeypatch: pytest.MonkeyPatch, attacks: list[AttackConfig]
) -> None:
    kept = Recording()
    log = collapse(monkeypatch, [0.5, 0.6, 0.29, 0.55], kept)
    assert ["catastrophic overfitting" in entry.event for entry in log] == [False, False, True, False]
    _, best, collapsed, end = kept.states()
    weights = best["average"]
    assert train_cases.same(collapsed["module"], weights)
    assert train_cases.same(collapsed["average"], weights)
    assert collapsed["optimiser"]["state"] == {}, "the momentum of the collapse must be gone"
    assert not train_cases.same(end["module"], weights), "it must train on"
    assert [(attack.steps, attack.relative_step) for attack in attacks] == [(1, 1.25)] * 9 + [(3, 2.5)] * 3


def test_a_collapse_is_remembered_over_a_kill(monkeypatch: pytest.MonkeyPatch, attacks: list[AttackConfig]) -> None:
    kept = Recording(lives=3)
    with pytest.raises(Killed):
        collapse(monkeypatch, [0.5, 0.6, 0.1], kept)
    kept.lives = None
    attacks.clear()
    log = collapse(monkeypatch, [0.05], kept)
    assert [attack.steps for attack in attacks] == [3] * 3
    assert log[-1].event == "", "after the collapse PGD is not rolled back"
    assert [entry.robust for entry in log] == [0.5, 0.6, 0.1, 0.05]


@pytest.mark.parametrize(
    ("robust", "changes"),
    [
        pytest.param([0.5, 0.6, 0.31, 0.6], {}, id="above half"),
        pytest.param([0.0, 0.0, 0.0, 0.0], {}, id="never robust"),
        pytest.param([0.5, 0.6, 0.1, 0.1], {"method": "pgd"}, id="pgd"),
        pytest.param([0.5, 0.6, 0.1, 0.1], {"method": "clean"}, id="clean"),
    ],
)
def test_what_is_no_collapse_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, robust: list[float], changes: dict[str, Any]
) -> None:
    kept = Recording()
    log = collapse(monkeypatch, robust, kept, **changes)
    assert [entry.event for entry in log] == [""] * 4
    assert not any(state["collapsed"] for state in kept.states())
    assert all(state["optimiser"]["state"] for state in kept.states())


def test_a_collapse_at_the_very_end_returns_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Recording()
    log = collapse(monkeypatch, [0.5, 0.7, 0.6, 0.0], kept)
    assert "catastrophic overfitting" in log[-1].event
    states = kept.states()
    assert train_cases.same(states[3]["module"], states[1]["average"])
