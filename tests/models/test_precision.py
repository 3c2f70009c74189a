"""Formats are timed on the network itself, and the fastest sound one is taken; the clock here is the test's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from madx.models import build_model
from madx.models import precision as room
from madx.models.precision import FORMATS, GRADIENT_ERROR, PLAIN, ComputeFormat, Probe, Timing, probe
from madx.recipe import ModelConfig

LAST, BF16, BF16_LAST = FORMATS[1:]
SHAPE = (1, 8, 8)


def network() -> nn.Module:
    return build_model(ModelConfig(args={"widths": [8, 8, 8]}), shape=SHAPE, classes=10, seed=0)


def timed(**ratios: float) -> Probe:
    """A probe with these times, by P(lain), L(ast), b(f16), bl; all sound."""
    formats = {"P": PLAIN, "L": LAST, "b": BF16, "bl": BF16_LAST}
    return Probe(tuple(Timing(formats[k].precision, formats[k].channels_last, v, 0.01) for k, v in ratios.items()))


CHOICES = {
    "AVX2": (timed(P=1, L=0.85, b=14, bl=14), LAST, 14 / 0.85),
    "AMX": (timed(P=1, L=0.9, b=0.6, bl=0.3), BF16_LAST, 1.0),
    "a tie goes to float32": (timed(P=1, L=1, b=0.99, bl=0.985), PLAIN, 0.99),
    "a tie goes to torch's own order": (timed(P=1, L=0.985, b=3, bl=3), PLAIN, 3.0),
    "no bfloat16": (timed(P=1, L=1.2), PLAIN, 1.0),
    "nothing was timed": (Probe(()), PLAIN, 1.0),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_fastest_is_taken_and_a_tie_goes_to_the_earlier_one(name: str) -> None:
    found, best, ratio = CHOICES[name]
    assert found.fastest() == best
    assert found.slowdown("bf16") == pytest.approx(ratio)
    assert found.fastest("fp32").precision == "fp32"
    assert found.fastest("bf16").precision == "bf16", "a precision that is named is obeyed"


def test_gradients_that_are_not_float32s_are_never_chosen_but_may_be_named() -> None:
    unsound = [Timing("bf16", True, 0.2, error) for error in (GRADIENT_ERROR * 1.01, None)]
    for timing in unsound:
        found = Probe((Timing("fp32", False, 1.0, 0.0), timing))
        assert found.fastest() == PLAIN
        assert found.fastest("bf16") == BF16_LAST
    assert Probe((Timing("fp32", False, 1.0, 0.0), Timing("bf16", True, 0.2, GRADIENT_ERROR))).fastest() == BF16_LAST


def with_clock(monkeypatch: pytest.MonkeyPatch, seconds: dict[ComputeFormat, float]) -> None:
    """Calls take what the test says of their format."""

    def measured(work, _):
        format = getattr(work, "format", None) or work.args[1]
        return seconds[format], work()

    monkeypatch.setattr(room, "_measured", measured)


def test_every_format_is_timed_on_the_network_and_its_gradient_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, {PLAIN: 0.04, LAST: 0.03, BF16: 0.02, BF16_LAST: 0.01})
    timings = {timing.format: timing for timing in probe(network(), SHAPE).timings}
    assert {format: timing.ratio for format, timing in timings.items()} == {
        PLAIN: 1.0,
        LAST: 0.75,
        BF16: 0.5,
        BF16_LAST: 0.25,
    }
    errors = {format: timing.gradient_error for format, timing in timings.items()}
    assert errors[PLAIN] == 0
    assert errors[LAST] < 1e-4 < errors[BF16] < GRADIENT_ERROR


def test_a_precision_that_is_slow_in_the_heaviest_layer_is_not_tried_on_the_network(monkeypatch) -> None:
    """Fourteen times as long, on the whole network, is what a probe of less than a second cannot afford."""
    with_clock(monkeypatch, {PLAIN: 0.04, LAST: 0.03, BF16: 0.56})
    *whole, layer = probe(network(), SHAPE).timings
    assert [timing.format for timing in whole] == [PLAIN, LAST]
    assert (layer.format, layer.ratio, layer.gradient_error) == (BF16, 14.0, None)


class InFloat32Alone(nn.Module):
    """Refuses bfloat16, as an operation without a kernel for it does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.linear(x.flatten(1))
        if logits.dtype != torch.float32:
            raise RuntimeError("not implemented for 'BFloat16'")
        return logits


def test_a_precision_in_which_the_network_does_not_run_has_no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    with_clock(monkeypatch, dict.fromkeys(FORMATS, 0.01))
    found = probe(InFloat32Alone(), SHAPE)
    assert {timing.precision for timing in found.timings} == {"fp32"}
    assert found.fastest() == PLAIN


ODD = {
    "no layer that multiplies": (nn.Sequential(nn.Flatten(), nn.LayerNorm(64)), SHAPE),
    "padding is all that its kernel reaches": (nn.Sequential(nn.Conv2d(1, 3, 7, padding=3), nn.Flatten()), (1, 2, 2)),
    "dilated": (nn.Sequential(nn.Conv2d(2, 4, 3, padding=2, dilation=2, groups=2), nn.Flatten()), (2, 5, 5)),
    "one-dimensional": (nn.Sequential(nn.Flatten(2), nn.Conv1d(1, 3, 5, padding="same"), nn.Flatten()), SHAPE),
    "dropout": (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 3)), SHAPE),
    "frozen": (nn.Sequential(nn.Flatten(), nn.Linear(64, 3).requires_grad_(False)), SHAPE),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_networks_are_timed_and_left_as_they_came(name: str) -> None:
    module, shape = ODD[name]
    module.train()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    threads, drawn = torch.get_num_threads(), torch.get_rng_state()
    assert probe(module, shape).timings[0] == Timing("fp32", False, 1.0, 0.0)
    assert all(part.training for part in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())
    assert all(value.is_contiguous() and value.grad is None for value in module.parameters())
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), drawn)


def test_orders_in_memory() -> None:
    images = torch.rand(2, 3, 4, 4)
    assert LAST.ordered(images).is_contiguous(memory_format=torch.channels_last)
    assert PLAIN.ordered(LAST.ordered(images)).is_contiguous()
    assert torch.equal(LAST.ordered(images[0]), images[0]), "other shapes have one order"
    assert LAST.order_(nn.Conv2d(3, 4, 3)).weight.is_contiguous(memory_format=torch.channels_last)
