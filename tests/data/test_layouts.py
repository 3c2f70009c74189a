"""Folders as people have them: names of the parts, litter, tables of labels, test images alone, damaged files."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from madx.data import load_splits
from madx.data.composition import describe
from madx.data.folders import read_folders
from madx.data.readers import read
from madx.errors import DataError
from madx.recipe import DataConfig

GENERATOR = np.random.default_rng(11)


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(GENERATOR.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(path)
    return path


def fill(root: Path, counts: dict[str, int]) -> Path:
    for name, count in counts.items():
        for number in range(count):
            save(root / name / f"{number:02}.png")
    return root


def config(root: Path, **keys: object) -> DataConfig:
    return DataConfig(name="imagefolder", path=root, **keys)


def called(source) -> list[str]:
    return [Path(file.path).name for file in source.files]


@pytest.mark.parametrize(
    ("train", "test"),
    [("Training", "Testing"), ("TRAIN", "Val"), ("train", "valid"), ("training", "validation"), ("train", "Tests")],
)
def test_the_usual_names_of_the_parts_in_any_case(tmp_path, train, test):
    fill(tmp_path / train, {"a": 2, "b": 1})
    fill(tmp_path / test, {"a": 1, "b": 1})
    training, found = read_folders(config(tmp_path))
    assert (training.labels.tolist(), found.labels.tolist()) == ([0, 0, 1], [0, 1])
    assert (training.shape, found.shape) == ((3, 6, 6), (3, 6, 6))


def test_two_folders_of_one_name_are_asked_about(tmp_path):
    for name in ("train", "Training"):
        fill(tmp_path / name, {"a": 1, "b": 1})
    with pytest.raises(DataError, match=r"has Training and train; say which one is meant: data\.train"):
        read_folders(config(tmp_path))
    fill(tmp_path / "other", {"a": 1, "b": 2})
    training, test = read_folders(config(tmp_path, train="Training", test="other"))
    assert (len(training.labels), len(test.labels)) == (2, 3)
    with pytest.raises(DataError, match="has no folder nowhere; there are Training, other, train"):
        read_folders(config(tmp_path, train="nowhere"))


def test_a_test_folder_without_labels_is_passed_over_for_val_and_that_is_said(tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    fill(tmp_path / "val", {"a": 2, "b": 1})
    fill(tmp_path / "test", {"unknown": 3})
    _, test = read_folders(config(tmp_path))
    assert test.labels.tolist() == [0, 0, 1]
    assert test.remarks == ("test/ has no folder of any class, so val/ is the gate",)
    fill(tmp_path / "test", {"a": 1})
    with pytest.raises(DataError, match=r"folders of other classes .*unknown"):
        read_folders(config(tmp_path))
    shutil.rmtree(tmp_path / "test/unknown")
    assert read_folders(config(tmp_path))[1].remarks == ("val/ is not read: test/ is the gate",)


def test_litter_is_passed_over_and_counted_and_the_rest_told_at_once(tmp_path):
    root = fill(tmp_path / "set", {"a": 2, "b": 2})
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "notes.txt"):
        for folder in "ab":
            (root / folder / name).touch()
    save(root / "__MACOSX" / "a" / "._00.png")
    save(root / "a" / "more" / "x.png")
    source, _ = read_folders(config(root))
    assert source.names == ("a", "b")
    assert called(source) == ["00.png", "01.png", "x.png", "00.png", "01.png"]
    (remark,) = source.remarks
    assert remark.startswith("9 files and folders in set are no images and were passed over")
    assert all(words in remark for words in ("2 Thumbs.db", "2 desktop.ini", "2 hidden", "2 *.txt", "1 __MACOSX"))
    for number in range(7):
        (root / "b" / f"{number}.zip").touch()
    with pytest.raises(DataError, match=r"b/0\.zip is not an image file.*b/4\.zip.*and 2 more such problems"):
        read_folders(config(root))


def test_images_beside_the_class_folders_are_said(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    save(root / "stray.png")
    assert "beside its class folders" in read_folders(config(root))[0].remarks[0]


def test_a_link_to_a_folder_above_ends_the_search(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    (root / "a" / "again").symlink_to(root / "a")
    with pytest.raises(DataError, match="leads back to a folder above it"):
        read_folders(config(root))


def test_folders_that_sort_otherwise_as_numbers_are_said(tmp_path):
    root = fill(tmp_path / "set", {str(number): 1 for number in range(11)})
    source, _ = read_folders(config(root))
    assert source.names[:3] == ("0", "1", "10")
    assert "10 before 2" in source.remarks[0]
    assert read_folders(config(root, classes=list(map(str, range(11)))))[0].remarks == ()


def test_composed_and_decomposed_names_are_the_same_class_and_bytes_have_a_name(tmp_path):
    root = fill(tmp_path / "set", {unicodedata.normalize("NFD", "é"): 1, "z": 2})
    assert read_folders(config(root, classes=["z", "é"]))[0].labels.tolist() == [0, 0, 1]
    (root / "z").rename(root / os.fsdecode(b"\xff"))
    source, _ = read_folders(config(root))
    assert source.names == ("\\xff", "é")
    assert "\\xff" in str(describe(load_splits(config(root, split="test"), 0, trains=False)))


def test_two_folders_that_are_called_the_same_are_refused(tmp_path):
    forms = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    root = fill(tmp_path / "set", dict.fromkeys((*forms, "z"), 1))
    if len(list(root.iterdir())) < 3:
        pytest.skip("this file system takes both for one")
    with pytest.raises(DataError, match=r"two folders that are both called é.*move the files"):
        read_folders(config(root))


TABLES = {
    "val.csv": "filename,label\n0.png,b\n1.png,a\n",
    "labels.tsv": "1.png\ta\n0.png\tb\n",
    "ids.csv": "id_code;sharpness;diagnosis\n0;7;1\n1;8;0\n",
    "caffe.txt": "0.png 1\n1.png 0\n",
    "deep.csv": 'path,class\n"val/0.png","b"\n./1.png,a\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_file_names_and_classes(tmp_path, name):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    for number in range(2):
        save(tmp_path / "val" / f"{number}.png")
    (tmp_path / name).write_text(TABLES[name])
    _, test = read_folders(config(tmp_path, labels=tmp_path / name))
    assert dict(zip(called(test), test.labels.tolist(), strict=True)) == {"0.png": 1, "1.png": 0}
    assert test.names == ("a", "b")


PANDAS = {  # images 0.png to 2.png, of the classes a, b, b
    ",file,label\n0,2.png,b\n1,0.png,a\n2,1.png,b\n": [0, 1, 1],
    ",file,label\n0,2,b\n1,0,a\n7,1,b\n": [0, 1, 1],
    "file,y\n2,1\n0,0\n1,1\n": [0, 1, 1],
    ",file,label\n0,2,b\n1,0,a\n2,1,b\n": r"in 2 columns \('', 'file'\) every row is the name of an image",
    "0,2,b\n1,0,a\n2,1,b\n": r"in 2 columns \('0', '2'\) every row",
    "0.png,1\n1.png,2\n2.png,2\n": r"class numbers from 1 to 2, and no image has 0; .*data\.classes",
    "file,label\n7.png,1\n8.png,0\n": "names 2 images that are not in .*: 7.png, 8.png",
    ",file,label\n0,7.png,a\n1,8.png,b\n": "names 2 images that are not in .*: 7.png, 8.png",
    "0.png,²\n1.png,a\n2.png,a\n": [1, 0, 0],
}


@pytest.mark.parametrize("text", PANDAS)
def test_the_column_in_which_every_row_names_an_image(tmp_path, text):
    for number in range(3):
        save(tmp_path / "set" / f"{number}.png")
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    asked = config(tmp_path / "set", labels=tmp_path / "t.csv", split="test")
    if isinstance(PANDAS[text], str):
        with pytest.raises(DataError, match=PANDAS[text]):
            read_folders(asked)
        return
    _, test = read_folders(asked)
    assert [label for _, label in sorted(zip(called(test), test.labels.tolist(), strict=True))] == PANDAS[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("name,label\n9,a\n", "no column of its first rows"),
        ("0.png,a\n9.png,a\n", "names 1 images that are not in .*: 9.png"),
        ("0.png,a\n1.png,z\n", r"classes that are none of the 2 there are \(a, b\): z"),
        ("0.png,1\n1.png,2\n", "class numbers up to 2, but there are 2 classes, 0 to 1"),
        ("0.png,a,b\n1.png,b,a\n", "has 3 columns .*which one is the class"),
        ("0.png,a\n1.png\n", "row 2 has too few columns"),
        ("1\n0\n", "needs meta.mat"),
    ],
)
def test_tables_that_are_not_clear(tmp_path, text, words):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    for number in range(2):
        save(tmp_path / "val" / f"{number}.png")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(DataError, match=words):
        read_folders(config(tmp_path, labels=tmp_path / "t.csv"))


def test_images_in_one_folder_need_a_table_and_those_that_lie_about_are_named(tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 1})
    save(tmp_path / "val" / "0.png")
    (tmp_path / "val.csv").touch()
    with pytest.raises(DataError, match=r"one per class.*data\.labels.*beside them: val\.csv"):
        read_folders(config(tmp_path))


def test_a_table_for_a_whole_set_that_is_divided(tmp_path):
    for number in range(4):
        save(tmp_path / "set" / f"{number}.png")
    (tmp_path / "t.csv").write_text("image,label\n0,cat\n1,ant\n2,cat\n3,ant\n")
    source, test = read_folders(config(tmp_path / "set", labels=tmp_path / "t.csv"))
    assert test is None
    assert (source.names, source.labels.tolist()) == (("ant", "cat"), [1, 0, 1, 0])


def test_tiny_imagenet_as_it_is_unpacked(tmp_path):
    for name in ("n1", "n2"):
        save(tmp_path / "train" / name / "images" / f"{name}_0.png")
        (tmp_path / "train" / name / f"{name}_boxes.txt").touch()
    for number in range(3):
        save(tmp_path / "val" / "images" / f"val_{number}.png")
    save(tmp_path / "test" / "images" / "test_0.png")
    rows = [f"val_{number}.png\tn{1 + number % 2}\t0\t0\t5\t5\n" for number in (2, 0, 1)]
    (tmp_path / "val" / "val_annotations.txt").write_text("".join(rows))
    training, test = read_folders(config(tmp_path))
    assert training.names == ("n1", "n2")
    assert list(zip(called(test), test.labels.tolist(), strict=True)) == [
        ("val_2.png", 0),
        ("val_0.png", 0),
        ("val_1.png", 1),
    ]


def test_imagenets_ground_truth_is_in_the_kits_order_not_in_that_of_the_folders(tmp_path):
    fill(tmp_path / "train", {"n01": 1, "n02": 1, "n03": 1})
    for number in range(3):
        save(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.png")
    (tmp_path / "truth.txt").write_text("3\n1\n2\n")
    kit = np.array([(1, "n03", 0), (2, "n01", 0), (3, "n02", 0)], [("ID", object), ("WNID", object), ("n", object)])
    with pytest.raises(DataError, match=r"needs meta\.mat"):
        read_folders(config(tmp_path, labels=tmp_path / "truth.txt"))
    scipy.io.savemat(tmp_path / "meta.mat", {"synsets": kit})
    _, test = read_folders(config(tmp_path, labels=tmp_path / "truth.txt"))
    assert test.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize("root", ["images", "images/test", "images/val"])
def test_test_images_alone_are_all_the_gate_and_nothing_is_trained_on_them(tmp_path, root):
    fill(tmp_path / root, {"a": 4, "b": 3})
    keys = {"split": "test"} if root == "images" else {}
    found = config(tmp_path / "images", **keys)
    splits = load_splits(found, 0, trains=False)
    assert (len(splits.train), len(splits.gate), len(splits.selection)) == (0, 7, 7)
    assert splits.copies.sentences() == []
    assert any("all 7 are the gate" in sentence for sentence in describe(splits))
    with pytest.raises(DataError, match=r"are test images only.*madx verify --engine"):
        load_splits(found, 0)


def test_damaged_files_are_left_out_on_request_and_counted(tmp_path):
    root = fill(tmp_path / "set", {"a": 3, "b": 3})
    for name in ("a/01.png", "b/00.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    with pytest.raises(DataError, match=r"a/01\.png .*b/00\.png .*2 of 6 image files are damaged \(data\.skip_damaged"):
        read(config(root))[0].digests(np.arange(6))
    source, _ = read(config(root, skip_damaged=True, image_size=6))
    assert called(source) == ["00.png", "02.png", "01.png", "02.png"]
    assert source.remarks == ("2 of 6 image files are damaged and were left out: 01.png, 00.png",)
    assert source.images(np.arange(4)).shape == (4, 3, 6, 6)
    for file in (root / "b").iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match=r"every image of 1 classes is damaged \(b\)"):
        read(config(root, skip_damaged=True, image_size=6))


def test_a_question_is_asked_once_with_how_many_images_it_is_about(tmp_path):
    root = fill(tmp_path / "set", {"a": 2, "b": 2})
    tag = Image.Exif()
    tag[0x0112] = 6
    for number in range(3):
        Image.new("RGB", (6, 6)).save(root / "a" / f"turned{number}.png", exif=tag)
    with pytest.raises(DataError, match=r"turned0\.png has a rotation .*\(3 of 7 images are such\)$"):
        read_folders(config(root))[0].digests(np.arange(7))


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("training_set/training_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_test/seg_test"),
        ("train_256", "val_256"),
        ("trainset", "testset"),
        ("Train Images", "Test Images"),
        ("train/train", "test"),
    ],
)
def test_parts_whose_names_say_so_in_one_of_their_words_are_no_classes(tmp_path, train, test):
    fill(tmp_path / train, {"a": 2, "b": 1})
    fill(tmp_path / test, {"a": 1, "b": 1})
    fill(tmp_path / "seg_pred", {"c": 1})
    training, found = read_folders(config(tmp_path))
    assert (training.names, training.labels.tolist(), found.labels.tolist()) == (("a", "b"), [0, 0, 1], [0, 1])
    assert any("seg_pred" in remark for remark in found.remarks)  # what is not read is said


def test_classes_may_be_called_like_parts(tmp_path):
    fill(tmp_path, {"train station": 2, "test tube": 2, "train of thought": 2})
    assert read_folders(config(tmp_path))[0].classes == 3
    fill(tmp_path / "vehicles", {"bus": 2, "train": 2})
    with pytest.raises(DataError, match=r"train is a class.*data\.classes"):
        read_folders(config(tmp_path / "vehicles"))
    training, test = read_folders(config(tmp_path / "vehicles", classes=["train", "bus"]))
    assert (training.labels.tolist(), test) == ([0, 0, 1, 1], None)


def test_folders_in_class_folders_that_may_be_parts_or_classes(tmp_path):
    fill(tmp_path / "parts", {"a/train": 2, "a/test": 1, "b/train": 2, "b/test": 1})
    with pytest.raises(DataError, match=r"called test, train.*train/CLASS"):
        read_folders(config(tmp_path / "parts"))
    fill(tmp_path / "domains", {"amazon/mug": 2, "amazon/pen": 2, "dslr/mug": 2, "dslr/pen": 2})
    training, _ = read_folders(config(tmp_path / "domains"))
    assert any("mug, pen are not told apart" in remark for remark in training.remarks)
    fill(tmp_path / "ids", {"a/images": 2, "b/images": 2})
    assert read_folders(config(tmp_path / "ids"))[0].remarks == ()


def test_a_set_in_a_folder_of_its_own_is_found_by_what_the_message_says(tmp_path):
    fill(tmp_path / "dataset", {"train/a": 2, "train/b": 1, "test/a": 1})
    with pytest.raises(DataError) as told:
        read_folders(config(tmp_path))
    assert str(told.value).endswith(f"data.path: {tmp_path / 'dataset'}")
    fill(tmp_path / "alone", {"train/a": 2, "train/b": 1})
    with pytest.raises(DataError) as told:
        read_folders(config(tmp_path / "alone"))
    assert str(told.value).endswith(f"data.path: {tmp_path / 'alone/train'}")


def flat(root: Path, header: str, rows: list[str]) -> dict[str, object]:
    """A folder of as many images as there are rows of a table, whose first column names them."""
    for number in range(len(rows)):
        save(root / "images" / f"{number}.png")
    text = "\n".join([header, *(f"{number}.png,{row}" for number, row in enumerate(rows))])
    (root / "t.csv").write_text(text, encoding="utf-8")
    return {"labels": root / "t.csv", "split": "test"}


@pytest.mark.parametrize(
    ("header", "rows", "words"),
    [
        ("file,label,split", ["a,train", "b,train", "a,test"], r"'split'.*data\.train_labels"),
        ("file,label,is_training_image", ["a,1", "b,0"], r"several parts.*data\.labels"),
        ("file,label", ["0", "", "1"], "1 rows have no class"),
        ("file,label", ["a", "NaN", "b"], "1 rows have no class"),
        ("file,label", ["a", "3", "b"], "some classes are numbers"),
        ("file,label", ["0", "1.5", "1"], "whole numbers"),
        ("file,label", ["0", "-1", "1"], "whole numbers"),
        ("file,label", ["cat", "dog", "dog|cat"], "several classes of one image"),
        ("file,label", ["scab", "rust", "rust scab"], "several classes of one image"),
        ("file,MEL,NV,BCC", ["1,0,0", "0,1,0", "0,0,1"], "for each of 3 classes"),
        ("file,class_id,class_name", ["0,b", "1,a", "1,b"], "one number for each name"),
        ("file,class_id,class_name", ["3,b", "7,a", "3,b"], "from 0 or 1 on"),
    ],
)
def test_a_table_that_does_not_give_each_image_of_one_part_one_class_is_refused(tmp_path, header, rows, words):
    keys = flat(tmp_path, header, rows)
    with pytest.raises(DataError, match=words):
        read_folders(config(tmp_path / "images", **keys))


@pytest.mark.parametrize(
    ("header", "rows", "names", "labels"),
    [
        ("file,class_id,class_name", ["0,zebra", "1,ant", "0,zebra"], ("zebra", "ant"), [0, 1, 0]),
        ("file,Class ID,species", ["2,ant", "1,zebra", "2,ant"], ("zebra", "ant"), [1, 0, 1]),
        ("Filename,Width,Height,ClassId", ["8,8,2", "8,9,0", "9,8,1"], (), [2, 0, 1]),
        ("file,label", [f"{number}.0" for number in range(11)], (), list(range(11))),
    ],
)
def test_numbers_of_classes_in_a_table_are_their_order(tmp_path, header, rows, names, labels):
    keys = flat(tmp_path, header, rows)
    _, test = read_folders(config(tmp_path / "images", **keys))
    by_name = dict(zip(called(test), test.labels.tolist(), strict=True))
    assert (test.names, [by_name[f"{number}.png"] for number in range(len(rows))]) == (names, labels)


def test_a_name_that_looks_like_two_classes_is_one_if_the_recipe_lists_it(tmp_path):
    keys = flat(tmp_path, "file,label", ["tiger", "shark", "tiger shark"])
    _, test = read_folders(config(tmp_path / "images", classes=["tiger", "shark", "tiger shark"], **keys))
    assert test.labels.tolist() == [0, 1, 2]


def test_numbers_in_a_table_are_the_folders_that_are_called_by_them(tmp_path):
    fill(tmp_path / "train", {"01": 2, "02": 2, "03": 1})
    for number in range(2):
        save(tmp_path / "test" / f"{number}.png")
    (tmp_path / "t.csv").write_text("0.png,1\n1.png,2\n")
    assert read_folders(config(tmp_path, labels=tmp_path / "t.csv"))[1].labels.tolist() == [0, 1]
    (tmp_path / "t.csv").write_text("0.png,0\n1.png,2\n")
    with pytest.raises(DataError, match="called by numbers"):
        read_folders(config(tmp_path, labels=tmp_path / "t.csv"))


def test_a_table_in_another_encoding(tmp_path):
    keys = flat(tmp_path, "file,label", ["café", "ant"])
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    (tmp_path / "t.csv").write_text(text, encoding="utf-16")
    assert read_folders(config(tmp_path / "images", **keys))[1].names == ("ant", "café")
    (tmp_path / "t.csv").write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match="save it as CSV in UTF-8"):
        read_folders(config(tmp_path / "images", **keys))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.heic", "convert it to PNG"),
        ("x.dcm", "convert it to PNG"),
        ("x.npy", r"stack them \(np\.savez"),
        ("x", "give it its ending"),
        ("x.zip", "unpack it"),
    ],
)
def test_what_lies_in_class_folders_and_is_not_read_is_told_with_what_to_do(tmp_path, name, words):
    fill(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / name).write_bytes(b"-")
    with pytest.raises(DataError, match=words):
        read_folders(config(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>", "web page"),
        (b"\0\0\0\x18ftypavif", "HEIC or AVIF"),
    ],
)
def test_what_an_image_file_holds_in_truth_is_said(tmp_path, content, words):
    fill(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "x.jpg").write_bytes(content)
    with pytest.raises(DataError, match=words):
        load_splits(config(tmp_path, selection=1), 0)
