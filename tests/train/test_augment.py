"""Crops and mirrors, found again by brute force in images whose pixels are all different."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, chisquare
from torch import Tensor

from madx.train.augment import augment


def images(count: int, *, channels: int = 2, height: int = 8, width: int = 8) -> Tensor:
    values = torch.randperm(channels * height * width, generator=torch.Generator().manual_seed(0)) + 1
    one = values.float().view(1, channels, height, width) / (values.numel() + 1)
    return one.expand(count, -1, -1, -1).contiguous()


def windows(image: Tensor, pad: int) -> dict[bytes, tuple[bool, int, int]]:
    """Every result that is allowed: (mirrored, top, left) by the bytes of the window."""
    height, width = image.shape[1:]
    found = {}
    for mirrored, source in ((False, image), (True, image.flip(2))):
        padded = F.pad(source, (pad, pad, pad, pad))
        for top in range(2 * pad + 1):
            for left in range(2 * pad + 1):
                window = padded[:, top : top + height, left : left + width]
                found[window.numpy().tobytes()] = (mirrored, top, left)
    return found


def places(kind: str, x: Tensor, *, seed: int = 1) -> list[tuple[bool, int, int]]:
    """What happened to each image."""
    out = augment(x, kind, torch.Generator().manual_seed(seed))
    assert (out.shape, out.dtype) == (x.shape, torch.float32)
    allowed = windows(x[0], max(x.shape[2:]) // 8)
    return [allowed[image.numpy().tobytes()] for image in out]


@pytest.mark.parametrize(("height", "width"), [(8, 8), (16, 16), (8, 16), (17, 9)])
def test_every_crop_is_a_window_of_the_padded_image(height: int, width: int) -> None:
    pad = max(height, width) // 8
    found = places("crop", images(2000, height=height, width=width))
    assert not any(mirrored for mirrored, _, _ in found)
    counts = np.bincount([top * (2 * pad + 1) + left for _, top, left in found], minlength=(2 * pad + 1) ** 2)
    assert chisquare(counts).pvalue > 0.01, "places are not drawn alike"


def test_flip_crop_mirrors_half_of_the_images() -> None:
    found = places("flip-crop", images(2000))
    assert binomtest(sum(mirrored for mirrored, _, _ in found), 2000).pvalue > 0.01
    tops = {(mirrored, top, left) for mirrored, top, left in found}
    assert len(tops) == 2 * 3 * 3, "mirror and place must be drawn apart"


def test_a_mirrored_image_is_really_mirrored() -> None:
    x = images(64, height=4, width=4)  # too small to be padded, so that nothing but the mirror remains
    out = augment(x, "flip-crop", torch.Generator().manual_seed(0))
    same = (out == x).flatten(1).all(1)
    reversed_rows = (out == torch.from_numpy(x.numpy()[:, :, :, ::-1].copy())).flatten(1).all(1)
    assert bool((same ^ reversed_rows).all())
    assert 10 < int(same.sum()) < 54


def test_padding_is_black_and_images_of_a_batch_draw_their_own() -> None:
    out = augment(torch.ones(400, 1, 8, 8), "crop", torch.Generator().manual_seed(0))
    rows = (out == 0).all(3).sum(2).flatten()
    # of the places -1, 0, +1 two in three show one black row
    assert binomtest(int((rows == 1).sum()), 400, 2 / 3).pvalue > 0.01
    assert set(rows.tolist()) == {0, 1}


@pytest.mark.parametrize("kind", ["none", "crop", "flip-crop"])
def test_the_generator_alone_decides_and_nothing_else_is_touched(kind: str) -> None:
    x, state = images(50), torch.get_rng_state()
    before = x.clone()
    first, again, other = (augment(x, kind, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind == "none")
    assert torch.equal(x, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_none_is_the_identity_and_draws_nothing() -> None:
    x, draws = images(5), torch.Generator().manual_seed(4)
    assert torch.equal(augment(x, "none", draws), x)
    assert torch.equal(draws.get_state(), torch.Generator().manual_seed(4).get_state())
