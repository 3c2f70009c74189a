"""One batch ahead: the same values in the same order, errors where they belong, and an end that waits for nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from madx.data import Ahead, ahead
from madx.data import files as files_module
from madx.data.lookahead import decoders
from madx.data.readers import read
from madx.data.splits import Split
from madx.distributed import SINGLE
from madx.errors import DataError
from madx.recipe import DataConfig

PATIENCE = 60
"""Seconds after which a test fails instead of waiting for ever."""


def through_iterator(load: Callable[[int], int], keys: range) -> list[int]:
    return list(ahead(load, keys))


def through_calls(load: Callable[[int], int], keys: range) -> list[int]:
    with Ahead(load, keys) as get:
        return [get(key) for key in keys]


WAYS = pytest.mark.parametrize("way", [through_iterator, through_calls])


@WAYS
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_values_and_order_are_those_of_a_plain_loop(way, count):
    asked = []

    def load(key: int) -> int:
        asked.append(key)
        return key * key

    assert way(load, range(3, 3 + count)) == [key * key for key in range(3, 3 + count)]
    assert asked == list(range(3, 3 + count)), "each is loaded once"


@WAYS
def test_the_next_is_loaded_while_the_last_is_worked_on(way):
    """Whoever has value n waits until n + 1 is being loaded: without a look ahead that never happens."""
    begun = [threading.Event() for _ in range(5)]

    def load(key: int) -> int:
        begun[key].set()
        return key

    def worked_on(values):
        for value in values:
            assert value == 4 or begun[value + 1].wait(PATIENCE)
            yield value

    if way is through_iterator:
        assert list(worked_on(ahead(load, range(5)))) == [0, 1, 2, 3, 4]
    else:
        with Ahead(load, range(5)) as get:
            assert list(worked_on(get(key) for key in range(5))) == [0, 1, 2, 3, 4]


@WAYS
def test_an_error_comes_at_the_batch_it_belongs_to(way):
    seen = []

    def load(key: int) -> int:
        if key == 2:
            raise DataError("the image 2.png cannot be decoded")
        return key

    with pytest.raises(DataError, match=r"2\.png"):  # noqa: PT012 - which values came before is the point
        if way is through_iterator:
            for value in ahead(load, range(5)):
                seen.append(value)
        else:
            with Ahead(load, range(5)) as get:
                for key in range(5):
                    seen.append(get(key))
    assert seen == [0, 1]


def test_other_keys_than_foreseen_are_loaded_all_the_same():
    with Ahead(lambda key: key * 10, range(6)) as get:
        assert [get(key) for key in (0, 4, 5, 1, 77, 2)] == [0, 40, 50, 10, 770, 20]


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("madx-ahead")}


def test_whoever_stops_early_leaves_no_thread():
    before = names()
    values = ahead(lambda key: key, range(100))
    assert next(values) == 0
    values.close()
    with pytest.raises(ZeroDivisionError), Ahead(lambda key: 1 / (5 - key), range(100)) as get:  # noqa: PT012
        for key in range(100):
            get(key)
    assert names() == before


def test_only_one_is_loaded_beyond_what_was_taken():
    loaded = []
    values = ahead(lambda key: loaded.append(key) or key, range(100))
    for _ in range(3):
        next(values)
    values.close()
    assert loaded in ([0, 1, 2], [0, 1, 2, 3])


@pytest.mark.parametrize(("rank", "size"), [(0, 1), (0, 3), (2, 3)])
def test_each_process_looks_ahead_at_its_own_items(rank, size):
    world = SimpleNamespace(rank=rank, size=size)
    assert list(type(SINGLE).own(world, range(8))) == [n for n in range(8) if n % size == rank]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(24):
        place = tmp_path / ("train", "test")[number % 2] / f"c{number // 2 % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


def test_batches_of_files_are_those_of_single_images(folder):
    source, _ = read(DataConfig(name="imagefolder", path=folder))
    split = Split("train", source, np.arange(12)[::-1].copy())
    whole = np.concatenate([source.images(np.array([position])) for position in split.index])
    images = torch.cat([images for images, _ in split.batches(5)])
    assert images.numpy().tobytes() == whole.tobytes()
    assert decoders() is decoders(), "the pool is kept"


def test_a_file_that_is_damaged_later_ends_the_pass_at_its_batch(folder, monkeypatch):
    monkeypatch.setattr(files_module, "MOST_READ", (1, 1))
    source, _ = read(DataConfig(name="imagefolder", path=folder))
    source.glances(np.arange(1))
    victim = Path(source.files[7].path)
    content, status = victim.read_bytes(), victim.stat()
    victim.write_bytes(content[:20] + bytes(len(content) - 20))
    os.utime(victim, ns=(status.st_mtime_ns, status.st_mtime_ns))
    seen = []
    with pytest.raises(DataError, match=victim.name):  # noqa: PT012 - which batches came before is the point
        for _, labels in Split("train", source, np.arange(12)).batches(3):
            seen.append(len(labels))
    assert seen == [3, 3]


KILLED = """
import signal, sys, time
from madx.data import ahead
signal.signal(signal.SIGINT, signal.default_int_handler)
for value in ahead(lambda key: time.sleep(0.2) or key, range(10**6)):
    print(value, flush=True)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_whoever_is_killed_ends(kind):
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout.readline() == b"0\n"
        process.send_signal(kind)
        assert process.wait(PATIENCE) != 0
    finally:
        process.kill()
        process.stdout.close()
