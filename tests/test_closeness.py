"""What counts as rounding between two answers: a constant, a loud class or a scale must not hide a difference."""

import numpy as np
import pytest
import torch

from madx.closeness import ROUNDING, apart, differences, most_flips_of, offset, reach, rounding_of

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(50, 10)) * 4


def test_a_constant_on_all_classes_changes_nothing():
    moved = LOGITS + RNG.normal(size=(50, 1)) * 1e3
    np.testing.assert_allclose(differences(moved, LOGITS), 0, atol=1e-9)
    np.testing.assert_allclose(reach(moved), reach(LOGITS), rtol=1e-9)


@pytest.mark.parametrize("disguise", [0.0, 3e4, -3e4])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_permuted_classes_are_apart_whatever_is_added_or_multiplied(disguise, scale):
    logits, permuted = scale * LOGITS + disguise * scale, scale * np.roll(LOGITS, 1, axis=1) + disguise * scale
    assert (apart(permuted, logits, rounding=0.02) > 1).all()
    assert (apart(logits * (1 + 1e-5), logits, rounding=1e-3) < 1).all()


@pytest.mark.parametrize("loud", [-3e4, -1e6])
def test_a_class_far_below_the_others_explains_no_difference(loud):
    disguised, permuted = LOGITS.copy(), np.roll(LOGITS, 1, axis=1)
    disguised[:, 9] = permuted[:, 9] = loud
    assert (apart(permuted, disguised, rounding=0.02) > 1).all()


def test_one_loud_image_loosens_nothing_for_the_others():
    loud = LOGITS.copy()
    loud[0] *= 1e6
    wrong = loud.copy()
    wrong[1:] = np.roll(loud[1:], 1, axis=1)
    assert (apart(wrong, loud, rounding=0.02)[1:] > 1).all()


def test_an_undecided_image_is_rounded_like_the_rest():
    logits = LOGITS.copy()
    logits[0] = 1e-6 * LOGITS[0]
    assert apart(logits + 1e-5 * RNG.normal(size=logits.shape), logits, rounding=1e-3).max() < 1


def test_attacked_images_near_the_border_are_rounded_like_clean_ones():
    border = 0.001 * LOGITS
    noise = 1e-4 * RNG.normal(size=border.shape)
    assert apart(border + noise, border, rounding=1e-3).max() > 1
    assert apart(border + noise, border, rounding=1e-3, usual=LOGITS).max() < 1


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_any_number_of_classes(classes):
    logits = RNG.normal(size=(20, classes))
    assert (reach(logits) > 0).all()
    assert apart(logits, logits, rounding=1e-3).max() == 0


def test_an_offset_is_measured_in_units_of_what_tells_classes_apart():
    assert offset(LOGITS).max() < 2
    assert offset(LOGITS + 3e4).min() > 1000
    assert offset(np.zeros((3, 4))).max() == 0


def test_rows_of_coarser_numbers_are_wider_by_their_bits_and_what_has_none_gets_the_strictest():
    """float16 rounds to 2^-11 and bfloat16 to 2^-8 of a number, as numpy's and torch's own epsilons say."""
    ratio = float(torch.finfo(torch.bfloat16).eps / np.finfo(np.float16).eps)
    assert rounding_of("bf16") / rounding_of("fp16") == ratio == 8
    assert rounding_of("unknown numbers") == rounding_of("fp64") == ROUNDING["fp32"] == min(ROUNDING.values())
    assert most_flips_of("fp64") == most_flips_of("fp32") < most_flips_of("fp16") == most_flips_of("bf16")


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_deep_network_of_rounded_numbers_is_within_its_row_and_not_within_the_finer_one(precision, dtype):
    """Twenty layers whose weights and outputs are rounded: the row explains it, with room, and float32's does not."""
    generator = torch.Generator().manual_seed(0)
    layers = [torch.randn(64, 64, generator=generator) / 64**0.5 * 2**0.5 for _ in range(20)]
    exact = rounded = torch.rand(200, 64, generator=generator)
    for weight in layers:
        exact = (exact @ weight).relu()
        rounded = (rounded @ weight.to(dtype).float()).relu().to(dtype).float()
    off = apart(rounded[:, :10].numpy(), exact[:, :10].numpy(), rounding=rounding_of(precision))
    assert off.max() < 1
    assert (apart(rounded[:, :10].numpy(), exact[:, :10].numpy(), rounding=ROUNDING["fp32"]) > 1).any()
