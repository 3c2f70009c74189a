"""MAD's saliency and its masks, against the reference and against arithmetic that shares nothing with them."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from prune_cases import reference, reference_network
from small_networks import Lambda, plain
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from madx.errors import ModelError
from madx.models.precision import ComputeFormat
from madx.prune import CRITERIA, mad_saliency, optimise_masks, unstructured_masks
from madx.prune.layers import scored_layers, scored_parameters, unscored_layers

PRECISIONS = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Relative to the norm of a layer's saliency."""


def random_masks(network: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.9 + 0.05
        for name, parameter in scored_parameters(network).items()
    }


def reference_masks(content: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {key[6:]: F.softplus(theta.double()).to(dtype) for key, theta in content.items() if key.startswith("theta/")}


def with_bias_column(scores: dict[str, Tensor], layer: str) -> Tensor:
    """[out, in * kernel (+ 1 for a bias)], as the reference keeps it."""
    columns = [scores[f"{layer}.weight"].flatten(1)]
    if f"{layer}.bias" in scores:
        columns.append(scores[f"{layer}.bias"][:, None])
    return torch.cat(columns, dim=1)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
def test_reference_saliency(dtype: torch.dtype) -> None:
    content = reference()
    network = reference_network(content, dtype)
    scores = mad_saliency(network, content["adv"].to(dtype), content["labels"], reference_masks(content, dtype))
    layers = [key[9:] for key in content if key.startswith("saliency/")]
    assert layers == list(scored_layers(network))
    for layer in layers:
        expected = content[f"saliency/{layer}"].double()
        error = (with_bias_column(scores, layer).double() - expected).norm() / expected.norm()
        assert error < PRECISIONS[dtype], f"{layer}: {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float64, marks=pytest.mark.slow)], ids=str)
def test_reference_masks_and_pruned_set(dtype: torch.dtype) -> None:
    content = reference()
    network = reference_network(content, dtype)
    images, labels = content["adv"].to(dtype), content["labels"]
    masks, expected = optimise_masks(network, images, labels), reference_masks(content, dtype)
    assert masks.keys() == expected.keys()
    distance = torch.cat([(masks[name] - expected[name]).abs().flatten() for name in expected])
    assert distance.mean() < 5e-3
    if dtype == torch.float64:
        assert distance.max() < 0.15
    else:  # Adam's steps have the signs of slopes that float32 rounds to either side of zero, otherwise on every CPU
        assert distance.quantile(0.999) < 0.06
        assert (distance > 0.15).sum() <= 10, "of 77,082"
    assert all(mask.min() >= 1e-4 * 0.999 and mask.max() <= 1 for mask in masks.values())

    ours = unstructured_masks(network, mad_saliency(network, images, labels, masks), 0.9)
    theirs = unstructured_masks(network, mad_saliency(network, images, labels, expected), 0.9)
    convolutions = [name for name in theirs if not name.startswith("linear")]
    removed = torch.cat([~ours[name].flatten() for name in convolutions])
    as_theirs = torch.cat([~theirs[name].flatten() for name in convolutions])
    assert (removed & as_theirs).sum() >= 0.99 * as_theirs.sum()


def test_the_empirical_fisher_where_kfac_is_exact() -> None:
    """One image, linear layers: each row's block of A (x) G is the outer product of that row's gradient."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)
    ).double()
    images, labels = torch.rand(1, 6, dtype=torch.float64), torch.tensor([2])
    masks = random_masks(network)
    scores = mad_saliency(network, images, labels, masks)

    masked = copy.deepcopy(network)
    for name, parameter in masked.named_parameters():
        parameter.data.mul_(masks[name])
    F.cross_entropy(masked(images), labels).backward()
    for layer in ("0", "2", "4"):
        parameters = dict(network.named_parameters())
        removed = with_bias_column({n: (p * (1 - masks[n])).detach() for n, p in parameters.items()}, layer)
        gradient = with_bias_column({n: p.grad for n, p in masked.named_parameters() if p.grad is not None}, layer)
        fisher = torch.einsum("ij,ik->ijk", gradient, gradient)
        expected = 0.5 * removed * torch.einsum("ijk,ik->ij", fisher, removed)
        torch.testing.assert_close(with_bias_column(scores, layer), expected)


def test_calls_of_one_module_add_up() -> None:
    """h = tanh(W x), z = W h: G and A are sums over both calls, each by hand."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 4, bias=False)
    readout = torch.rand(3, 4, dtype=torch.float64)
    network = Lambda(lambda m, x: m["layer"](torch.tanh(m["layer"](x))) @ readout.T, layer=layer).double()
    x, y = torch.rand(2, 4, dtype=torch.float64), torch.tensor([0, 2])
    masks = random_masks(network)
    (score,) = mad_saliency(network, x, y, masks).values()

    mask = masks["parts.layer.weight"]
    weight, removed = (layer.weight * mask).detach(), (layer.weight * (1 - mask)).detach()
    h = torch.tanh(x @ weight.T)
    logits = h @ weight.T @ readout.T
    last = (logits.softmax(1) - F.one_hot(y, 3)) / 2 @ readout
    first = (last @ weight) * (1 - h.square())
    a = x.T @ x + h.T @ h
    g = last.square().sum(0) + first.square().sum(0)
    torch.testing.assert_close(score, 0.5 * g[:, None] * removed * (removed @ a))


@pytest.mark.parametrize("way", ["inplace", "keyword", "one by one"])
def test_how_a_layer_is_called_changes_nothing(way: str) -> None:
    torch.manual_seed(0)
    parts = {"one": nn.Conv2d(2, 4, 3), "two": nn.Linear(16, 3)}

    def plainly(m: nn.ModuleDict, x: Tensor) -> Tensor:
        logits: Tensor = m["two"](F.relu(m["one"](x)).flatten(1))
        return logits

    def otherwise(m: nn.ModuleDict, x: Tensor) -> Tensor:
        if way == "inplace":
            logits: Tensor = m["two"](F.relu_(m["one"](x)).flatten(1))
        elif way == "keyword":
            logits = m["two"](input=F.relu(m["one"](input=x)).flatten(1))
        else:  # without an axis for the batch
            logits = torch.stack([m["two"](F.relu(m["one"](image)).flatten()) for image in x])
        return logits

    x, y = torch.rand(3, 2, 4, 4), torch.tensor([0, 1, 2])
    masks = random_masks(Lambda(plainly, **parts))
    expected = mad_saliency(Lambda(plainly, **parts), x, y, masks)
    given = mad_saliency(Lambda(otherwise, **parts), x, y, masks)
    assert given.keys() == expected.keys()
    for name, score in expected.items():
        assert score.abs().max() > 0
        torch.testing.assert_close(given[name], score)


@pytest.mark.parametrize("keyword", [False, True])
def test_a_transposed_convolution_may_be_told_the_size_of_its_outputs(keyword: bool) -> None:
    """As networks that go down and up again do; then its own output_padding does not count."""
    torch.manual_seed(0)
    told, fixed = (nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=extra) for extra in (0, 1))
    fixed.load_state_dict(told.state_dict())
    size = torch.Size((6, 6))

    def up(m: nn.ModuleDict, x: Tensor) -> Tensor:
        wide: Tensor = m["l"](output_size=size, input=x) if keyword else m["l"](x, size)
        return wide.square().mean((2, 3))

    x, y = torch.rand(3, 2, 3, 3), torch.tensor([0, 1, 3])
    network = Lambda(up, l=told)
    assert unscored_layers(network, shape=x.shape) == {}
    masks = random_masks(network)
    expected = mad_saliency(Lambda(lambda m, x: m["l"](x).square().mean((2, 3)), l=fixed), x, y, masks)
    found = mad_saliency(network, x, y, masks)
    smaller = mad_saliency(Lambda(lambda m, x: m["l"](x).square().mean((2, 3)), l=told), x, y, masks)
    for name, score in expected.items():
        torch.testing.assert_close(found[name], score)
        assert not torch.allclose(smaller[name], score), "the size makes no difference"


def test_a_linear_layer_on_positions_is_a_1x1_convolution() -> None:
    torch.manual_seed(0)
    linear, convolution = nn.Linear(5, 4), nn.Conv1d(5, 4, 1)
    convolution.load_state_dict({"weight": linear.weight[:, :, None], "bias": linear.bias})
    x, y = torch.rand(3, 7, 5), torch.tensor([0, 1, 3])
    masks = random_masks(linear)
    by_linear = mad_saliency(Lambda(lambda m, x: m["l"](x).square().mean(1), l=linear), x, y, _named(masks))
    as_conv = {"weight": masks["weight"][:, :, None], "bias": masks["bias"]}
    by_conv = mad_saliency(Lambda(lambda m, x: m["l"](x.mT).square().mean(2), l=convolution), x, y, _named(as_conv))
    torch.testing.assert_close(by_linear["parts.l.weight"], by_conv["parts.l.weight"][:, :, 0])
    torch.testing.assert_close(by_linear["parts.l.bias"], by_conv["parts.l.bias"])


def _named(masks: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"parts.l.{kind}": mask for kind, mask in masks.items()}


def test_the_network_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(16, 3)
    ).train()
    network[1].eval()
    network[5].weight.requires_grad_(False)
    modes = [module.training for module in network.modules()]
    state = copy.deepcopy(network.state_dict())
    x, y = torch.rand(3, 1, 4, 4), torch.tensor([0, 1, 2])
    with torch.no_grad():
        masks = optimise_masks(network, x, y, steps=3)
        scores = mad_saliency(network, x, y, masks)

    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [name for name, p in network.named_parameters() if not p.requires_grad] == ["5.weight"]
    assert not any(module._forward_hooks for module in network.modules())
    again = mad_saliency(network.eval(), x, y, masks)
    assert all(torch.equal(score, again[name]) for name, score in scores.items()), "dropout or BatchNorm was active"


def test_hooks_and_modes_are_restored_when_the_forward_pass_fails() -> None:
    network = plain().train()
    with pytest.raises(RuntimeError):
        mad_saliency(network, torch.rand(1, 5, 4, 4), torch.tensor([0]), random_masks(network))
    assert not any(module._forward_hooks for module in network.modules())
    assert all(module.training for module in network.modules())


def test_masks_lower_the_loss_and_stay_in_bounds() -> None:
    torch.manual_seed(0)
    network = plain().eval()
    x, y = torch.rand(16, 2, 4, 4), torch.arange(16) % 5
    masks = optimise_masks(network, x, y, steps=60, lr=0.5)
    masked = copy.deepcopy(network)
    for name, mask in masks.items():
        masked.get_parameter(name).data.mul_(mask)
    assert F.cross_entropy(masked(x), y) < F.cross_entropy(network(x), y) - 0.01
    values = torch.cat([mask.flatten() for mask in masks.values()])
    assert values.min() == pytest.approx(1e-4, rel=1e-3)
    assert values.max() == 1
    assert not ((values < 1) & (values > 1 - 5e-7)).any(), "the clamp left noise just below 1"


def test_one_adam_step_by_hand() -> None:
    """Adam's first step is lr * sign(gradient); upwards the clamp takes it back."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3)).double()
    x, y = torch.rand(8, 4, dtype=torch.float64), torch.arange(8) % 3
    masks = optimise_masks(network, x, y, steps=1, lr=0.3)
    F.cross_entropy(network(x), y).backward()
    start = torch.log(torch.expm1(torch.tensor(1.0, dtype=torch.float64)))
    for name, parameter in network.named_parameters():
        down = (parameter.grad * parameter) > 0  # the sign of the gradient at the mask
        expected = torch.where(down, F.softplus(start - 0.3), 1.0)
        torch.testing.assert_close(masks[name], expected.detach(), rtol=1e-4, atol=0)


def test_a_mask_of_exactly_one_gives_exactly_nothing() -> None:
    network = plain().eval()
    ones = {name: torch.ones_like(p) for name, p in scored_parameters(network).items()}
    scores = mad_saliency(network, torch.rand(3, 2, 4, 4), torch.tensor([0, 1, 2]), ones)
    assert scores.keys() == ones.keys()
    assert all((score == 0).all() for score in scores.values())


@pytest.mark.parametrize("criterion", ["mad-paper", "obd"])
def test_layers_that_are_computed_twice_are_refused(criterion: str) -> None:
    """The way back would meet them with other weights, and count their inputs twice."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        return m["head"](checkpoint(m["body"], x, use_reentrant=False))

    network = Lambda(forward, body=nn.Linear(4, 4), head=nn.Linear(4, 3))
    with pytest.raises(ModelError, match=r"computes parts\.body a second time .*activation checkpointing"):
        CRITERIA[criterion](network, torch.rand(2, 4), torch.tensor([0, 1]), torch.Generator())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in network.modules())


def test_masks_that_do_not_fit() -> None:
    network = plain()
    x, y = torch.rand(2, 2, 4, 4), torch.tensor([0, 1])
    masks = random_masks(network)
    missing = {name: mask for name, mask in masks.items() if name != "4.bias"}
    with pytest.raises(ModelError, match=r"no mask for 4\.bias"):
        mad_saliency(network, x, y, missing)
    # Broadcasting would hide this one.
    with pytest.raises(ModelError, match=r"0\.0\.weight has shape \[8, 1, 1, 1\], the parameter \[8, 2, 3, 3\]"):
        mad_saliency(network, x, y, masks | {"0.0.weight": torch.ones(8, 1, 1, 1)})


def test_a_layer_without_part_in_the_loss_has_no_score() -> None:
    network = Lambda(lambda m, x: m["used"](x), used=nn.Linear(4, 3), unused=nn.Linear(4, 3))
    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    masks = optimise_masks(network, x, y, steps=2)
    assert (masks["parts.unused.weight"] == 1).all()
    assert set(mad_saliency(network, x, y, masks)) == {"parts.used.weight", "parts.used.bias"}


def test_networks_that_cannot_be_pruned() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    with pytest.raises(ModelError, match=r"no linear layer that could be pruned; 0: its weight is computed"):
        optimise_masks(network, torch.rand(2, 4), torch.tensor([0, 1]))


FASTER: dict[str, dict[str, Any]] = {
    "folded": {"fold": True},
    "bf16": {"format": ComputeFormat("bf16")},
    "folded, bf16": {"fold": True, "format": ComputeFormat("bf16")},
}


@functools.cache
def plainly(count: int) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """The reference network and the first images of its batch in float32, with its masks."""
    content = reference()
    network = reference_network(content, torch.float32)
    images, labels = content["adv"][:count].float(), content["labels"][:count]
    return network, images, labels, optimise_masks(network, images, labels)


@pytest.mark.slow
@pytest.mark.parametrize("way", FASTER)
@pytest.mark.parametrize("count", [16, 128])
def test_faster_masks_prune_the_same_set(way: str, count: int) -> None:
    """The goal: at 90 % the pruned set overlaps at least 99 % with that of plain float32.

    A CPU without bfloat16 units computes with it many times slower than in float32; so few images are the rule.
    """
    network, images, labels, plain = plainly(count)
    faster = optimise_masks(network, images, labels, **FASTER[way])
    assert faster.keys() == plain.keys()
    assert all(mask.is_contiguous() and mask.dtype == torch.float32 for mask in faster.values())
    assert any(not torch.equal(mask, plain[name]) for name, mask in faster.items()), "the option does nothing"
    expected, given = (_removed_convolutions(network, images, labels, masks) for masks in (plain, faster))
    assert (given & expected).sum() >= 0.99 * expected.sum()


def _removed_convolutions(network: nn.Module, images: Tensor, labels: Tensor, masks: dict[str, Tensor]) -> Tensor:
    kept = unstructured_masks(network, mad_saliency(network, images, labels, masks), 0.9)
    return torch.cat([~mask.flatten() for name, mask in kept.items() if not name.startswith("linear")])


def test_folding_changes_no_mask_in_float64() -> None:
    """Masks of biases, of convolutions with and without BatchNorm, and of linear layers: the same mathematics."""
    torch.manual_seed(0)
    network = plain().double().eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, -1, 1)
            nn.init.uniform_(layer.bias, -0.3, 0.3)
    x, y = torch.rand(16, 2, 4, 4, dtype=torch.float64), torch.arange(16) % 5
    expected = optimise_masks(network, x, y)
    assert any((mask < 0.9).any() for mask in expected.values())
    for name, mask in optimise_masks(network, x, y, fold=True).items():
        torch.testing.assert_close(mask, expected[name], rtol=0, atol=1e-6)


def test_a_layer_that_does_not_see_the_images() -> None:
    """tanh(V s) with a constant s scales the logits of a layer that sees them; G and A of V by hand."""
    torch.manual_seed(0)
    seed = torch.rand(1, 3, dtype=torch.float64)
    parts = {"v": nn.Linear(3, 4, bias=False), "w": nn.Linear(4, 4, bias=False)}
    network = Lambda(lambda m, x: m["w"](x) * F.tanh(m["v"](seed)), **parts).double()
    x, y = torch.rand(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    masks = random_masks(network)
    scores = mad_saliency(network, x, y, masks)
    v, w = (network.parts[key].weight.detach() for key in ("v", "w"))
    mask = masks["parts.v.weight"]
    gate = torch.tanh(seed @ (v * mask).T)
    z = x @ (w * masks["parts.w.weight"]).T
    slope = ((z * gate).softmax(1) - F.one_hot(y, 4)) / 5
    g = (slope * z).sum(0, keepdim=True) * (1 - gate.square())
    removed = v * (1 - mask)
    torch.testing.assert_close(scores["parts.v.weight"], 0.5 * g.T.square() * removed * (removed @ seed.T @ seed))
    assert scores["parts.w.weight"].any()
