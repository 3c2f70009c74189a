"""How much work a plan says a stage is, beside what the stage does: images that go through convolutions, counted."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from madx.pipeline import Context, curve, run_stages, soundness, stage_named
from madx.pipeline.work import parts_of
from madx.progress import Silent
from madx.recipe import load_recipe
from madx.rundir import RunDirectory

NETWORK = '''
import numpy as np
import torch
from torch import nn


class Sure(nn.Module):
    """Two convolutions that can be pruned, and an answer that no attack at this radius turns: the brightness."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.norm, self.end = nn.BatchNorm2d(16), nn.Linear(16, 4)

    def forward(self, x):
        body = self.end(self.two(self.norm(self.one(x)).relu()).relu().mean((2, 3)))
        levels = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=x.dtype, device=x.device)
        return 0.01 * body.tanh() - 200 * (x.mean((1, 2, 3))[:, None] - levels).square()


def network():
    return Sure()


def images():
    draws = np.random.default_rng(0)

    def part(n):
        labels = np.arange(n) % 4
        noise = draws.uniform(-0.05, 0.05, (n, 1, 8, 8))
        return (noise + (0.2 + 0.2 * labels)[:, None, None, None]).astype(np.float32), labels

    return {"train": part(600), "test": part(150)}
'''
RECIPE = """
name: sure
threads: 1
data: {name: factory, factory: 'sure:images', selection: 100}
model: {name: factory, factory: 'sure:network'}
threat: {eps: 0.05}
train: {epochs: 2, batch_size: 50, evaluations: 2, selection_images: 80, average: 0.9, augment: none, lr: 0.01,
        precision: fp32, attack: {steps: 3}, selection_attack: {steps: 4, restarts: 2}}
prune:
  criterion: mad
  batches: 3
  batch_size: 32
  round_to: 8
  attack: {steps: 2}
  learning: {steps: 5, precision: fp32}
  recalibration_batches: 2
  recalibration_rounds: 2
  finetune: {epochs: 1, batch_size: 50, evaluations: 2, selection_images: 100, average: 0.9, augment: none, lr: 0.01,
             precision: fp32, attack: {steps: 2}, selection_attack: {steps: 2}}
export: {parity_images: 32}
verify:
  attack: quick
  images: 120
  chunk: 50
  latency: {seconds: 1, pairs: 30, block_calls: 5}
"""
CONVOLUTIONS = 2


class Counted(TorchDispatchMode):
    """Counts images that go forward and backward through convolutions, whoever calls them."""

    def __init__(self) -> None:
        super().__init__()
        self.images: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("convolution", "convolution_backward"):
            self.images["back" if name.endswith("backward") else "forth"] += args[0].shape[0]
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the network and a run up to its engines; tests copy it."""
    folder = tmp_path_factory.mktemp("sure")
    (folder / "sure.py").write_text(NETWORK)
    (folder / "sure.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        run_stages(opened(folder), [stage_named(name) for name in ("train", "prune", "export")])
    return folder


@pytest.fixture
def folder(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(done, tmp_path / "copy"))
    monkeypatch.syspath_prepend(str(done))
    return copy


def opened(folder: Path, *overrides: str) -> Context:
    return Context(load_recipe(folder / "sure.yaml", overrides), RunDirectory(folder / "run"), Silent())


def planned(context: Context, stage: str) -> tuple[int, int]:
    """(images forward through the torch networks, of these backward too)."""
    passes = sum((part.passes for part in parts_of(context, stage)), Counter())
    torch_passes = {way: images for way, images in passes.items() if way.kind != "engine"}
    back = sum(images for way, images in torch_passes.items() if way.kind != "forward")
    return sum(torch_passes.values()), back


def counted(context: Context, stage: str) -> tuple[float, float]:
    """The same of what the stage really does."""
    with Counted() as found:
        run_stages(context, [stage_named(stage)])
    return found.images["forth"] / CONVOLUTIONS, found.images["back"] / CONVOLUTIONS


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.loss=trades",),
        ("train.loss=mart",),
        ("train.method=fgsm",),
        ("train.method=clean",),
        ("train.evaluations=7", "train.epochs=0.5"),
    ],
    ids=" ".join,
)
def test_training_is_as_much_work_as_planned(folder: Path, overrides: tuple[str, ...]) -> None:
    context = opened(folder, "seed=1", *overrides)
    expected = planned(context, "train")
    assert counted(context, "train") == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("prune.criterion=hydra",),
        ("prune.criterion=mad-paper", "prune.precision=fp32", "prune.recalibration_batches=0"),
        ("prune.criterion=taylor", "prune.structure=unstructured"),
        ("prune.criterion=obd",),
        ("prune.criterion=magnitude", "prune.finetune.loss=mart"),
        ("prune.criterion=random", "prune.recalibration=clean"),
    ],
    ids=" ".join,
)
def test_pruning_is_as_much_work_as_planned(folder: Path, overrides: tuple[str, ...]) -> None:
    context = opened(folder, "prune.sparsity=0.4", *overrides)
    expected = planned(context, "prune")
    assert counted(context, "prune") == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize(
    "overrides",
    [(), ("verify.attack={steps: 20, restarts: 2}",), ("verify.eight_bit=true", "verify.images=60")],
    ids=" ".join,
)
def test_verifying_is_as_much_work_as_planned(
    folder: Path, overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what no network withstands: every image stands within the threat, and none without a bound."""
    monkeypatch.setattr(soundness, "UNBOUNDED", ())
    monkeypatch.setattr(curve, "FACTORS", (0.0, 0.5, 1.0, 1.5))
    context = opened(folder, *overrides)
    expected = planned(context, "verify")
    assert counted(context, "verify") == pytest.approx(expected, rel=0.04)


@pytest.mark.parametrize("stage", ["train", "prune", "verify"])
def test_what_the_progress_shows_are_parts_of_the_plan(folder: Path, stage: str) -> None:
    """Else the whole run's share would stand still: every step that is tracked has its name in the plan."""
    shown: list[str] = []

    class Listening(Silent):
        def track(self, items: Any, description: str, *, total: int, done: int = 0) -> Any:
            shown.append(description)
            return super().track(items, description, total=total, done=done)

    context = opened(folder, "seed=2") if stage == "train" else opened(folder, *_CHANGED[stage])
    context = replace(context, progress=Listening())
    names = [part.name for part in parts_of(context, stage)]
    run_stages(context, [stage_named(stage)])
    assert shown == [name for name in names if not name.startswith("(")]


_CHANGED: dict[str, tuple[str, ...]] = {"prune": ("prune.sparsity=0.3",), "verify": ()}
