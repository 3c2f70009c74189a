"""The gallery's pictures, read back with another decoder than the one that wrote them."""

import base64
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
import report_cases as cases
from accuracy_cases import gallery

from madx.report import gallery_views, render_html, render_markdown
from madx.verify import Gallery


def decoded(address):
    """The pixels [H, W, C] of a PNG, by the PNG specification alone: 8 bits, grey or RGB, no interlacing."""
    data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    stream, packed = io.BytesIO(data), b""
    assert stream.read(8) == b"\x89PNG\r\n\x1a\n"
    while head := stream.read(8):
        length, kind = struct.unpack(">I4s", head)
        body = stream.read(length)
        assert struct.unpack(">I", stream.read(4))[0] == zlib.crc32(kind + body)
        if kind == b"IHDR":
            width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, interlaced) == (8, 0)
            channels = {0: 1, 2: 3}[colour]
        packed += body if kind == b"IDAT" else b""
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(height, 1 + width * channels)
    return unfiltered(lines, channels).reshape(height, width, channels)


def unfiltered(lines, step):
    """The five filters of PNG (RFC 2083, section 6), byte by byte."""
    done = np.zeros((len(lines) + 1, lines.shape[1] - 1 + step), dtype=int)  # a row and a pixel of zeros before
    for row, (kind, *line) in enumerate(lines.tolist(), start=1):
        for place, value in enumerate(line, start=step):
            a, b, c = done[row, place - step], done[row - 1, place], done[row - 1, place - step]
            nearest = min((a, b, c), key=lambda near: abs(a + b - c - near))
            done[row, place] = (value + (0, a, b, (a + b) // 2, nearest)[kind]) % 256
    return done[1:, step:]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_a_picture_is_the_image(channels, smooth):
    image = np.random.default_rng(1).random((channels, 9, 7))
    image = np.sort(image, axis=2) if smooth else image
    np.testing.assert_array_equal(decoded(gallery_views.png(image)), np.round(255 * image).transpose(1, 2, 0))


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [
        ((1, 28, 28), (1, 28, 28)),
        ((3, 96, 96), (3, 96, 96)),
        ((3, 97, 97), (3, 48, 48)),
        ((3, 224, 160), (3, 74, 53)),
        ((2, 8, 8), (1, 8, 8)),
        ((4, 1, 1), (1, 1, 1)),
        ((1, 2, 500), (1, 1, 83)),
    ],
)
def test_large_images_become_means_of_squares(shape, drawn):
    image = np.random.default_rng(2).random(shape)
    small = gallery_views.shown(image)
    assert small.shape == drawn
    if shape == (3, 224, 160):
        np.testing.assert_allclose(small[1, 2, 3], image[1, 6:9, 9:12].mean())


def test_the_difference_uses_the_whole_range_around_grey():
    clean = np.full((1, 2, 2), 0.5)
    change = np.array([[[0.0, 0.02], [-0.01, 0.0]]])
    shown, gain = gallery_views.amplified(clean, clean + change)
    np.testing.assert_allclose(shown, [[[0.5, 1.0], [0.25, 0.5]]])
    assert gain == pytest.approx(25)
    assert gallery_views.amplified(clean, clean)[1] is None


def test_exhibits_are_the_lost_or_the_won_ones():
    shown = gallery(3, 2, side=8, start=40)
    lost, won = (gallery_views.exhibits(shown, ("zero", "one"), lost=sort) for sort in (True, False))
    assert [item.index for item in lost] == [40, 41, 42]
    assert [item.index for item in won] == [43, 44]
    assert (lost[1].label, lost[1].taken_for) == ("1 (one)", "4")
    np.testing.assert_array_equal(decoded(won[0].clean)[..., 0], np.round(255 * shown.clean[3, 0]))
    np.testing.assert_array_equal(decoded(won[0].adversarial)[..., 0], np.round(255 * shown.adversarial[3, 0]))


def test_the_largest_gallery_stays_below_its_bound():
    """Noise does not compress: no image can make the page larger."""
    whole = gallery(Gallery.LIMIT, Gallery.LIMIT, side=224 - 224 % 96, channels=3)
    addresses = [
        address
        for lost in (True, False)
        for item in gallery_views.exhibits(whole, (), lost=lost)
        for address in (item.clean, item.adversarial, item.difference)
    ]
    assert sum(map(len, addresses)) < 1.9e6


def with_gallery(shown):
    measured = cases.measurements()
    measured = replace(measured, accuracy=replace(measured.accuracy, gallery=shown))
    return cases.content((measured,), recipe={"name": "x", "data": {"name": "fashion-mnist"}})


def test_both_reports_show_what_was_lost_and_won():
    content = with_gallery(gallery(8, 4))
    page, text = render_html(content), render_markdown(content)
    assert page.count("<img ") == 3 * 12
    assert "<h4>Lost: 12 images</h4>" in page
    assert "<h4>Won: 4 images</h4>" in page
    assert "7 (sneaker) taken for 0 (T-shirt)" in page
    assert "| lost | 7 | 7 (sneaker) | 0 (T-shirt) |" in text
    assert "| won | 8 | 8 (bag) | 1 (trouser) |" in text


def test_what_was_wrong_clean_already_says_so():
    shown = gallery(1, 0)
    page = render_html(with_gallery(replace(shown, adversarial=shown.clean)))
    assert "wrong on the clean image already" in page
    assert "None." in page  # nothing was won in the gallery
