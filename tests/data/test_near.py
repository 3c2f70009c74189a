"""Near copies: what differs by a grey level or two is one image, and what is merely alike is not."""

import numpy as np
import pytest

from madx.data import load_splits
from madx.data.near import near_copies
from madx.data.sources import ArraySource
from madx.data.splits import Split
from madx.recipe import DataConfig

RNG = np.random.default_rng(0)
IMAGES = RNG.random((60, 3, 16, 16), dtype=np.float32)


def split(images, name="gate"):
    source = ArraySource(images.astype(np.float32), np.zeros(len(images), dtype=np.int64), 2)
    return Split(name, source, np.arange(len(images)))


CHANGES = {
    "not at all": lambda x: x,
    "by less than a grey level": lambda x: x + RNG.uniform(-0.003, 0.003, x.shape),
    "a little darker": lambda x: x * 0.996,
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_count_once_and_those_of_training_are_found(change):
    copies = np.clip(CHANGES[change](IMAGES[:20]), 0, 1)
    found = near_copies(split(np.concatenate([IMAGES, copies])), split(copies[:7], "train"))
    assert (found.images, found.different) == (80, 60)
    assert found.trained == 14, "seven images and their seven copies"


def test_a_chain_of_near_copies_is_one_image():
    chain = np.concatenate([IMAGES[:5] * (1 - 0.004 * step) for step in range(10)])
    assert near_copies(split(chain), None).different == 5


def test_dim_images_are_not_alike_for_being_dim():
    assert near_copies(split(IMAGES * 0.02), None).different == 60


def test_other_details_in_images_of_one_mean_are_other_images():
    flat = np.full((10, 1, 16, 16), 0.5, dtype=np.float32)
    patterns = RNG.choice([-0.2, 0.2], size=(10, 1, 16, 8)).astype(np.float32)
    neighbours = np.argsort(np.tile(np.arange(8), 2), kind="stable")  # each pixel beside its opposite
    images = flat + np.concatenate([patterns, -patterns], axis=-1)[..., neighbours]
    assert near_copies(split(np.concatenate([images, IMAGES[:, :1]])), None).different == 70


def test_a_public_set_has_next_to_none():
    splits = load_splits(DataConfig(name="digits"), seed=0)
    found = near_copies(splits.gate, splits.train)
    assert (found.different, found.trained) == (found.images, 0)
