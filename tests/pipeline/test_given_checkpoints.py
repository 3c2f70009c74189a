"""A checkpoint with more in it than the network: the recipe's settings, what a run says, keeps and does again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import TINY, Cli

from madx.errors import RecipeError
from madx.models import build_model
from madx.recipe import ModelConfig, load_recipe, parse_recipe

NETWORK = "{name: resnet8, args: {widths: [16, 16, 16], stem_stride: 1}}"


@pytest.fixture
def run(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    """`madx train` of a recipe whose weights are a network and its average; random, so they only start a training."""
    monkeypatch.chdir(tmp_path)
    config = ModelConfig(args={"widths": [16, 16, 16], "stem_stride": 1})
    state = build_model(config, shape=(1, 8, 8), classes=10, seed=5).state_dict()
    average = {f"module.{name}": value + 1 for name, value in state.items()} | {"n_averaged": torch.tensor(3)}
    torch.save({"model": state, "model_ema": average, "epoch": 9}, "both.ckpt")
    Path("tiny.yaml").write_text(TINY.replace(NETWORK, NETWORK[:-1] + ", weights: both.ckpt}"))

    def trained(*settings: str):
        return cli("train", "tiny.yaml", "--run-dir", "run", *(f"--set={setting}" for setting in settings))

    return trained


def test_which_state_is_asked_then_said_recorded_and_part_of_the_key(run, cli: Cli) -> None:
    refused = run()
    assert refused.code == 2
    assert "model.key: model or model.key: model_ema" in refused.err
    assert "Traceback" not in refused.err
    answer = run("model.key=model_ema")
    assert answer.code == 0, answer.err
    said = "the state 'model_ema'; 'module.' taken off its names; left out: n_averaged; not read: 'model', 'epoch'"
    assert said in " ".join(answer.err.split())
    log = json.loads(Path("run/dense/training.json").read_text())
    assert (log["weights"]["state"], log["weights"]["prefix"]) == ("model_ema", "module.")
    assert said in " ".join(cli("inspect", "run").out.split())
    assert "up to date" in run("model.key=model_ema").err
    again = run("model.key=model")
    assert "the state 'model'" in " ".join(again.err.split())
    assert json.loads(Path("run/dense/training.json").read_text())["digest"] != log["digest"]


def test_settings_without_weights_are_refused_while_reading() -> None:
    for setting in ("model.key=model_ema", "model.strip_prefix=model."):
        with pytest.raises(RecipeError, match="which are not given"):
            parse_recipe(TINY, source="tiny.yaml", overrides=[setting])


@pytest.mark.parametrize(
    ("written", "prefix"),
    [('"model."', "model."), ("1.", "1."), ('"1."', "1."), ("''", ""), ("module.1.", "module.1.")],
)
def test_a_prefix_that_yaml_takes_for_a_number_is_a_prefix(written: str, prefix: str, tmp_path: Path) -> None:
    file = tmp_path / "tiny.yaml"
    file.write_text(TINY.replace(NETWORK, f"{NETWORK[:-1]}, weights: w.pt, strip_prefix: {written}}}"))
    assert load_recipe(file).model.strip_prefix == prefix


def test_what_names_a_state_plays_no_part_beyond_the_dense_network() -> None:
    plain = ModelConfig(weights=Path("a.pt"))
    named = ModelConfig(weights=Path("b.pt"), key="ema", strip_prefix="model.")
    assert plain.architecture == named.architecture == ModelConfig().architecture
    assert set(plain.architecture) == {"name", "factory", "args"}, "keys of runs of earlier versions stay"
