"""Image files in tables and archives: the same pixels as in folders, labels by number or name, parts by file names."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from madx.data import Split
from madx.data.readers import read
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
