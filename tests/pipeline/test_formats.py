"""The format of a run's passes: probed once, kept for run and machine; a slow one that is named is told of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn

from madx.errors import ModelError
from madx.models.precision import PLAIN, ComputeFormat, Probe, Timing
from madx.pipeline import formats
from madx.pipeline.formats import describe_choice, kept_probe, warning
from madx.recipe import ModelConfig
from madx.rundir import RunDirectory

SHAPE = (1, 4, 4)
CPU = torch.device("cpu")
FOUND = Probe((Timing("fp32", False, 1.0, 0.0), Timing("fp32", True, 0.5, 1e-7), Timing("bf16", False, 7.0, None)))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[nn.Module]:
    """Networks that were probed; every probe finds the same."""
    found: list[nn.Module] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(formats, "probe", lambda network, _: found.append(network) or FOUND)
    return found


def network(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width))


def probed(run: RunDirectory, module: nn.Module) -> Probe:
    return kept_probe(run, ModelConfig(), module, shape=SHAPE, device=CPU)


def run(folder: Path) -> RunDirectory:
    folder.mkdir(exist_ok=True)
    return RunDirectory(folder)


def test_a_run_is_probed_once_and_its_manifest_says_on_what(asked, tmp_path: Path) -> None:
    for _ in range(2):
        assert probed(run(tmp_path / "run"), network()) == FOUND
    assert len(asked) == 1
    ((_, record),) = json.loads((tmp_path / "run/manifest.json").read_text())["probes"].items()
    assert record["choice"] == describe_choice(FOUND)
    assert record["timings"] == [asdict(timing) for timing in FOUND.timings]
    assert {"processor", "instruction_sets", "torch", "torch_uses", "limits"} == record["machine"].keys()


def test_two_runs_on_one_machine_have_the_same_format(asked, tmp_path: Path) -> None:
    """Where two formats are nearly as fast, two measurements would give two, and two runs of a recipe other bits."""
    for name in ("one", "two"):
        probed(run(tmp_path / name), network())
    assert len(asked) == 1


def test_a_run_keeps_its_own_when_the_machine_has_forgotten(asked, monkeypatch, tmp_path: Path) -> None:
    probed(run(tmp_path / "run"), network())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    probed(run(tmp_path / "run"), network())
    assert len(asked) == 1


@pytest.mark.parametrize("changed", ["network", "limit", "processor"])
def test_another_network_or_processor_is_probed_anew(asked, monkeypatch, tmp_path: Path, changed: str) -> None:
    probed(run(tmp_path / "run"), network())
    if changed == "limit":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    if changed == "processor":
        monkeypatch.setattr(formats, "processor_name", lambda: "another")
    probed(run(tmp_path / "run"), network(4 if changed == "network" else 3))
    assert len(asked) == 2


@pytest.mark.parametrize("content", ["{", "[]", '{"timings": [{"precision": "fp8"}]}', '{"timings": 3}'])
def test_a_damaged_memory_of_the_machine_is_measured_again(asked, tmp_path: Path, content: str) -> None:
    probed(run(tmp_path / "one"), network())
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text(content)
    assert probed(run(tmp_path / "two"), network()) == FOUND
    assert len(asked) == 2


def test_without_a_place_to_keep_it_each_run_measures(asked, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    for name in ("one", "two"):
        assert probed(run(tmp_path / name), network()) == FOUND
    assert len(asked) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/no/folder")
    assert probed(run(tmp_path / "three"), network()) == FOUND


def test_a_network_without_a_gradient_is_refused_with_its_own_words(tmp_path: Path, monkeypatch) -> None:
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 3)

        def forward(self, x):
            out = torch.exp(self.linear(x.flatten(1)))
            return out.mul_(2) if not out.requires_grad else out.add_(out.exp().mul_(out))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match=r"does not run forward and backward on images of shape .*in-?place"):
        probed(run(tmp_path / "run"), Broken())


def test_what_is_said() -> None:
    assert FOUND.fastest() == ComputeFormat(channels_last=True)
    assert "14 times" in describe_choice(FOUND)
    assert "14 times" in warning(FOUND, "bf16", "train.precision")
    assert "train.precision: auto" in warning(FOUND, "bf16", "train.precision")
    assert warning(FOUND, "fp32", "train.precision") == ""
    on_amx = Probe((Timing("fp32", False, 1.0, 0.0), Timing("bf16", True, 0.25, 0.02)))
    assert warning(on_amx, "bf16", "train.precision") == ""
    assert "4 times" in warning(on_amx, "fp32", "train.precision")
    assert describe_choice(Probe(())) == f"precision auto: {PLAIN}"


def test_a_recipe_that_names_a_slow_precision_is_warned_once(
    cli, request: pytest.FixtureRequest, tiny_recipe: Path, tmp_path: Path
) -> None:
    request.getfixturevalue("asked")  # after `cli`, which times no format either
    options = ("--set", "train.precision=bf16", "--set", "train.epochs=0.05")
    answer = cli("train", tiny_recipe, "--run-dir", tmp_path / "run", *options)
    assert answer.code == 0, answer.err
    assert answer.err.count("takes 14 times as long") == 2, "once as the machine's choice, once as a warning"
    assert answer.err.count("train.precision: bf16 takes") == 1
