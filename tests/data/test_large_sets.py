"""Sets of many files: listed once, looked at with progress, by a bounded number of threads at a time."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from madx.data import files, inspecting, listing, load_splits, lookahead
from madx.data.lookahead import spread
from madx.data.readers import read
from madx.data.stored import ImageFile, glance
from madx.errors import DataError
from madx.progress import Silent, listener, listening
from madx.recipe import DataConfig


class Heard(Silent):
    """What was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tracked: list[tuple[str, int]] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def track(self, items, description, *, total, done=0):  # noqa: ARG002
        self.tracked.append((description, total))
        yield from items


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(40):
        place = tmp_path / "set" / ("train" if number % 4 else "val") / "ab"[number % 3 % 2]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number}.png").write_bytes(png(number))
    return tmp_path / "set"


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each folder was listed."""
    found: Counter[str] = Counter()
    real = os.scandir

    def counted(path):
        found[str(path)] += 1
        return real(path)

    monkeypatch.setattr(os, "scandir", counted)
    return found


def test_every_folder_is_listed_once_for_all_that_is_asked_of_it(folder, scans):
    splits = load_splits(DataConfig(name="imagefolder", path=folder, selection=5), 0)
    for split in (splits.train, splits.selection, splits.gate):
        assert split.fingerprint
        assert split.stamp is None
    assert len(scans) == 7
    assert set(scans.values()) == {1}


def test_one_folder_and_a_table_is_listed_once(tmp_path, scans):
    for number in range(6):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    (tmp_path / "val_annotations.txt").write_text("".join(f"{number}.png {'ab'[number % 2]}\n" for number in range(6)))
    config = DataConfig(name="imagefolder", path=tmp_path, labels=tmp_path / "val_annotations.txt", split="test")
    assert len(read(config)[1].files) == 6
    assert scans == {str(tmp_path): 1}


def test_inspecting_reads_a_set_once(folder, scans):
    for known, listed in (({"name": "imagefolder"}, 4), ({}, 4 + 4)):  # names alone once more, to see what they are
        scans.clear()
        assert inspecting.look(folder, known).question == ""
        assert sum(count for name, count in scans.items() if name[-1] in "ab") == listed


def test_who_listens_is_told_how_far_reading_is(folder, monkeypatch):
    monkeypatch.setattr(listing, "_SAID", 10)
    monkeypatch.setattr(lookahead, "_SHORT", 5)
    heard = Heard()
    with listening(heard):
        assert listener() is heard
        load_splits(DataConfig(name="imagefolder", path=folder, selection=5), 0)
    assert isinstance(listener(), Silent)
    assert heard.tracked == [(files.LOOKING, 30), (files.LOOKING, 10)]
    assert [line.split()[0] for line in heard.lines] == ["10", "20", "30", "10"]


def test_a_large_set_has_the_same_splits_as_a_small_one(folder, monkeypatch):
    """Of copies too, which only the gate loses here."""
    (folder / "val" / "a" / "copy.png").write_bytes((folder / "train" / "a" / "2.png").read_bytes())
    config = DataConfig(name="imagefolder", path=folder, selection=5)
    small = load_splits(config, 0)
    monkeypatch.setattr(files, "MOST_READ", (0, 0))
    large = load_splits(config, 0)
    assert large.large
    assert not small.large
    assert large.copies == small.copies
    assert small.copies.of_others == 1
    for name in ("train", "selection", "gate"):
        np.testing.assert_array_equal(getattr(small, name).index, getattr(large, name).index)
    assert large.gate.fingerprint != small.gate.fingerprint


def test_heads_and_ends_are_part_of_a_large_sets_identity(folder, monkeypatch):
    """Sizes and names, and the pixels of some, were all before: another end may be that of another picture."""
    monkeypatch.setattr(files, "MOST_READ", (0, 0))
    monkeypatch.setattr(files, "PROBED", 1)
    config = DataConfig(name="imagefolder", path=folder, selection=5)
    victim = Path(load_splits(config, 0).train.source.files[3].path)
    content, found = victim.read_bytes(), []
    for behind in (b"12345678", b"12345687", b"12345678"):
        victim.write_bytes(content + behind)
        os.utime(victim, ns=(1, 1))
        found.append(load_splits(config, 0).train.fingerprint)
    assert found[0] == found[2] != found[1]


def test_an_image_in_an_archive_is_looked_at_in_its_place(tmp_path):
    path = tmp_path / "train.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(3):
            for suffix, content in (("png", png(number)), ("cls", str(number % 2).encode())):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    source, _ = read(DataConfig(name="webdataset", path=tmp_path))
    for number, file in enumerate(source.files):
        assert isinstance(file, ImageFile)
        with file.open() as opened:
            assert opened.read() == file.read() == png(number)
            assert opened.seek(-4, os.SEEK_END) == len(png(number)) - 4
            assert opened.read(99) == png(number)[-4:]
            assert glance(opened) == glance(io.BytesIO(png(number)))
            with Image.open(opened) as image:
                assert image.size == (6, 6)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="was changed while madx was at work"):
        source.files[0].open()


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 5000])
def test_spread_work_has_its_order_and_never_all_waits(count):
    most, waiting, lock = 0, 0, threading.Lock()

    def work(item: int) -> int:
        return item * 2

    class Items(list):
        def __getitem__(self, place):
            nonlocal most, waiting
            found = super().__getitem__(place)
            with lock:
                waiting += len(found)
                most = max(most, waiting)
            return found

    found = []
    for value in spread(work, Items(range(count)), "work"):
        found.append(value)
        with lock:
            waiting -= 1
    assert found == [item * 2 for item in range(count)]
    assert most <= lookahead._HANDFUL * lookahead._BLOCK


def test_an_error_of_spread_work_is_the_first_ones():
    with pytest.raises(ZeroDivisionError):
        list(spread(lambda item: 1 / (item - 70), range(200), "work"))
