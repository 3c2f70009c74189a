"""What a factory may give for a part: Datasets and DataLoaders become arrays in the data set's own order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset

from madx.data.collecting import collected
from madx.errors import DataError

IMAGES = torch.rand(7, 3, 5, 5, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0])
PAIRS = TensorDataset(IMAGES, LABELS)


class Keyed(Dataset):
    def __len__(self) -> int:
        return len(LABELS)

    def __getitem__(self, row: int) -> dict[str, object]:
        return {"image": IMAGES[row], "label": int(LABELS[row])}


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PAIRS[row] for row in range(len(PAIRS)))


class Listed(Dataset):
    def __init__(self, items: list[tuple[object, object]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> tuple[object, object]:
        return self.items[row]


class Pictures(Keyed):
    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        return Image.fromarray(np.full((5, 5, 3), row + 2, np.uint8)), int(LABELS[row])


class Augmented(Keyed):
    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 5, 5), int(LABELS[row])


class Ragged(Keyed):
    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(3, 5, 5 + row // 3), int(LABELS[row])


class Broken(Keyed):
    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        raise RuntimeError("disk on fire")


def doubled(items):
    images, labels = zip(*items, strict=True)
    return torch.stack(images) * 0.5, torch.stack(labels)


@pytest.mark.parametrize(
    "part",
    [
        (IMAGES, LABELS),
        PAIRS,
        Keyed(),
        Stream(),
        DataLoader(PAIRS, batch_size=3),
        DataLoader(PAIRS, batch_size=3, shuffle=True),
        DataLoader(Stream(), batch_size=3),
    ],
    ids=["pair", "dataset", "keys", "stream", "loader", "shuffled", "stream loader"],
)
def test_all_become_the_same_arrays(part):
    images, labels = collected(part, "w")
    np.testing.assert_array_equal(images, IMAGES.numpy())
    assert labels.tolist() == LABELS.tolist()


def test_pictures_subsets_and_batches_of_ones_own():
    images, _ = collected(Pictures(), "w")
    assert (images.shape, images.dtype) == ((7, 5, 5, 3), np.uint8)
    loader = DataLoader(PAIRS, batch_size=2, sampler=SubsetRandomSampler([5, 1, 3]))
    np.testing.assert_array_equal(collected(loader, "w")[0], IMAGES.numpy()[[1, 3, 5]])
    own = DataLoader(PAIRS, batch_size=2, collate_fn=doubled)
    np.testing.assert_array_equal(collected(own, "w")[0], IMAGES.numpy() * 0.5)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (3, "expected the pair .* this is a int"),
        ("text", "this is a str"),
        (([[1.0]], [1]), "images: expected a NumPy array or a tensor, this is a list"),
        (Augmented(), "image 0 of the Augmented is another one each time .*train.augment"),
        (Ragged(), "image 3 has the shape .*resize them"),
        (Broken(), "reading the Broken failed with RuntimeError: disk on fire"),
        (TensorDataset(IMAGES), "an item of the data set is a tuple; expected the pair"),
        (DataLoader(PAIRS, shuffle=True, collate_fn=doubled), "DataLoader has a RandomSampler .*shuffle=False"),
    ],
)
def test_what_is_none_or_not_clear_is_refused(part, words):
    with pytest.raises(DataError, match=words):
        collected(part, "w")


@pytest.mark.parametrize("label", [1.7, torch.tensor(1.7), np.float32(2), "1"])
def test_labels_that_are_no_whole_numbers_are_refused(label):
    with pytest.raises(DataError, match=r"a label of the data set is a .*expected a whole number"):
        collected(Listed([(IMAGES[0], label)]), "w")


@pytest.mark.parametrize("mode", ["P", "1", "RGBA", "CMYK", "I;16"])
def test_pictures_whose_numbers_are_not_what_is_seen_are_refused(mode):
    with pytest.raises(DataError, match=rf"has Pillow's mode {mode}, .*convert"):
        collected(Listed([(Image.new(mode, (5, 5)), 1)]), "w")
    images, labels = collected(
        Listed([(Image.new("L", (5, 5)), np.int64(1)), (Image.new("L", (5, 5)), LABELS[1])]), "w"
    )
    assert (images.shape, labels.tolist()) == ((2, 5, 5), [1, 1])
