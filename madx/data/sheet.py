"""A contact sheet: a few images of every class as the network is given them, so that a person sees what was read.

Wrong labels, exchanged colours, images on their side and a crop that cuts the object off are seen at a glance and by
no check.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features

from madx.artifacts import write_atomically
from madx.data.files import FileSource
from madx.data.readers import Exchanged
from madx.data.sources import Source
from madx.errors import DataError

MOST_IMAGES, MOST_CLASSES = 10, 20
"""Of a class, evenly spaced; and of a part, the first ones."""
_CELL = 64
"""Pixels that the longer side of an image is shown with at least, so that small ones are seen; larger ones are shown
smaller."""
_GAP, _TEXT = 4, 11
"""Pixels between images, and of the height of letters."""
_LINE = _TEXT + 2 * _GAP
_PAPER, _INK, _MISSING = (255, 255, 255), (0, 0, 0), (200, 30, 30)
_LONGEST = 100
"""Letters of a name."""


def write_sheet(parts: Mapping[str, Source], path: Path, *, of: Path) -> None:
    """Write a PNG with one block for each part and one row for each class of it.

    Args:
        parts: by name.
        path: of the sheet.
        of: where the images lie; the sheet must not become one of them.

    Raises:
        DataError: the sheet has another ending, or would lie among the images.
    """
    if path.suffix.lower() != ".png":
        raise DataError(f"--sheet {path}: a sheet is a PNG; give it that ending")
    if path.resolve() == of.resolve() or of.resolve() in path.resolve().parents:
        raise DataError(f"--sheet {path} would lie among the images of {of} and be read as one; give another folder")
    buffer = io.BytesIO()
    drawn(parts).save(buffer, "PNG")
    write_atomically(path, buffer.getvalue(), remedy="give another --sheet")


def drawn(parts: Mapping[str, Source]) -> Image.Image:
    """The sheet as an image."""
    blocks = [_block(name, source) for name, source in parts.items()]
    width, height = max(block.width for block in blocks), sum(block.height for block in blocks)
    sheet = Image.new("RGB", (width, height), _PAPER)
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    return sheet


def _block(name: str, source: Source) -> Image.Image:
    """One part: a heading, then for each class its images and under them its name and how many there are."""
    channels, height, width = source.shape
    counts = np.bincount(source.labels, minlength=source.classes)
    shown = range(min(source.classes, MOST_CLASSES))
    cell_width, cell_height = _cell(width, height)
    row = cell_height + _LINE + _GAP
    lines = [f"{name}: {len(source.labels)} images, {source.classes} classes, [C, H, W] = {list(source.shape)}"]
    lines += [_told_of_channels(channels)] if channels not in (1, 3) else []
    lines += [f"the first {len(shown)} of {source.classes} classes"] if source.classes > len(shown) else []
    titles = [_title(source, label, int(counts[label])) for label in shown]
    font = _font()
    wanted = max(_width(font, line) for line in (*lines, *titles)) + 2 * _GAP
    block = Image.new(
        "RGB",
        (max(wanted, MOST_IMAGES * (cell_width + _GAP) + _GAP), len(lines) * _LINE + len(shown) * row + _GAP),
        _PAPER,
    )
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((_GAP, number * _LINE + _GAP), line, fill=_INK, font=font)
    for label, title in zip(shown, titles, strict=True):
        top = len(lines) * _LINE + label * row + _GAP
        for column, place in enumerate(_chosen(source, label)):
            left = _GAP + column * (cell_width + _GAP)
            block.paste(_picture(source, place, (cell_width, cell_height)), (left, top))
        pen.text((_GAP, top + cell_height + _GAP), title, fill=_INK, font=font)
    return block


def _cell(width: int, height: int) -> tuple[int, int]:
    """Of the images' shape, whatever that is; enlarged by a whole number, so that pixels stay pixels."""
    longer = max(width, height)
    scale = max(1, _CELL // longer) if longer <= _CELL else _CELL / longer
    return max(1, round(width * scale)), max(1, round(height * scale))


def _chosen(source: Source, label: int) -> NDArray[np.int64]:
    """Positions of a few images of a class, evenly spaced, so that the ends of a sorted set are among them."""
    places = np.flatnonzero(source.labels == label)
    if len(places) <= MOST_IMAGES:
        return places
    return places[np.linspace(0, len(places) - 1, MOST_IMAGES).astype(np.int64)]


def _picture(source: Source, place: int, size: tuple[int, int]) -> Image.Image:
    """One image as the network is given it; one that cannot be decoded is a crossed field."""
    try:
        pixels = _pixels(source, place)
    except DataError:
        field = Image.new("RGB", size, _PAPER)
        pen, corner = ImageDraw.Draw(field), (size[0] - 1, size[1] - 1)
        pen.rectangle(((0, 0), corner), outline=_MISSING)
        pen.line(((0, 0), corner), fill=_MISSING)
        pen.line(((0, corner[1]), (corner[0], 0)), fill=_MISSING)
        return field
    colours = pixels[:3] if len(pixels) >= 3 else pixels[:1].repeat(3, axis=0)
    levels = np.rint(colours * 255).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    image = Image.fromarray(np.ascontiguousarray(levels))
    smaller = size[0] < image.width or size[1] < image.height
    return image.resize(size, Image.Resampling.BOX if smaller else Image.Resampling.NEAREST)


def _pixels(source: Source, place: int) -> NDArray[np.float32]:
    """[C, H, W] of one image; of files only that one is looked at, whatever is wrong with its neighbours."""
    if isinstance(source, Exchanged):
        return _pixels(source.source, place)[::-1]
    if isinstance(source, FileSource):
        source = replace(source, files=(source.files[place],), labels=source.labels[[place]])
        place = 0
    pixels: NDArray[np.float32] = source.images(np.array([place], np.int64))[0]
    return pixels


def _told_of_channels(channels: int) -> str:
    shown = "the first 3 as red, green, blue" if channels > 3 else "the first one as grey"
    return f"of {channels} channels {shown}"


def _title(source: Source, label: int, count: int) -> str:
    name = _drawable(source.names[label]) if source.names else str(label)
    return f"{name}: {count}" if count else f"{name}: no images"


def _drawable(name: str) -> str:
    """The name with letters that the font lacks by their numbers, so that none is an empty box."""
    font = _font()
    missing = bytes(font.getmask("\uffff"))
    text = "".join(
        letter if letter.isprintable() and bytes(font.getmask(letter)) != missing else _by_number(letter)
        for letter in name
    )
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _by_number(letter: str) -> str:
    return letter.encode("unicode_escape", "backslashreplace").decode()


@cache
def _font() -> ImageFont.FreeTypeFont:
    """The one that matplotlib brings, which has the letters of most alphabets; else Pillow's own, which has English's.

    Raises:
        DataError: this Pillow draws no text.
    """
    if not features.check("freetype2"):
        raise DataError("--sheet: this build of Pillow draws no text (it lacks FreeType); pip install --force pillow")
    found = importlib.util.find_spec("matplotlib")  # looked for, and not imported
    for folder in (found and found.submodule_search_locations) or ():
        if (file := Path(folder) / "mpl-data/fonts/ttf/DejaVuSans.ttf").is_file():
            return ImageFont.truetype(file, _TEXT, layout_engine=ImageFont.Layout.BASIC)
    font = ImageFont.load_default(_TEXT)
    assert isinstance(font, ImageFont.FreeTypeFont)  # it is where a size is asked for
    return font


def _width(font: ImageFont.FreeTypeFont, text: str) -> int:
    return math.ceil(font.getlength(text))
