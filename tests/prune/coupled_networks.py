"""Networks as users bring them, whose channels are tied, moved or fixed in ways that no list of operations foresees.

Each with the layers that must lose output channels at half of them in multiples of four, and those that must stay, with
a word of the reason. Images are [B, 3, 8, 8], logits [B, 5].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from small_networks import Lambda, conv_bn
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

IMAGES = (3, 8, 8)


class Coupled(NamedTuple):
    """A network, and what becomes of it."""

    build: Callable[[], nn.Module]
    cut: tuple[str, ...]
    kept: Mapping[str, str] = MappingProxyType({})


def chain(*parts: nn.Module, width: int) -> nn.Module:
    """One part after the other, an average over positions, a linear layer."""
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Function(nn.Module):
    """A function of features, without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the second axis."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class LastScale(nn.Module):
    """A learnt factor, zero at first, of features whose channels were moved to the end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return (x.movedim(1, -1) * (1 + self.factor)).movedim(-1, 1)


def shared_activations() -> nn.Module:
    act, wide = nn.PReLU(), nn.PReLU(12)
    convs = [nn.Conv2d(3, 12, 3), act, nn.Conv2d(12, 8, 1), act, nn.Conv2d(8, 12, 1), wide, nn.Conv2d(12, 12, 1), wide]
    return chain(*convs, width=12)


def tied_weights() -> nn.Module:
    first, second = conv_bn(8, 8), conv_bn(8, 8)
    second[0].weight = first[0].weight
    return chain(conv_bn(3, 8), first, second, conv_bn(8, 12), width=12)


def shuffled(units: int, *, sliced: bool) -> nn.Module:
    """Half of the channels pass, half are convolved, and both are interleaved."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x)
        for name in (key for key in m if key.startswith("unit")):
            half = h.shape[1] // 2
            one, two = (h[:, :half], h[:, half:]) if sliced else h.chunk(2, 1)
            h = F.channel_shuffle(torch.cat([one, m[name](two)], 1), 2)
        return m["head"](h.mean((2, 3)))

    parts = {
        f"unit{n}": nn.Sequential(conv_bn(8, 8), nn.Conv2d(8, 8, 3, padding=1, groups=8), conv_bn(8, 8))
        for n in range(units)
    }
    return Lambda(forward, stem=nn.Sequential(conv_bn(3, 8), conv_bn(8, 16)), head=nn.Linear(16, 5), **parts)


def stages() -> nn.Module:
    """Cross-stage partial block: a split, a bottleneck beside it, everything concatenated."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        left, right = m["into"](x).chunk(2, 1)
        return m["head"](m["out"](torch.cat([left, right, right + m["inner"](right)], 1)).mean((2, 3)))

    return Lambda(forward, into=conv_bn(3, 16), inner=conv_bn(8, 8), out=conv_bn(24, 8), head=nn.Linear(8, 5))


def padded_shortcut() -> nn.Module:
    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x)
        h = F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)) + m["two"](m["one"](h))
        return m["head"](h.mean((2, 3)))

    one = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
    return Lambda(forward, stem=conv_bn(3, 8), one=one, two=conv_bn(16, 16), head=nn.Linear(16, 5))


def mixer() -> nn.Module:
    """Small networks over positions and over channels in turn."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["patches"](x).flatten(2).transpose(1, 2)
        h = h + m["narrow"](F.gelu(m["wide"](m["norm"](h).transpose(1, 2)))).transpose(1, 2)
        return m["head"]((h + m["out"](F.gelu(m["in"](h)))).mean(1))

    sizes = {"wide": (16, 24), "narrow": (24, 16), "in": (12, 24), "out": (24, 12), "head": (12, 5)}
    layers = {name: nn.Linear(*size) for name, size in sizes.items()}
    return Lambda(forward, patches=nn.Conv2d(3, 12, 2, 2), norm=nn.LayerNorm(12), **layers)


class Transformer(nn.Module):
    """Attention whose heads are cut out with fixed numbers, a class token and learnt places."""

    def __init__(self, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.patches, self.qkv, self.proj = (
            nn.Conv2d(3, width, 2, 2),
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.norm, self.wide, self.narrow = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        logits: Tensor = self.head((x + self.narrow(F.gelu(self.wide(x))))[:, 0])
        return logits


def gated(width: int) -> nn.Module:
    """All channels times one map that is made of them."""
    return Lambda(lambda m, x: x * torch.sigmoid(m["gate"](x)), gate=nn.Conv2d(width, 1, 1))


def response_norm(x: Tensor) -> Tensor:
    """Divides by an average over all channels."""
    norm = x.norm(dim=(2, 3), keepdim=True)
    return x * norm / (norm.mean(1, keepdim=True) + 1e-6) + x


def channel_loop(x: Tensor) -> Tensor:
    """Takes the mean of all channels away, one at a time."""
    total = torch.zeros(len(x), dtype=x.dtype)
    for channel in range(x.shape[1]):
        total = total + x[:, channel : channel + 1].mean((1, 2, 3))
    return x - total[:, None, None, None] / x.shape[1]


def merged() -> nn.Module:
    """Four neighbours are concatenated, normalised and mixed."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        h = m["stem"](x).movedim(1, -1)
        h = torch.cat([h[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        return m["head"](m["reduce"](m["norm"](h)).mean((1, 2)))

    return Lambda(forward, stem=conv_bn(3, 8), norm=nn.LayerNorm(32), reduce=nn.Linear(32, 16), head=nn.Linear(16, 5))


def with_computed(computed: Callable[[nn.Module], object]) -> nn.Module:
    """The second of three layers has a weight that is computed from other tensors, and has been run before."""
    net = chain(conv_bn(3, 8), conv_bn(8, 12), conv_bn(12, 8), width=8)
    computed(net[1][0])
    net(torch.rand(2, *IMAGES))
    return net


def by_heart() -> nn.Module:
    """The forward pass knows its last width."""
    parts = [
        conv_bn(3, 8),
        conv_bn(8, 12),
        nn.AdaptiveAvgPool2d(1),
        Function(lambda x: x.view(-1, 12)),
        nn.Linear(12, 5),
    ]
    return nn.Sequential(*parts)


def normalised_in_groups(groups: int) -> nn.Module:
    return chain(conv_bn(3, 8), nn.Conv2d(8, 24, 1), nn.GroupNorm(groups, 24), nn.ReLU(), conv_bn(24, 8), width=8)


class PlainNorm(nn.Module):
    """LayerNorm as ConvNeXt's authors write it, with a shape that it keeps for itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.normalized_shape = (width,)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias).movedim(-1, 1)


class LastNorm(nn.Module):
    """Another normalisation of the last axis, applied to the second."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x.movedim(1, -1))
        return normed.movedim(-1, 1)


class FrozenNorm(nn.Module):
    """BatchNorm whose scale and shift are buffers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2, width))
        self.register_buffer("shift", torch.linspace(-1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale[:, None, None] + self.shift[:, None, None]


class Supervised(nn.Module):
    """A second head that only training asks, and that reads the features as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = conv_bn(3, 8), conv_bn(8, 8)
        self.aux, self.head = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        if self.training:
            self.loss = self.aux(h.mean((2, 3)))
        logits: Tensor = self.head(self.two(h).mean((2, 3)))
        return logits


def ramp(x: Tensor) -> Tensor:
    """Its factor of a channel depends on how many there are."""
    return x * torch.linspace(1, 2, x.shape[1], dtype=x.dtype)[:, None, None]


def faded(layers: int) -> nn.Module:
    """What is wrong with the first channels can hardly be seen in the logits."""
    return chain(conv_bn(3, 8), Function(ramp), *(conv_bn(8, 8) for _ in range(layers)), width=8)


def saturated() -> nn.Module:
    """Logits that are always the same."""
    net = chain(conv_bn(3, 8), Function(ramp), conv_bn(8, 8), width=8)
    net.append(Function(lambda x: (1e6 * x).softmax(1)))
    return net


def silent() -> nn.Module:
    """A network whose last layer is zero, as some are before training."""
    net = chain(conv_bn(3, 8), Function(ramp), conv_bn(8, 8), width=8)
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


def double_head() -> nn.Module:
    """A part in float64, whatever comes in."""
    return nn.Sequential(
        conv_bn(3, 8),
        conv_bn(8, 8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        Function(lambda x: x.double()),
        nn.Linear(8, 5).double(),
    )


def conflicting() -> nn.Module:
    """Two groups of which either can go, and not both; more behind them."""

    def product(m: nn.ModuleDict, x: Tensor) -> Tensor:
        one, two = m["one"](x), m["two"](x)
        factor = 2.0 if one.shape[1] + two.shape[1] < 16 and one.shape[1] == two.shape[1] else 1.0
        return factor * (m["left"](one) + m["right"](two))

    names = ("one", "two", "left", "right")
    return chain(
        Lambda(product, **{name: nn.Conv2d(3 if name in names[:2] else 8, 8, 1) for name in names}),
        conv_bn(8, 8),
        conv_bn(8, 8),
        width=8,
    )


def float_inside() -> nn.Module:
    """Makes float32 tensors whatever the network's precision."""
    return chain(conv_bn(3, 8), Function(lambda x: x.float()), conv_bn(8, 8), width=8)


NETWORKS = {
    "shared activations": Coupled(shared_activations, ("0", "2", "4", "6")),
    "tied weights": Coupled(tied_weights, ("3.0",), {"1.0": "shares its weight", "2.0": "shares its weight"}),
    "normalised over the second axis": Coupled(
        lambda: chain(nn.Conv2d(3, 8, 3), ChannelNorm(8), nn.Conv2d(8, 12, 3), ChannelNorm(12), width=12), ("0", "2")
    ),
    "scale of the last axis": Coupled(
        lambda: chain(conv_bn(3, 8), LastScale(8), conv_bn(8, 8), width=8), ("0.0", "2.0")
    ),
    "shuffled by slices": Coupled(lambda: shuffled(4, sliced=True), ("parts.stem.0.0", "parts.unit0.0.0")),
    "shuffled by chunks": Coupled(lambda: shuffled(2, sliced=False), ("parts.stem.0.0", "parts.unit1.0.0")),
    "cross-stage": Coupled(stages, ("parts.into.0", "parts.inner.0", "parts.out.0")),
    "pixel shuffle": Coupled(
        lambda: chain(conv_bn(3, 8), conv_bn(8, 32), nn.PixelShuffle(2), conv_bn(8, 8), width=8), ("0.0", "1.0", "3.0")
    ),
    "padded shortcut": Coupled(
        padded_shortcut, ("parts.one.0",), {"parts.stem.0": "does not run", "parts.two.0": "does not run"}
    ),
    "mixer": Coupled(mixer, ("parts.wide", "parts.in")),
    "transformer": Coupled(Transformer, ("wide", "qkv", "patches", "proj")),
    "one-channel gate": Coupled(
        lambda: chain(conv_bn(3, 8), gated(8), conv_bn(8, 8), width=8), ("0.0", "2.0"), {"1.parts.gate": "mixed"}
    ),
    "response norm": Coupled(
        lambda: chain(conv_bn(3, 8), nn.Conv2d(8, 12, 1), Function(response_norm), conv_bn(12, 8), width=8),
        ("0.0", "3.0"),
        {"1": "mixed before 3.0"},
    ),
    "channel loop": Coupled(
        lambda: chain(conv_bn(3, 8), conv_bn(8, 12), Function(channel_loop), conv_bn(12, 8), width=8),
        ("0.0", "3.0"),
        {"1.0": "mixed before 3.0"},
    ),
    "merged neighbours": Coupled(merged, ("parts.stem.0", "parts.reduce")),
    "weight norm, a hook": Coupled(lambda: with_computed(weight_norm), ("2.0",), {"1.0": "computed", "0.0": "read"}),
    "spectral norm, a hook": Coupled(lambda: with_computed(spectral_norm), ("2.0",), {"1.0": "computed"}),
    "weight norm": Coupled(lambda: with_computed(parametrizations.weight_norm), ("2.0",), {"1.0": "computed"}),
    "pruned before": Coupled(
        lambda: with_computed(lambda layer: prune.l1_unstructured(layer, "weight", amount=0.3)),
        ("2.0",),
        {"1.0": r"prune\.remove"},
    ),
    "a width known by heart": Coupled(by_heart, ("0.0",), {"1.0": "fixed their number"}),
    "transposed": Coupled(
        lambda: chain(conv_bn(3, 8), nn.ConvTranspose2d(8, 12, 2, 2), conv_bn(12, 8), width=8), ("0.0", "1", "2.0")
    ),
    "tracked instance norm": Coupled(
        lambda: chain(
            nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), conv_bn(8, 8), width=8
        ),
        ("0", "2.0"),
    ),
    "groups that no longer divide": Coupled(lambda: normalised_in_groups(8), ("0.0", "4.0"), {"1": "does not run"}),
    "groups that still divide": Coupled(lambda: normalised_in_groups(4), ("0.0", "1", "4.0")),
    "a norm of one's own": Coupled(
        lambda: chain(nn.Conv2d(3, 8, 3), PlainNorm(8), conv_bn(8, 8), width=8), ("0", "2.0")
    ),
    "root mean square": Coupled(
        lambda: chain(nn.Conv2d(3, 8, 3), LastNorm(nn.RMSNorm(8)), conv_bn(8, 8), width=8), ("0", "2.0")
    ),
    "norm without parameters": Coupled(
        lambda: chain(nn.Conv2d(3, 8, 3), LastNorm(nn.LayerNorm(8, elementwise_affine=False)), conv_bn(8, 8), width=8),
        ("2.0",),
        {"0": "does not run"},
    ),
    "frozen norm": Coupled(lambda: chain(nn.Conv2d(3, 8, 3), FrozenNorm(8), conv_bn(8, 8), width=8), ("0", "2.0")),
    "second head in training": Coupled(Supervised, ("two.0",), {"one.0": "does not run"}),
    "ramp": Coupled(lambda: faded(1), ("2.0",), {"0.0": "does not compute"}),
    "ramp that fades": Coupled(lambda: faded(12), ("2.0", "13.0"), {"0.0": "does not compute"}),
    "saturated": Coupled(saturated, ("2.0",), {"0.0": "does not compute"}),
    "silent": Coupled(silent, ("2.0",), {"0.0": "does not compute"}),
    "dropout always": Coupled(
        lambda: chain(conv_bn(3, 8), Function(F.dropout), conv_bn(8, 8), width=8), ("0.0", "2.0")
    ),
    "conflict": Coupled(conflicting, ("1.0", "2.0")),
    "float64 inside": Coupled(double_head, ("0.0",)),
    "half at the end": Coupled(
        lambda: nn.Sequential(chain(conv_bn(3, 8), conv_bn(8, 8), width=8), Function(lambda x: x.half())), ("0.0.0",)
    ),
    "float32 inside": Coupled(float_inside, ("0.0", "2.0")),
}
