"""Recalibration against statistics computed by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import train_cases
from torch import Tensor, nn

from madx.train import recalibrate_


def net(momentum: float | None = 0.1) -> nn.Sequential:
    module = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=momentum), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)
    )
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), module[1].running_mean, module[4].running_mean):
            tensor.copy_(torch.randn(tensor.shape, generator=draws))
    return module.eval()


def batches() -> list[Tensor]:
    draws = torch.Generator().manual_seed(1)
    return [torch.rand(size, 1, 8, 8, generator=draws) for size in (5, 2, 9)]


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of each channel, from the definition, in float64."""
    rows = values.double().transpose(0, 1).flatten(1)
    mean = rows.sum(1) / rows.shape[1]
    return mean, ((rows - mean[:, None]) ** 2).sum(1) / (rows.shape[1] - 1)


def by_hand(module: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    """The average over the batches of both layers' moments, the second on what the first gives in training mode."""
    exact = [module[0].double(), module[1], module[3], module[4]]
    sums = [[torch.zeros(3), torch.zeros(3)], [torch.zeros(2), torch.zeros(2)]]
    for images in batches():
        before = exact[0](images.double()).detach()
        mean, variance = moments(before)
        count = before.numel() // 3
        biased = variance * (count - 1) / count
        scale = (exact[1].weight / (biased + exact[1].eps).sqrt())[None, :, None, None]
        after = (before - mean[None, :, None, None]) * scale + exact[1].bias[None, :, None, None]
        second = nn.functional.conv2d(after.relu(), exact[2].weight.double(), exact[2].bias.double()).detach()
        for layer, (m, v) in enumerate([(mean, variance), moments(second)]):
            sums[layer] = [sums[layer][0] + m / 3, sums[layer][1] + v / 3]
    return [(mean, variance) for mean, variance in sums]


@pytest.mark.parametrize("momentum", [0.1, None])
def test_statistics_are_the_plain_average_over_the_batches(momentum: float | None) -> None:
    module = net(momentum)
    assert recalibrate_(module, batches()) == 2
    for layer, (mean, variance) in zip((module[1], module[4]), by_hand(net()), strict=True):
        torch.testing.assert_close(layer.running_mean.double(), mean.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var.double(), variance.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval", "mixed"])
def test_weights_modes_and_momenta_are_as_before(mode: str) -> None:
    module = net()
    module.train(mode != "eval")
    if mode == "mixed":
        module[1].eval()
    modes = [part.training for part in module.modules()]
    weights = {name: value.detach().clone() for name, value in module.named_parameters()}
    recalibrate_(module, batches())
    assert [part.training for part in module.modules()] == modes
    assert [module[1].momentum, module[4].momentum] == [0.1, 0.1]
    assert train_cases.same(dict(module.named_parameters()), weights)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_while_a_batch_is_made_the_network_is_the_one_that_came() -> None:
    module = net()
    probe = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    expected = module(probe).detach()
    seen = []

    def lazily() -> Iterator[Tensor]:
        for batch in batches():
            seen.append(torch.equal(module(probe), expected) and not module.training)
            yield batch

    recalibrate_(module.train(), lazily())
    assert seen == [True] * 3
    assert not torch.equal(module.eval()(probe), expected)


@pytest.mark.parametrize("where", ["making a batch", "running a batch"])
def test_after_an_error_the_network_is_as_before(where: str) -> None:
    module = net().train()
    buffers = {name: value.clone() for name, value in module.named_buffers() if "running" in name}

    def failing() -> Iterator[Tensor]:
        yield batches()[0]
        if where == "making a batch":
            raise OSError("gone")
        yield torch.rand(2, 5, 8, 8)

    with pytest.raises((OSError, RuntimeError), match="gone" if where == "making a batch" else "channels"):
        recalibrate_(module, failing())
    assert all(part.training for part in module.modules())
    assert [module[1].momentum, module[4].momentum] == [0.1, 0.1]
    now = {name: value for name, value in module.named_buffers() if "running" in name}
    assert train_cases.same(now, buffers)


def test_without_batchnorm_no_batch_is_made() -> None:
    def never() -> Iterator[Tensor]:
        raise AssertionError("a batch was made")
        yield

    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    assert recalibrate_(plain, never()) == 0


def test_without_a_batch_nothing_changes() -> None:
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert recalibrate_(module, []) == 2
    assert train_cases.same(module.state_dict(), before)
