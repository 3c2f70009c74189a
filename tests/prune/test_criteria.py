"""Criteria: shapes, what each one is, and which of them need no images."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from small_networks import plain
from torch import Tensor, nn

from madx.models.precision import ComputeFormat
from madx.prune import CRITERIA, mad_saliency, optimise_masks
from madx.prune.diagonal import diagonal_curvature
from madx.prune.layers import scored_parameters
from madx.recipe import CRITERION_NAMES, PruneConfig
from madx.seeds import torch_generator

Batch = tuple[Tensor, Tensor, torch.Generator]


def batches(count: int, start: int = 0) -> list[Batch]:
    """Batch number n has its own images, whoever asks."""
    made = []
    for number in range(start, count):
        generator = torch_generator(0, "batch", number)
        made.append((torch.rand(4, 2, 4, 4, generator=generator), torch.arange(4) % 5, generator))
    return made


@pytest.fixture
def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return plain().eval()


def test_criteria_are_the_recipes() -> None:
    assert tuple(CRITERIA.own) == CRITERION_NAMES


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_fit_their_parameters(name: str, network: nn.Module) -> None:
    ((x, y, generator),) = batches(1)
    scores = CRITERIA[name](network, x, y, generator)
    parameters = scored_parameters(network)
    assert list(scores) == list(parameters)
    for key, score in scores.items():
        assert score.shape == parameters[key].shape
        assert score.dtype == torch.float32
        assert score.isfinite().all()
        assert not score.requires_grad
        assert score.unique().numel() > 1


def around(layer: nn.Module) -> nn.Module:
    """A network with this layer, which reads 6 channels and makes 4, in its middle."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), layer, nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*parts, nn.Linear(16, 5)).double().eval()


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_of_stride_1_scores_like_the_convolution_that_it_is(name: str, groups: int) -> None:
    """The one whose kernel is turned round; entry by entry, in every criterion."""
    plainly = nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=groups)
    turned = nn.ConvTranspose2d(6, 4, 3, padding=2, dilation=2, groups=groups)

    def as_transposed(values: Tensor) -> Tensor:
        by_group = values.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
        return by_group.flip(2, 3)

    turned.load_state_dict({"weight": as_transposed(plainly.weight.detach()), "bias": plainly.bias.detach()})
    network, same = around(plainly), around(turned)
    x, y = torch.rand(4, 2, 4, 4, dtype=torch.float64, generator=torch_generator(0, "turned")), torch.arange(4) % 5
    torch.testing.assert_close(same(x), network(x))
    expected, found = (CRITERIA[name](net, x, y, torch_generator(0)) for net in (network, same))
    assert list(found) == list(expected) == [key for key, _ in same.named_parameters()]
    assert found["2.weight"].shape == (6, 4 // groups, 3, 3)
    if name != "random":
        expected["2.weight"] = as_transposed(expected["2.weight"])
        for key, score in expected.items():
            torch.testing.assert_close(found[key], score, rtol=1e-7, atol=1e-12 * float(score.abs().max()))


@pytest.mark.parametrize("name", CRITERIA)
def test_image_free_means_what_it_says(name: str, network: nn.Module) -> None:
    (x, y, _), (other, _, _) = batches(2)
    one, two = (CRITERIA[name](network, images, y, torch_generator(0, "same")) for images in (x, other))
    assert all(torch.equal(one[key], two[key]) for key in one) == (not CRITERIA[name].images)


def test_what_the_criteria_are(network: nn.Module) -> None:
    ((x, y, _),) = batches(1)
    parameters = scored_parameters(network)
    expected = mad_saliency(network, x, y, optimise_masks(network, x, y, fold=True))
    for key, score in CRITERIA["mad-paper"](network, x, y, torch_generator(0)).items():
        assert torch.equal(score, expected[key])
    for key, score in CRITERIA["magnitude"](network, x, y, torch_generator(0)).items():
        assert torch.equal(score, torch.where(parameters[key] < 0, -parameters[key], parameters[key]))
    paper = CRITERIA["mad-paper"](network, x, y, torch_generator(0))
    for key, score in CRITERIA["mad-reversed"](network, x, y, torch_generator(0)).items():
        assert torch.equal(score, -paper[key])
    one, same, other = (CRITERIA["random"](network, x, y, torch_generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not any(torch.equal(one[key], other[key]) for key in one)


BF16 = ComputeFormat("bf16")


def test_bfloat16_is_for_the_criteria_that_optimise_masks(network: nn.Module) -> None:
    ((x, y, generator),) = batches(1)
    for name in CRITERIA:
        if CRITERIA[name].formatted:
            PruneConfig(criterion=name, precision="bf16")
            masks = optimise_masks(network, x, y, format=BF16, fold=True)
            sign = -1 if name == "mad-reversed" else 1
            exact = CRITERIA[name](network, x, y, generator)
            found = CRITERIA[name](network, x, y, generator, format=BF16)
            assert all(
                torch.equal(found[key], sign * score) for key, score in mad_saliency(network, x, y, masks).items()
            )
            assert any(not torch.equal(found[key], score) for key, score in exact.items())
        else:
            with pytest.raises(ValidationError, match="bf16 is for mad-paper and mad-reversed"):
                PruneConfig(criterion=name, precision="bf16")


def test_taylor_is_the_squared_change_of_the_loss_in_a_first_order_model(network: nn.Module) -> None:
    ((x, y, _),) = batches(1)
    loss = nn.functional.cross_entropy(network(x), y)
    loss.backward()
    scores = CRITERIA["taylor"](network, x, y, torch_generator(0))
    for key, parameter in scored_parameters(network).items():
        assert parameter.grad is not None
        torch.testing.assert_close(scores[key], (parameter.detach() * parameter.grad) ** 2)


def test_obd_is_half_the_curvature_times_the_squared_weight(network: nn.Module) -> None:
    ((x, y, _),) = batches(1)
    curvature = diagonal_curvature(network, x, y)
    for key, score in CRITERIA["obd"](network, x, y, torch_generator(0)).items():
        torch.testing.assert_close(score, curvature[key] * scored_parameters(network)[key].detach() ** 2 / 2)


def test_mad_starts_from_squared_gradients_of_parts_of_the_batch(network: nn.Module) -> None:
    generator = torch_generator(0, "parts")
    x, y = torch.rand(20, 2, 4, 4, generator=generator), torch.arange(20) % 5
    scores = CRITERIA["mad"](network, x, y, generator)
    fisher = {key: torch.zeros_like(parameter) for key, parameter in network.named_parameters()}
    for part in (slice(0, 10), slice(10, 20)):  # equal parts of at most 16
        network.zero_grad()
        nn.functional.cross_entropy(network(x[part]), y[part]).backward()
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None
            fisher[key] += parameter.grad**2 / 2
    for key, parameter in scored_parameters(network).items():
        torch.testing.assert_close(scores[key], parameter.detach() ** 2 * fisher[key] / 2)
