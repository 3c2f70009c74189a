"""PGD against closed forms on linear networks and against a record of every point it visited."""

from __future__ import annotations

import math
from collections.abc import Callable

import attack_cases
import pytest
import torch
from attack_cases import NORMS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from madx.attacks import input_gradient, last_iterate, norm_named, strongest_examples, wrong_margin
from madx.recipe import AttackConfig

LONG = AttackConfig(steps=60, relative_step=30)
"""Steps of eps / 2: in L2 the angle to the best direction shrinks geometrically."""


def two_classes() -> tuple[nn.Module, Tensor]:
    """A linear network whose margin for label 0 is w . x, and w."""
    w = torch.randn(8, generator=attack_cases.generator(3))
    return attack_cases.linear(torch.stack([torch.zeros(8), w])), w


def attacked(module: nn.Module, x: Tensor, y: Tensor, *, norm: str, eps: float = 0.1, attack: AttackConfig) -> Tensor:
    return strongest_examples(
        lambda images: module(images),
        input_gradient(module),
        x,
        y,
        threat=attack_cases.threat(norm, eps),
        attack=attack,
        generator=attack_cases.generator(5),
    )


class Recorder:
    """Every point at which the attack looked, with its margin, by the clean image it belongs to."""

    def __init__(self, module: nn.Module, clean: Tensor, labels: Tensor) -> None:
        self.module, self.clean, self.labels = module, clean, labels
        self.calls: list[tuple[str, list[int]]] = []
        self.points: list[list[tuple[float, Tensor]]] = [[] for _ in clean]

    def _note(self, kind: str, points: Tensor, logits: Tensor) -> None:
        owners = torch.cdist(points.flatten(1), self.clean.flatten(1)).argmin(1).tolist()
        self.calls.append((kind, owners))
        for owner, point, row in zip(owners, points, logits, strict=True):
            label = int(self.labels[owner])
            rival = max(float(value) for index, value in enumerate(row) if index != label)
            self.points[owner].append((rival - float(row[label]), point.clone()))

    def forward(self, points: Tensor) -> Tensor:
        logits = self.module(points)
        self._note("forward", points, logits)
        return logits

    def gradient(self, points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits, slope = input_gradient(self.module)(points, targets)
        self._note("gradient", points, logits)
        return logits, slope


def recorded(norm: str, eps: float, restarts: int, *, steps: int = 4) -> tuple[Recorder, Tensor]:
    module, clean = attack_cases.bent(), attack_cases.images(30)
    labels = module(clean).argmax(1)
    record = Recorder(module, clean, labels)
    attack = AttackConfig(steps=steps, relative_step=2.3, restarts=restarts)
    threat, draws = attack_cases.threat(norm, eps), attack_cases.generator(7)
    with torch.no_grad():
        best = strongest_examples(
            record.forward, record.gradient, clean, labels, threat=threat, attack=attack, generator=draws
        )
    return record, best


@pytest.mark.parametrize("attack", [AttackConfig(), LONG, AttackConfig(steps=1, relative_step=2)])
def test_in_linf_a_linear_network_meets_its_worst_case_with_and_without_the_box(attack: AttackConfig) -> None:
    module, w = two_classes()
    for low, high in [(0.2, 0.8), (0.0, 1.0)]:
        x = attack_cases.images(20, low=low, high=high)
        y = torch.zeros(20, dtype=torch.int64)
        found = wrong_margin(module(attacked(module, x, y, norm="linf", attack=attack)), y)
        corner = (x.double().flatten(1) + 0.1 * w.double().sign()).clamp(0, 1)
        torch.testing.assert_close(found.double(), corner @ w.double(), rtol=0, atol=2e-6)
        if low > 0.1:
            closed_form = x.double().flatten(1) @ w.double() + 0.1 * w.double().abs().sum()
            torch.testing.assert_close(found.double(), closed_form, rtol=0, atol=2e-6)


# Margins near -60 saturate the softmax: the gradient is about e^-60, and its square is zero in float32.
@pytest.mark.parametrize(("scale", "margin"), [(1, 0), (20, -60)])
def test_in_l2_a_linear_network_meets_its_worst_case(scale: int, margin: int) -> None:
    module, w = two_classes()
    x, y = attack_cases.images(20, low=0.2, high=0.8), torch.zeros(20, dtype=torch.int64)
    with torch.no_grad():
        module[1].weight.mul_(scale)
        module[1].bias[1] = margin - module(x)[:, 1].mean()
        found = wrong_margin(module(attacked(module, x, y, norm="l2", attack=LONG)), y)
    clean = x.double().flatten(1) @ (w.double() * scale) + module[1].bias[1].double()
    closed_form = clean + 0.1 * w.double().norm() * scale
    torch.testing.assert_close(found.double(), closed_form, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("norm", NORMS)
@given(eps=st.floats(1e-3, 1.0), seed=st.integers(0, 10**6), steps=st.integers(1, 4))
@settings(max_examples=25)
def test_every_point_visited_is_in_the_ball_and_in_the_box(norm: str, eps: float, seed: int, steps: int) -> None:
    module, x = attack_cases.bent(), attack_cases.images(4, seed=seed)
    x[0], x[1] = 0.0, 1.0
    visited: list[Tensor] = []

    def gradient(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        visited.append(points)
        return input_gradient(module)(points, targets)

    threat, attack = attack_cases.threat(norm, eps), AttackConfig(steps=steps)
    y = torch.tensor([0, 1, 2, 0])
    end = last_iterate(gradient, x, y, threat=threat, attack=attack, generator=attack_cases.generator(seed))
    assert len(visited) == steps
    for points in [*visited, end]:
        assert points.dtype == torch.float32
        assert float(points.min()) >= 0
        assert float(points.max()) <= 1
        # float32 pixels near 1 are 6e-8 apart; in L2 eight of them add up
        assert float(norm_named(norm).size(points.double() - x.double()).max()) <= eps * (1 + 1e-6) + 3e-7


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [0.02, 0.1])
@pytest.mark.parametrize("restarts", [1, 3])
def test_the_strongest_example_is_the_largest_margin_of_all_points_visited(
    norm: str, eps: float, restarts: int
) -> None:
    record, best = recorded(norm, eps, restarts)
    for number, points in enumerate(record.points):
        largest = max(margin for margin, _ in points)
        winners = [point for margin, point in points if margin == largest]
        assert any(torch.equal(best[number], point) for point in winners), f"image {number} lost its best point"


@pytest.mark.parametrize("norm", NORMS)
def test_only_images_that_still_stand_are_restarted(norm: str) -> None:
    steps, restarts = 4, 4
    record, _ = recorded(norm, 0.05 if norm == "linf" else 0.12, restarts, steps=steps)
    rounds = [record.calls[first : first + steps + 1] for first in range(0, len(record.calls), steps + 1)]
    assert len(rounds) == restarts
    seen = [0] * 30
    standing = list(range(30))
    for turn in rounds:
        assert [kind for kind, _ in turn] == ["gradient"] * steps + ["forward"]
        assert all(owners == standing for _, owners in turn)
        for image in standing:
            seen[image] += steps + 1
        standing = [image for image in standing if max(m for m, _ in record.points[image][: seen[image]]) <= 0]
    assert 0 < len(standing) < 30, "a case in which all or none fall decides nothing"


def test_when_every_image_is_turned_there_is_no_second_start() -> None:
    module, _ = two_classes()
    x = attack_cases.images(5)
    record = Recorder(module, x, (module(x).argmax(1) + 1) % 2)
    strongest_examples(
        record.forward,
        record.gradient,
        x,
        record.labels,
        threat=attack_cases.threat("linf", 0.001),
        attack=AttackConfig(steps=3, restarts=5),
        generator=attack_cases.generator(),
    )
    assert [kind for kind, _ in record.calls] == ["gradient"] * 3 + ["forward"]


@pytest.mark.parametrize("norm", NORMS)
def test_the_restarts_of_an_attack_differ_and_can_only_help(norm: str) -> None:
    once, _ = recorded(norm, 0.02, 1)
    record, _ = recorded(norm, 0.02, 3)
    more = [max(m for m, _ in points) for points in record.points]
    first = [max(m for m, _ in points) for points in once.points]
    assert all(now >= before for now, before in zip(more, first, strict=True))
    assert any(now > before for now, before in zip(more, first, strict=True))


@pytest.mark.parametrize("norm", NORMS)
def test_an_example_does_not_depend_on_its_neighbours_in_the_batch(norm: str) -> None:
    module = attack_cases.bent()
    attack, y = AttackConfig(steps=5), torch.tensor([1, 0, 2, 1])
    ends = []
    for seed in (1, 2):
        x = attack_cases.images(4, seed=seed)
        x[0] = attack_cases.images(1, seed=9)[0]
        threat, draws = attack_cases.threat(norm), attack_cases.generator()
        ends.append(last_iterate(input_gradient(module), x, y, threat=threat, attack=attack, generator=draws))
    assert torch.equal(ends[0][0], ends[1][0])
    assert not torch.equal(ends[0][1], ends[1][1])


def test_the_last_iterate_is_one_step_after_the_last_point_looked_at() -> None:
    module, x, y = attack_cases.bent(), attack_cases.images(5), torch.tensor([0, 1, 2, 0, 1])
    record = Recorder(module, x, y)
    threat, attack = attack_cases.threat("linf", 0.05), AttackConfig(steps=3, relative_step=2.0, restarts=9)
    end = last_iterate(record.gradient, x, y, threat=threat, attack=attack, generator=attack_cases.generator())
    assert len(record.calls) == 3, "restarts play no part here"
    for number, points in enumerate(record.points):
        last = points[-1][1]
        _, slope = input_gradient(module)(last[None], y[number : number + 1])
        stepped = last + 2.0 * 0.05 / 3 * slope[0].sign()
        expected = torch.minimum(torch.maximum(stepped, x[number] - 0.05), x[number] + 0.05).clamp(0, 1)
        torch.testing.assert_close(end[number], expected, rtol=0, atol=2e-7)


def run_last(seed: int, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    threat, draws = attack_cases.threat("linf"), attack_cases.generator(seed)
    return last_iterate(input_gradient(module), x, y, threat=threat, attack=AttackConfig(), generator=draws)


def run_strongest(seed: int, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    threat, draws = attack_cases.threat("linf"), attack_cases.generator(seed)
    attack = AttackConfig(restarts=2)
    return strongest_examples(module, input_gradient(module), x, y, threat=threat, attack=attack, generator=draws)


@pytest.mark.parametrize("run", [run_last, run_strongest])
def test_an_attack_is_repeatable_and_touches_nothing_of_its_caller(run: Callable[..., Tensor]) -> None:
    module, x = attack_cases.bent(), attack_cases.images(5)
    y = module(x).argmax(1)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    given, global_state = x.clone(), torch.get_rng_state()
    first = run(0, module, given, y)
    assert torch.equal(first, run(0, module, given, y))
    assert not torch.equal(first, run(1, module, given, y))
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(given, x)
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert not first.requires_grad


def test_a_network_that_returns_nan_off_the_clean_image_does_not_count_as_standing() -> None:
    plain, _ = two_classes()
    x = attack_cases.images(4)

    def forward(points: Tensor) -> Tensor:
        moved = (points != x).flatten(1).any(1, keepdim=True)
        return plain(points).masked_fill(moved, math.nan)

    def gradient(points: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return forward(points), input_gradient(plain)(points, targets)[1]

    y, threat, draws = plain(x).argmax(1), attack_cases.threat("linf"), attack_cases.generator()
    worst = strongest_examples(forward, gradient, x, y, threat=threat, attack=AttackConfig(), generator=draws)
    assert bool(forward(worst).isnan().all())
