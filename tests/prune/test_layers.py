"""What is scored, what is listed instead, and that networks of many kinds are scored by the same rule."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import small_networks as nets
import torch
import torch.nn.functional as F
from small_networks import CLASSES, SMALL, Lambda, conv, conv_bn, head
from torch import Tensor, nn

from madx.errors import ModelError
from madx.prune import coverage, mad_saliency, optimise_masks, remove_channels_, two_four_masks, unstructured_masks
from madx.prune.layers import scored_layers, scored_parameters, unscored_layers

COMPUTED = "its weight is computed from other tensors (weight_norm, spectral_norm or another parametrisation)"
NOT_USED = "the forward pass does not use this layer"
BYPASSED = "the forward pass uses its weight without calling the layer"
UNREACHED = "no gradient of the logits comes back to its output"
OTHERWISE = "its output is not that of its weight and bias (a forward pass of its own, or a hook)"


def no_layer(*weights: str) -> str:
    return f"no convolution and no linear layer, which alone have a saliency: {', '.join(weights)}"


class Tokens(nn.Module):
    """Images [B, 2, 4, 4] to 4 patches and a class token, [B, 5, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(2, 8, 2, stride=2)
        self.cls = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x).flatten(2).mT], dim=1)


class SeparateAttention(nn.Module):
    """Attention as transformers write it: three linear layers on [B, N, D], and one after it."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (2, 4)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        return self.output(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def vit_separate() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["tokens"](x)
        h = h + m["attention"](m["norm"](h))
        return m["head"]((h + m["mlp"](h))[:, 0])

    mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    parts = {"attention": SeparateAttention(), "norm": nn.LayerNorm(8), "mlp": mlp, "head": head(8)}
    return Lambda(forward, tokens=Tokens(), **parts)


def vit_multihead() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["tokens"](x)
        h = h + m["attention"](h, h, h, need_weights=False)[0]
        return m["head"](m["mlp"](h)[:, 0])

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    return Lambda(forward, tokens=Tokens(), attention=attention, mlp=nn.Linear(8, 8), head=head(8))


def encoder_layer() -> nn.Module:
    encoder = nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    return Lambda(
        lambda m, x: m["head"](m["encoder"](m["tokens"](x))[:, 0]), tokens=Tokens(), encoder=encoder, head=head(8)
    )


def learned_query() -> nn.Module:
    """A layer whose input does not depend on the images."""

    class Query(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seed = nn.Parameter(torch.randn(1, 8))
            self.project = nn.Linear(8, 8)

        def forward(self) -> Tensor:
            return F.relu_(self.project(self.seed))

    parts = {"query": Query(), "body": nn.Linear(32, 8), "head": head(8)}
    return Lambda(lambda m, x: m["head"](torch.tanh(m["body"](x.flatten(1)) * m["query"]())), **parts)


def tied() -> nn.Module:
    one, two = nn.Linear(32, 32), nn.Linear(32, 32)
    two.weight = one.weight
    return nn.Sequential(nn.Flatten(), one, nn.ReLU(), two, head(32))


def tied_embedding() -> nn.Module:
    table, layer = nn.Embedding(CLASSES, 32), nn.Linear(32, CLASSES)
    layer.weight = table.weight
    return Lambda(lambda m, x: m["layer"](m["body"](x.flatten(1))), table=table, layer=layer, body=nn.Linear(32, 32))


def weight_norm() -> nn.Module:
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 8, 3, padding=1))
    return nn.Sequential(normed, nn.ReLU(), conv(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(8))


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


def standardised() -> nn.Module:
    return nn.Sequential(Standardised(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 2), nn.Flatten(), head(8))


class Scaled(nn.Linear):
    """A linear layer with a learned scale, which starts at 1: the layer computes its own map, and not for long."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def scaled() -> nn.Module:
    return nn.Sequential(nn.Flatten(), Scaled(32, 16), nn.ReLU(), head(16))


def unused_and_unreached() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["conv"](x)
        m["monitor"](h)
        with torch.no_grad():
            m["watch"](h)
        return m["head"](h.mean((2, 3)))

    return Lambda(
        forward, conv=conv_bn(2, 8), monitor=conv(8, 8), watch=conv(8, 8), spare=nn.Linear(4, 4), head=head(8)
    )


def others() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["up"](m["conv"](x)).flatten(2).mT
        return m["head"](m["recurrent"](h)[0][:, -1])

    return Lambda(
        forward, conv=conv(2, 8), up=nn.ConvTranspose2d(8, 8, 2), recurrent=nn.GRU(8, 8, batch_first=True), head=head(8)
    )


CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, str]]] = {
    "ViT, separate linear layers": (vit_separate, {"parts.tokens": no_layer("cls")}),
    "ViT, MultiheadAttention": (
        vit_multihead,
        {
            "parts.tokens": no_layer("cls"),
            "parts.attention": no_layer("in_proj_weight"),
            "parts.attention.out_proj": BYPASSED,
        },
    ),
    "TransformerEncoderLayer": (
        encoder_layer,
        {
            "parts.tokens": no_layer("cls"),
            "parts.encoder.self_attn": no_layer("in_proj_weight"),
            "parts.encoder.self_attn.out_proj": BYPASSED,
        },
    ),
    "learned query": (learned_query, {"parts.query": no_layer("seed")}),
    "depthwise-separable": (nets.depthwise, {}),
    "grouped": (nets.grouped, {}),
    "called twice": (nets.called_twice, {}),
    "several linear layers": (nets.mlp, {}),
    "shared weight": (tied, {"1": "shares its weight with 3", "3": "shares its weight with 1"}),
    "shared with an embedding": (
        tied_embedding,
        {"parts.table": no_layer("weight"), "parts.layer": "shares its weight with parts.table"},
    ),
    "parametrised": (weight_norm, {"0": COMPUTED}),
    "a forward pass of its own": (standardised, {"0": OTHERWISE}),
    "a parameter of its own": (scaled, {"1": "holds more than a weight and a bias: scale"}),
    "not used": (
        unused_and_unreached,
        {"parts.monitor": UNREACHED, "parts.watch": UNREACHED, "parts.spare": NOT_USED},
    ),
    "other kinds of layers": (
        others,
        {"parts.recurrent": no_layer("weight_ih_l0", "weight_hh_l0")},
    ),
}


def built(name: str, shape: tuple[int, ...] = SMALL) -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CASES[name][0]().eval()
        return network, torch.rand(4, *shape), torch.tensor([0, 1, 2, 3])


@pytest.mark.parametrize("name", CASES)
def test_what_is_not_scored_says_why(name: str) -> None:
    network, images, _ = built(name)
    flags = [parameter.requires_grad for parameter in network.parameters()]
    assert unscored_layers(network, shape=images.shape) == CASES[name][1]
    assert not any(layer._forward_hooks for layer in network.modules() if not isinstance(layer, nn.RNNBase))
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [parameter.requires_grad for parameter in network.parameters()] == flags


@pytest.mark.parametrize("name", CASES)
def test_the_rest_is_scored_pruned_and_covered(name: str) -> None:
    """Every layer either has finite scores and masks, or is listed, with its reason, whole."""
    network, images, labels = built(name)
    reasons = CASES[name][1]
    scores = mad_saliency(network, images, labels, optimise_masks(network, images, labels, steps=3))
    expected = [name for name in scored_parameters(network) if name.rpartition(".")[0] not in reasons]
    assert set(scores) >= set(expected)
    assert all(score.isfinite().all() for score in scores.values())
    assert all(scores[name].any() for name in expected if name.endswith("weight"))

    masks = unstructured_masks(network, scores, 0.5, unscored=reasons)
    assert set(masks) == set(expected)
    covered = coverage(network, network, masks, reasons)
    assert {layer.name: layer.reason for layer in covered.layers if layer.reason} == reasons
    assert {layer.name for layer in covered.layers} == set(scored_layers(network)) | set(reasons)
    assert all(layer.kept == layer.weights for layer in covered.layers if layer.name in reasons)
    assert 0.3 < covered.kept_share < 1

    _, dense = two_four_masks(network, scores, unscored=reasons)
    assert reasons.items() <= dense.items()


@pytest.mark.parametrize("name", ["ViT, separate linear layers", "learned query"])
def test_saliency_against_the_whole_weight_matrix(name: str) -> None:
    """Each linear layer by hand: A from its inputs, G from a gradient taken by a probe that is added to its output."""
    network, images, labels = built(name)
    network, images = network.double(), images.double()
    masks = {key: torch.rand_like(p) * 0.8 + 0.1 for key, p in scored_parameters(network).items()}
    scores = mad_saliency(network, images, labels, masks)
    masked = copy.deepcopy(network)
    for key, parameter in masked.named_parameters():
        parameter.data.mul_(masks.get(key, torch.ones(())))
    linear = {key: layer for key, layer in masked.named_modules() if isinstance(layer, nn.Linear)}
    inputs: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def add_probe(key: str) -> Callable[..., Tensor]:
        def hook(_: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[key], probes[key] = given[0].detach(), torch.zeros_like(output, requires_grad=True)
            return output + probes[key]

        return hook

    for key, layer in linear.items():
        layer.register_forward_hook(add_probe(key))
    F.cross_entropy(masked(images), labels).backward()
    for key in linear:
        a = inputs[key].flatten(0, -2)
        g = probes[key].grad
        assert g is not None
        curvature = g.flatten(0, -2).square().sum(0) / g[0, ..., 0].numel()
        ones = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], dim=1)
        layer = network.get_submodule(key)
        removed = torch.cat(
            [
                layer.weight * (1 - masks[f"{key}.weight"]),
                (layer.bias * (1 - masks[f"{key}.bias"]))[:, None],
            ],
            dim=1,
        ).detach()
        expected = 0.5 * curvature[:, None] * removed * (removed @ (ones.T @ ones))
        torch.testing.assert_close(scores[f"{key}.weight"], expected[:, :-1])
        torch.testing.assert_close(scores[f"{key}.bias"], expected[:, -1])


def test_the_fast_path_of_torch_is_not_taken() -> None:
    """torch's fused encoder bypasses the layers in it without gradients; saliency and listing run with them."""
    network, images, labels = built("TransformerEncoderLayer")
    calls: list[str] = []
    hook = network.parts["encoder"].linear1.register_forward_hook(lambda *_: calls.append("linear1"))
    with torch.no_grad():
        masks = optimise_masks(network, images, labels, steps=1)
        scores = mad_saliency(network, images, labels, masks)
    hook.remove()
    assert calls == ["linear1"] * 2
    assert scores["parts.encoder.linear1.weight"].any()


def test_three_dimensions() -> None:
    network = nets.three_dimensions().eval()
    images, labels = torch.rand(4, 1, 4, 4, 4), torch.tensor([0, 1, 2, 3])
    assert unscored_layers(network, shape=images.shape) == {}
    scores = mad_saliency(network, images, labels, optimise_masks(network, images, labels, steps=3))
    assert scores.keys() == scored_parameters(network).keys()
    assert all(score.any() for score in scores.values())


@pytest.mark.parametrize("name", ["parametrised", "shared weight", "a forward pass of its own"])
def test_channels_of_what_is_not_scored_stay(name: str) -> None:
    network, images, _ = built(name)
    reasons = CASES[name][1]
    scores = {key: torch.rand_like(parameter) for key, parameter in scored_parameters(network).items()}
    module = copy.deepcopy(network)
    _, dense = remove_channels_(module, scores, 0.5, round_to=2, example=images, unscored=reasons)
    assert reasons.items() <= dense.items()
    covered = coverage(network, module, {}, dense)
    for layer in covered.layers:
        if layer.name in reasons:
            assert layer.shape_before == layer.shape_after
            assert layer.kept == layer.weights
    if name in ("parametrised", "a forward pass of its own"):
        smaller = {layer.name for layer in covered.layers if layer.shape_before != layer.shape_after}
        assert smaller, "what is scored still gives channels"


def test_what_reads_channels_without_scores_keeps_them() -> None:
    network = nn.Sequential(
        conv(2, 8),
        nn.ReLU(),
        nn.utils.parametrizations.weight_norm(conv(8, 8)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head(8),
    )
    scores = {key: torch.rand_like(parameter) for key, parameter in scored_parameters(network).items()}
    _, dense = remove_channels_(network, scores, 0.5, round_to=2, example=torch.rand(2, *SMALL))
    assert dense == {"0": f"read by 2: {COMPUTED}", "2": COMPUTED, "5": "makes the network's outputs"}


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), r"no linear layer that could be pruned$"),
        (nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), "; 0: its weight is computed"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), "; the network: its weight is computed"),
        (nn.Embedding(4, 3), "; the network: no convolution and no linear layer"),
    ],
    ids=["nothing", "parametrised", "one layer", "embedding"],
)
def test_nothing_to_prune(network: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        scored_layers(network)


def test_images_of_another_shape() -> None:
    with pytest.raises(ModelError, match=r"does not run on images of shape \[1, 7, 4, 4\]"):
        unscored_layers(nets.plain(), shape=(1, 7, 4, 4))


def test_scores_that_are_missing_without_a_reason_are_refused() -> None:
    network, images, labels = built("ViT, MultiheadAttention")
    scores = mad_saliency(network, images, labels, optimise_masks(network, images, labels, steps=1))
    with pytest.raises(ModelError, match=r"out_proj\.weight; name parts\.attention\.out_proj in `unscored`"):
        unstructured_masks(network, scores, 0.5)
