"""G_ii A_jj against the product D A of `curvature` with unit perturbations, and against a Fisher matrix written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import Lambda
from torch import Tensor, nn

from madx.prune.curvature import input_product, output_curvature
from madx.prune.diagonal import diagonal_curvature
from madx.prune.layers import Call, ScoredLayer

LAYERS: dict[str, tuple[ScoredLayer, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(3, 4, 3, stride=2, padding=1), (3, 5, 5)),
    "circular, dilated": (nn.Conv2d(3, 4, 3, dilation=2, padding=2, padding_mode="circular"), (3, 5, 5)),
    "grouped, no bias": (nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 5, 5)),
    "1d": (nn.Conv1d(2, 3, 3), (2, 6)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 3, 3, 3)),
    "transposed": (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1), (3, 3, 2)),
    "transposed, grouped, dilated": (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2, dilation=2), (4, 2, 3)),
    "transposed, depthwise": (nn.ConvTranspose1d(4, 4, 3, stride=2, groups=4, bias=False), (4, 4)),
    "linear": (nn.Linear(5, 4), (5,)),
    "linear on positions": (nn.Linear(5, 4), (3, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_what_a_unit_perturbation_meets(name: str) -> None:
    layer, shape = LAYERS[name]
    layer = layer.double()
    x = torch.rand(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(6) % (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)
    network = Lambda(lambda parts, given: pooled(parts["layer"](given)), layer=layer)
    found = diagonal_curvature(network, x, y)
    output = layer(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(pooled(output), y), output)
    rows = output_curvature(layer, gradient, images=len(y))
    parameters = dict(layer.named_parameters())
    assert {key.rpartition(".")[2] for key in found} == set(parameters)
    for kind, parameter in parameters.items():
        for place in torch.cartesian_prod(*(torch.arange(size) for size in parameter.shape)).view(-1, parameter.dim()):
            unit = {other: torch.zeros_like(value) for other, value in parameters.items()}
            unit[kind][tuple(place)] = 1
            expected = rows[row_of(layer, place)] * input_product(layer, Call(x), unit)[kind][tuple(place)]
            torch.testing.assert_close(found[f"parts.layer.{kind}"][tuple(place)], expected)


def row_of(layer: ScoredLayer, place: Tensor) -> int:
    """The output channel that an entry of the weight or bias makes."""
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) and len(place) > 1:
        group = int(place[0]) * layer.groups // layer.in_channels
        return group * layer.out_channels // layer.groups + int(place[1])
    return int(place[0])


def pooled(outputs: Tensor) -> Tensor:
    """Logits [B, K]: the mean over positions, wherever the channels are."""
    if outputs.dim() == 2:
        return outputs
    return outputs.mean(1) if outputs.shape[-1] == 4 and outputs.dim() == 3 else outputs.flatten(2).mean(2)


def test_one_image_gives_the_exact_fisher_diagonal() -> None:
    layer = nn.Linear(5, 3).double()
    x, y = torch.rand(1, 5, dtype=torch.float64), torch.tensor([1])
    found = diagonal_curvature(layer, x, y)
    F.cross_entropy(layer(x), y).backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(found[name], parameter.grad**2)


def test_a_layer_called_twice_adds_up_its_factors() -> None:
    layer = nn.Linear(4, 4).double()
    x, y = torch.rand(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    twice = diagonal_curvature(nn.Sequential(layer, nn.Tanh(), layer), x, y)
    hidden = torch.tanh(layer(x)).detach()
    squares = (x**2).sum(0) + (hidden**2).sum(0)
    ratio = twice["0.weight"] / squares
    torch.testing.assert_close(ratio, ratio[:, :1].expand(4, 4))
    torch.testing.assert_close(twice["0.bias"], ratio[:, 0] * 6)


def called_under_no_grad() -> nn.Module:
    def forward(parts: nn.ModuleDict, x: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = parts["side"](x)
        return parts["head"](hidden + x)

    return Lambda(forward, head=nn.Linear(4, 3), side=nn.Linear(4, 4))


WITHOUT: dict[str, nn.Module] = {
    "its output is thrown away, or it is not called": Lambda(
        lambda parts, x: parts["head"](x) + 0 * parts["side"](x).detach().sum(),
        head=nn.Linear(4, 3),
        side=nn.Linear(4, 2),
        idle=nn.Linear(4, 2),
    ),
    "no gradients": called_under_no_grad(),
    "nothing depends on the images": Lambda(
        lambda parts, x: parts["head"](parts["side"](x).detach()), head=nn.Linear(4, 3), side=nn.Linear(4, 4)
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_what_does_not_reach_the_loss_has_none(name: str) -> None:
    found = diagonal_curvature(WITHOUT[name], torch.rand(3, 4), torch.tensor([0, 1, 2]))
    assert set(found) == {"parts.head.weight", "parts.head.bias"}


@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_that_does_not_see_the_images(frozen: bool) -> None:
    """One row of input, so the gradients of weight and bias give G_ii A_jj by themselves."""
    seed = torch.rand(1, 4, dtype=torch.float64)
    network = Lambda(
        lambda parts, x: parts["head"](x * torch.tanh(parts["query"](seed))),
        query=nn.Linear(4, 4),
        head=nn.Linear(4, 3),
    ).double()
    x, y = torch.rand(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    query = network.parts["query"]
    slopes = torch.autograd.grad(F.cross_entropy(network(x), y), list(query.parameters()))
    found = diagonal_curvature(network.requires_grad_(not frozen), x, y)
    for kind, slope in zip(("weight", "bias"), slopes, strict=True):
        torch.testing.assert_close(found[f"parts.query.{kind}"], slope**2)


def test_a_bias_that_is_computed_has_none() -> None:
    layer = nn.Linear(4, 3)
    nn.utils.parametrize.register_parametrization(layer, "bias", nn.Tanh())
    assert set(diagonal_curvature(layer, torch.rand(3, 4), torch.tensor([0, 1, 2]))) == {"weight"}
