"""Masks against the pruning rule, entry by entry."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prune_cases import random_scores
from small_networks import conv, head
from torch import Tensor, nn

from madx.deploy.export import export_onnx
from madx.deploy.sparsity import sparsity_2_4
from madx.errors import ModelError
from madx.prune import apply_masks_, fill_zeros_, two_four_masks, unstructured_masks

SHARES = [0.01, 0.25, 0.5, 0.9, 0.99]


def network() -> nn.Module:
    return nn.Sequential(conv(2, 4), nn.Conv2d(4, 3, 1, bias=False), nn.Flatten(), nn.Linear(48, 7), nn.Linear(7, 5))


@pytest.mark.parametrize("sparsity", SHARES)
def test_convolutions_are_one_pool(sparsity: float) -> None:
    scores = random_scores(network())
    masks = unstructured_masks(network(), scores, sparsity)
    pool = ["0.weight", "0.bias", "1.weight"]
    kept = torch.cat([masks[name].flatten() for name in pool])
    values = torch.cat([scores[name].flatten() for name in pool])
    assert (~kept).sum() == round(sparsity * kept.numel())
    assert values[~kept].max() < values[kept].min()
    assert set(masks) == set(scores)
    assert all(mask.dtype == torch.bool and mask.shape == scores[name].shape for name, mask in masks.items())


@pytest.mark.parametrize("sparsity", SHARES)
def test_linear_rows_are_pools_of_their_own(sparsity: float) -> None:
    scores = random_scores(network())
    masks = unstructured_masks(network(), scores, sparsity)
    for layer, width in (("3", 48), ("4", 7)):
        for row in range(len(masks[f"{layer}.bias"])):
            kept = torch.cat([masks[f"{layer}.weight"][row], masks[f"{layer}.bias"][row : row + 1]])
            values = torch.cat([scores[f"{layer}.weight"][row], scores[f"{layer}.bias"][row : row + 1]])
            removed = values[~kept]
            assert len(removed) == min(width, round(sparsity * (width + 1))), "a row never runs empty"
            assert not 0 < len(removed) < width + 1 or removed.max() < values[kept].min()


def test_at_sparsity_zero_everything_is_kept() -> None:
    masks = unstructured_masks(network(), random_scores(network()), 0)
    assert all(mask.dtype == torch.bool and mask.all() for mask in masks.values())


def test_a_layer_that_is_not_scored_has_no_mask_and_takes_part_in_no_pool() -> None:
    net, whole = network(), random_scores(network())
    without = {name: score for name, score in whole.items() if not name.startswith(("0.", "3."))}
    masks = unstructured_masks(net, without, 0.5, unscored={"0": "its inputs are images", "3": "too small"})
    assert set(masks) == {"1.weight", "4.weight", "4.bias"}
    assert (~masks["1.weight"]).sum() == masks["1.weight"].numel() // 2
    wide = nn.Sequential(nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(16, 8))
    scores = {name: score for name, score in random_scores(wide).items() if not name.startswith("1.")}
    masks, dense = two_four_masks(wide, scores, unscored={"1": "too small"})
    assert (set(masks), dense) == ({"0.weight", "2.weight"}, {"1": "too small"})


def test_a_bias_that_is_computed_from_others_has_no_mask() -> None:
    """Its tensors belong to the layer inside, which nobody scored."""
    net = nn.Sequential(nn.Conv1d(1, 4, 4), nn.Linear(4, 3))
    for layer in net:
        nn.utils.parametrize.register_parametrization(layer, "bias", nn.Identity())
    scores = {"0.weight": torch.arange(16.0).view(4, 1, 4), "1.weight": torch.arange(12.0).view(3, 4)}
    assert {name: int(mask.sum()) for name, mask in unstructured_masks(net, scores, 0.5).items()} == {
        "0.weight": 8,
        "1.weight": 6,
    }


def test_transposed_convolutions_are_of_the_pool_and_not_of_two_in_four() -> None:
    """Their kernels have no sparse form; single weights of them compete with those of all convolutions."""
    net = nn.Sequential(conv(2, 16), nn.ConvTranspose2d(16, 16, 2, groups=2), nn.Flatten(), head(16 * 25))
    scores = random_scores(net)
    masks = unstructured_masks(net, scores, 0.75)
    pool = ["0.weight", "0.bias", "1.weight", "1.bias"]
    kept = torch.cat([masks[name].flatten() for name in pool])
    values = torch.cat([scores[name].flatten() for name in pool])
    assert (~kept).sum() == round(0.75 * kept.numel())
    assert values[~kept].max() < values[kept].min()
    masks, dense = two_four_masks(net, scores)
    assert dense["1"] == "transposed convolution: no sparse kernels exist"
    assert not masks.keys() & {"1.weight", "1.bias"}


def test_a_network_of_linear_layers_has_no_pool() -> None:
    net = nn.Sequential(nn.Linear(4, 3, bias=False))
    masks = unstructured_masks(net, {"0.weight": torch.arange(12.0).view(3, 4)}, 0.5)
    assert masks["0.weight"].tolist() == [[False, False, True, True]] * 3


def test_signs_count() -> None:
    """MAD's saliency is ranked as it is: the most negative entry goes first."""
    net = nn.Sequential(nn.Conv1d(1, 1, 4, bias=False))
    masks = unstructured_masks(net, {"0.weight": torch.tensor([[[0.1, -9.0, 8.0, 0.0]]])}, 0.25)
    assert masks["0.weight"].tolist() == [[[True, False, True, True]]]


def test_ties_go_by_position() -> None:
    net = network()
    scores = {name: torch.zeros_like(score) for name, score in random_scores(net).items()}
    scores["1.weight"][0, 0] = -1
    masks = unstructured_masks(net, scores, 0.5)
    kept = torch.cat([masks[name].flatten() for name in ("0.weight", "0.bias", "1.weight")])
    removed = (~kept).nonzero().flatten().tolist()
    assert removed == [*range(len(removed) - 1), 76]  # 76 entries before 1.weight
    assert masks["4.weight"].tolist() == [[False] * 4 + [True] * 3] * 5
    assert masks["4.bias"].all()


@given(data=st.data(), width=st.integers(1, 30), sparsity=st.floats(0.01, 0.99))
@settings(max_examples=60)
def test_any_scores_any_share(data: st.DataObject, width: int, sparsity: float) -> None:
    values = data.draw(st.lists(st.sampled_from([-2.0, -0.0, 0.0, 0.5, 3.0]), min_size=width, max_size=width))
    net = nn.Sequential(nn.Conv1d(1, 1, width, bias=False))
    (mask,) = unstructured_masks(net, {"0.weight": torch.tensor(values).view(1, 1, width)}, sparsity).values()
    order = sorted(range(width), key=lambda place: (values[place], place))
    assert sorted(order[: round(sparsity * width)]) == (~mask.flatten()).nonzero().flatten().tolist()


WIDE = {
    "conv2d": nn.Conv2d(16, 8, (2, 3)),
    "conv1d": nn.Conv1d(32, 8, 3, stride=2, bias=False),
    "conv3d": nn.Conv3d(16, 16, (1, 2, 1)),
    "linear": nn.Linear(48, 24),
}


def check_two_four(score: Tensor, mask: Tensor) -> None:
    """Every (output, group of four input channels, kernel position): the two highest are kept."""
    for output, position in itertools.product(range(score.shape[0]), itertools.product(*map(range, score.shape[2:]))):
        for first in range(0, score.shape[1], 4):
            values = [score[(output, first + k, *position)].item() for k in range(4)]
            kept = [mask[(output, first + k, *position)].item() for k in range(4)]
            lowest = sorted(range(4), key=lambda k: (values[k], k))[:2]
            assert kept == [k not in lowest for k in range(4)]


@pytest.mark.parametrize("name", WIDE)
@pytest.mark.parametrize("ties", [False, True])
def test_two_of_four(name: str, ties: bool) -> None:
    net = nn.Sequential(WIDE[name])
    scores = {key: score.round() if ties else score for key, score in random_scores(net).items()}
    masks, dense = two_four_masks(net, scores)
    assert dense == {}
    assert set(masks) == {"0.weight"}, "biases are kept"
    assert masks["0.weight"].dtype == torch.bool
    assert masks["0.weight"].is_contiguous()
    check_two_four(scores["0.weight"], masks["0.weight"])


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(32, 32, 3, groups=2), "grouped convolution (2 groups): no sparse kernels exist"),
        (nn.Conv2d(32, 32, 3, groups=32), "grouped convolution (32 groups): no sparse kernels exist"),
        (nn.Conv2d(12, 16, 3), "12 input channels are not a multiple of 16"),
        (nn.Conv2d(1, 16, 3), "1 input channels are not a multiple of 16"),
        (nn.Linear(16, 10), "10 output channels are not a multiple of 8"),
        (nn.Conv1d(16, 12, 1), "12 output channels are not a multiple of 8"),
    ],
    ids=str,
)
def test_layers_that_stay_dense_say_why(layer: nn.Module, reason: str) -> None:
    net = nn.Sequential(layer, nn.Linear(16, 8))
    masks, dense = two_four_masks(net, random_scores(net))
    assert dense == {"0": reason}
    assert set(masks) == {"1.weight"}


def test_the_written_file_is_two_four() -> None:
    """Another room's count over the exported weights, which shares no code with the masks."""
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 16), head(16)
    ).eval()
    masks, dense = two_four_masks(net, random_scores(net))
    before = sparsity_2_4(export_onnx(net, (3, 8, 8), opset=20).payload)
    apply_masks_(net, masks)
    after = sparsity_2_4(export_onnx(net, (3, 8, 8), opset=20).payload)
    assert set(masks) == {"2.weight", "5.weight"}
    assert set(dense) == {"0", "6"}
    assert not any(layer.eligible for layer in before.values())
    eligible = [layer for layer in after.values() if layer.eligible]
    assert sorted(layer.shape for layer in eligible) == [(8, 16, 3, 3), (16, 128)]
    assert all(layer.zeros == 0.5 and layer.satisfied == layer.groups for layer in eligible)


def test_apply_masks_zeroes_what_is_removed_and_nothing_else() -> None:
    net = network()
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    masks = unstructured_masks(net, random_scores(net), 0.5)
    del masks["3.bias"]
    apply_masks_(net, masks)
    for name, parameter in net.named_parameters():
        expected = before[name] if name == "3.bias" else torch.where(masks[name], before[name], 0)
        assert torch.equal(parameter, expected)
        assert parameter.requires_grad


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (
            {"9.weight": torch.ones(2, dtype=torch.bool)},
            r"9\.weight has shape \[2\], the network has no such parameter",
        ),
        # Broadcasting would take both.
        ({"0.weight": torch.ones(4, 1, 1, 1, dtype=torch.bool)}, r"\[4, 1, 1, 1\], the network has \[4, 2, 3, 3\]"),
        ({"0.bias": torch.tensor(True)}, r"0\.bias has shape \[\], the network has \[4\]"),
    ],
    ids=["unknown", "shape", "scalar"],
)
def test_masks_of_another_network(masks: Mapping[str, Tensor], message: str) -> None:
    net = network()
    before = net[0].weight.detach().clone()
    with pytest.raises(ModelError, match=message):
        apply_masks_(net, masks)
    assert torch.equal(net[0].weight, before)


@pytest.mark.parametrize("make", [lambda n, s: unstructured_masks(n, s, 0.5), two_four_masks], ids=["pool", "2:4"])
def test_scores_that_do_not_fit(make: object) -> None:
    assert callable(make)
    net = nn.Sequential(nn.Conv2d(16, 8, 1), nn.Linear(16, 8))
    scores = random_scores(net)
    with pytest.raises(ModelError, match=r"no saliency for 1\.bias"):
        make(net, {name: score for name, score in scores.items() if name != "1.bias"})
    with pytest.raises(ModelError, match=r"saliency of 0\.weight has shape \[8, 16\], the parameter \[8, 16, 1, 1\]"):
        make(net, scores | {"0.weight": torch.zeros(8, 16)})


def test_filling_leaves_no_zero_and_what_was_there():
    net = nn.Sequential(conv(16, 16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 8))
    masks, _ = two_four_masks(net, random_scores(net))
    apply_masks_(net, masks)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    fill_zeros_(net, generator=torch.Generator().manual_seed(0))
    for name, value in net.named_parameters():
        kept = before[name] != 0
        assert torch.equal(value[kept], before[name][kept])
        assert name.endswith("bias") or (value != 0).all()
        filled = value[~kept].abs()
        assert filled.numel() == 0 or filled.max() < before[name][kept].abs().mean()
    artifact = export_onnx(net, (16, 4, 4), opset=20)
    assert not any(row.eligible for row in sparsity_2_4(artifact.payload).values()), "nothing for sparse kernels"


def test_filling_is_a_tenth_of_the_mean_magnitude_and_its_signs_are_the_generators() -> None:
    def filled(seed: int) -> Tensor:
        net = nn.Sequential(nn.Linear(100, 10, bias=False))
        with torch.no_grad():
            net[0].weight.copy_(torch.where(torch.arange(1000).view(10, 100) % 4 == 0, -2.0, 0.0))
        before = torch.get_rng_state()
        fill_zeros_(net, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), before)
        return net[0].weight.detach().flatten()

    weight = filled(0)
    zeros = torch.arange(1000) % 4 != 0
    assert (weight[~zeros] == -2).all()
    torch.testing.assert_close(weight[zeros].abs(), torch.full((750,), 0.05))
    assert 300 < (weight[zeros] > 0).sum() < 450, "half of each sign"
    assert torch.equal(weight, filled(0))
    assert not torch.equal(weight, filled(1))
