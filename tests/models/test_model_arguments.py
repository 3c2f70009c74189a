from __future__ import annotations

from typing import Any

import pytest

from madx.errors import ModelError
from madx.models import build_model
from madx.models.vgg import VGG
from madx.recipe import ModelConfig

CIFAR, FASHION, DIGITS = (3, 32, 32), (1, 28, 28), (1, 8, 8)

BAD = [
    pytest.param(
        "resnet8", {"width": [8, 8, 8]}, ["'width'", "resnet8", "widths, stem_stride, normalise"], id="unknown"
    ),
    pytest.param("vgg16_bn", {"stem_stride": 1}, ["'stem_stride'", "legal are widths, normalise"], id="of another"),
    pytest.param("resnet8", {"a": 1, "b": 2}, ["'a', 'b'"], id="all unknown ones"),
    pytest.param("resnet8", {"widths": [8, 8]}, ["model.args.widths is [8, 8]", "2:"], id="too few"),
    pytest.param("resnet8", {"widths": [8] * 4}, ["model.args.widths", "at most 3"], id="too many"),
    pytest.param("resnet18", {"widths": 64}, ["model.args.widths is 64", "[64, 128, 256, 512]"], id="no list"),
    pytest.param("resnet8", {"widths": [8, "16", 8]}, ["1:", "valid integer"], id="text"),
    pytest.param("resnet8", {"widths": [8, 16.0, 8]}, ["1:", "valid integer"], id="float"),
    pytest.param("resnet8", {"widths": [8, 0, 8]}, ["1:", "greater than or equal to 1"], id="zero"),
    pytest.param("resnet8", {"stem_stride": True}, ["stem_stride is True", "valid integer"], id="bool"),
    pytest.param("resnet8", {"stem_stride": None}, ["stem_stride is None"], id="null"),
    pytest.param(
        "resnet8", {"stem_stride": -1, "widths": "x"}, ["stem_stride is -1", "widths is 'x'"], id="two at once"
    ),
    pytest.param("wrn28_10", {"depth": 27}, ["depth is 27", "6 * n + 4", "take 22 or 28"], id="depth"),
    pytest.param("wrn28_10", {"depth": 4}, ["depth is 4", "take 10 or 16"], id="shallow"),
]


@pytest.mark.parametrize(("name", "args", "words"), BAD)
def test_bad_arguments_are_one_clear_error(name: str, args: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(ModelConfig(name=name, args=args), shape=CIFAR, classes=10, seed=0)
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


def test_lists_and_tuples_are_both_welcome() -> None:
    for widths in ([4, 4, 8], (4, 4, 8)):
        network = build_model(ModelConfig(args={"widths": widths}), shape=FASHION, classes=3, seed=0)
        assert network.linear.in_features == 8


@pytest.mark.parametrize("shape", [DIGITS, (1, 15, 32), (1, 32, 15)])
def test_vgg_names_the_smallest_image_it_works_on(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ModelError, match=rf"16x16 or more.*{shape[1]}x{shape[2]}"):
        build_model(ModelConfig(name="vgg16_bn"), shape=shape, classes=10, seed=0)


@pytest.mark.parametrize(("size", "poolings"), [(16, 4), (28, 4), (31, 4), (32, 5), (64, 5)])
def test_vgg_pools_five_times_where_the_image_allows_it(size: int, poolings: int) -> None:
    layers = VGG(1, 2, widths=(2, 2, 2, 2, 2), size=size).features
    assert sum(type(layer).__name__ == "MaxPool2d" for layer in layers) == poolings


@pytest.mark.parametrize(("shape", "classes"), [((3, 32), 10), ((0, 32, 32), 10), ((3, 32, 32), 0), ((3, -1, 32), 10)])
def test_impossible_shapes_are_refused(shape: Any, classes: int) -> None:
    with pytest.raises(ModelError, match="channels, height, width"):
        build_model(ModelConfig(), shape=shape, classes=classes, seed=0)
