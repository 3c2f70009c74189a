"""How fast image files become batches, what that takes of memory, and how much of it hides behind computing.

    python benchmarks/data.py                              # 1,000, 10,000 and 100,000 images of 224; about an hour
    python benchmarks/data.py --images 200 1000 --side 64  # smaller

Images are JPEG files of the usual photograph's size (500 x 375), of smooth noise; a few are written, and the others are
copies with another number behind their end, so that no two files are the same. Everything is compared within one run:
what the machine does besides disturbs all rows alike.

- Decoding: images a second of a pass over batches, beside plain Pillow (open, convert, resize, centre crop, float32) on
  as many threads. Each is measured --repeats times in turn, and the best is kept.
- Overlap: a pass whose batches are computed on for as long as one takes to be decoded (the computing waits, as for a
  GPU: where it needs the decoders' cores, nothing can hide), in turn and one batch ahead. Hidden is how much shorter
  than both together the pass is, as a share of what can be hidden: all batches but the first.
- Memory: a process of its own for each size reads the set, takes the fingerprints of all splits and goes through
  --batches batches; what it has of its own (RssAnon) at most beyond what it had after its imports, and in all (maxrss).
- Arrays: the same for one uncompressed .npz of --array-mb, and compressed.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from madx.data import Split, load_splits
from madx.data.lookahead import DECODERS
from madx.data.readers import read
from madx.machine import describe_machine, usable_cpus
from madx.recipe import DataConfig

PHOTOGRAPH = 500, 375
BATCH = 50
MODELS = 64
"""Images that are really different; the others are copies with another end."""
_LOOK_SECONDS = 0.005


def write_images(root: Path, count: int) -> None:
    """train/ and val/ with ten classes, nine images of ten in train/."""
    generator, models = np.random.default_rng(0), []
    for _ in range(min(MODELS, count)):
        noise = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        noise.resize(PHOTOGRAPH, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        models.append(buffer.getvalue())
    for number in range(count):
        folder = root / ("val" if number % 10 == 0 else "train") / f"c{number // 10 % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:07}.jpg").write_bytes(models[number % len(models)] + number.to_bytes(8, "little"))


def config_of(root: Path, side: int) -> DataConfig:
    return DataConfig(name="imagefolder", path=root, image_size=side)


def plain(paths: list[str], side: int) -> Iterator[np.ndarray]:
    """What a short script does: the same pixels by Pillow, on as many threads, batch by batch."""

    def one(path: str) -> np.ndarray:
        with Image.open(path) as image:
            picture = image.convert("RGB")
        width, height = picture.size
        shorter = min(width, height)
        size = int(side * width / shorter), int(side * height / shorter)
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
        cut = np.asarray(picture.crop((left, top, left + side, top + side)))
        return cut.transpose(2, 0, 1).astype(np.float32) / np.float32(255)

    with ThreadPoolExecutor(min(DECODERS, len(usable_cpus()))) as pool:
        for start in range(0, len(paths), BATCH):
            yield np.stack(list(pool.map(one, paths[start : start + BATCH])))


def seconds_of(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def whole_split(root: Path, side: int, most: int) -> Split:
    source, _ = read(config_of(root, side))
    assert source is not None
    source.glances(np.arange(1))  # the look at all files is measured with the memory
    return Split("train", source, np.arange(min(most, len(source.labels))))


def decoding(root: Path, side: int, *, most: int, repeats: int) -> dict[str, float]:
    """Images a second, ours and plain Pillow's, and whether they are the same pixels."""
    split = whole_split(root, side, most)
    paths = [split.source.files[row].path for row in split.index]  # type: ignore[attr-defined]
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(seconds_of(lambda: sum(len(labels) for _, labels in split.batches(BATCH))))
        theirs.append(seconds_of(lambda: sum(len(batch) for batch in plain(paths, side))))
    same = all(
        np.array_equal(images.numpy(), batch)
        for (images, _), batch in zip(split.take(200).batches(BATCH), plain(paths[:200], side), strict=True)
    )
    if not same:
        raise SystemExit("plain Pillow gives other pixels, so the two speeds are not of the same work")
    count = len(split)
    return {"madx": count / min(ours), "pillow": count / min(theirs), "ratio": min(theirs) / min(ours)}


def overlap(root: Path, side: int, *, most: int, repeats: int) -> dict[str, float]:
    """Seconds of decoding, of computing, of both in turn and one batch ahead."""
    split = whole_split(root, side, most)
    batches = -(-len(split) // BATCH)
    if batches < 2:
        raise SystemExit(f"{len(split)} images are one batch, and nothing is ahead of it; time more than {BATCH}")
    decode = min(seconds_of(lambda: list(map(len, _in_turn(split)))) for _ in range(repeats))
    wait = decode / batches

    def compute(passing: Iterator[Any]) -> None:
        for _ in passing:
            time.sleep(wait)

    turn = min(seconds_of(lambda: compute(_in_turn(split))) for _ in range(repeats))
    ahead = min(seconds_of(lambda: compute(split.batches(BATCH))) for _ in range(repeats))
    hidden = (2 * decode - ahead) / (decode - wait)
    return {"decode": decode, "compute": decode, "in_turn": turn, "ahead": ahead, "hidden": hidden}


def _in_turn(split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for start in range(0, len(split), BATCH):
        yield split.tensors(start, start + BATCH)


def own_memory() -> int:
    """Bytes of this process that no file stands behind."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def memory(config: DataConfig, batches: int) -> dict[str, float]:
    """Of this process, which does nothing else."""
    before, peak, done = own_memory(), [own_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(_LOOK_SECONDS):
            peak[0] = max(peak[0], own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    splits = load_splits(config, 0, trains=config.split is None)
    for split in (splits.train, splits.selection, splits.gate):
        assert split.fingerprint
        assert split.stamp is None or split.stamp
    ready = time.perf_counter() - start
    for number, _ in enumerate((splits.train if len(splits.train) else splits.gate).batches(BATCH), 1):
        if number == batches:
            break
    done.set()
    watcher.join()
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"own_mb": (peak[0] - before) / 1e6, "maxrss_mb": most / 1e6, "ready_seconds": ready}


def in_process(config: DataConfig, batches: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--memory-of", config.model_dump_json(), "--batches", str(batches)]
    found = subprocess.run(words, check=True, capture_output=True, text=True)
    answer: dict[str, float] = json.loads(found.stdout)
    return answer


def arrays(root: Path, megabytes: int, side: int, batches: int) -> None:
    count = max(20, megabytes * 10**6 // (3 * side * side))
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    labels = np.arange(count) % 10
    for save in (np.savez, np.savez_compressed):
        path = root / f"{save.__name__}.npz"
        save(path, x_test=images, y_test=labels)
        found = in_process(DataConfig(name="npz", path=path, split="test"), batches)
        print(
            f"{save.__name__} of {images.nbytes / 1e6:.0f} MB of pixels [N, H, W, C]: own memory at most "
            f"{found['own_mb']:.0f} MB, maxrss {found['maxrss_mb']:.0f} MB"
        )
        path.unlink()


def folders(place: Path, asked: argparse.Namespace) -> None:
    for number, count in enumerate(asked.images):
        root = place / str(count)
        write_images(root, count)
        found = in_process(config_of(root, asked.side), asked.batches)
        print(
            f"{count:,} images: own memory at most {found['own_mb']:.0f} MB (maxrss {found['maxrss_mb']:.0f} MB), "
            f"{found['ready_seconds']:.1f} s until all splits are listed, looked at and known",
            flush=True,
        )
        if number == 0:
            fast = decoding(root, asked.side, most=asked.most, repeats=asked.repeats)
            print(
                f"decoding, {min(DECODERS, len(usable_cpus()))} threads: {fast['madx']:.0f} images a second, plain "
                f"Pillow {fast['pillow']:.0f}: {fast['ratio']:.2f} times as fast, the same pixels"
            )
            lap = overlap(root, asked.side, most=asked.most, repeats=asked.repeats)
            print(
                f"overlap: decoding {lap['decode']:.2f} s, computing {lap['compute']:.2f} s; in turn "
                f"{lap['in_turn']:.2f} s, one batch ahead {lap['ahead']:.2f} s: {lap['hidden']:.0%} of what can be "
                "hidden is hidden",
                flush=True,
            )
        shutil.rmtree(root)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000, 100_000], help="sizes of the folders")
    parser.add_argument("--side", type=int, default=224, help="of what the network is given")
    parser.add_argument("--most", type=int, default=1000, help="images that are timed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of which the memory is measured")
    parser.add_argument("--array-mb", type=int, default=500)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.memory_of:
        print(json.dumps(memory(DataConfig.model_validate_json(asked.memory_of), asked.batches)))
        return
    machine = describe_machine()
    load = os.getloadavg()[0]
    print(f"{machine['processor']}, {machine['cpus']} logical CPUs, load {load:.1f} before; side {asked.side}")
    with tempfile.TemporaryDirectory() as place:
        folders(Path(place), asked)
        arrays(Path(place), asked.array_mb, asked.side, asked.batches)


if __name__ == "__main__":
    main()
