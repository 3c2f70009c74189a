"""One image file becomes pixels: the only place where image files are decoded, for whatever source has them.

The terms and the rounding are torchvision's (Resize, CenterCrop, on Pillow) and timm's (crop_pct). What two usual
readers read differently (a rotation in EXIF, hidden colours under transparency, more than 8 bits, pictures of another
shape than the network's) is asked about and never guessed. Pixels are [H, W, C], uint8, or float32 in [0, 1] where
files have more than 8 bits a channel.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from madx.data.unread import HEAD, content_told
from madx.errors import DataError
from madx.recipe import DataConfig
from madx.recipe.data import COLOURS

DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""Pillow has no common error for a damaged file."""
READ = ("JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "JPEG2000")
"""Pillow's names of the formats that are read, whatever a file is called: for others it starts programs (EPS).

MPO, of two pictures as phones save it, begins as JPEG.
"""
_ORIENTATION = 0x0112
_UPRIGHT, _SIDEWAYS = 1, 5
"""Its value where nothing is to be turned, and the first one by which height and width change places."""
_EXIF_KEYS = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})
"""Of what Pillow tells of a PNG: where an orientation may be."""
_DEEP = "IF"
"""First letters of Pillow's modes of more than 8 bits a channel."""
_LARGEST = 2**26
"""Pixels of a resized image at most: of a line of pixels, the shorter side of 224 would make billions."""
_END = 1024
"""Bytes at the end of a file in which its last marker is looked for: some programs write on behind it."""


class UnclearError(DataError):
    """Two usual readers read this image differently, and the recipe does not say which one is meant."""

    def __init__(self, name: str, found: str, advice: str) -> None:
        """Of the image `name`: what was `found` there, and what to write into the recipe."""
        super().__init__(f"the image {name} {found}; {advice}")
        self.name, self.found, self.advice = name, found, advice

    def __reduce__(self) -> tuple[type[UnclearError], tuple[str, str, str]]:
        """What makes it again in another process: an exception alone would give its message for all three."""
        return type(self), (self.name, self.found, self.advice)


@dataclass(frozen=True)
class Decoding:
    """How image files are read, as the recipe says."""

    size: tuple[int, int] | None
    """(H, W) that the network is given; None: as the files are."""
    resize: int | tuple[int, int] | None = None
    """Of the shorter side, or (H, W), before the centre is cut out; None: the smallest that covers `size`."""
    asked: Literal["", "shape", "size"] = ""
    """What of pictures is unclear if it is not that of `size`: [height, width] means a resize of both sides to some;
    where the recipe gives no size, all are as large as the first."""
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    exif: bool | None = None
    background: tuple[int, int, int] | Literal["drop"] | None = None
    channels: int = 3
    range: tuple[float, float] | None = None
    """The values that are 0 and 1, in files of more than 8 bits a channel."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        height, width = self.size or (0, 0)
        return self.channels, height, width

    def fitted(self, name: str, content: bytes) -> Decoding:
        """With the size of this image where the recipe gives none."""
        if self.size is not None:
            return self
        with _opened(name, content) as image:
            turned = bool(self.exif) and _orientation(image) >= _SIDEWAYS
            width, height = reversed(image.size) if turned else image.size
        return replace(self, size=(height, width))


def decoding_of(config: DataConfig) -> Decoding:
    """What the recipe's section says of image files."""
    size = _both(config.image_size)
    resize: int | tuple[int, int] | None = config.resize
    if config.crop_pct is not None and isinstance(config.image_size, int):
        resize = math.floor(config.image_size / config.crop_pct)
    if config.crop_mode == "squash":
        resize = _both(resize) or size
    given = config.background
    background: tuple[int, int, int] | Literal["drop"] | None = given if given == "drop" else COLOURS.get(given)
    if isinstance(given, tuple):
        background = given
    return Decoding(
        size=size,
        resize=resize,
        asked=_asked(config) if resize is None else "",
        interpolation=Image.Resampling[config.interpolation.upper()],
        exif=config.exif,
        background=background,
        channels=config.channels,
        range=config.range,
    )


def _asked(config: DataConfig) -> Literal["", "shape", "size"]:
    if config.image_size is None:
        return "size"
    return "" if isinstance(config.image_size, int) or config.crop_mode else "shape"


def _both(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def decode(name: str, content: bytes, how: Decoding) -> NDArray[Any]:
    """The pixels of an image file, [H, W, C].

    Args:
        name: of the file, for errors.
        content: its bytes.
        how: of a known size.

    Raises:
        DataError: the file is damaged.
        UnclearError: the recipe has to say how it is meant.
    """
    with _opened(name, content) as image:
        try:
            _check_frames(name, image)
            _check_kept(name, image)
            turned = ImageOps.exif_transpose(image) if _rotation(name, image, how) else image
            return _pixels(name, turned, how)
        except DAMAGED as error:
            raise _damaged(name, str(error)) from None


def examine(name: str, content: BinaryIO, how: Decoding, *, fast: bool = False) -> None:
    """Raise what `decode` would, at the price of a look at head and end where those tell enough.

    Args:
        name: of the file, for errors.
        content: its bytes.
        how: of a known size.
        fast: nor is a PNG decoded because something might be told behind its pixels, unless its end shows it.
    """
    if not seems_whole(content):
        content.seek(0)
        decode(name, content.read(), how)
        return
    content.seek(0)
    with _opened(name, content) as image:
        try:
            _check_frames(name, image)
            _check_kept(name, image)
            silent = fast and image.format == "PNG" and not _may_be_turned(image, content)
            turned = not silent and _rotation(name, image, how) and _orientation(image) >= _SIDEWAYS
            if _is_transparent(image) and how.background is None:
                _on_background(name, image, how)
            _check_depth(name, image, how)
            _check_shape(name, (image.height, image.width) if turned else image.size, how)
        except DAMAGED as error:
            raise _damaged(name, str(error)) from None


def _may_be_turned(image: Image.Image, content: BinaryIO) -> bool:
    """Whether a PNG that is not loaded tells of a rotation: Pillow loads it to ask, for that may stand behind."""
    if _EXIF_KEYS & image.info.keys():
        return True
    place = content.tell()
    content.seek(max(0, content.seek(0, os.SEEK_END) - _END))
    end = content.read()
    content.seek(place)
    return any(mark in end for mark in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"))


def _opened(name: str, content: bytes | BinaryIO) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content) if isinstance(content, bytes) else content, formats=READ)
    except UnidentifiedImageError:
        raise _damaged(name, content_told(_head(content)) or "no format that is known") from None
    except DAMAGED as error:
        raise _damaged(name, str(error)) from None


def _head(content: bytes | BinaryIO) -> bytes:
    if isinstance(content, bytes):
        return content[:HEAD]
    content.seek(0)
    return content.read(HEAD)


def _damaged(name: str, why: str) -> DataError:
    return DataError(f"the image {name} cannot be decoded ({why}); replace or remove it")


def _rotation(name: str, image: Image.Image, how: Decoding) -> bool:
    """Whether the image is to be turned."""
    if _orientation(image) == _UPRIGHT:
        return False
    if how.exif is None:
        raise UnclearError(
            name,
            "has a rotation in its EXIF data",
            "was the network trained on such pictures as they are shown (OpenCV turns them): data.exif: true, or as "
            "they are stored (Pillow and torchvision do not): data.exif: false",
        )
    return how.exif


def _orientation(image: Image.Image) -> int:
    """As EXIF has it, 1 to 8; every reader turns TIFF files by itself, Pillow while it loads them."""
    found = image.getexif().get(_ORIENTATION, _UPRIGHT) if image.format != "TIFF" else _UPRIGHT
    return found if isinstance(found, int) and found in range(1, 9) else _UPRIGHT


def _is_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _on_background(name: str, image: Image.Image, how: Decoding) -> Image.Image:
    """The image in RGB on the background that the recipe gives; what is opaque everywhere needs none."""
    full = image.convert("RGBA")
    alpha = full.getchannel("A")
    if alpha.getextrema()[0] == 255:
        return full.convert("RGB")
    if how.background is None:
        raise UnclearError(
            name,
            "is transparent in places (it has an alpha channel)",
            "say what the network saw there: data.background: white, black, grey or [red, green, blue], or drop for "
            "the colours that are hidden there, which Pillow and torchvision show",
        )
    if how.background == "drop":
        return image.convert("RGB")
    ground = Image.new("RGB", full.size, how.background)
    ground.paste(full, mask=alpha)
    return ground


def _check_kept(name: str, image: Image.Image) -> None:
    """That Pillow keeps all bits of an image that is not loaded yet: of colours with 16 bits it drops half, unasked."""
    tiles = [str(tile[3]) for tile in getattr(image, "tile", ())]
    if image.mode[0] not in _DEEP and any(";16" in raw for raw in tiles):
        raise UnclearError(
            name,
            f"has 16 bits a channel in {image.mode}, of which Pillow keeps 8",
            "convert it to 8 bits a channel as the network's training data were, or keep arrays (data.name: npz)",
        )


def _check_depth(name: str, image: Image.Image, how: Decoding) -> bool:
    """Whether the image has more than 8 bits a channel, which Pillow would clip at 255 and call RGB."""
    deep = image.mode[0] in _DEEP
    if deep and how.range is None:
        raise UnclearError(
            name,
            f"has more than 8 bits a channel (Pillow mode {image.mode})",
            "convert it to 8, or say which stored values are 0 and 1 for the network: data.range: [0, 65535], say",
        )
    if how.range is not None and not deep:
        raise UnclearError(
            name,
            f"has 8 bits a channel (Pillow mode {image.mode})",
            "data.range is for images of more; leave it out, or convert these",
        )
    return deep


def _check_shape(name: str, size: tuple[int, int], how: Decoding) -> None:
    """That a picture of this (width, height) needs no word of the recipe to get its size."""
    if how.size is None:
        return
    if how.asked and size != (how.size[1], how.size[0]):
        _check_asked(name, size, how)
    resized = _target(size, how)
    if math.prod(resized) > _LARGEST:
        raise DataError(
            f"the image {name} has {size[1]} x {size[0]} pixels (height x width) and would be resized to {resized[1]} "
            f"x {resized[0]}, more than {_LARGEST} pixels; remove it, or cut it to a usual shape"
        )


def _check_asked(name: str, size: tuple[int, int], how: Decoding) -> None:
    assert how.size is not None
    height, width = how.size
    if how.asked == "size":
        raise UnclearError(
            name,
            f"has {size[1]} x {size[0]} pixels (height x width), the first one {height} x {width}",
            "say what the network is given: data.image_size: one number (shorter side resized, centre cut out) or "
            "[height, width]",
        )
    if _target(size, how) != (width, height):
        raise UnclearError(
            name,
            f"has {size[1]} x {size[0]} pixels (height x width), which is not the shape of {height} x {width}",
            "say how it gets there: data.crop_mode: squash (both sides are resized, nothing is cut off) or center (the "
            "middle is cut out)",
        )


def _check_frames(name: str, image: Image.Image) -> None:
    """Films and stacks have more than one picture; phones hide a second one in JPEG files, which nobody means."""
    frames = getattr(image, "n_frames", 1) if image.format in ("GIF", "PNG", "TIFF", "WEBP") else 1
    if frames > 1:
        raise UnclearError(name, f"holds {frames} pictures", "save the one that is meant as a file of its own")


def _pixels(name: str, image: Image.Image, how: Decoding) -> NDArray[Any]:
    """Of an image that is upright."""
    if _check_depth(name, image, how):
        values = _in_range(name, np.asarray(image).astype(np.float32), how)
        _check_shape(name, image.size, how)
        cut = np.clip(np.asarray(_resized(Image.fromarray(values), how)), 0, 1)
        return np.repeat(cut[:, :, None], how.channels, axis=2)
    if _is_transparent(image):
        image = _on_background(name, image, how)
    _check_shape(name, image.size, how)
    cut = np.asarray(_resized(image.convert("L" if how.channels == 1 else "RGB"), how))
    return cut[:, :, None] if how.channels == 1 else cut


def _in_range(name: str, values: NDArray[np.float32], how: Decoding) -> NDArray[np.float32]:
    low, high = how.range or (0.0, 1.0)
    found = float(values.min()), float(values.max())
    if not (found[0] >= low and found[1] <= high):
        raise UnclearError(
            name, f"has values from {found[0]:g} to {found[1]:g}", f"data.range says {low:g} to {high:g}; widen it"
        )
    return (values - np.float32(low)) / np.float32(high - low)


def _resized(image: Image.Image, how: Decoding) -> Image.Image:
    """Resized, and the centre cut out; the rounding is that of torchvision's Resize and CenterCrop."""
    assert how.size is not None
    size = _target(image.size, how)
    if size != image.size:
        image = image.resize(size, how.interpolation)
    left, top = (_margin(have, want) for have, want in zip(size, reversed(how.size), strict=True))
    return image.crop((left, top, left + how.size[1], top + how.size[0]))


def _target(given: tuple[int, int], how: Decoding) -> tuple[int, int]:
    """(width, height) to resize to."""
    width, height = given
    if isinstance(how.resize, tuple):
        return how.resize[1], how.resize[0]
    assert how.size is not None
    if how.resize is None and how.size[0] != how.size[1]:
        scale = max(how.size[0] / height, how.size[1] / width)
        return max(how.size[1], round(width * scale)), max(how.size[0], round(height * scale))
    shorter = how.size[0] if how.resize is None else how.resize
    return int(shorter * width / min(given)), int(shorter * height / min(given))


def _margin(have: int, want: int) -> int:
    """Where the centre begins; below 0 where black is put around, as torchvision does."""
    return round((have - want) / 2) if have >= want else -((want - have) // 2)


def seems_whole(content: BinaryIO) -> bool:
    """Whether the end is there: JPEG's or PNG's last marker, or as many bytes as the head of a WebP or BMP says.

    Of anything else there is no telling.
    """
    size = content.seek(0, os.SEEK_END)
    content.seek(max(0, size - _END))
    end = content.read(_END)
    content.seek(0)
    head = content.read(8)
    if head.startswith(b"\xff\xd8"):
        return b"\xff\xd9" in end
    if head.startswith(b"\x89PNG"):
        return b"IEND" in end
    if head.startswith(b"RIFF"):
        return size >= 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(b"BM"):
        return size >= int.from_bytes(head[2:6], "little")
    return False
