"""Folding: the same logits, gradients and masks' effects; and what must not be folded is left alone, with a reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madx.models import build_model
from madx.models.folding import Folded, folded
from madx.models.precision import PLAIN, ComputeFormat
from madx.recipe import ModelConfig

LAST = ComputeFormat(channels_last=True)

READS = "does not read the output of a convolution that is called once"


class Net(nn.Module):
    """Two convolutions and a BatchNorm, put together by a function, before a classifier."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)
        self._function = forward

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self._function(self, x).mean((2, 3)))
        return logits


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Fresh values for all that BatchNorm holds, some scales negative."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.dim() == 1 and tensor.is_floating_point():
            low = 0.5 if name.endswith("running_var") else -0.5
            tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return network.eval()


def images(*shape: int) -> Tensor:
    return torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))


def net(forward: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return lively(Net(forward))


def shipped(name: str, **args: object) -> nn.Module:
    config = ModelConfig.model_validate({"name": name, "args": args})
    return lively(build_model(config, shape=(3, 32, 32), classes=10, seed=0))


def convolutions(kind: type[nn.Module], norm: type[nn.Module], **options: object) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [kind(2, 6, 3, **options), norm(6), nn.ReLU(), kind(6, 4, 1, groups=2), norm(4, affine=False)]
        return lively(nn.Sequential(*layers, nn.Flatten(), _Sum()))


class _Sum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (4, -1)).sum(2)


FOLDED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "resnet8": (lambda: shipped("resnet8", widths=[8, 16, 16], stem_stride=1), (3, 32, 32), 9),
    "resnet18": (lambda: shipped("resnet18", widths=[8, 8, 16, 16]), (3, 32, 32), 20),
    "vgg16_bn": (lambda: shipped("vgg16_bn", widths=[8, 8, 8, 16, 16]), (3, 32, 32), 13),
    "1d": (lambda: convolutions(nn.Conv1d, nn.BatchNorm1d, stride=2), (2, 9), 2),
    "2d": (
        lambda: convolutions(nn.Conv2d, nn.BatchNorm2d, bias=False, padding_mode="circular", padding=1),
        (2, 5, 5),
        2,
    ),
    "3d": (lambda: convolutions(nn.Conv3d, nn.BatchNorm3d, dilation=2), (2, 6, 5, 5), 2),
    "functional in between": (lambda: net(lambda m, x: F.relu(m.norm(m.second(F.relu(m.first(x)))))), (3, 8, 8), 1),
    "in place after": (lambda: net(lambda m, x: F.relu_(m.norm(m.second(m.first(x))))), (3, 8, 8), 1),
}


@pytest.mark.parametrize("format", [PLAIN, LAST], ids=str)
@pytest.mark.parametrize("name", FOLDED)
def test_logits_and_input_gradients_stay(name: str, format: ComputeFormat) -> None:
    build, shape, count = FOLDED[name]
    network, x = build(), images(*shape)
    before = copy.deepcopy(network.state_dict())
    fast = folded(network, x[:2], format=format)
    assert len(fast.folds) == count
    assert not any(
        isinstance(fast.network.get_submodule(norm), nn.modules.batchnorm._BatchNorm) for norm in fast.folds.values()
    )
    results = []
    for module in (network, fast):
        point = x.clone().requires_grad_()
        logits = module(point)
        (slope,) = torch.autograd.grad(F.cross_entropy(logits, torch.tensor([0, 1, 2, 3])), point)
        results.append((logits.detach(), slope))
    for given, expected in zip(results[1], results[0], strict=True):
        assert (given - expected).abs().max() < 1e-4 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in (*network.modules(), *fast.modules()))


@pytest.mark.parametrize("name", FOLDED)
def test_masked_is_the_original_with_masked_weights(name: str) -> None:
    """Logits and gradients with respect to the masks, in float64, against a network whose weights were multiplied."""
    build, shape, _ = FOLDED[name]
    network, x = build().double(), images(*shape).double()
    fast = folded(network, x[:2])
    generator = torch.Generator().manual_seed(2)
    layers = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    masks = {
        f"{name}.{kind}": torch.rand(p.shape, generator=generator, dtype=p.dtype).requires_grad_()
        for name, layer in network.named_modules()
        if isinstance(layer, layers)
        for kind, p in layer.named_parameters()
    }
    weights = {key: network.get_parameter(key).detach() for key in masks}
    expected = torch.func.functional_call(network, {key: weights[key] * mask for key, mask in masks.items()}, (x,))
    given = fast.masked(masks, x)
    torch.testing.assert_close(given, expected, rtol=1e-9, atol=1e-9)
    weighted = torch.rand(expected.shape, generator=generator, dtype=expected.dtype)
    slopes = [torch.autograd.grad((logits * weighted).sum(), list(masks.values())) for logits in (given, expected)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def hooked() -> nn.Module:
    network = net(lambda m, x: m.norm(m.first(x)))
    network.first.register_forward_hook(lambda _, __, output: output * 2)
    return network


def parametrised() -> nn.Module:
    network = net(lambda m, x: m.norm(m.first(x)))
    nn.utils.parametrizations.weight_norm(network.first)
    return network


def shared() -> nn.Module:
    network = net(lambda m, x: m.norm(m.second(F.relu(m.first(x)))))
    network.first = nn.Conv2d(3, 6, 3)
    network.third = nn.Conv2d(6, 6, 3)
    network.third.weight = network.second.weight
    return network


def without_statistics() -> nn.Module:
    network = net(lambda m, x: m.norm(m.first(x)))
    network.norm = nn.BatchNorm2d(6, track_running_stats=False)
    return network


def twice(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.second(m.norm(m.first(x))))


def changed_in_place(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.first(x).mul_(2))


def not_differentiated(m: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.first(x)
    return m.norm(h) + m.second(m.first(x))


def read_detached(m: nn.Module, x: Tensor) -> Tensor:
    h = m.first(x)
    return m.norm(h) + h.detach()


def reads_the_norm(m: nn.Module, x: Tensor) -> Tensor:
    return m.norm(m.first(x)) + m.norm.weight.mean()


LEFT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "the output is read twice": (
        lambda: net(lambda m, x: m.norm(h := m.first(x)) + h),
        "something else reads the output of first too",
    ),
    "norm called twice": (lambda: net(twice), "called 2 times"),
    "norm not called": (lambda: net(lambda m, x: m.first(x)), "called 0 times"),
    "convolution called twice": (lambda: net(lambda m, x: m.norm(m.second(m.second(m.first(x))))), READS),
    "something in between": (lambda: net(lambda m, x: m.norm(F.relu(m.first(x)))), READS),
    "changed in place": (lambda: net(changed_in_place), READS),
    "a view in between": (lambda: net(lambda m, x: m.norm(m.first(x)[:])), READS),
    "no gradient": (lambda: net(not_differentiated), READS),
    "hook": (hooked, "first has hooks, or shares or computes its parameters"),
    "parametrised": (parametrised, READS),
    "shared": (shared, "second has hooks, or shares or computes its parameters"),
    "no statistics": (without_statistics, "has hooks, shares or computes its parameters, or keeps no statistics"),
    "read behind autograd's back": (lambda: net(read_detached), "the folded network gave other logits"),
    "the norm's own weight is read": (lambda: net(reads_the_norm), "the folded network does not run: AttributeError"),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_folded_with_certainty_is_left(name: str) -> None:
    build, reason = LEFT[name]
    network, x = build(), images(3, 8, 8)
    fast = folded(network, x)
    assert fast.folds == {}
    assert fast.left.keys() == {"norm"}
    assert fast.left["norm"].startswith(reason)
    torch.testing.assert_close(fast(x), network(x), rtol=1e-4, atol=1e-5)


def test_a_view_that_needs_plain_order_gets_it() -> None:
    network = net(lambda m, x: m.norm(m.first(x)).view(len(x), -1).view(len(x), 6, 8, 8))
    fast = folded(network, images(3, 8, 8), format=LAST)
    assert fast.folds == {"first": "norm"}
    assert fast.format == PLAIN


def test_a_folded_network_stays_in_eval_mode() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3))
    x = images(3, 8, 8)
    fast = folded(network.train(), x)
    assert all(layer.training for layer in network.modules()), "the original keeps its mode"
    assert isinstance(fast.train(), Folded)
    assert not any(layer.training for layer in fast.modules())
    assert torch.equal(fast(x), fast(x))


def test_a_network_without_batchnorm_is_only_reordered() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    fast = folded(network, images(3, 8, 8), format=LAST)
    assert (fast.folds, fast.left, fast.format) == ({}, {}, LAST)
    assert next(fast.parameters()).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fast(images(3, 8, 8)), network(images(3, 8, 8)))
