"""What madx would read at a path: what it is, how many images of what, and the `data:` section for a recipe.

Nothing is guessed: what the recipe has to say is told as the question that a run would end with.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from madx.data.composition import describe
from madx.data.decoding import DAMAGED, READ
from madx.data.files import LOOKING, FileSource
from madx.data.formats import FORMATS
from madx.data.listing import LITTER, SUFFIXES, scanned
from madx.data.lookahead import spread
from madx.data.places import shown
from madx.data.readers import read
from madx.data.sources import Source
from madx.data.splits import divide
from madx.data.stored import Stored
from madx.data.unread import told_of
from madx.errors import DataError
from madx.recipe import DataConfig

_SUFFIXES = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_WHAT = {
    "parquet": "Parquet files",
    "arrow": "Arrow files",
    "webdataset": ".tar shards",
    "arrays": "files of arrays",
    "imagefolder": "image files",
}
_CLASSES = 20
"""Classes that are counted by name."""
_GREY = ("L", "1")
"""Pillow's modes of files that hold nothing but grey."""
_LOOKED_AT = 2000
"""Files whose mode and size are counted, evenly spaced."""


@dataclass
class Found:
    """What lies at a path."""

    name: str
    """The reader's, as in data.name."""
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """train and test: how many images, of which classes, shapes and modes."""
    remarks: list[str] = field(default_factory=list)
    """What a run would say of them."""
    question: str = ""
    """What has to be said or mended before anything can be read; empty if nothing."""
    keys: dict[str, Any] = field(default_factory=dict)
    """The data section for a recipe."""
    sources: dict[str, Source] = field(default_factory=dict)
    """The parts, by their names."""

    @property
    def section(self) -> str:
        """The same, to paste; YAML reads the letters of any alphabet, but not JSON's way to write the rarer ones."""
        text = json.dumps(self.keys, ensure_ascii=False)
        undecodable = any("\ud800" <= letter <= "\udfff" for letter in text)
        return f"data: {json.dumps(self.keys) if undecodable else text}"


def recognised(path: Path) -> str:
    """The reader for a path: by the endings of what lies there, in the highest folders that have anything.

    Raises:
        DataError: nothing that can be read is there, or two kinds of sets.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.is_file():
        by_ending = _SUFFIXES.get(path.suffix.lower())
        if by_ending is None and not any(_is_of(name, path) for name in FORMATS):
            raise DataError(
                f"{path} is no set of images that madx reads; docs/data.md has a table of them{told_of([path])}"
            )
        return by_ending or "arrays"
    level = [str(path)]
    while level:  # no deeper than the first files that tell, so that large sets are not listed
        found: dict[str, str] = {}
        below: list[str] = []
        for folder in level:
            kinds, folders = _kinds_in(folder)
            for kind in kinds:
                found.setdefault(kind, folder)
            below += folders
        if len(found) > 1:
            raise _two_kinds(found)
        if found:
            return next(iter(found))
        level = below
    places = [path, *(entry for entry in sorted(path.iterdir()) if entry.is_dir())]
    has_arrays = any(row.files(place) for row in FORMATS.values() for place in places)
    return "arrays" if has_arrays else "imagefolder"


def _kinds_in(folder: str) -> tuple[list[str], list[str]]:
    """The readers for the files in a folder, and the folders in it; litter and caches count as neither.

    Arrays count beside tables only: beside images they may be anything, and are refused where images are read.
    """
    kept = [entry for entry in scanned(folder) if entry.name.lower() not in LITTER and entry.name[0] != "."]
    suffixes = {Path(entry.name).suffix.lower() for entry in kept if not entry.name.startswith("cache-")}
    kinds = [kind for suffix, kind in _SUFFIXES.items() if suffix in suffixes]
    if kinds and any(row.files(Path(folder)) for row in FORMATS.values()):
        kinds.append("arrays")
    if suffixes & SUFFIXES:
        kinds.append("imagefolder")
    return kinds, [entry.path for entry in kept if entry.is_dir(follow_symlinks=False)]


def _two_kinds(found: dict[str, str]) -> DataError:
    told = " and ".join(f"{_WHAT[kind]} (in {shown(folder)})" for kind, folder in found.items())
    return DataError(f"there are {told}; say which are meant: data.name: {' or '.join(found)}")


def _is_of(name: str, path: Path) -> bool:
    return path in FORMATS[name].files(path.parent)


def look(path: Path, keys: dict[str, Any]) -> Found:
    """What a recipe with these keys beside `path` would read.

    Args:
        path: of a file or folder.
        keys: more of the data section, as a recipe says it; `name` goes before what is recognised.

    Raises:
        DataError: there is nothing to read, or the keys are none.
    """
    section = {"name": keys.get("name") or recognised(path), "path": str(path), **keys}
    config = _config(section)
    found = Found(config.name, keys=section)
    try:
        training, test = read(config)
        for name, source in (("train", training), ("test", test)):
            if source is not None:
                found.sources[name] = source
                found.parts[name] = _counted(source)
        found.remarks = describe(divide((training, test), config, 0, trains=training is not None))
    except DataError as problem:
        found.question = str(problem)
    return found


def look_at_tests(path: Path, keys: dict[str, Any], *, outputs: int | None, channels: int | None) -> dict[str, Any]:
    """The data section for a network that is finished: what lies at `path` is what it is judged on, all of it.

    Args:
        path: as in `look`.
        keys: as in `look`; they go before what is found here.
        outputs: how many classes the network knows, if that is known: images of the last ones may be missing.
        channels: that it takes.

    Raises:
        DataError: there is nothing to read, or something that a recipe has to say.
    """
    section = {"name": keys.get("name") or recognised(path), "path": str(path), **keys}
    training, test = read(_config(section))
    if test is None:  # a set without parts, or a training part alone, which is refused with these words
        section["split"] = "test"
        test = read(_config(section))[1]
    known = training or test
    if known is None:
        raise DataError(f"{path} has no images")
    said = section.keys() & {"classes", "class_map", "num_classes"}
    counts = section["name"] != "imagefolder" and not known.names and not said
    if counts and outputs is not None and outputs > known.classes:
        section["num_classes"] = outputs
    files = [part for part in (test, training) if isinstance(part, FileSource)]
    if channels == 1 and "channels" not in section and files:
        _check_grey(files)
        section["channels"] = 1
    return section


def classes_in(section: Mapping[str, Any]) -> int:
    """How many classes the data of a section have that `look_at_tests` gave."""
    training, test = read(_config(dict(section)))
    known = training or test
    if known is None:
        raise DataError("there are no images")
    return known.classes


def _check_grey(parts: Sequence[FileSource]) -> None:
    """That image files hold nothing but grey, so that a network of one channel can mean nothing else.

    Raises:
        DataError: some do not; how they became one channel is for the recipe to say.
    """
    for part in parts:
        modes = Counter(spread(_mode, part.files, LOOKING))
        if odd := {mode: count for mode, count in modes.items() if mode and mode not in _GREY}:
            told = ", ".join(f"{count} of mode {mode}" for mode, count in sorted(odd.items()))
            raise DataError(
                f"the network takes one channel, and of {len(part.files)} images some are not plain grey ({told}); if "
                "it was trained on their grey as Pillow's convert('L') makes it, say data.channels: 1"
            )


def _mode(file: Stored) -> str:
    """Pillow's mode of an image file, of which no more than the head is read; nothing of a damaged one, told later."""
    try:
        with file.open() as opened, Image.open(opened, formats=READ) as image:
            return str(image.mode)
    except DAMAGED:
        return ""


def _config(section: dict[str, Any]) -> DataConfig:
    """DataError where the keys are none of a recipe's, or do not go together."""
    try:
        return DataConfig.model_validate(section)
    except ValidationError as error:
        told = [".".join(("data", *map(str, detail["loc"]))) + f": {detail['msg']}" for detail in error.errors()]
        raise DataError("; ".join(told)) from None


def _counted(source: Source) -> dict[str, Any]:
    counts = np.bincount(source.labels, minlength=source.classes)
    names = source.names or tuple(map(str, range(source.classes)))
    told = dict(zip(names[:_CLASSES], counts[:_CLASSES].tolist(), strict=True))
    found = {"images": len(source.labels), "shape": list(source.shape), "classes": source.classes, "by_class": told}
    if isinstance(source, FileSource):
        found |= _kinds(source)
    return found


def _kinds(source: FileSource) -> dict[str, Any]:
    """Formats, modes and sizes (width x height) of the files, as they are before they are resized."""
    rows = np.unique(np.linspace(0, len(source.files) - 1, _LOOKED_AT).astype(np.int64))
    kinds: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for row in rows:
        file = source.files[row]
        try:
            with Image.open(io.BytesIO(file.read()), formats=READ) as image:
                kinds[f"{image.format} {image.mode}"] += 1
                sizes[f"{image.width} x {image.height}"] += 1
        except DAMAGED:
            kinds["damaged"] += 1
    return {"looked_at": len(rows), "kinds": dict(kinds.most_common(8)), "sizes": dict(sizes.most_common(8))}
