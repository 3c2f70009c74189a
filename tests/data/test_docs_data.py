"""docs/data.md: every section that it shows is read, as it stands there, from a small set of the kind that it tells of.

What has no sample here fails, and so does a sample of what the page no longer shows.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import scipy.io
import test_array_formats as formats
import test_data_shards as shards
import test_published as published
from PIL import Image

from madx.data import fashion, load_splits
from madx.data import published as published_reader
from madx.data.readers import READERS, read
from madx.data.sources import Source
from madx.recipe import DataConfig, parse_recipe, resolve_paths

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text()
GENERATOR = np.random.default_rng(3)


class Found(NamedTuple):
    """What is read of a sample: how many images of each part, their shape, and the classes."""

    train: int | None
    test: int | None
    shape: tuple[int, int, int]
    classes: int | tuple[str, ...]


Sample = tuple[Callable[[Path], object], Found]


def table(heading: str) -> list[list[str]]:
    """The cells of the table that begins so, row by row."""
    rows = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def sections(cell: str) -> list[str]:
    return re.findall(r"`(\{.*?\})`(?= |$)", cell)


def blocks() -> list[str]:
    """The sections in the page's blocks of YAML, one a line."""
    lines = [line for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
    assert all(line.startswith("data: {") for line in lines)
    return [line.removeprefix("data: ").split("  #")[0].rstrip().split("} #")[0] for line in lines]


def config(section: str, folder: Path) -> DataConfig:
    return resolve_paths(parse_recipe(f"data: {section}", source="docs/data.md"), folder).data


# --- Samples ----------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(autouse=True)
def _small_published_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published sets have fixed sizes and sums; those of the samples are as small as they are."""
    contents = {}
    for part, count in (("train", 6), ("t10k", 4)):
        contents[f"{part}-images-idx3-ubyte"] = idx(np.full((count, 28, 28), 200, np.uint8))
        contents[f"{part}-labels-idx1-ubyte"] = idx(np.arange(count, dtype=np.uint8))
    pins = {name: fashion.Pinned(len(one), hashlib.sha256(one).hexdigest()) for name, one in contents.items()}
    monkeypatch.setattr(fashion, "FILES", pins)
    monkeypatch.setattr(fashion, "_CONTENTS", contents, raising=False)
    monkeypatch.setattr(published_reader, "CIFAR10", published.SMALL10)
    monkeypatch.setattr(published_reader, "CIFAR100", published.SMALL100)


def write_fashion(folder: Path) -> None:
    (folder / "fashion").mkdir()
    for name, content in fashion._CONTENTS.items():
        (folder / "fashion" / f"{name}.gz").write_bytes(gzip.compress(content))


def photos(root: Path, counts: dict[str, int], size: tuple[int, int] = (40, 36)) -> None:
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = GENERATOR.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name.replace('/', '_')}_{number}.png")


def write_python_cifar(layout: published.Cifar, names: tuple[str, ...], label: bytes) -> Callable[[Path], None]:
    """As torchvision unpacks it."""

    def write(folder: Path) -> None:
        place = folder / "cifar" / layout.python_folder
        place.mkdir(parents=True)
        for name in names:
            count = layout.test_records if "test" in name else layout.train_records
            pixels = GENERATOR.integers(0, 256, (count, 3072), dtype=np.uint8)
            (place / name).write_bytes(pickle.dumps({b"data": pixels, label: list(range(count))}, protocol=2))

    return write


def parts(train: str, test: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        photos(folder / "images" / train, {"ant": 4, "bee": 3})
        photos(folder / "images" / test, {"ant": 2, "bee": 1})

    return write


def write_tiny_imagenet(folder: Path) -> None:
    photos(folder / "images/train", {"n1/images": 3, "n2/images": 4})
    photos(folder / "images/val", {"images": 3})
    photos(folder / "images/test", {"images": 1})
    rows = [f"images_{number}.png\tn{1 + number % 2}\t0\t0\t5\t5\n" for number in range(3)]
    (folder / "images/val/val_annotations.txt").write_text("".join(rows))


def inside(name: str, write: Callable[[Path], object]) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        (folder / name).mkdir()
        write(folder / name)

    return written


def renamed(write: Callable[[Path], object], old: str, new: str) -> Callable[[Path], object]:
    def written(folder: Path) -> None:
        write(folder)
        (folder / old).rename(folder / new)

    return written


def write_tables(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        (folder / "tables").mkdir()
        for part, rows in (("train", [0, 1, 2]), ("validation", [3, 4])):
            found, path = shards.table(rows), folder / "tables" / f"{part}-00000-of-00001.{kind}"
            if kind == "parquet":
                pq.write_table(found, path)
                continue
            with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
                stream.write_table(found)

    return write


def write_shards(label: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "shards").mkdir()
        shards.write_tar(folder / "shards/set-train-000000.tar", [0, 1, 2], label)
        shards.write_tar(folder / "shards/set-val-000000.tar", [3, 4], label)

    return write


def write_factory(body: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "mydata.py").write_text(
            "import numpy as np, torch\nfrom torch.utils.data import DataLoader, TensorDataset\n"
            "def arrays(n):\n    return np.full((n, 3, 8, 8), 200, np.uint8), np.arange(n) % 3\n"
            "def tensors(n):\n    return TensorDataset(*map(torch.from_numpy, arrays(n)))\n"
            f"def load():\n    return {{'train': {body.format(6)}, 'test': {body.format(4)}}}\n"
        )

    return write


def npz(name: str, **arrays: object) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / name, **arrays)


def divided(pixels: np.ndarray, labels: np.ndarray) -> Callable[[Path], None]:
    return npz("set.npz", images=pixels, labels=labels)


def flat(root: str, table: str, text: str, *more: Callable[[Path], object]) -> Callable[[Path], None]:
    """Images 0.png to 2.png in one folder, and a table of what they are."""

    def write(folder: Path) -> None:
        (folder / root).mkdir(parents=True)
        for number in range(3):
            pixels = GENERATOR.integers(0, 256, (36, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / root / f"{number}.png")
        (folder / table).parent.mkdir(exist_ok=True)
        (folder / table).write_text(text)
        for one in more:
            one(folder)

    return write


def write_kit(folder: Path) -> None:
    """ImageNet's development kit: class 1 is n03, 2 is n01, 3 is n02."""
    kit = np.array([(1, "n03", 0), (2, "n01", 0), (3, "n02", 0)], [("ID", object), ("WNID", object), ("n", object)])
    scipy.io.savemat(folder / "kit/meta.mat", {"synsets": kit})
    photos(folder / "imagenet/train", {"n01": 2, "n02": 2, "n03": 2})


NUMBERED = tuple(map(str, range(11)))
SET = Found(6, 4, (3, 8, 8), 3)
FOLDERS = Found(7, 3, (3, 32, 32), ("ant", "bee"))
TABLE = Found(3, 2, (3, 6, 6), ("ant", "cat"))
ONES = np.ones((12, 3, 8, 8))
TWELVE = np.arange(12) % 3

SAMPLES: dict[str, list[Sample]] = {
    "{name: fashion-mnist, path: fashion}": [(write_fashion, Found(6, 4, (1, 28, 28), 10))],
    "{name: cifar10, path: cifar}": [
        (lambda folder: published.write_cifar(folder / "cifar", published.SMALL10), Found(15, 2, (3, 32, 32), 10)),
        (
            write_python_cifar(
                published.SMALL10, (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"), b"labels"
            ),
            Found(15, 2, (3, 32, 32), 10),
        ),
    ],
    "{name: cifar100, path: cifar}": [
        (lambda folder: published.write_cifar(folder / "cifar", published.SMALL100), Found(3, 2, (3, 32, 32), 100)),
        (
            write_python_cifar(published.SMALL100, ("train", "test"), b"fine_labels"),
            Found(3, 2, (3, 32, 32), 100),
        ),
    ],
    "{name: svhn, path: svhn}": [(inside("svhn", published.write_svhn), Found(4, 4, (3, 32, 32), 10))],
    "{name: digits}": [(lambda _: None, Found(1797, None, (1, 8, 8), 10))],
    "{name: imagefolder, path: images, image_size: 32}": [
        *((parts(*names), FOLDERS) for names in (("train", "test"), ("Training", "valid"), ("TRAIN", "Eval"))),
        *((parts(*names), FOLDERS) for names in (("train", "dev"), ("train", "VALIDATION"), ("training", "testing"))),
        *((parts(*names), FOLDERS) for names in (("seg_train/seg_train", "seg_test"), ("train_256", "val_256"))),
        (lambda folder: photos(folder / "images/val", {"ant": 4, "bee": 3}), FOLDERS._replace(train=None, test=7)),
        (lambda folder: photos(folder / "images", {"ant": 4, "bee": 3}), FOLDERS._replace(test=None)),
        (write_tiny_imagenet, FOLDERS._replace(classes=("n1", "n2"))),
    ],
    "{name: npz, path: set.npz}": [(renamed(formats.write_npz, "a.npz", "set.npz"), SET)],
    "{name: npz, path: sets}": [(inside("sets", formats.write_npz_by_part), SET)],
    "{name: npy, path: sets}": [(inside("sets", formats.write_npy), SET)],
    "{name: pt, path: set.pt}": [(formats.write_pt, SET)],
    "{name: pt, path: sets}": [(inside("sets", formats.write_pt_by_part), SET)],
    "{name: idx, path: sets}": [(inside("sets", formats.write_idx), SET)],
    "{name: mat, path: set.mat}": [(formats.write_mat, SET)],
    "{name: pickles, path: sets}": [
        (inside("sets", formats.write_pickles), SET),
        (inside("sets", formats.write_batches), SET),
    ],
    "{name: arrays, path: sets}": [(inside("sets", write), SET) for _, write in formats.WRITERS],
    "{name: parquet, path: tables}": [(write_tables("parquet"), TABLE)],
    "{name: arrow, path: tables}": [(write_tables("arrow"), TABLE)],
    "{name: webdataset, path: shards}": [
        (write_shards("cls"), TABLE._replace(classes=2)),
        (write_shards("json"), TABLE._replace(classes=2)),
        (write_shards("txt"), TABLE._replace(classes=("a", "b"))),
    ],
    "{name: factory, factory: 'mydata:load'}": [
        (write_factory(body), SET) for body in ("arrays({})", "tensors({})", "DataLoader(tensors({}), shuffle=True)")
    ],
    # Test images alone
    "{name: imagefolder, path: images, image_size: 224, split: test}": [
        (lambda folder: photos(folder / "images", {"ant": 2, "bee": 1}), Found(None, 3, (3, 224, 224), ("ant", "bee"))),
    ],
    "{name: npz, path: test.npz, split: test}": [
        (npz("test.npz", images=ONES.astype(np.float32), labels=TWELVE), Found(None, 12, (3, 8, 8), 3)),
    ],
    # Labels in a table
    "{name: imagefolder, path: images, image_size: 224, labels: val.csv}": [
        (
            flat(
                "images/val",
                "val.csv",
                "file,label\n0.png,bee\n1.png,ant\n2.png,bee\n",
                lambda folder: photos(folder / "images/train", {"ant": 2, "bee": 2}),
            ),
            Found(4, 3, (3, 224, 224), ("ant", "bee")),
        ),
    ],
    "{name: imagefolder, path: images, image_size: 224, train_labels: train.csv, labels: test.csv}": [
        (
            flat(
                "images",
                "train.csv",
                "file,label\n0.png,bee\n1.png,ant\n",
                lambda folder: (folder / "test.csv").write_text("file,label\n2.png,bee\n"),
            ),
            Found(2, 1, (3, 224, 224), ("ant", "bee")),
        ),
    ],
    "{name: imagefolder, path: imagenet, image_size: 224, resize: 256, labels: "
    "kit/ILSVRC2012_validation_ground_truth.txt}": [
        (
            flat("imagenet/val", "kit/ILSVRC2012_validation_ground_truth.txt", "3\n1\n2\n", write_kit),
            Found(6, 3, (3, 224, 224), ("n01", "n02", "n03")),
        ),
    ],
    # Arrays in another unit
    "{name: npz, path: set.npz, range: [0, 255]}": [
        (divided((ONES * 255).astype(np.float32), TWELVE), Found(12, None, (3, 8, 8), 3)),
    ],
    "{name: npz, path: set.npz, normalised: {mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}}": [
        (divided((ONES * 2).astype(np.float32), TWELVE), Found(12, None, (3, 8, 8), 3)),
    ],
    "{name: npz, path: bands.npz, layout: nchw}": [
        (npz("bands.npz", images=np.ones((12, 7, 8, 8), np.float32), labels=TWELVE), Found(12, None, (7, 8, 8), 3)),
    ],
    "{name: npz, path: set.npz, first_label: 1}": [
        (divided(ONES.astype(np.float32), TWELVE + 1), Found(12, None, (3, 8, 8), 3)),
    ],
    # Order and number of the classes
    '{name: imagefolder, path: images, image_size: 32, classes: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", '
    '"10"]}': [
        (
            lambda folder: photos(folder / "images", dict.fromkeys(NUMBERED, 1)),
            Found(11, None, (3, 32, 32), NUMBERED),
        ),
    ],
    "{name: imagefolder, path: images, image_size: 32, class_map: labels.txt}": [
        (
            lambda folder: (
                photos(folder / "images", {"ant": 1, "bee": 1}),
                (folder / "labels.txt").write_text("bee\nant\nwasp\n"),
            ),
            Found(2, None, (3, 32, 32), ("bee", "ant", "wasp")),
        ),
    ],
    "{name: npz, path: set.npz, num_classes: 10}": [
        (divided(ONES.astype(np.float32), TWELVE), Found(12, None, (3, 8, 8), 10)),
    ],
    "{name: npz, path: opencv.npz, channel_order: bgr}": [
        (npz("opencv.npz", images=ONES.astype(np.float32), labels=TWELVE), Found(12, None, (3, 8, 8), 3)),
    ],
}


def shown() -> list[str]:
    """All whole sections of the page, in order."""
    return [section for row in table("| `data.name` |") for section in sections(row[2])] + blocks()


def told(source: Source | None) -> int | None:
    return None if source is None else len(source.labels)


def test_every_section_has_a_sample_and_every_reader_a_row() -> None:
    assert [section for section in shown() if section not in SAMPLES] == []
    assert [section for section in SAMPLES if section not in shown()] == []
    rows = table("| `data.name` |")
    named = [name for row in rows for name in re.findall(r"`([\w-]+)`", row[0])]
    assert sorted(named) == sorted(READERS)
    for row in rows:
        asked = {re.match(r"\{name: ([\w-]+)", section)[1] for section in sections(row[2])}
        assert asked == set(re.findall(r"`([\w-]+)`", row[0])), row[0]


@pytest.mark.parametrize(
    ("section", "number"), [(section, number) for section, found in SAMPLES.items() for number in range(len(found))]
)
def test_a_section_is_read_as_it_stands(tmp_path, monkeypatch, section, number):
    write, expected = SAMPLES[section][number]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "mydata", raising=False)
    write(tmp_path)
    training, test = read(config(section, tmp_path))
    assert (told(training), told(test)) == (expected.train, expected.test)
    source = training or test
    assert source.shape == expected.shape
    assert (source.classes if isinstance(expected.classes, int) else source.names) == expected.classes
    pixels = source.images(np.arange(min(3, len(source.labels))))
    assert pixels.dtype == np.float32
    assert pixels.min() >= 0
    assert 0.5 < pixels.max() <= 1, "in the unit of [0, 1]"
    if "normalised" in section or "range" in section:
        np.testing.assert_allclose(pixels, 1.0)


def test_a_wrong_section_on_the_page_would_fail(tmp_path):
    """The parser sees what the page shows: a renamed key or file in it is no section that has a sample."""
    changed = PAGE.replace("path: set.npz, range", "path: set.npz, rnage")
    assert changed != PAGE
    with pytest.raises(Exception, match="rnage"):
        config("{name: npz, path: set.npz, rnage: [0, 255]}", tmp_path)
    assert len(shown()) > 30
    assert len(table("| key |")) >= 10


# --- Keys of image files ----------------------------------------------------------------------------------------------


def colours(folder: Path, **more: object) -> None:
    """A red picture, 40 wide and 36 high, darker to the left, and three of noise."""
    photos(folder / "images", {"ant": 2, "bee": 1})
    pixels = np.zeros((36, 40, 3), np.uint8)
    pixels[..., 0], pixels[:, :20, 0] = 255, 10 * np.arange(20)
    (folder / "images/bee").mkdir(exist_ok=True, parents=True)
    Image.fromarray(pixels).save(folder / "images/bee/z.png", **more)


def last(folder: Path, keys: str) -> np.ndarray:
    """The last picture, as the network is given it."""
    source, _ = read(config(f"{{name: imagefolder, path: images, {keys.strip('{}')}}}", folder))
    return source.images(np.array([len(source.labels) - 1]))[0]


def check_size(folder: Path, keys: str) -> None:
    colours(folder)
    assert last(folder, keys).shape == ((3, 24, 24) if "[" not in keys else (3, 24, 36))


def check_resized(folder: Path, keys: str) -> None:
    """Both say the same; what is cut off is what exceeds 28 of 32 pixels."""
    colours(folder)
    found = last(folder, keys)
    np.testing.assert_array_equal(found, last(folder, "image_size: 28, resize: 32"))
    assert found.shape == (3, 28, 28)
    assert not np.array_equal(found, last(folder, "image_size: 28"))


def check_squashed(folder: Path, keys: str) -> None:
    colours(folder)
    with Image.open(folder / "images/bee/z.png") as image:
        expected = np.asarray(image.convert("RGB").resize((36, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(last(folder, keys), expected.astype(np.float32) / 255)


def check_interpolated(folder: Path, keys: str) -> None:
    colours(folder)
    names = ("bilinear", "bicubic", "lanczos", "box", "hamming", "nearest")
    each = {name: last(folder, f"image_size: 24, interpolation: {name}") for name in names}
    np.testing.assert_array_equal(last(folder, keys), each["bicubic"])
    assert not np.array_equal(each["bicubic"], each["nearest"])
    assert all(f"`{name}`" in PAGE for name in each)


def check_grey(folder: Path, keys: str) -> None:
    colours(folder)
    assert last(folder, keys).shape == (1, 36, 40)


def check_exchanged(folder: Path, keys: str) -> None:
    colours(folder)
    assert last(folder, keys)[:, 0, 39].tolist() == [0, 0, 1]


def check_turned(folder: Path, keys: str) -> None:
    (folder / "images/ant").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    for number in range(2):
        Image.new("RGB", (40, 36)).save(folder / f"images/ant/{number}.png", exif=exif)
    colours(folder, exif=exif)
    for path in (folder / "images").rglob("*_*.png"):
        path.unlink()  # noise is not turned
    assert last(folder, keys).shape == ((3, 40, 36) if "true" in keys else (3, 36, 40))


def check_background(folder: Path, keys: str) -> None:
    for name in ("ant", "bee"):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(folder / "images" / name / "z.png")
    assert last(folder, keys)[:, 0, 0].tolist() == ([1, 1, 1] if "white" in keys else [1, 0, 0])


def check_deep(folder: Path, keys: str) -> None:
    for name in ("ant", "bee"):
        (folder / "images" / name).mkdir(parents=True)
        Image.fromarray(np.full((8, 8), 13107, np.uint16)).save(folder / "images" / name / "z.png")
    np.testing.assert_allclose(last(folder, keys), 0.2, atol=1e-6)


def check_damaged(folder: Path, keys: str) -> None:
    colours(folder)
    path = folder / "images/ant/ant_0.png"
    path.write_bytes(path.read_bytes()[:60])
    found = load_splits(
        config(f"{{name: imagefolder, path: images, split: test, {keys.strip('{}')}}}", folder), 0, trains=False
    )
    assert len(found.gate) == 3
    assert any("1 of 4 image files are damaged" in remark for remark in found.remarks)


KEYS: dict[str, Callable[[Path, str], None]] = {
    "{image_size: 24}": check_size,
    "{image_size: [24, 36], crop_mode: center}": check_size,
    "{image_size: 28, resize: 32}": check_resized,
    "{image_size: 28, crop_pct: 0.875}": check_resized,
    "{image_size: [24, 36], crop_mode: squash}": check_squashed,
    "{image_size: 24, interpolation: bicubic}": check_interpolated,
    "{channels: 1}": check_grey,
    "{channel_order: bgr}": check_exchanged,
    "{exif: true}": check_turned,
    "{exif: false}": check_turned,
    "{background: white}": check_background,
    "{background: drop}": check_background,
    "{channels: 1, range: [0, 65535]}": check_deep,
    "{skip_damaged: true}": check_damaged,
}


def test_every_key_has_a_check() -> None:
    rows = table("| key |")
    assert sorted(keys for row in rows for keys in sections(row[2])) == sorted(KEYS)
    for row in rows:
        used = " ".join(sections(row[2]))
        assert all(name in used for name in re.findall(r"`(\w+)`", row[0])), row[0]


@pytest.mark.parametrize("keys", KEYS)
def test_keys_do_what_the_page_says(tmp_path, keys):
    KEYS[keys](tmp_path, keys)
