"""Images as inline PNGs, and the gallery made of them: what only one engine kept, and what turned it on the other.

A picture has at most 96 pixels a side, so the three of an exhibit take at most 83 kB before compression even in
colour, and a whole gallery (`Gallery.LIMIT` of each sort) less than 1.9 MB of page whatever is in it.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from madx.verify import Gallery

LARGEST = 96
"""Pixels of a side."""
_COARSE = 64
"""Pictures with a smaller side are shown with their pixels as squares."""


@dataclass(frozen=True)
class Exhibit:
    """One image in three pictures."""

    index: int
    """Its place in the source."""
    label: str
    taken_for: str
    clean: str
    """A data URI, as the next two."""
    adversarial: str
    difference: str
    """Grey where nothing changed, lighter where a value rose, darker where it fell."""
    gain: float | None
    """How much the difference is amplified; None if there is none, as the clean image was wrong already."""
    coarse: bool


def exhibits(gallery: Gallery, names: tuple[str, ...], *, lost: bool) -> tuple[Exhibit, ...]:
    """What only the reference kept (`lost`), or only the candidate; `names` of the classes, as far as known."""
    return tuple(_exhibit(gallery, int(row), names) for row in np.flatnonzero(gallery.lost == lost))


def class_name(number: int, names: tuple[str, ...]) -> str:
    """The number, and the name if it has one: "7 (sneaker)"."""
    return f"{number} ({names[number]})" if 0 <= number < len(names) else str(number)


def png(image: NDArray[np.floating]) -> str:
    """An image [C, H, W] in [0, 1], of one or three channels, as a data URI."""
    pixels = np.round(255 * image).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0))
    picture.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def shown(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """An image [C, H, W] as it is drawn: grey or RGB, and means over squares of pixels if it is large."""
    channels, height, width = image.shape
    drawn = image.astype(np.float64)
    if channels not in (1, 3):
        drawn = drawn.mean(axis=0, keepdims=True)
    side = -(-max(height, width) // LARGEST)
    rows, columns = max(height // side, 1), max(width // side, 1)
    drawn = drawn[:, : rows * side, : columns * side]
    squares = drawn.reshape(len(drawn), rows, drawn.shape[1] // rows, columns, drawn.shape[2] // columns)
    means: NDArray[np.float64] = squares.mean(axis=(2, 4))
    return means


def amplified(clean: NDArray[np.float64], adversarial: NDArray[np.float64]) -> tuple[NDArray[np.float64], float | None]:
    """The change around middle grey, so that the largest one is white or black; and by how much it was stretched."""
    change = adversarial - clean
    largest = float(np.abs(change).max())
    if largest == 0:
        return np.full_like(change, 0.5), None
    return 0.5 + change * (0.5 / largest), 0.5 / largest


def _exhibit(gallery: Gallery, row: int, names: tuple[str, ...]) -> Exhibit:
    clean, adversarial = shown(gallery.clean[row]), shown(gallery.adversarial[row])
    difference, gain = amplified(clean, adversarial)
    return Exhibit(
        index=int(gallery.index[row]),
        label=class_name(int(gallery.labels[row]), names),
        taken_for=class_name(int(gallery.taken_for[row]), names),
        clean=png(clean),
        adversarial=png(adversarial),
        difference=png(difference),
        gain=gain,
        coarse=max(gallery.clean.shape[2:]) < _COARSE,
    )
