"""Image files that lie together in tables (Parquet and Arrow of Hugging Face's layout) or archives (WebDataset's tar).

The parts of a set are told from the names of its files and folders (train-00000-of-00002.parquet, test/data.arrow).
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from madx.data.classes import class_names
from madx.data.columns import Shard, read_arrow, read_parquet
from madx.data.decoding import Decoding, decoding_of
from madx.data.files import FileSource, file_source
from madx.data.labelling import Known, Written, number_labels
from madx.data.listing import SUFFIXES
from madx.data.naming import parts_of
from madx.data.places import few, shown
from madx.data.sources import Reading
from madx.data.stored import ImageFile, Stored
from madx.data.unread import require_content, told_of
from madx.errors import DataError
from madx.recipe import DataConfig


def read_shards(config: DataConfig) -> Reading:
    """All shards of data.path, by part.

    Raises:
        DataError: there are none, a file is damaged, or it is not clear what is image and what is label.
    """
    suffix, opened = _KINDS[config.name]
    parts = _by_part(config, suffix)
    how, said = decoding_of(config), class_names(config)
    if config.split == "test":
        wanted = parts.get("test") or parts.get("val") or parts.get("")
        if wanted is None:
            raise DataError(f"{config.path} has no test part; data.split: test takes all images of it")
        return None, _source([opened(file, config, "test") for file in wanted], config, said, how)
    test_files = parts.get("test") or parts.get("val")
    train_files = parts.get("train") or parts.get("")
    training = None
    if train_files:
        training = _source([opened(file, config, "train") for file in train_files], config, said, how)
    if not test_files:
        return training, None
    known = said or (training.names if training else ())
    shards = [opened(file, config, "test") for file in test_files]
    test = _source(shards, config, known, training.how if training else how, training.classes if training else None)
    unread = (
        ("the part for validation is not read: the test part is the gate",)
        if len(parts.keys() & {"test", "val"}) > 1
        else ()
    )
    return training, replace(test, remarks=(*test.remarks, *unread))


def _by_part(config: DataConfig, suffix: str) -> dict[str, list[Path]]:
    """The files of train, test, val and "" (which does not say), each sorted."""
    root = config.path
    if root is None or not root.exists():
        raise DataError(f"data.path {root} does not exist; data.name: {config.name} reads *{suffix} files")
    there = root.rglob(f"*{suffix}") if root.is_dir() else ()
    files = [root] if root.is_file() else sorted(path for path in there if path.is_file() and not _is_cache(path))
    if not files:
        raise DataError(f"{root} has no *{suffix} files, which data.name: {config.name} reads{told_of(root.iterdir())}")
    if root.is_dir():  # whoever names one file means that one
        _require_all(read for read in files if not (config.split == "test" and _part_of_file(read, root) == "train"))
    parts: dict[str, list[Path]] = {}
    for file in files:
        require_content(file)
        parts.setdefault(_part_of_file(file, root), []).append(file)
    if "" in parts and len(parts) > 1:
        told = few([shown(file.name) for file in parts[""]])
        raise DataError(
            f"{root}: of which part are {told}? Their names say neither train nor test; move or rename them"
        )
    return parts


def _part_of_file(file: Path, root: Path) -> str:
    return _part_of(Path(file.name) if root.is_file() else file.relative_to(root).with_suffix(""))


def _require_all(files: Iterable[Path]) -> None:
    """That of files that count themselves (train-00000-of-00003) every one is there.

    Raises:
        DataError: some are missing, and images with them.
    """
    counted: dict[tuple[Path, str, int], set[int]] = {}
    for file in files:
        if found := re.fullmatch(r"(.*?)([0-9]+)-of-([0-9]+)(.*)", file.name):
            key = file.parent, found[1], int(found[3])
            counted.setdefault(key, set()).add(int(found[2]))
    for (folder, name, total), numbers in counted.items():
        missing = total - len(numbers)
        if missing and total > max(numbers):
            first = next(number for number in range(total) if number not in numbers)
            raise DataError(
                f"{shown(folder)}: {missing} of the {total} files {shown(name)}*-of-{total:05} are missing, the first "
                f"of them number {first}; get them, or call these files otherwise if they are all that is meant"
            )


def _part_of(relative: Path) -> str:
    """The part that the file's name says, or else the folders above it; "" where none does.

    Raises:
        DataError: the name says two parts, or a folder says another one.
    """
    own, *above = [parts_of(name) for name in reversed(relative.parts)]
    if len(own) > 1:
        raise DataError(f"{shown(relative)} is called {' and '.join(sorted(own))}; name the file by one part")
    said = own.union(*(found for found in above if len(found) == 1))
    if len(said) > 1:
        raise DataError(
            f"{shown(relative)}: of which part is it? Its name and the folders above say {' and '.join(sorted(said))}; "
            "move or rename it"
        )
    return next(iter(said), "")


def _is_cache(path: Path) -> bool:
    return path.name.startswith(("cache-", ".")) or any(part.startswith(".") for part in path.parts[-3:-1])


def _source(
    shards: Sequence[Shard], config: DataConfig, names: tuple[str, ...], how: Decoding, classes: int | None = None
) -> FileSource:
    """One source of all shards of a part."""
    files = [file for shard in shards for file in shard.files]
    if not files:
        raise DataError(f"data.path {config.path} holds no images")
    said, count = bool(class_names(config)), config.num_classes or classes
    known = Known(names, said, count, first=config.first_label, by_number=classes is not None and not names)
    found = number_labels([shard.written for shard in shards if shard.files], known)
    return file_source(files, found.labels, found.names, how, classes=found.classes)


def _tar(path: Path, config: DataConfig, part: str) -> Shard:  # noqa: ARG001 - a shard has no columns
    """WebDataset: neighbouring members with one name up to the first dot are a sample."""
    status = path.stat()
    files: list[Stored] = []
    labels: list[Any] = []
    for sample in _samples(path):
        images = [suffix for suffix in sample if f".{suffix.rpartition('.')[2]}" in SUFFIXES]
        if len(images) != 1:
            raise DataError(
                f"{path}: the sample of {next(iter(sample.values()))[0].name} has {len(images)} images; expected one "
                "(leave masks out; a sample is what has one name up to the first dot, so names may have no other dots)"
            )
        member = sample[images[0]][0]
        place = ImageFile(
            str(path),
            os.path.realpath(path),
            member.size,
            status.st_mtime_ns,
            member.offset_data,
            member.name,
            status.st_size,
        )
        files.append(place)
        labels.append(_label_of(sample, f"{path}: {member.name}"))
    return Shard(files, Written(str(path), labels))


Sample = dict[str, tuple[tarfile.TarInfo, bytes]]
"""Ending -> member, and its bytes where it may be a label."""


def _samples(path: Path) -> Iterator[Sample]:
    key, sample = "", Sample()
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not member.isfile() or not stem:
                    continue
                if sample and f"{folder}/{stem}" != key:
                    yield sample
                    sample = {}
                key, suffix = f"{folder}/{stem}", suffix.lower()
                if suffix in _LABEL_SUFFIXES and member.size > _LONGEST_LABEL:
                    raise DataError(
                        f"{path}: {member.name} says that it has {member.size:,} bytes, and a label at most "
                        f"{_LONGEST_LABEL:,}; is it one, or is the archive damaged?"
                    )
                small = archive.extractfile(member) if suffix in _LABEL_SUFFIXES else None
                sample[suffix] = member, small.read() if small else b""
            _check_end(path, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as an archive ({error}); a compressed one is to be unpacked first"
        ) from None
    if sample:
        yield sample


def _check_end(path: Path, offset: int) -> None:
    """That the archive ends behind its last member, which `tarfile` takes any damage for: two blocks of zeros or more.

    Raises:
        DataError: it is cut off, or has something else there.
    """
    size = path.stat().st_size - offset
    with path.open("rb") as file:
        file.seek(offset)
        whole = _END <= size <= _PADDING and not any(file.read(_PADDING))
    if not whole:
        raise DataError(
            f"{path} has no end of an archive (zeros up to the end of the file) behind its last member, at byte "
            f"{offset}: it is cut off or damaged, and images would be missing; copy it again"
        )


_END, _PADDING = 1024, 2**24
"""Bytes of zeros that end an archive, at least and at most (programs fill up their last block)."""
_LONGEST_LABEL = 2**20
"""Bytes: a member may say that it has more than the archive, with holes in it."""
_LABEL_SUFFIXES = ("cls", "label", "json", "txt")
"""Endings under which a sample's label is looked for, in this order."""


def _label_of(sample: Sample, where: str) -> Any:
    suffix = next((suffix for suffix in _LABEL_SUFFIXES if suffix in sample), None)
    if suffix is None:
        raise DataError(
            f"{where} has no label; expected a member {' or '.join(f'.{name}' for name in _LABEL_SUFFIXES)}. If its "
            "images lie in a folder for each class, unpack it: data.name: imagefolder"
        )
    text = sample[suffix][1].decode("utf-8", "replace").strip()
    if suffix == "json":
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            raise DataError(f"{where}: its .json is damaged") from None
        found = [name for name in ("label", "cls", "class", "target") if isinstance(content, dict) and name in content]
        if len(found) != 1:
            raise DataError(f"{where}: its .json has {len(found)} of label, cls, class, target; expected one of them")
        return content[found[0]]
    return text


_KINDS: Mapping[str, tuple[str, Callable[[Path, DataConfig, str], Shard]]] = MappingProxyType(
    {"parquet": (".parquet", read_parquet), "arrow": (".arrow", read_arrow), "webdataset": (".tar", _tar)}
)
"""By data.name: the ending of the files, and what reads one."""
