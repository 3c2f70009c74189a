"""Image folders: layouts, order, decoding against an independent resize, and damaged files by name."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from madx.data import Split
from madx.data import files as folders
from madx.data.classes import class_names
from madx.data.copies import distinct
from madx.data.decoding import Decoding
from madx.data.decoding import decode as decode_bytes
from madx.data.folders import read_folders
from madx.data.stored import ImageFile
from madx.errors import DataError
from madx.recipe import DataConfig

SIZE = 8
GENERATOR = np.random.default_rng(23)


def decode(path: Path, size: int, **more) -> np.ndarray:
    return decode_bytes(str(path), path.read_bytes(), Decoding((size, size), **more))


def picture(width: int = SIZE, height: int = SIZE) -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(root: Path, counts: dict[str, int]) -> Path:
    """`counts` pictures in each class folder."""
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            picture().save(root / name / f"{number:02}.png")
    return root


def config(root: Path) -> DataConfig:
    return DataConfig(name="imagefolder", path=root, image_size=SIZE)


@pytest.mark.parametrize("part", ["val", "test"])
def test_imagenet_layout(tmp_path, part):
    fill(tmp_path / "train", {"cat": 3, "ant": 2})
    fill(tmp_path / part, {"ant": 1, "cat": 1})
    (tmp_path / "train" / "cat" / ".hidden").touch()
    training, test = read_folders(config(tmp_path))
    assert training.names == ("ant", "cat")
    assert training.labels.tolist() == [0, 0, 1, 1, 1]
    assert test.labels.tolist() == [0, 1]
    assert (training.shape, training.classes) == ((3, SIZE, SIZE), 2)
    images = training.images(np.array([4, 0]))
    for image, name in zip(images, ("cat/02.png", "ant/00.png"), strict=True):
        stored = np.asarray(Image.open(tmp_path / "train" / name), np.float32) / 255
        np.testing.assert_array_equal(image, stored.transpose(2, 0, 1))


def test_test_goes_before_val_unless_it_has_no_classes(tmp_path):
    """ImageNet's test folder holds unlabelled files; then val is the test set."""
    for part in ("train", "val"):
        fill(tmp_path / part, {"a": 1, "b": 1})
    (tmp_path / "test").mkdir()
    picture().save(tmp_path / "test" / "unlabelled.png")
    assert Path(read_folders(config(tmp_path))[1].files[0].path).parts[-3] == "val"
    fill(tmp_path / "test", {"a": 1, "b": 1})
    assert Path(read_folders(config(tmp_path))[1].files[0].path).parts[-3] == "test"


def test_flat_layout_has_no_test_set(tmp_path):
    source, test = read_folders(config(fill(tmp_path / "set", {"a": 2, "b": 1})))
    assert test is None
    assert source.labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("train", "test", "words"),
    [
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, r"other classes than the 2 there are \(a, b\): c; .* data.classes"),
        ({"f": 1, "g": 1}, dict.fromkeys("abcdefg", 1), "a, b, c and 2 more"),
        ({"a": 1, "b": 0}, {"a": 1, "b": 1}, "b is empty"),
        ({"a": 1, "b": 1}, {}, "neither test/ nor val/"),
        ({}, {"a": 1}, "train has no folders"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, train, test, words):
    (tmp_path / "train").mkdir()
    fill(tmp_path / "train", train)
    fill(tmp_path / "val", test)
    with pytest.raises(DataError, match=words):
        read_folders(config(tmp_path))


def test_a_test_set_may_lack_a_class_and_keeps_the_numbers_of_the_training_set(tmp_path):
    fill(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    fill(tmp_path / "test", {"a": 1, "c": 2})
    training, test = read_folders(config(tmp_path))
    assert test.labels.tolist() == [0, 2, 2]
    assert test.names == training.names == ("a", "b", "c")


@pytest.mark.parametrize("listed", ["classes", "class_map"])
def test_the_order_of_the_outputs_is_the_users(tmp_path, listed):
    """Folders 0 to 10 sort as 0, 1, 10, 2; the network may know more classes than there are folders."""
    names = [str(number) for number in range(12)]
    fill(tmp_path / "train", dict.fromkeys(names[:11], 1))
    fill(tmp_path / "test", {"2": 1, "10": 1})
    (tmp_path / "names.txt").write_text("\ufeff" + "\r\n".join(names) + "\n\n", encoding="utf-8")
    value = names if listed == "classes" else tmp_path / "names.txt"
    found = DataConfig(name="imagefolder", path=tmp_path, image_size=SIZE, **{listed: value})
    training, test = read_folders(found)
    assert training.labels.tolist() == list(range(11))
    assert test.labels.tolist() == [2, 10]
    assert (training.classes, training.names) == (12, tuple(names))


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        (["0 b", "1 a"], ("b", "a")),
        (["2: a", "1: b"], ("b", "a")),
        (["name,id", "a,1", "b,0"], ("b", "a")),
        (["a\t1", "b\t0"], ("b", "a")),
        (["n00000002 tench, Tinca", "n00000001 goldfish"], ("n00000002", "n00000001")),
        (["digit 1", "digit 0"], ("digit 1", "digit 0")),
        (["0 b", "2 a"], ("0 b", "2 a")),
    ],
)
def test_a_class_map_may_number_or_describe_its_names(tmp_path, lines, names):
    (tmp_path / "map.txt").write_text("\n".join(lines))
    assert class_names(DataConfig(name="npz", path=tmp_path, class_map=tmp_path / "map.txt")) == names


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\na\n", "3 names, 2 of them different"),
        (b"a\n\nb\n", "line 2 is empty"),
        (b"\xff\n", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_class_map_that_is_none(tmp_path, content, words):
    fill(tmp_path / "set", {"a": 1, "b": 1})
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    data = DataConfig(name="imagefolder", path=tmp_path / "set", image_size=SIZE, class_map=tmp_path / "names.txt")
    with pytest.raises(DataError, match=words):
        read_folders(data)


def stamps(root: Path) -> str | None:
    source, _ = read_folders(config(root))
    return Split("gate", source, np.arange(len(source.labels))).stamp


def prints(root: Path) -> str:
    source, _ = read_folders(config(root))
    return Split("gate", source, np.arange(len(source.labels))).fingerprint


@pytest.mark.parametrize("link", ["none", "class", "file"])
def test_a_file_that_changed_is_seen_behind_every_link(tmp_path, monkeypatch, link):
    """A small set is read whole, whatever its times say; in a large one they count."""
    root, store = fill(tmp_path / "set", {"a": 2, "b": 2}), tmp_path / "store"
    store.mkdir()
    if link == "class":
        (root / "a").rename(store / "a")
        (root / "a").symlink_to(store / "a")
    file = root / "a" / "00.bmp"
    picture().save(file)
    if link == "file":
        file = file.rename(store / "elsewhere.bmp")
        (root / "a" / "00.bmp").symlink_to(file)
    before, status = prints(root), file.stat()
    picture().save(file)  # a BMP of the same size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size
    assert prints(root) != before
    assert stamps(root) is None
    monkeypatch.setattr(folders, "MOST_READ", (0, 0))
    stamp = stamps(root)
    assert stamps(root) == stamp
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert stamps(root) != stamp


def test_a_small_set_that_is_only_copied_is_the_same_set(tmp_path):
    root = fill(tmp_path / "set", {"a": 3, "b": 1})
    before = prints(root), stamps(root)
    for file in root.rglob("*.png"):
        os.utime(file, ns=(5, 5))
    assert (prints(root), stamps(root)) == before


def test_a_class_folder_that_is_a_broken_link_is_no_class_less(tmp_path):
    """Its classes would move up by one: to another network, or to wrong answers."""
    root = fill(tmp_path / "set", {"b": 1, "c": 1})
    (root / "a").symlink_to(tmp_path / "not mounted")
    with pytest.raises(DataError, match="set/a: the link leads nowhere"):
        read_folders(config(root))


def test_a_page_that_was_saved_as_an_image_is_named(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    (root / "b" / "17.jpg").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"b/17\.jpg cannot be decoded \(a web page"):
        read_folders(config(root))[0].digests(np.arange(3))


def test_a_link_that_leads_elsewhere_is_another_file_even_in_a_large_set(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_READ", (0, 0))
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (SIZE, SIZE), (9, 9, 9)).save(tmp_path / name / "x.png")
        os.utime(tmp_path / name / "x.png", ns=(5, 5))
    (root / "a" / "x.png").symlink_to(tmp_path / "one" / "x.png")
    before = stamps(root)
    (root / "a" / "x.png").unlink()
    (root / "a" / "x.png").symlink_to(tmp_path / "two" / "x.png")
    assert stamps(root) != before


@pytest.mark.parametrize("most", [folders.MOST_READ, (0, 0)], ids=["small", "large"])
def test_a_set_that_is_moved_is_the_same_set(tmp_path, monkeypatch, most):
    monkeypatch.setattr(folders, "MOST_READ", most)
    root = fill(tmp_path / "set", {"a": 3, "b": 1})
    before = prints(root), stamps(root)
    root = root.rename(tmp_path / "moved")
    assert (prints(root), stamps(root)) == before
    assert read_folders(config(root))[0].large is (most == (0, 0))


def test_a_file_that_changes_while_it_is_used_ends_the_run(tmp_path):
    """Its content is held against the listing whenever it is decoded."""
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    source, _ = read_folders(config(root))
    assert source.digests(np.arange(2)) is not None
    status = (root / "b" / "00.png").stat()
    (root / "b" / "00.png").write_bytes((root / "a" / "00.png").read_bytes()[: status.st_size].ljust(status.st_size))
    os.utime(root / "b" / "00.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(DataError, match=r"b/00\.png was changed while madx was at work"):
        source.images(np.array([1]))
    (root / "a" / "00.png").write_bytes(b"shorter")
    with pytest.raises(DataError, match=r"a/00\.png was changed while madx was at work"):
        source.images(np.array([0]))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp"])
def test_files_that_are_cut_short_are_named_together_before_anything_is_done(tmp_path, suffix):
    """By the reader already; whole files with something behind their end are none of them."""
    root = tmp_path / "set"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(8):
            picture(40, 40).save(root / name / f"{number}.{suffix}")
    whole = root / "a" / f"7.{suffix}"
    whole.write_bytes(whole.read_bytes() + bytes(3000))
    assert read_folders(config(root))[0].digests(np.arange(16)) is not None
    for number in range(7):
        file = root / "b" / f"{number}.{suffix}"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError, match=rf"b/0\.{suffix} cannot be decoded.*b/4\.{suffix}.*; and 2 more"):
        read_folders(config(root))[0].digests(np.arange(16))


def test_an_empty_file_is_named(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    (root / "b" / "0.png").touch()
    with pytest.raises(DataError, match=r"b/0\.png cannot be decoded"):
        read_folders(config(root))[0].digests(np.arange(3))


def test_a_name_that_is_not_utf8(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    (root / "a" / "00.png").rename(root / "a" / os.fsdecode(b"\xff.png"))
    assert len(prints(root)) == 64


@pytest.mark.parametrize("stray", ["weights.pt", "archive.zip", "b"])
def test_whatever_is_no_image_is_named(tmp_path, stray):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    (root / "b" / stray).touch()
    with pytest.raises(DataError, match=f"{stray} is not an image file"):
        read_folders(config(root))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("what", ["pipe", "folder"])
def test_what_is_called_an_image_and_is_no_file_is_named_and_not_waited_for(tmp_path, what):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    stray = root / "b" / "x.png"
    os.mkfifo(stray) if what == "pipe" else stray.mkdir()
    with pytest.raises(DataError, match=r"x\.png is not a file \(a pipe"):
        read_folders(config(root))


def test_a_missing_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere is not a folder"):
        read_folders(config(tmp_path / "nowhere"))


@pytest.mark.parametrize(("width", "height"), [(16, 8), (8, 16), (40, 24), (24, 41), (13, 9), (8, 8), (5, 4), (31, 8)])
def test_decoding_agrees_with_torch(tmp_path, width, height):
    """Oracle: torch's antialiased bilinear resize of the shorter side, then a centre cut; both round to bytes."""
    image = picture(width, height)
    image.save(tmp_path / "a.png")
    shorter = min(width, height)
    tall, wide = int(SIZE * height / shorter), int(SIZE * width / shorter)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(planes, (tall, wide), mode="bilinear", antialias=True)[0]
    top, left = round((tall - SIZE) / 2), round((wide - SIZE) / 2)
    expected = resized[:, top : top + SIZE, left : left + SIZE].permute(1, 2, 0).numpy()
    found = decode(tmp_path / "a.png", SIZE)
    assert found.shape == (SIZE, SIZE, 3)
    assert np.abs(found - expected).max() <= 1.01  # Pillow rounds to bytes after each of its two passes


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_every_mode_of_eight_bits_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new("RGB", (9, 9), (255, 255, 255)).convert(mode).save(path)
    assert np.unique(decode(path, SIZE)).tolist() == [255]


@pytest.mark.parametrize("depth", [np.uint16, np.int32, np.float32])
def test_more_than_eight_bits_are_refused_rather_than_clipped(tmp_path, depth):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((9, 9), 1000, depth)).save(path)
    with pytest.raises(DataError, match=r"deep\.tif has more than 8 bits"):
        decode(path, SIZE)


def stored(kind: str) -> bytes:
    buffer = io.BytesIO()
    picture(64, 64).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Truncated File Read:UserWarning")  # Pillow warns, then raises
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5])
def test_a_truncated_image_is_named(tmp_path, monkeypatch, kind, share):
    """Before anything is done, in a set that is too large to be read whole, too; it may be left out there as well."""
    monkeypatch.setattr(folders, "MOST_READ", (0, 0))
    root = fill(tmp_path / "set", {"a": 2, "b": 2})
    content = stored(kind)
    (root / "b" / "zz-broken.jpg").write_bytes(content[: int(share * len(content))])
    source, _ = read_folders(config(root))
    for looked in (source.images, source.digests, source.glances):
        with pytest.raises(DataError, match=r"zz-broken\.jpg cannot be decoded .*1 of 5 image files are damaged"):
            looked(np.arange(4))
    kept = source.without_damaged()
    assert (len(kept.files), len(kept.images(np.arange(4)))) == (4, 4)
    assert kept.remarks == ("1 of 5 image files are damaged and were left out: zz-broken.jpg",)


def test_a_large_set_is_not_read_whole_but_where_files_look_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "MOST_READ", (0, 0))
    root = fill(tmp_path / "set", {"a": 3, "b": 3})
    noise = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)
    noise[1] = noise[0]
    noise[1, 20, 20] ^= 1  # in the middle of a file of 5,000 bytes
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(root / "a" / f"like{number}.bmp")
        Image.fromarray(pixels).save(root / "b" / f"twin{number}.bmp")
    source, _ = read_folders(config(root))
    read = []
    whole = ImageFile.read
    monkeypatch.setattr(ImageFile, "read", lambda self: read.append(Path(self.path).name) or whole(self))
    train, gate, copies = distinct(
        source,
        source,
        train=np.arange(5),
        selection=np.empty(0, np.int64),
        gate=np.arange(5, 10),
        limit=None,
        trains=True,
    )
    assert sorted(read) == ["like0.bmp", "like1.bmp", "twin0.bmp", "twin1.bmp"]
    assert (len(train), len(gate), copies.of_others) == (5, 3, 2)
    assert source.identity(np.arange(10)) is not None


def test_a_damaged_png_chunk_is_named(tmp_path):
    content = bytearray(stored("PNG"))
    content[60] ^= 255
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded"):
        decode(tmp_path / "a.png", SIZE)


def test_a_file_that_vanished_is_named(tmp_path):
    root = fill(tmp_path / "set", {"a": 1, "b": 1})
    source, _ = read_folders(config(root))
    (root / "b" / "00.png").unlink()
    with pytest.raises(DataError, match=r"00\.png cannot be read \(No such file"):
        source.images(np.array([1]))
