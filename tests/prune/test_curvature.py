"""D A and diag(G) of single layers, against patch matrices and a Kronecker product that are written out here."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_networks import Lambda
from torch import Tensor, nn

from madx.prune import mad_saliency
from madx.prune.curvature import input_product, output_curvature
from madx.prune.layers import Call, ScoredLayer, TransposedConvolution

Array = NDArray[np.float64]
PAD = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
"""torch's padding modes in numpy's words."""
LAYERS: dict[str, tuple[type[ScoredLayer], tuple[int, ...], dict[str, Any]]] = {
    "plain": (nn.Conv2d, (3, 4, 5), {"kernel_size": 2}),
    "without bias": (nn.Conv2d, (3, 4, 5), {"kernel_size": 2, "bias": False}),
    "stride and padding": (nn.Conv2d, (3, 5, 6), {"kernel_size": 3, "stride": (2, 1), "padding": (1, 2)}),
    "dilation": (nn.Conv2d, (3, 6, 6), {"kernel_size": (3, 2), "dilation": (2, 3), "padding": 1}),
    "reflect": (nn.Conv2d, (3, 4, 4), {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"}),
    "replicate": (nn.Conv2d, (3, 4, 4), {"kernel_size": 3, "padding": 2, "padding_mode": "replicate"}),
    "circular": (nn.Conv2d, (3, 4, 4), {"kernel_size": 3, "padding": 1, "padding_mode": "circular"}),
    "same, odd": (nn.Conv2d, (3, 4, 4), {"kernel_size": 3, "padding": "same"}),
    "same, circular": (nn.Conv2d, (3, 5, 4), {"kernel_size": (2, 4), "padding": "same", "padding_mode": "circular"}),
    "same, reflect": (nn.Conv2d, (3, 5, 5), {"kernel_size": (4, 2), "padding": "same", "padding_mode": "reflect"}),
    "valid": (nn.Conv2d, (3, 4, 4), {"kernel_size": 2, "padding": "valid"}),
    "groups": (nn.Conv2d, (6, 4, 4), {"kernel_size": 2, "groups": 2, "out": 4}),
    "depthwise": (nn.Conv2d, (4, 4, 4), {"kernel_size": 3, "padding": 1, "groups": 4, "out": 4}),
    "depth multiplier": (nn.Conv2d, (3, 4, 4), {"kernel_size": 2, "groups": 3, "out": 6, "stride": 2}),
    "1d": (nn.Conv1d, (3, 7), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "1d, groups, reflect": (
        nn.Conv1d,
        (4, 7),
        {"kernel_size": 3, "groups": 2, "padding": 2, "padding_mode": "reflect"},
    ),
    "3d": (nn.Conv3d, (2, 3, 4, 3), {"kernel_size": (2, 3, 1), "padding": (0, 1, 1)}),
    "transposed": (nn.ConvTranspose2d, (3, 3, 4), {"kernel_size": 2}),
    "transposed, stride and padding": (
        nn.ConvTranspose2d,
        (3, 3, 2),
        {"kernel_size": 3, "stride": (2, 3), "padding": (1, 0), "output_padding": (1, 2)},
    ),
    "transposed, gaps": (nn.ConvTranspose2d, (2, 2, 3), {"kernel_size": (1, 2), "stride": (3, 4), "bias": False}),
    "transposed, dilation": (
        nn.ConvTranspose2d,
        (3, 3, 3),
        {"kernel_size": (3, 2), "stride": 2, "dilation": (2, 3), "padding": 2, "output_padding": 1},
    ),
    "transposed, groups": (
        nn.ConvTranspose2d,
        (4, 3, 3),
        {"kernel_size": 3, "stride": 2, "groups": 2, "out": 6, "padding": 1},
    ),
    "transposed, depthwise": (nn.ConvTranspose2d, (4, 3, 3), {"kernel_size": 3, "stride": 2, "groups": 4, "out": 4}),
    "transposed, depth multiplier": (nn.ConvTranspose2d, (3, 2, 2), {"kernel_size": 2, "groups": 3, "out": 6}),
    "transposed, 1d": (
        nn.ConvTranspose1d,
        (4, 5),
        {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 2, "output_padding": 1},
    ),
    "transposed, 3d": (nn.ConvTranspose3d, (2, 2, 2, 1), {"kernel_size": (2, 1, 3), "stride": (1, 2, 1)}),
    "linear": (nn.Linear, (6,), {}),
    "linear without bias": (nn.Linear, (6,), {"bias": False}),
    "linear on positions": (nn.Linear, (5, 6), {}),
    "linear on two axes of positions": (nn.Linear, (3, 2, 6), {}),
}
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# torch warns that it copies for an even kernel; we want the asymmetric padding all the same.
EVEN = "ignore:Using padding='same' with even kernel lengths:UserWarning"
BATCH = 3


def build(name: str) -> tuple[ScoredLayer, Tensor]:
    kind, shape, options = LAYERS[name]
    options = dict(options)
    width, outputs = shape[-1] if kind is nn.Linear else shape[0], options.pop("out", 4)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = kind(width, outputs, **options).double()
        return layer, torch.randn(BATCH, *shape, dtype=torch.float64)


def patches(layer: ScoredLayer, inputs: Tensor) -> Array:
    """Every patch [B, S, groups, in/groups * kernel], cut out by slicing; a bias is one more column of ones."""
    x = inputs.numpy()
    if isinstance(layer, nn.Linear):
        columns = x.reshape(len(x), -1, 1, x.shape[-1])
    elif isinstance(layer, TRANSPOSED):
        columns = spread(layer, x)
    else:
        x = np.pad(x, [(0, 0), (0, 0), *_padding(layer)], mode=PAD[layer.padding_mode])
        spans = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        starts = [
            range(0, size - span + 1, step) for size, span, step in zip(x.shape[2:], spans, layer.stride, strict=True)
        ]
        cut = [
            x[(slice(None), slice(None), *map(slice, at, np.add(at, spans), layer.dilation))] for at in product(*starts)
        ]
        columns = np.stack(cut, axis=1).reshape(len(x), len(cut), layer.groups, -1)
    if layer.bias is not None:
        columns = np.concatenate([columns, np.ones((*columns.shape[:3], 1))], axis=3)
    return columns


def spread(layer: TransposedConvolution, x: Array) -> Array:
    """The same of a transposed convolution: every input is put where each tap of the kernel brings it, one by one."""
    geometry = list(zip(layer.stride, layer.padding, layer.dilation, layer.kernel_size, strict=True))
    sizes = [
        (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + extra + 1
        for length, extra, (stride, padding, dilation, kernel) in zip(
            x.shape[2:], layer.output_padding, geometry, strict=True
        )
    ]
    columns = np.zeros((len(x), *sizes, x.shape[1], *layer.kernel_size))
    for at in product(*map(range, x.shape[2:])):
        for tap in product(*map(range, layer.kernel_size)):
            to = tuple(
                place * stride - padding + offset * dilation
                for place, offset, (stride, padding, dilation, _) in zip(at, tap, geometry, strict=True)
            )
            if all(0 <= place < size for place, size in zip(to, sizes, strict=True)):
                columns[(slice(None), *to, slice(None), *tap)] = x[(slice(None), slice(None), *at)]
    return columns.reshape(len(x), np.prod(sizes), layer.groups, -1)


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> list[tuple[int, int]]:
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if layer.padding == "valid":
        return [(0, 0)] * len(layer.kernel_size)
    return [(amount, amount) for amount in layer.padding]


def rows(layer: ScoredLayer, values: dict[str, Tensor]) -> Array:
    """[out, in/groups * kernel (+ 1)] of weight and bias."""
    weight = values["weight"].detach()
    if isinstance(layer, TRANSPOSED):  # [in, out/groups, *kernel]
        weight = weight.unflatten(0, (layer.groups, -1)).transpose(1, 2).flatten(0, 1)
    columns = [weight.flatten(1)]
    if layer.bias is not None:
        columns.append(values["bias"].detach()[:, None])
    return torch.cat(columns, dim=1).numpy()


def row_groups(layer: ScoredLayer) -> list[int]:
    """Which group each output channel belongs to."""
    if isinstance(layer, nn.Linear):
        return [0] * layer.out_features
    return [row * layer.groups // layer.out_channels for row in range(layer.out_channels)]


def perturbation(layer: ScoredLayer) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        kind: torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for kind, p in layer.named_parameters(recurse=False)
    }


def network_around(layer: ScoredLayer, inputs: Tensor) -> tuple[nn.Module, Tensor]:
    """The layer before a fixed readout of every output, and that readout [classes, out, S]."""
    outputs = layer(inputs)
    linear = isinstance(layer, nn.Linear)
    shape = (outputs.shape[-1], -1) if linear else (outputs.shape[1], -1)
    positions = outputs[0].numel() // shape[0]
    readout = torch.randn(3, shape[0], positions, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        z = m["l"](x)
        z = z.flatten(1, -2).mT if linear and z.dim() > 2 else z.reshape(len(z), shape[0], -1)
        return torch.einsum("kos,bos->bk", readout, z)

    return Lambda(forward, l=layer), readout


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("name", LAYERS)
def test_input_product_is_the_perturbation_times_a(name: str) -> None:
    layer, inputs = build(name)
    given = perturbation(layer)
    columns = patches(layer, inputs)
    a = np.einsum("bsgi,bsgj->gij", columns, columns)
    expected = np.stack([row @ a[group] for row, group in zip(rows(layer, given), row_groups(layer), strict=True)])
    product_ = input_product(layer, Call(inputs), given)
    np.testing.assert_allclose(rows(layer, product_), expected, rtol=1e-10, atol=1e-10)
    assert all(product_[kind].shape == value.shape for kind, value in given.items())
    assert not any(value.requires_grad for value in (*given.values(), *product_.values()))


def test_input_product_is_the_slope_of_half_the_squares() -> None:
    """Central differences of 1/2 sum |D a|^2, exact for a square."""
    layer, inputs = build("stride and padding")
    given = perturbation(layer)
    product_ = input_product(layer, Call(inputs), given)
    columns = torch.from_numpy(patches(layer, inputs)[:, :, 0])

    def half_squares(values: dict[str, Tensor]) -> float:
        return float(0.5 * (columns @ torch.from_numpy(rows(layer, values)).T).square().sum())

    for kind, place in (("weight", 7), ("weight", 50), ("bias", 3)):
        up, down = ({k: v.clone() for k, v in given.items()} for _ in range(2))
        up[kind].view(-1)[place] += 0.5
        down[kind].view(-1)[place] -= 0.5
        slope = half_squares(up) - half_squares(down)
        assert float(product_[kind].view(-1)[place]) == pytest.approx(slope, rel=1e-9)


@pytest.mark.filterwarnings(EVEN)
@pytest.mark.parametrize("name", LAYERS)
def test_saliency_of_one_layer(name: str) -> None:
    """1/2 G_ii dw_ij (dw A)_ij with A and G from patches, a softmax and its gradient in numpy."""
    layer, inputs = build(name)
    network, readout = network_around(layer, inputs)
    labels = torch.tensor([0, 2, 1])
    masks = {f"parts.l.{kind}": value.abs().clamp(0.1, 0.9) for kind, value in perturbation(layer).items()}
    scores = mad_saliency(network, inputs, labels, masks)

    mask = rows(layer, {kind: masks[f"parts.l.{kind}"] for kind, _ in layer.named_parameters()})
    weights = rows(layer, dict(layer.named_parameters()))
    masked, removed = weights * mask, weights - weights * mask
    columns, groups = patches(layer, inputs), row_groups(layer)
    g = _output_gradient(np.einsum("bsoi,oi->bos", columns[:, :, groups], masked), readout.numpy(), labels.numpy())
    a = np.einsum("bsgi,bsgj->gij", columns, columns)
    full_g = np.einsum("bos,bps->op", g, g) / g.shape[2]
    expected = np.stack(
        [0.5 * full_g[row, row] * removed[row] * (removed[row] @ a[groups[row]]) for row in range(len(removed))]
    )
    ours = rows(layer, {kind: scores[f"parts.l.{kind}"] for kind, _ in layer.named_parameters()})
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12 * np.abs(expected).max())
    if len(set(groups)) == 1:
        np.testing.assert_allclose(ours, _by_kronecker(a[0], full_g, removed), rtol=1e-9, atol=1e-12)


def _output_gradient(z: Array, readout: Array, labels: NDArray[np.int64]) -> Array:
    """Gradient [B, out, S] of the mean cross-entropy at the layer's output."""
    logits = np.einsum("kos,bos->bk", readout, z)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return np.einsum("bk,kos->bos", p / len(labels), readout)


def _by_kronecker(a: Array, g: Array, removed: Array) -> Array:
    """The same through the whole matrix: rows of different outputs do not see each other."""
    curvature = np.kron(g * np.eye(len(g)), a)
    vector = removed.ravel()
    return (0.5 * vector * (curvature @ vector)).reshape(removed.shape)


@pytest.mark.parametrize(
    ("layer", "shape", "channel", "positions"),
    [
        (nn.Linear(2, 4), (3, 4), 1, 1),
        (nn.Linear(2, 4), (3, 5, 4), 2, 5),
        (nn.Linear(2, 4), (5, 3, 4), 2, 5),
        (nn.Linear(2, 4), (6, 5, 4), 2, 10),
        (nn.Linear(2, 4), (6, 4), 1, 2),
        (nn.Linear(2, 4), (1, 5, 4), 2, 5),
        (nn.Linear(2, 4), (1, 4), 1, 1),
        (nn.Conv2d(2, 4, 1), (3, 4, 2, 5), 1, 10),
        (nn.Conv2d(2, 4, 1), (6, 4, 2, 5), 1, 20),
        (nn.Conv2d(2, 4, 1), (1, 4, 2, 3), 1, 6),
        (nn.Linear(2, 4), (4,), 0, 1),
        (nn.Conv2d(2, 4, 1), (4, 4, 5), 0, 20),
        (nn.Conv1d(2, 4, 1), (4, 5), 0, 5),
        (nn.ConvTranspose2d(2, 4, 3), (6, 4, 2, 5), 1, 20),
    ],
    ids=[
        *("linear", "positions", "sequence first", "windows", "folded", "learned queries", "one learned query"),
        *("convolution", "frames", "convolution of no image"),
        *("linear on one item", "convolution of one item", "1-D convolution of one item", "transposed, frames"),
    ],
)
def test_output_curvature_divides_by_positions_only(
    layer: ScoredLayer, shape: tuple[int, ...], channel: int, positions: int
) -> None:
    """Of a batch of three images, wherever they are."""
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    flat = gradient.movedim(channel, 0).reshape(4, -1)
    expected = torch.stack([sum(value**2 for value in row) / positions for row in flat])
    torch.testing.assert_close(output_curvature(layer, gradient, images=3), expected)
