from __future__ import annotations

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import published_networks as published
import pytest
import torch
import torch.nn.functional as F
import torch_pruning
from torch import Tensor, nn

from madx.models import ARCHITECTURES, build_model, state_digest
from madx.recipe import ModelConfig

REFERENCE = Path(__file__).parent.parent / "data" / "mad_reference.npz"
SMALL: dict[str, dict[str, Any]] = {
    "resnet8": {"widths": [8, 16, 16]},
    "resnet18": {"widths": [8, 8, 16, 16]},
    "vgg16_bn": {"widths": [8, 8, 16, 16, 16]},
    "wrn28_10": {"depth": 10, "widen": 1},
}
SHAPES = [(1, 28, 28), (3, 32, 32)]
ODD_SHAPES = [(2, 17, 40), (1, 31, 16)]
ANY_SIZE = [("resnet8", (1, 8, 8)), ("resnet18", (1, 8, 8)), ("wrn28_10", (1, 8, 8)), ("resnet8", (3, 64, 64))]
TRAINED_TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}  # float32 sums in another order, over up to 28 layers


def build(name: str, shape: tuple[int, int, int] = (3, 32, 32), *, seed: int = 0, **args: Any) -> nn.Module:
    """A small network of an architecture, with ten classes."""
    config = ModelConfig(name=name, args=args or SMALL[name])
    return build_model(config, shape=shape, classes=10, seed=seed)


def images(count: int, shape: tuple[int, int, int] = (3, 32, 32), *, seed: int = 1) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def stir_(network: nn.Module) -> nn.Module:
    """Give BatchNorm and biases values as training leaves them, so that no term hides behind a 0 or a 1."""
    generator = torch.Generator().manual_seed(3)
    for name, value in network.state_dict().items():
        if value.dim() == 1 and value.is_floating_point():
            low = 0.5 if name.endswith(("var", "weight")) else -0.2
            value.uniform_(low, low + 0.5, generator=generator)
    return network


def test_every_name_of_the_recipe_is_an_architecture() -> None:
    names = typing.get_args(ModelConfig.model_fields["name"].annotation)
    assert {*ARCHITECTURES, "factory"} == set(names)
    assert set(SMALL) == set(ARCHITECTURES)


# -- numbers and keys of the published networks --------------------------------------------------------------

COUNTS = {"resnet18": 11_173_962, "vgg16_bn": 14_728_266, "wrn28_10": 36_479_194}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    network = build_model(ModelConfig(name=name), shape=(3, 32, 32), classes=10, seed=0)
    assert sum(parameter.numel() for parameter in network.parameters()) == count


ORACLES: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: published.ResNet18((8, 8, 16, 16), 10),
    "vgg16_bn": lambda: published.VGG16((8, 8, 16, 16, 16), 10),
    "wrn28_10": lambda: published.WideResNet(10, 1, 10),
    "wrn28_10 of two blocks": lambda: published.WideResNet(16, 2, 10),
}


@pytest.mark.parametrize("case", ORACLES)
def test_keys_and_logits_are_those_of_the_published_network(case: str) -> None:
    oracle = stir_(ORACLES[case]()).eval()
    args = {"depth": 16, "widen": 2} if "two blocks" in case else {}
    network = build(case.split()[0], **args)
    assert list(network.state_dict()) == list(oracle.state_dict())
    network.load_state_dict(oracle.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(network(images(4)), oracle(images(4)), **TRAINED_TOLERANCE)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    with np.load(REFERENCE) as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def reference_network(arrays: dict[str, Tensor]) -> nn.Module:
    network = build("resnet8", (1, 28, 28), widths=[16, 32, 64], stem_stride=1)
    weights = {key.removeprefix("weight/"): value for key, value in arrays.items() if key.startswith("weight/")}
    network.load_state_dict(weights, strict=True)
    return network


def test_the_reference_network_loads_and_its_examples_fool_it(reference: dict[str, Tensor]) -> None:
    network = reference_network(reference)
    with torch.no_grad():
        right = {key: network(reference[key]).argmax(1) == reference["labels"] for key in ("images", "adv")}
    clean, robust = (float(right[key].double().mean()) for key in ("images", "adv"))
    assert clean > 0.8
    assert robust < clean - 0.05
    assert robust > 0.6  # the network is a robust one: weights in the wrong place would leave a tenth


def test_the_reference_network_against_bare_functions(reference: dict[str, Tensor]) -> None:
    weights = {key.removeprefix("weight/"): value.double() for key, value in reference.items() if "weight/" in key}

    def bn(x: Tensor, name: str) -> Tensor:
        mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, weights[f"{name}.weight"], weights[f"{name}.bias"])

    x = F.relu(bn(F.conv2d(reference["images"].double(), weights["conv1.weight"], padding=1), "bn1"))
    for layer, stride in (("layer1", 1), ("layer2", 2), ("layer3", 2)):
        out = F.conv2d(x, weights[f"{layer}.conv1.weight"], stride=stride, padding=1)
        out = F.conv2d(F.relu(bn(out, f"{layer}.bn1")), weights[f"{layer}.conv2.weight"], padding=1)
        if layer != "layer1":
            x = bn(F.conv2d(x, weights[f"{layer}.shortcut.0.weight"], stride=stride), f"{layer}.shortcut.1")
        x = F.relu(bn(out, f"{layer}.bn2") + x)
    expected = F.linear(x.flatten(2).mean(2), weights["linear.weight"], weights["linear.bias"])
    with torch.no_grad():
        given = reference_network(reference).double()(reference["images"].double())
    torch.testing.assert_close(given, expected, rtol=1e-10, atol=1e-10)


# -- shapes and the promises of build_model ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape"),
    [(name, shape) for name in SMALL for shape in SHAPES + ODD_SHAPES] + ANY_SIZE,
)
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_have_a_row_per_image(name: str, shape: tuple[int, int, int], classes: int) -> None:
    config = ModelConfig(name=name, args=SMALL[name])
    network = build_model(config, shape=shape, classes=classes, seed=0)
    with torch.no_grad():
        logits = network(images(3, shape))
    assert logits.shape == (3, classes)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert not network.training
    assert {value.device.type for value in network.state_dict().values()} == {"cpu"}


def test_resnet8_has_the_documented_defaults() -> None:
    default = build_model(ModelConfig(), shape=(1, 28, 28), classes=10, seed=0)
    spelt_out = build("resnet8", (1, 28, 28), widths=[64, 128, 128], stem_stride=2)
    assert state_digest(default) == state_digest(spelt_out)
    assert default.conv1.stride == spelt_out.conv1.stride == (2, 2)
    assert not any(key.startswith("norm") for key in default.state_dict())


@pytest.mark.parametrize("name", SMALL)
def test_weights_depend_on_the_seed_and_on_nothing_else(name: str) -> None:
    torch.manual_seed(11)
    first = state_digest(build(name, seed=5))
    torch.manual_seed(12)
    assert state_digest(build(name, seed=5)) == first
    assert state_digest(build(name, seed=6)) != first


@pytest.mark.parametrize("name", SMALL)
def test_the_global_generator_is_left_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    build(name)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SMALL)
def test_fresh_convolutions_have_the_variance_of_he_et_al(name: str) -> None:
    network = build(name)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer in convolutions:
        fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
        z = layer.weight.detach().double() * (fan_out / 2) ** 0.5
        # The mean square of n standard normals has standard deviation sqrt(2 / n); five of them.
        assert abs(float(z.square().mean()) - 1) < 5 * (2 / z.numel()) ** 0.5
        assert layer.bias is None or not layer.bias.any()
    assert len(convolutions) > 5


@pytest.mark.parametrize("name", SMALL)
def test_the_input_is_not_changed_and_gets_a_gradient(name: str) -> None:
    network, x = stir_(build(name)), images(2)
    kept = x.clone()
    x.requires_grad_()
    F.cross_entropy(network(x), torch.tensor([1, 2])).backward()
    assert torch.equal(x.detach(), kept)
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_gives_the_same_logits(name: str) -> None:
    network, x = stir_(build(name)), images(3)
    with torch.no_grad():
        expected = network(x)
        given = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(given, expected, **TRAINED_TOLERANCE)


# -- what the other rooms do with a network ------------------------------------------------------------------


def check_export(network: nn.Module, shape: tuple[int, int, int]) -> None:
    """Export with a dynamic batch and compare at batches that the export never saw."""
    batch = torch.export.Dim("batch")
    program = torch.export.export(network, (images(3, shape),), dynamic_shapes=({0: batch},)).module()
    with torch.no_grad():
        for count in (1, 2, 5):
            x = images(count, shape, seed=count)
            torch.testing.assert_close(program(x), network(x), **TRAINED_TOLERANCE)


@pytest.mark.parametrize("name", SMALL)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    network = build(name, (1, 28, 28), **SMALL[name], normalise={"mean": [0.4], "std": [0.2]})
    check_export(network, (1, 28, 28))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*COUNTS, "resnet8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_exports_with_a_dynamic_batch_at_full_size(name: str, shape: tuple[int, int, int]) -> None:
    check_export(build_model(ModelConfig(name=name), shape=shape, classes=10, seed=0), shape)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", SHAPES)
def test_half_of_the_channels_can_be_removed(name: str, shape: tuple[int, int, int]) -> None:
    mean = [0.4] * shape[0]
    network = build(name, shape, **SMALL[name], normalise={"mean": mean, "std": mean})
    widths = {key: layer.out_channels for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    torch_pruning.pruner.MagnitudePruner(
        network,
        images(2, shape),
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[layer for layer in network.modules() if isinstance(layer, nn.Linear)],
        root_module_types=[nn.Conv2d],
    ).step()
    pruned = {key: layer.out_channels for key, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    assert pruned == {key: width // 2 for key, width in widths.items()}
    assert network(images(3, shape)).shape == (3, 10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's exporter about torch itself
@pytest.mark.parametrize("name", SMALL)
def test_onnx_runtime_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    network = stir_(build(name, **SMALL[name], normalise={"mean": [0.4] * 3, "std": [0.2] * 3}))
    path = tmp_path / "network.onnx"
    shapes = ({0: torch.export.Dim("batch")},)
    torch.onnx.export(network, (images(2),), path, dynamo=True, dynamic_shapes=shapes, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"x": images(5).numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(given), network(images(5)), rtol=1e-3, atol=1e-4)
