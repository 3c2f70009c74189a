"""Networks with attention, as people write it, and how many heads must be left at half of the channels.

Multiples of four are asked for. Images are [B, 3, 8, 8], logits [B, 5].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH = 16


class Attended(NamedTuple):
    """A network, and what is left of it."""

    build: Callable[[], nn.Module]
    heads: Mapping[str, int]
    """Attributes that count heads, after removal."""
    left: Mapping[str, tuple[int, int]]
    """Rows and columns of weights."""
    whole: Mapping[str, str] = MappingProxyType({})
    """Words of the reason where layers stay."""


class Fused(nn.Module):
    """One layer for queries, keys and values; the width of a head is taken from what comes in."""

    def __init__(self, width: int = WIDTH, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, c))
        return out


class Wide(nn.Module):
    """Heads of a width of their own, with the factor that torch gives them."""

    def __init__(self, width: int = WIDTH, heads: int = 4, each: int = 8) -> None:
        super().__init__()
        self.heads, self.each = heads, each
        self.to_qkv = nn.Linear(width, 3 * heads * each, bias=False)
        self.to_out = nn.Linear(heads * each, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, 2))
        out: Tensor = self.to_out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))
        return out


class Named(nn.Module):
    """Three layers, and the width of all heads together kept as a number."""

    def __init__(self, width: int = WIDTH, heads: int = 4) -> None:
        super().__init__()
        self.num_attention_heads, self.attention_head_size = heads, width // heads
        self.all_head_size = width
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.num_attention_heads, self.attention_head_size)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        out: Tensor = self.dense(mixed.reshape(*x.shape[:2], self.all_head_size))
        return out


class Windowed(Fused):
    """A learnt bias for each head, as windows have it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(17, 4))

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        places = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        bias = self.table[places.flatten()].view(n, n, -1).permute(2, 0, 1)
        mixed = (q @ k.mT * self.scale + bias).softmax(-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, -1))
        return out


class TwoLayers(nn.Module):
    """Keys and values of every second position only, from a layer of their own."""

    def __init__(self, width: int = WIDTH, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.dim = heads, width
        self.reduce = nn.Linear(width, width)
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, self.num_heads, -1).transpose(1, 2)
        k, v = self.kv(self.reduce(x[:, ::2]).relu()).view(b, -1, 2, self.num_heads, q.shape[-1]).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.dim))
        return out


class Constant(nn.Module):
    """The number of heads is written into the forward pass."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 4, 4).permute(2, 0, 3, 1, 4)
        out: Tensor = self.proj((q @ k.mT / 2).softmax(-1).matmul(v).transpose(1, 2).flatten(2))
        return out


class Averaged(Wide):
    """Its number of heads is a factor too."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / self.heads


class Ordered(Wide):
    """What a head adds depends on its place among the others."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, 2))
        slopes = 2.0 ** -torch.arange(1, self.heads + 1, dtype=x.dtype)
        distance = (torch.arange(x.shape[1])[:, None] - torch.arange(x.shape[1])).abs()
        mixed = (q @ k.mT - slopes[:, None, None] * distance).softmax(-1) @ v
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class Block(nn.Module):
    """Attention and a small network, each beside a shortcut; keeps the number of heads as well, for nobody."""

    def __init__(self, attention: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.num_heads = 4
        self.one, self.attn, self.two = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.one(x))
        out: Tensor = x + self.mlp(self.two(x))
        return out


class Transformer(nn.Module):
    """Patches, a class token, learnt places, blocks."""

    def __init__(self, *attentions: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 17, width))
        self.blocks = nn.Sequential(*(Block(attention, width) for attention in attentions))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        logits: Tensor = self.head(self.norm(self.blocks(x))[:, 0])
        return logits


class InWindows(nn.Module):
    """Attention within windows of 2x2 positions, moved by one, with a learnt bias and a mask, as in Swin."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.dim, self.num_heads, self.side = width, heads, side
        self.scale = (width // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.randn(9, heads))
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        away = (at[:, :, None] - at[:, None, :] + 1).permute(1, 2, 0)
        self.register_buffer("index", away[..., 0] * 3 + away[..., 1])
        self.register_buffer("mask", torch.randn((side // 2) ** 2, 4, 4).sign().clamp(max=0) * 100)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        half = self.side // 2
        x = torch.roll(x.view(b, self.side, self.side, c), (-1, -1), (1, 2))
        x = self.attend(x.view(b, half, 2, half, 2, c).transpose(2, 3).reshape(-1, 4, c))
        x = x.view(b, half, half, 2, 2, -1).transpose(2, 3).reshape(b, self.side, self.side, -1)
        return torch.roll(x, (1, 1), (1, 2)).view(b, n, c)

    def attend(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        bias = self.relative_position_bias_table[self.index.view(-1)].view(4, 4, -1).permute(2, 0, 1).contiguous()
        weights = (q * self.scale) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        windows = len(self.mask)
        weights = weights.view(b // windows, windows, self.num_heads, n, n) + self.mask[:, None]
        mixed = weights.view(-1, self.num_heads, n, n).softmax(-1) @ v
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, n, c))
        return out


class Merging(nn.Module):
    """Four neighbours become one position of twice the width."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.norm, self.reduction = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), self.side, self.side, -1)
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1).flatten(1, 2)
        merged: Tensor = self.reduction(self.norm(x))
        return merged


class Shifted(nn.Module):
    """Two stages of windows."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.one = nn.Conv2d(3, 16, 2, 2), Block(InWindows(16, 4, 4))
        self.merging, self.two = Merging(16, 4), Block(InWindows(32, 4, 2), 32)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.merging(self.one(self.patches(x).flatten(2).transpose(1, 2)))
        logits: Tensor = self.head(self.norm(self.two(x)).mean(1))
        return logits


def uncounted() -> nn.Module:
    net = Transformer(Constant())
    del net.blocks[0].num_heads
    return net


QKV, PROJ = "blocks.0.attn.qkv", "blocks.0.attn.proj"
NETWORKS = {
    "in step with what comes in": Attended(
        lambda: Transformer(Fused(), Fused()),
        {"blocks.0.attn.num_heads": 2, "blocks.1.attn.num_heads": 2},
        {QKV: (24, 8), PROJ: (8, 8), "blocks.1.attn.qkv": (24, 8), "patches": (8, 3), "blocks.1.mlp.0": (16, 8)},
    ),
    "three heads, in step": Attended(
        lambda: Transformer(Fused(24, 3), width=24),
        {"blocks.0.attn.num_heads": 2},
        {QKV: (48, 16), PROJ: (16, 16), "patches": (16, 3), "head": (5, 16), "blocks.0.mlp.0": (16, 16)},
    ),
    "of a width of their own": Attended(
        lambda: Transformer(Wide()),
        {"blocks.0.attn.heads": 2},
        {"blocks.0.attn.to_qkv": (48, 8), "blocks.0.attn.to_out": (8, 16), "patches": (8, 3)},
    ),
    "three layers and a width": Attended(
        lambda: Transformer(Named()),
        {"blocks.0.attn.num_attention_heads": 2, "blocks.0.attn.all_head_size": 8},
        {"blocks.0.attn.query": (8, 8), "blocks.0.attn.value": (8, 8), "blocks.0.attn.dense": (8, 8)},
    ),
    "with a learnt bias": Attended(
        lambda: Transformer(Windowed()),
        {"blocks.0.attn.num_heads": 2},
        {QKV: (24, 8), PROJ: (8, 8), "patches": (8, 3)},
    ),
    "keys and values of a layer of their own": Attended(
        lambda: Transformer(TwoLayers()),
        {"blocks.0.attn.num_heads": 2, "blocks.0.attn.dim": 8},
        {"blocks.0.attn.q": (8, 8), "blocks.0.attn.kv": (16, 8), "blocks.0.attn.reduce": (8, 8)},
    ),
    "one of two is fixed": Attended(
        lambda: Transformer(Fused(), Constant()),
        {"blocks.0.attn.num_heads": 2},
        {QKV: (24, 8), "blocks.1.attn.qkv": (48, 8), "patches": (8, 3)},
        {"blocks.1.attn.qkv": r"its 4 heads can only go whole, also with blocks\.1\.num_heads at 2"},
    ),
    "shifted windows in two stages": Attended(
        Shifted,
        {"one.attn.num_heads": 2, "two.attn.num_heads": 2, "one.attn.dim": 8, "one.num_heads": 2},
        {
            **{"one.attn.qkv": (24, 8), "one.attn.proj": (8, 8), "merging.reduction": (16, 32), "patches": (8, 3)},
            **{"two.attn.qkv": (48, 16), "two.attn.proj": (16, 16), "two.mlp.0": (16, 16), "head": (5, 16)},
        },
    ),
    "nothing counts them": Attended(
        uncounted,
        {},
        {QKV: (48, 8), PROJ: (8, 16), "patches": (8, 3)},
        {QKV: "its 4 heads can only go whole, and no integer of the module tells their number"},
    ),
    "their number is a factor": Attended(
        lambda: Transformer(Averaged()),
        {"blocks.0.attn.heads": 4},
        {"blocks.0.attn.to_qkv": (96, 8), "blocks.0.attn.to_out": (8, 32), "patches": (8, 3)},
        {"blocks.0.attn.to_qkv": r"does not compute .* also with blocks\.0\.attn\.heads at 2"},
    ),
    "their place counts": Attended(
        lambda: Transformer(Ordered()),
        {"blocks.0.attn.heads": 4},
        {"blocks.0.attn.to_qkv": (96, 8), "blocks.0.attn.to_out": (8, 32), "patches": (8, 3)},
        {"blocks.0.attn.to_qkv": r"does not compute .* also with blocks\.0\.attn\.heads at 2"},
    ),
    "one of two is left": Attended(
        lambda: Transformer(Fused(16, 2)),
        {"blocks.0.attn.num_heads": 1},
        {QKV: (24, 8), PROJ: (8, 8), "patches": (8, 3)},
    ),
}
