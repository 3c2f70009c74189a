from __future__ import annotations

from typing import Any

import pytest
import torch

from madx.errors import ModelError
from madx.models import Normalise, build_model
from madx.recipe import ModelConfig

MEAN, STD = [0.5, 0.25, 0.75], [0.25, 0.5, 2.0]
SMALL: dict[str, dict[str, Any]] = {
    "resnet8": {"widths": [4, 4, 4]},
    "resnet18": {"widths": [4, 4, 4, 4]},
    "vgg16_bn": {"widths": [4, 4, 4, 4, 4]},
    "wrn28_10": {"depth": 10, "widen": 1},
}


def test_each_channel_gets_its_own_mean_and_std() -> None:
    x = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    given = Normalise(MEAN, STD)(x)
    for channel in range(3):
        assert torch.equal(given[:, channel], (x[:, channel] - MEAN[channel]) / STD[channel])


@pytest.mark.parametrize("name", SMALL)
def test_a_normalised_network_is_the_plain_one_on_normalised_images(name: str) -> None:
    plain = build_model(ModelConfig(name=name, args=SMALL[name]), shape=(3, 32, 32), classes=5, seed=0)
    args = {**SMALL[name], "normalise": {"mean": MEAN, "std": STD}}
    network = build_model(ModelConfig(name=name, args=args), shape=(3, 32, 32), classes=5, seed=0)
    added = {"norm.mean": (3, 1, 1), "norm.std": (3, 1, 1)}
    assert {key: tuple(value.shape) for key, value in network.state_dict().items() if "norm." in key} == added
    assert network.state_dict().keys() - added.keys() == plain.state_dict().keys()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(x), plain(Normalise(MEAN, STD)(x)))


def test_null_and_fractions_are_read() -> None:
    plain = build_model(ModelConfig(args={"normalise": None}), shape=(1, 8, 8), classes=2, seed=0)
    assert not any("norm" in key for key in plain.state_dict())
    args = {"normalise": {"mean": ["51/255"], "std": [1]}}
    network = build_model(ModelConfig(args=args), shape=(1, 8, 8), classes=2, seed=0)
    assert network.norm.mean.flatten().tolist() == pytest.approx([0.2])


BAD = [
    pytest.param({"mean": [0.5], "std": [0.5]}, ["1 mean(s)", "3 channel(s)"], id="channels"),
    pytest.param({"mean": MEAN, "std": [0.5]}, ["3 mean(s) and 1 std(s)"], id="lengths"),
    pytest.param({"mean": MEAN, "std": [0.5, 0, 0.5]}, ["std.1", "greater than 0"], id="zero"),
    pytest.param({"mean": MEAN, "std": [0.5, -1, 0.5]}, ["std.1", "greater than 0"], id="negative"),
    pytest.param({"mean": MEAN}, ["std: Field required"], id="missing"),
    pytest.param({"mean": MEAN, "std": STD, "eps": 1}, ["eps: Extra inputs"], id="extra"),
    pytest.param({"mean": 0.5, "std": 0.5}, ["mean: ", "3 number(s)"], id="numbers"),
    pytest.param({"mean": ["a", 0, 0], "std": STD}, ["mean.0", "'a' is neither a number"], id="text"),
    pytest.param("imagenet", ["normalise is 'imagenet'", "expected {mean: [...], std: [...]}"], id="word"),
]


@pytest.mark.parametrize(("value", "words"), BAD)
def test_a_bad_normalisation_is_one_clear_error(value: Any, words: list[str]) -> None:
    with pytest.raises(ModelError, match=r"model\.args\.normalise") as caught:
        build_model(ModelConfig(args={"normalise": value}), shape=(3, 32, 32), classes=2, seed=0)
    assert [word for word in words if word not in str(caught.value)] == []
