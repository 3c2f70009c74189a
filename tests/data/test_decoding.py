"""One image file to pixels: the numbers of an own reference on Pillow, and every question that is asked instead."""

from __future__ import annotations

import io
import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from madx.data import decoding
from madx.data.decoding import Decoding, UnclearError, decode, decoding_of
from madx.errors import DataError
from madx.recipe import DataConfig

GENERATOR = np.random.default_rng(3)


def examine(name: str, content: bytes, how: Decoding) -> None:
    decoding.examine(name, io.BytesIO(content), how)


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3), dtype=np.uint8)).convert(mode)


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(**keys: Any) -> Decoding:
    return decoding_of(DataConfig(name="imagefolder", path="x", **keys))


def reference(image: Image.Image, resize: int | tuple[int, int], size: tuple[int, int], how: int) -> np.ndarray:
    """torchvision's Resize (of the shorter side, or of both), then CenterCrop, which puts black around small ones."""
    width, height = image.size
    if isinstance(resize, int):
        short, long = min(image.size), max(image.size)
        other = int(resize * long / short)
        wanted = (resize, other) if width <= height else (other, resize)
    else:
        wanted = resize[1], resize[0]
    pixels = np.asarray(image.resize(wanted, how))
    for axis, want in enumerate(size):
        have = pixels.shape[axis]
        if have < want:
            around = [(0, 0)] * 3
            around[axis] = ((want - have) // 2, (want - have + 1) // 2)
            pixels = np.pad(pixels, around)
    top, left = (round((have - want) / 2) for have, want in zip(pixels.shape, size, strict=False))
    return pixels[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize("shape", [(40, 24), (24, 41), (57, 57), (31, 8)])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"])
@pytest.mark.parametrize(
    ("keys", "resize", "size"),
    [
        ({"image_size": 14, "resize": 16}, 16, (14, 14)),
        ({"image_size": 14, "crop_pct": 0.875}, 16, (14, 14)),
        ({"image_size": 14, "crop_pct": "7/9"}, 18, (14, 14)),
        ({"image_size": 14, "crop_mode": "squash"}, (14, 14), (14, 14)),
        ({"image_size": [12, 20], "crop_mode": "squash"}, (12, 20), (12, 20)),
        ({"image_size": [12, 10], "resize": [16, 18]}, (16, 18), (12, 10)),
        ({"image_size": [12, 10], "resize": 16}, 16, (12, 10)),
        ({"image_size": 20, "resize": 13}, 13, (20, 20)),
    ],
)
def test_the_same_pixels_as_torchvisions_definitions(shape, interpolation, keys, resize, size):
    image = picture(*shape)
    found = decode("a", stored(image), of(interpolation=interpolation, **keys))
    np.testing.assert_array_equal(found, reference(image, resize, size, Image.Resampling[interpolation.upper()]))


def test_timms_share_is_rounded_down():
    assert of(image_size=224, crop_pct=0.875).resize == 256
    assert of(image_size=224, crop_pct=0.9).resize == math.floor(224 / 0.9) == 248


def test_one_channel_is_grey_and_three_are_red_first():
    image = picture(8, 8)
    assert decode("a", stored(image), of(image_size=8, channels=1)).shape == (8, 8, 1)
    np.testing.assert_array_equal(
        decode("a", stored(image), of(image_size=8, channels=1))[..., 0], np.asarray(image.convert("L"))
    )
    np.testing.assert_array_equal(decode("a", stored(image), of(image_size=8)), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_rotation_in_exif_is_applied_ignored_or_asked_about(orientation, kind):
    image, tag = picture(12, 8), Image.Exif()
    tag[0x0112] = orientation
    content = stored(image, kind, exif=tag)
    plain = np.asarray(Image.open(io.BytesIO(content)))
    turns = {1: plain, 2: plain[:, ::-1], 3: plain[::-1, ::-1], 4: plain[::-1], 5: plain.swapaxes(0, 1)}
    turns |= {6: np.rot90(plain, -1), 7: np.rot90(plain, 2).swapaxes(0, 1), 8: np.rot90(plain, 1)}
    as_stored, upright = (Decoding(None, exif=exif, asked="size").fitted("a", content) for exif in (False, True))
    np.testing.assert_array_equal(decode("a", content, as_stored), plain)
    np.testing.assert_array_equal(decode("a", content, upright), turns[orientation])
    for how in (as_stored, upright):
        examine("a", content, how)
    if orientation > 1:
        for look in (decode, examine):
            with pytest.raises(UnclearError, match=r"rotation in its EXIF data; .*data\.exif: true.*data\.exif: false"):
                look("a", content, of(image_size=8))


@pytest.mark.parametrize("exif", [None, True, False])
def test_every_reader_turns_tiff_files_so_nothing_is_asked(exif):
    image = picture(12, 8)
    content = stored(image, "TIFF", tiffinfo={0x0112: 6})
    how = Decoding(None, exif=exif, asked="size").fitted("a", content)
    examine("a", content, how)
    np.testing.assert_array_equal(decode("a", content, how), np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_put_on_the_background_or_asked_about(mode):
    rgba = np.zeros((6, 6, 4), np.uint8)
    rgba[:3] = [200, 200, 200, 255]
    image = Image.fromarray(rgba)
    content = stored(image.convert(mode)) if mode != "P" else stored(image.convert("RGB").quantize(4), transparency=1)
    # the palette's second colour is transparent, which is one of the two halves
    top = mode == "P" and np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))[0, 0, 3] == 0
    white = decode("a", content, of(image_size=6, background="white"))
    blue = decode("a", content, of(image_size=6, background=[0, 0, 255]))
    hidden, clear = (slice(3), slice(3, 6)) if top else (slice(3, 6), slice(3))
    assert (white[hidden] == 255).all()
    assert (blue[hidden] == [0, 0, 255]).all()
    np.testing.assert_array_equal(white[clear], blue[clear])
    dropped = decode("a", content, of(image_size=6, background="drop"))
    np.testing.assert_array_equal(dropped, np.asarray(Image.open(io.BytesIO(content)).convert("RGB")))
    for look in (decode, examine):
        with pytest.raises(UnclearError, match=r"transparent in places .*data\.background: white"):
            look("a", content, of(image_size=6))


def test_an_opaque_alpha_channel_needs_no_background():
    image = picture(6, 6)
    content = stored(image.convert("RGBA"))
    examine("a", content, of(image_size=6))
    np.testing.assert_array_equal(decode("a", content, of(image_size=6)), np.asarray(image))


@pytest.mark.parametrize(("dtype", "top"), [(np.uint16, 65535), (np.int32, 1000), (np.float32, 4.0)])
def test_more_than_eight_bits_with_a_range_are_floats(dtype, top):
    values = (GENERATOR.random((6, 6)) * top).astype(dtype)
    content = stored(Image.fromarray(values), "TIFF")
    found = decode("a", content, of(image_size=6, range=[0, top]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.repeat(values[..., None] / top, 3, 2), atol=1e-6)
    with pytest.raises(UnclearError, match=r"more than 8 bits .*data\.range: \[0, 65535\]"):
        decode("a", content, of(image_size=6))
    with pytest.raises(UnclearError, match=r"has values from .*widen it"):
        decode("a", content, of(image_size=6, range=[0, top / 4]))
    with pytest.raises(UnclearError, match="has 8 bits a channel"):
        decode("a", stored(picture(6, 6)), of(image_size=6, range=[0, 255]))


def test_a_shape_that_is_not_the_networks_is_asked_about():
    assert decode("a", stored(picture(20, 40)), of(image_size=[20, 10])).shape == (20, 10, 3)
    for look in (decode, examine):
        with pytest.raises(UnclearError, match=r"has 30 x 20 pixels .* shape of 20 x 10; .*crop_mode: squash"):
            look("a", stored(picture(20, 30)), of(image_size=[20, 10]))
        with pytest.raises(UnclearError, match=r"has 30 x 20 pixels .*first one 8 x 8; .*data\.image_size"):
            look("a", stored(picture(20, 30)), Decoding((8, 8), asked="size"))
    assert decode("a", stored(picture(20, 30)), of(image_size=[20, 10], crop_mode="center")).shape == (20, 10, 3)


def test_films_are_asked_about_and_damaged_ones_named():
    frames = stored(picture(6, 6), "GIF", save_all=True, append_images=[picture(6, 6)])
    with pytest.raises(UnclearError, match="holds 2 pictures; save the one"):
        examine("a", frames, of(image_size=6))
    for look in (decode, examine):
        with pytest.raises(DataError, match=r"a cannot be decoded \(no format that is known\)"):
            look("a", b"GIF", of(image_size=6))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"resize": 256}, r"data\.resize needs data\.image_size"),
        ({"image_size": 8, "resize": 9, "crop_pct": 0.9}, "say the same"),
        ({"image_size": [8, 9], "crop_pct": 0.9}, "for square images"),
        ({"image_size": [8, 9, 3]}, r"neither a number of pixels nor \[height, width\]"),
        ({"image_size": 8, "background": "pink"}, "no background; expected black"),
        ({"image_size": 8, "background": [0, 0, 300]}, "no background"),
        ({"image_size": 8, "range": [5, 5]}, r"expected \[lowest, highest\]"),
        ({"image_size": 8, "channels": 1, "channel_order": "bgr"}, "for images of 3 channels"),
        ({"image_size": 8, "layout": "nchw"}, r"data\.layout belongs to data\.name: arrays, npz"),
        ({"image_size": 8, "split": "test", "train": "a"}, "there are no training images"),
    ],
)
def test_what_cannot_be_said_of_image_files(keys, words):
    with pytest.raises(ValueError, match=words):
        of(**keys)


def test_formats_for_which_pillow_starts_programs_are_not_opened(monkeypatch):
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "EpsImageFile", None)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n%%EOF\n"
    for read in (decode, examine):
        with pytest.raises(
            DataError, match=r"cat\.jpg cannot be decoded \(no format that is known\); replace or remove"
        ):
            read("cat.jpg", eps, of(image_size=8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "JPEG2000", "MPO"])
def test_every_usual_format_is_opened(kind):
    assert decode("a", stored(picture(8, 8), kind), of(image_size=8)).shape == (8, 8, 3)


def deep_png(depth: int, kind: int, channels: int) -> bytes:
    """8 x 8 pixels, by hand: Pillow writes no colours of 16 bits."""
    rows = b"".join(b"\0" + GENERATOR.bytes(8 * channels * depth // 8) for _ in range(8))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, depth, kind, 0, 0, 0)), (b"IDAT", zlib.compress(rows))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        for name, content in [*chunks, (b"IEND", b"")]
    )


@pytest.mark.parametrize(("kind", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_colours_of_16_bits_are_asked_about(kind, channels):
    for look in (decode, examine):
        with pytest.raises(UnclearError, match=r"has 16 bits a channel in .*, of which Pillow keeps 8"):
            look("a", deep_png(16, kind, channels), of(image_size=8, background="drop"))
    assert decode("a", deep_png(8, kind, channels), of(image_size=8, background="drop")).shape == (8, 8, 3)


def test_a_line_of_pixels_is_not_resized_to_billions():
    for look in (decode, examine):
        with pytest.raises(DataError, match=r"has 1 x 60000 pixels .* resized to 224 x 13440000, more than"):
            look("a", stored(picture(60_000, 1)), of(image_size=224))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_fast_look_at_a_png_asks_of_a_rotation_and_decodes_nothing_else(orientation, monkeypatch):
    """Wherever it stands in the file; what does not tell of one is not decoded to see."""
    loaded = []
    load = PngImagePlugin.PngImageFile.load
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: loaded.append(1) or load(self))
    tag = Image.Exif()
    tag[0x0112] = orientation
    before = stored(picture(8, 8), exif=tag)
    chunk = before[before.index(b"eXIf") - 4 :]
    chunk = chunk[: 12 + int.from_bytes(chunk[:4], "big")]
    plain = before.replace(chunk, b"")
    behind = plain[:-12] + chunk + plain[-12:]
    decoding.examine("a", io.BytesIO(plain), of(image_size=8), fast=True)
    assert loaded == []
    for content in (before, behind):
        if orientation == 6:
            with pytest.raises(UnclearError, match="rotation in its EXIF"):
                decoding.examine("a", io.BytesIO(content), of(image_size=8), fast=True)
        else:
            decoding.examine("a", io.BytesIO(content), of(image_size=8), fast=True)
