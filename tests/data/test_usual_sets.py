"""Sets that are usual and sound, and that rules for odd ones must leave alone."""

import numpy as np
import pytest
from PIL import Image

from madx.data.folders import read_folders
from madx.data.shards import _require_all
from madx.errors import DataError
from madx.recipe import DataConfig


def draw(path, level=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 6), level, np.uint8)).save(path)


def config(root, **more):
    return DataConfig(name="imagefolder", path=root, **more)


def test_classes_called_by_decimals_are_those_of_the_table(tmp_path):
    for number, name in enumerate(("1.0", "2.0", "3.0")):
        draw(tmp_path / "train" / name / "a.png", 50 + number)
    rows = ["file,label"]
    for name, label in (("x", "1.0"), ("y", "2.0")):
        draw(tmp_path / "test" / f"{name}.png")
        rows.append(f"{name}.png,{label}")
    (tmp_path / "test.csv").write_text("\n".join(rows))
    _, test = read_folders(config(tmp_path, labels=tmp_path / "test.csv"))
    assert [test.names[label] for label in test.labels] == ["1.0", "2.0"]


@pytest.mark.parametrize("split", ["auto", "test"])
def test_a_set_with_a_class_called_train_still_has_its_parts(tmp_path, split):
    classes = ("cup", "train", "wolf")
    for part in ("train", "test"):
        for number, name in enumerate(classes):
            draw(tmp_path / part / name / f"{part}{number}.png", 60 + number)
    more = {} if split == "auto" else {"split": split}
    train, test = read_folders(config(tmp_path, classes=classes, **more))
    assert test.names == classes
    assert len(test.labels) == 3
    assert (train is None) is (split == "test")


def table(root, header, *rows):
    for row in rows:
        draw(root / "images" / row.split(",")[0])
    (root / "labels.csv").write_text("\n".join((header, *rows)))
    return config(root, labels=root / "labels.csv")


@pytest.mark.parametrize("header", ["image,label,label_name", "image,category,category_name"])
def test_names_beside_numbers_of_classes_do_not_make_two_columns_of_classes(tmp_path, header):
    source, _ = read_folders(table(tmp_path, header, "a.png,0,cat", "b.png,1,dog"))
    assert source.labels.tolist() == [0, 1]


def test_codes_of_classes_order_nothing_and_a_row_without_its_last_cell_is_named(tmp_path):
    source, _ = read_folders(table(tmp_path, "image,class_name,class_id", "a.png,cat,n02", "b.png,ant,n01"))
    assert source.names == ("ant", "cat")
    with pytest.raises(DataError, match="row 2 has too few columns"):
        read_folders(table(tmp_path, "image,class_name,class_id", "a.png,cat,1", "b.png,ant"))


def test_languages_of_two_letters_are_classes(tmp_path):
    for number, name in enumerate(("ar", "de", "te", "tr")):
        draw(tmp_path / name / "female" / "a.png", 60 + number)
        draw(tmp_path / name / "male" / "b.png", 160 + number)
    source, test = read_folders(config(tmp_path))
    assert source.names == ("ar", "de", "te", "tr")
    assert test is None


def test_shards_that_count_themselves_must_be_there(tmp_path):
    with pytest.raises(DataError, match="1 of the 2 files"):
        _require_all([tmp_path / "train-00000-of-00002.parquet"])
