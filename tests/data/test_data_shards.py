"""Image files in tables and archives: the same pixels as in folders, labels by number or name, parts by file names."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from madx.data import Split, columns, files, places, shards
from madx.data.labelling import Known, Written, number_labels
from madx.data.readers import read
from madx.data.stored import FiledCell
from madx.errors import DataError
from madx.recipe import DataConfig

GENERATOR = np.random.default_rng(2)
PIXELS = GENERATOR.integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
LABELS = [0, 1, 1, 0, 1]


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, rows: list[int], label: str = "cls", **more: bytes) -> None:
    with tarfile.open(path, "w") as archive:
        for row in rows:
            text = {"cls": str(LABELS[row]), "json": json.dumps({"label": LABELS[row]}), "txt": "ab"[LABELS[row]]}[
                label
            ]
            members = {"png": png(PIXELS[row]), label: text.encode(), **more}
            for suffix, content in members.items():
                member = tarfile.TarInfo(f"./part/{row:05}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def check(config: DataConfig) -> None:
    training, test = read(config)
    for source, rows in ((training, [0, 1, 2]), (test, [3, 4])):
        index = np.arange(len(rows))
        expected = PIXELS[rows].transpose(0, 3, 1, 2).astype(np.float32) / 255
        np.testing.assert_array_equal(source.images(index), expected)
        assert source.labels.tolist() == [LABELS[row] for row in rows]
        assert source.digests(index) is not None
        assert len(Split("gate", source, index).fingerprint) == 64


@pytest.mark.parametrize("label", ["cls", "json", "txt"])
def test_shards_of_webdataset(tmp_path, label):
    write_tar(tmp_path / "set-train-000000.tar", [0, 1], label)
    write_tar(tmp_path / "set-train-000001.tar", [2], label)
    write_tar(tmp_path / "set-val-000000.tar", [3, 4], label)
    config = DataConfig(name="webdataset", path=tmp_path)
    check(config)
    assert read(config)[0].names == (("a", "b") if label == "txt" else ())
    _, test = read(DataConfig(name="webdataset", path=tmp_path / "set-val-000000.tar", split="test"))
    assert test.labels.tolist() == [0, 1]


def test_shards_that_are_not_clear(tmp_path):
    path = tmp_path / "train.tar"
    config = DataConfig(name="webdataset", path=tmp_path)
    with pytest.raises(DataError, match=r"has no \*\.tar files"):
        read(config)
    write_tar(path, [0, 1], jpg=b"x")
    with pytest.raises(DataError, match="has 2 images; expected one"):
        read(config)
    write_tar(path, [0, 1])
    (tmp_path / "more.tar").write_bytes(path.read_bytes())
    with pytest.raises(DataError, match=r"of which part are more\.tar"):
        read(config)
    (tmp_path / "more.tar").unlink()
    source, _ = read(config)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(DataError, match=r"train\.tar: \./part/00000\.png was changed while madx was at work"):
        source.images(np.arange(1))
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"train\.tar cannot be read as an archive"):
        read(config)


def table(rows: list[int], **columns: list[object]):
    pa = pytest.importorskip("pyarrow")
    images = [{"bytes": png(PIXELS[row]), "path": f"{row}.png"} for row in rows]
    found = pa.table({"image": images, "label": [LABELS[row] for row in rows], **columns})
    features = {"label": {"names": ["ant", "cat"], "_type": "ClassLabel"}}
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def test_parquet_of_hugging_face(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    for part, rows in (("train", [0, 1, 2]), ("validation", [3, 4])):
        pq.write_table(table(rows), tmp_path / f"{part}-00000-of-00001.parquet")
    config = DataConfig(name="parquet", path=tmp_path)
    check(config)
    assert read(config)[0].names == ("ant", "cat")
    two = table([3, 4], coarse_label=[0, 0])
    pq.write_table(two, tmp_path / "validation-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"label, coarse_label could be the labels; say which: data\.keys"):
        read(config)
    check(DataConfig(name="parquet", path=tmp_path, keys={"x_test": "image", "y_test": "label"}))


def test_arrow_as_save_to_disk_writes_it(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for part, rows in (("train", [0, 1, 2]), ("test", [3, 4])):
        (tmp_path / part).mkdir()
        found = table(rows)
        path = str(tmp_path / part / "data-00000-of-00001.arrow")
        with pa.OSFile(path, "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
            stream.write_table(found)
    check(DataConfig(name="arrow", path=tmp_path))


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_a_damaged_table_is_named(tmp_path, name):
    pytest.importorskip("pyarrow")
    (tmp_path / f"train.{name}").write_bytes(b"PAR1" + bytes(64) + b"PAR1")
    with pytest.raises(DataError, match=rf"train\.{name} cannot be read as"):
        read(DataConfig(name=name, path=tmp_path))


def write_labels(path: Path, labels: list[object], kind: str = "cls") -> None:
    with tarfile.open(path, "w") as archive:
        for row, label in enumerate(labels):
            for suffix, content in (("png", png(PIXELS[row])), (kind, str(label).encode())):
                member = tarfile.TarInfo(f"{row:05}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("labels", "kind", "words"),
    [
        (["0", "1", "x"], "cls", r"some labels are numbers \(0, 1\) and some are names \(x\)"),
        (["0", "²"], "cls", "some are names"),
        (['{"label": 1.0}', '{"label": 0}'], "json", "of the types float, int; expected whole numbers in all rows"),
        (['{"label": null}'], "json", "of the types null"),
        (['{"label": true}', '{"label": false}'], "json", "of the types bool"),
        (['{"label": 1180591620717411303424}'], "json", "labels beyond"),
        (["[" * 100_000], "json", "json is damaged"),
    ],
)
def test_labels_that_can_be_read_in_two_ways_are_refused(tmp_path, labels, kind, words):
    write_labels(tmp_path / "train.tar", labels, kind)
    with pytest.raises(DataError, match=words):
        read(DataConfig(name="webdataset", path=tmp_path))


def test_numbers_stay_numbers_and_names_stay_names_in_both_parts(tmp_path):
    write_labels(tmp_path / "train.tar", [2, 0, 10, 1], "cls")
    config = DataConfig(name="webdataset", path=tmp_path, num_classes=11)
    assert read(config)[0].labels.tolist() == [2, 0, 10, 1]
    write_labels(tmp_path / "test.tar", ["a", "b"], "txt")
    with pytest.raises(DataError, match="labels are names, but those of the training images are numbers"):
        read(config)
    write_labels(tmp_path / "train.tar", ["a", "b"], "txt")
    write_labels(tmp_path / "test.tar", [0, 1], "cls")
    with pytest.raises(DataError, match="labels are numbers, but those of the training images are names"):
        read(DataConfig(name="webdataset", path=tmp_path))
    (tmp_path / "train.tar").unlink()
    with pytest.raises(DataError, match="the label 0 may be the number of a class, or the name of class 1"):
        read(DataConfig(name="webdataset", path=tmp_path, split="test", classes=["1", "0"]))


@pytest.mark.parametrize("cut", ["the end", "a sample", "a header"])
def test_an_archive_that_is_cut_off_or_damaged_is_refused(tmp_path, cut):
    path = tmp_path / "train.tar"
    write_labels(path, [0, 1, 1])
    content = path.read_bytes()
    with tarfile.open(path) as archive:
        last = archive.getmembers()[-1]
    second = content.index(b"00001.png")
    kept = {
        "the end": content[: last.offset_data + 1024],
        "a sample": content[:second],
        "a header": content[:second] + b"?" * 512 + content[second + 512 :],
    }
    path.write_bytes(kept[cut])
    with pytest.raises(DataError, match=r"train\.tar has no end of an archive .*copy it again"):
        read(DataConfig(name="webdataset", path=tmp_path))


CATS = ("cat", "ant")


def test_every_file_counts_by_its_own_names():
    files = [Written("a", [0, 1], ("ant", "cat")), Written("b", [0], CATS)]
    found = number_labels(files, Known())
    assert (found.labels.tolist(), found.names, found.classes) == ([0, 1, 1], ("ant", "cat"), 2)
    assert number_labels(files, Known(CATS, said=True)).labels.tolist() == [1, 0, 0]
    assert number_labels([*files, Written("c", [0])], Known(CATS, said=True)).labels.tolist() == [1, 0, 0, 0]
    assert number_labels([Written("a", [1], ("cat", "bee"))], Known(("ant", "bee"))).labels.tolist() == [1]


@pytest.mark.parametrize(
    ("written", "known", "words"),
    [
        (Written("a", [0, 1], CATS), Known(("cat", "dog"), said=True), r"none of the 2 there are \(cat, dog\): ant"),
        (Written("a", [0, 2], CATS), Known(), "labels run from 0 to 2"),
        (Written("a", [0, 1], CATS), Known(first=1), r"leave data\.first_label out"),
        (Written("a", [0, 1], CATS), Known(count=3), "names 2 classes .* and there are 3"),
        (Written("a", ["0", "1"], CATS), Known(), "its labels are text"),
        (Written("a", [0, 1], ("cat", "cat")), Known(), "gives several classes one name"),
    ],
)
def test_names_and_numbers_that_do_not_fit_are_refused(written, known, words):
    with pytest.raises(DataError, match=words):
        number_labels([written], known)
    with pytest.raises(DataError, match="does not name the classes that it counts"):
        number_labels([Written("a", [0, 1], CATS), Written("b", [0])], Known())


def test_the_name_of_the_file_says_the_part_and_folders_must_not_say_another(tmp_path):
    for name in ("train-test-split/train-0.tar", "train-test-split/test-0.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_labels(tmp_path / name, [0, 1])
    (tmp_path / "odd.tar").mkdir()
    training, test = read(DataConfig(name="webdataset", path=tmp_path))
    assert (len(training.labels), len(test.labels)) == (2, 2)
    (tmp_path / "train").mkdir()
    write_labels(tmp_path / "train" / "test-1.tar", [0, 1])
    with pytest.raises(DataError, match=r"of which part is it\?.*say test and train"):
        read(DataConfig(name="webdataset", path=tmp_path))
    (tmp_path / "train").rename(tmp_path / "more")
    (tmp_path / "more" / "test-1.tar").rename(tmp_path / "more" / "test-train.tar")
    with pytest.raises(DataError, match="is called test and train; name the file by one part"):
        read(DataConfig(name="webdataset", path=tmp_path))


def write_stream(path: Path, found) -> None:
    pa = pytest.importorskip("pyarrow")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
        stream.write_table(found, max_chunksize=2)


def test_images_of_an_arrow_file_stay_there_and_a_change_of_it_is_told(tmp_path):
    pa = pytest.importorskip("pyarrow")
    for part, rows in (("train", [0, 1, 2]), ("test", [3, 4])):
        write_stream(tmp_path / f"{part}.arrow", table(rows))
    config = DataConfig(name="arrow", path=tmp_path)
    before = pa.total_allocated_bytes()
    source, _ = read(config)
    assert pa.total_allocated_bytes() - before < sum(file.size for file in source.files)
    with pa.OSFile(str(tmp_path / "test.arrow"), "wb") as file, pa.ipc.new_file(file, table([3, 4]).schema) as whole:
        whole.write_table(table([3, 4]))
    check(config)
    write_stream(tmp_path / "train.arrow", table([1, 2, 0, 1]))
    with pytest.raises(DataError, match=r"train\.arrow, row \d was changed while madx was at work"):
        source.images(np.array([1]))


def touch_nothing_but(path: Path, content: bytes) -> None:
    """Other bytes under the same size and times."""
    status = path.stat()
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("limit", [files.MOST_READ, (1, 1)])
def test_an_image_that_was_changed_under_its_tables_old_size_and_time_is_not_the_listed_one(
    tmp_path, monkeypatch, limit
):
    """In the middle of the image, between the head and the end that are looked at; of a large set, too."""
    monkeypatch.setattr(files, "MOST_READ", limit)
    path, pixels = tmp_path / "train.arrow", np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), np.uint8)
    pa = pytest.importorskip("pyarrow")
    write_stream(path, pa.table({"image": [{"bytes": png(one), "path": ""} for one in pixels], "label": [0, 1]}))
    config = DataConfig(name="arrow", path=path)
    source, _ = read(config)
    assert source.large is (limit == (1, 1))
    index, content = np.arange(2), bytearray(path.read_bytes())
    known = Split("gate", source, index)
    fingerprint, stamp = known.fingerprint, known.stamp
    content[content.index(png(pixels[1])) + len(png(pixels[1])) // 2] ^= 1
    touch_nothing_but(path, bytes(content))
    source.images(index[:1])
    with pytest.raises(DataError, match=r"train\.arrow, row 1 was changed while madx was at work"):
        source.images(index)
    with pytest.raises(DataError, match="cannot be decoded"):
        read(config)[0].images(index)
    other = [file.name_and() for file in read(config)[0].files]
    assert [one.name_and() == two for one, two in zip(source.files, other, strict=True)] == [True, False]
    touch_nothing_but(path, path.read_bytes())
    assert (len(fingerprint), stamp is None) == (64, limit != (1, 1))


def test_an_arrow_file_that_becomes_shorter_is_told_and_not_the_end_of_the_process(tmp_path):
    path = tmp_path / "train.arrow"
    write_stream(path, table([0, 1, 2]))
    source, _ = read(DataConfig(name="arrow", path=path))
    source.digests(np.arange(3))
    os.truncate(path, 100)
    with pytest.raises(DataError, match="was changed while madx was at work"):
        source.images(np.arange(3))
    path.unlink()
    with pytest.raises(DataError, match=r"train\.arrow cannot be read any more"):
        source.images(np.arange(3))


@pytest.mark.parametrize("place", [-5, 2**30])
def test_a_table_whose_rows_lie_beyond_it_is_damaged(tmp_path, place):
    pa = pytest.importorskip("pyarrow")
    images = [png(pixels) for pixels in PIXELS]
    write_stream(tmp_path / "test.arrow", pa.table({"image": images[:2], "label": LABELS[:2]}))
    content = (tmp_path / "test.arrow").read_bytes()
    ends = len(images[0]), len(images[0]) + len(images[1])
    true, false = (np.array([0, first, ends[1]], np.int32).tobytes() for first in (ends[0], place))
    assert content.count(true) == 1
    (tmp_path / "test.arrow").write_bytes(content.replace(true, false))
    with pytest.raises(DataError, match=r"test\.arrow cannot be read as an Arrow file"):
        read(DataConfig(name="arrow", path=tmp_path, split="test"))


@pytest.mark.parametrize("kind", ["large_binary", "binary_view", "fixed", "struct of views", "packed", "sliced"])
def test_bytes_are_read_however_a_table_lays_them_out(tmp_path, kind):
    pa = pytest.importorskip("pyarrow")
    images = [png(pixels) for pixels in PIXELS]
    if kind == "fixed":  # bytes behind the end of a picture are nobody's
        longest = max(map(len, images))
        images = [image.ljust(longest, b"\0") for image in images]
    types = {"large_binary": pa.large_binary(), "binary_view": pa.binary_view(), "fixed": pa.binary(len(images[0]))}
    column = pa.array(images, types.get(kind, pa.binary()))
    if kind == "struct of views":
        column = pa.StructArray.from_arrays([pa.array(images, pa.binary_view())], ["bytes"])
    found, path = pa.table({"image": column, "label": LABELS}), tmp_path / "test.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd" if kind == "packed" else None)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema, options=options) as stream:
        stream.write_table(found if kind != "sliced" else pa.concat_tables([found.slice(0, 2), found.slice(2)]))
    _, test = read(DataConfig(name="arrow", path=path, split="test"))
    assert [file.read() for file in test.files] == images
    stays = kind not in ("binary_view", "struct of views", "packed")
    assert all(isinstance(file, FiledCell) is stays for file in test.files)
    np.testing.assert_array_equal(test.images(np.arange(5)), PIXELS.transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.mark.parametrize("name", ["parquet", "arrow"])
def test_rows_without_an_image_are_named(tmp_path, name):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for image, row in (({"bytes": None, "path": "a.png"}, 2), (None, 2)):
        images = [{"bytes": png(PIXELS[0]), "path": None}] * 2 + [image]
        found = pa.table({"image": pa.array(images, struct), "label": [0, 1, 0]})
        if name == "parquet":
            pq.write_table(found, tmp_path / "train.parquet")
        else:
            write_stream(tmp_path / "train.arrow", found)
        with pytest.raises(DataError, match=f"row {row} of the column image holds no bytes of an image"):
            read(DataConfig(name=name, path=tmp_path))


def test_a_table_that_repeats_one_image_for_ever_is_refused_before_the_memory_is_gone(tmp_path, monkeypatch):
    """A dictionary has it once: the file says that it is small."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    image = png(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    count = 400
    found = pa.table({"image": [image] * count, "label": [0, 1] * (count // 2)})
    pq.write_table(found, tmp_path / "train.parquet", use_dictionary=True)
    assert (tmp_path / "train.parquet").stat().st_size < 2**20
    for module in (places, columns):
        monkeypatch.setattr(module, "available_memory", lambda: 2**24)
    held = []
    monkeypatch.setattr(columns, "Cell", lambda *given: held.append(given))
    with pytest.raises(DataError, match="GB of memory are free"):
        read(DataConfig(name="parquet", path=tmp_path))
    assert 0 < sum(len(content) for _, content in held) <= 2**24


def test_a_label_that_claims_more_than_a_label_has(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_LONGEST_LABEL", 3)
    write_labels(tmp_path / "train.tar", [1, 1000, 2])
    with pytest.raises(DataError, match=r"00001\.cls says that it has 4 bytes, and a label at most 3"):
        read(DataConfig(name="webdataset", path=tmp_path))


def test_a_stream_that_is_cut_off_between_two_batches_is_refused(tmp_path):
    """Pyarrow reads what is left as a shorter table, without a word."""
    pa = pytest.importorskip("pyarrow")
    path = tmp_path / "test.arrow"
    found = table([0, 1, 2, 3])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, found.schema) as stream:
        stream.write_table(found, max_chunksize=1)
    whole = path.read_bytes()
    assert len(read(DataConfig(name="arrow", path=path))[1].labels) == 4
    messages, ends = pa.BufferReader(whole), []
    while messages.tell() < len(whole) - 8:
        pa.ipc.read_message(messages)
        ends.append(messages.tell())
    path.write_bytes(whole[: ends[-2]])
    assert len(pa.ipc.open_stream(path.read_bytes()).read_all()) == 3  # the loss that nobody tells
    with pytest.raises(DataError, match="has no end of a stream"):
        read(DataConfig(name="arrow", path=path))


def test_files_that_count_themselves_are_all_there(tmp_path):
    for number in (0, 2):
        write_tar(tmp_path / f"test-{number:05}-of-00003.tar", [number])
    with pytest.raises(DataError, match=r"1 of the 3 files test-\*-of-00003 are missing, the first of them number 1"):
        read(DataConfig(name="webdataset", path=tmp_path))
    write_tar(tmp_path / "test-00001-of-00003.tar", [1])
    assert len(read(DataConfig(name="webdataset", path=tmp_path))[1].labels) == 3


@pytest.mark.parametrize("kind", ["large_string", "dictionary"])
def test_text_is_a_label_however_a_table_lays_it_out(tmp_path, kind):
    """As polars and pandas write it."""
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    wanted = pa.large_string() if kind == "large_string" else pa.dictionary(pa.int32(), pa.string())
    columns = {"image": [png(image) for image in PIXELS[:3]], "label": pa.array(["b", "a", "b"], wanted)}
    pq.write_table(pa.table(columns), tmp_path / "test.parquet")
    _, test = read(DataConfig(name="parquet", path=tmp_path))
    assert (test.names, test.labels.tolist()) == (("a", "b"), [1, 0, 1])


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_column_that_says_of_two_parts_is_no_single_part(tmp_path, kind):
    """The rows for training would be in the gate."""
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / f"data.{kind}"
    for parts in (["train"] * 5, ["train", "train", "train", "test", "test"]):
        found = table([0, 1, 2, 3, 4], split=parts)
        if kind == "parquet":
            pq.write_table(found, path)
        else:
            write_stream(path, found)
        if len(set(parts)) == 1:
            assert len(read(DataConfig(name=kind, path=path))[0].labels) == 5
    with pytest.raises(DataError, match=r"column split says that rows are of several parts \(test, train\)"):
        read(DataConfig(name=kind, path=path))


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("labels", [[0, 1], [1]], "several labels for an image are not supported"),
        ("labels", [0.0, 1.0], r"labels \(double\)"),
        ("label", [0, 1], r"arrays of numbers are to be kept as \.npz"),
    ],
)
def test_columns_that_are_neither_images_nor_labels_are_told_with_the_reason(tmp_path, column, values, words):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    images = [png(image) if column == "labels" else [1, 2] for image in PIXELS[:2]]
    pq.write_table(pa.table({"image": images, column: values}), tmp_path / "test.parquet")
    with pytest.raises(DataError, match=words):
        read(DataConfig(name="parquet", path=tmp_path))


def test_an_archive_of_class_folders_is_to_be_unpacked(tmp_path):
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        member = tarfile.TarInfo("train/a/0.png")
        member.size = len(content := png(np.zeros((4, 4, 3), np.uint8)))
        archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=r"unpack it: data\.name: imagefolder"):
        read(DataConfig(name="webdataset", path=tmp_path))
