"""How the Square attack starts and what it tries next, in L-inf (algorithm 2 of arXiv 1912.00049) and L2 (algorithm 3).

Images, best points and proposals are float32 [b, C, H, W]. A window is a square of one image: its top rows and left
columns are int64 [b], its side is the same for all images of a query. A proposal may leave the box; the search brings
it back.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from madx.attacks.norms import per_image

_TINY = 1e-12


class Draw(Protocol):
    """Uniform random numbers in [0, 1) for the images that still stand."""

    def __call__(self, *shape: int) -> Tensor:
        """[b, *shape]."""
        ...


class Moves(Protocol):
    """The geometry of the random search in one norm."""

    def start(self, images: Tensor, eps: float, draw: Draw) -> Tensor:
        """The first point of each image."""
        ...

    def propose(self, images: Tensor, best: Tensor, *, share: float, eps: float, draw: Draw) -> Tensor:
        """The best point of each image with another perturbation in a square of about `share` of its area."""
        ...


class LinfMoves:
    """Every pixel is moved by eps; in a square all pixels of a channel are moved the same way."""

    def start(self, images: Tensor, eps: float, draw: Draw) -> Tensor:
        """Vertical stripes, one pixel wide."""
        _, channels, _, width = images.shape
        return images + eps * _signs(draw(channels, 1, width))

    def propose(self, images: Tensor, best: Tensor, *, share: float, eps: float, draw: Draw) -> Tensor:
        """A square with a random sign for each channel."""
        _, channels, height, width = images.shape
        side = min(max(round((share * height * width) ** 0.5), 1), height, width)
        window, *_ = _window(images, side, draw(2))
        signs = _signs(draw(channels, 1, 1))
        proposal = torch.where(window, (images + eps * signs).clamp(0, 1), best)
        # A square that changes nothing would waste a query; with its signs turned it changes every pixel.
        idle = (proposal - best).flatten(1).abs().amax(1) < 1e-3 * eps
        turned = torch.where(per_image(idle, signs), -signs, signs)
        return torch.where(window, (images + eps * turned).clamp(0, 1), best)


class L2Moves:
    """The perturbation's energy is carried from a second square into the first, in the shape of a bump."""

    def start(self, images: Tensor, eps: float, draw: Draw) -> Tensor:
        """Bumps with random signs on a grid of five by five squares, eps long."""
        count, channels, height, width = images.shape
        side = max(min(height, width) // 5, 1)
        row, column = _cells(height, side, images.device), _cells(width, side, images.device)
        tiles = (height // side) * (width // side)
        tile = (row.clamp(0) // side)[:, None] * (width // side) + (column.clamp(0) // side)[None, :]
        lying = (draw(tiles) < 0.5)[:, tile]
        r, c = (row % side)[:, None].expand(height, width), (column % side)[None, :].expand(height, width)
        bumps = bump(side).to(images)[torch.where(lying, c, r), torch.where(lying, r, c)]
        bumps = bumps * ((row >= 0)[:, None] & (column >= 0)[None, :])
        signs = _signs(draw(channels, tiles))[:, :, tile.flatten()].view(count, channels, height, width)
        return images + eps * _unit(signs * bumps[:, None], (1, 2, 3))

    def propose(self, images: Tensor, best: Tensor, *, share: float, eps: float, draw: Draw) -> Tensor:
        """A new bump on top of what is in the first square, with the energy of both squares and what is unused."""
        _, channels, height, width = images.shape
        side = max(round((share * height * width) ** 0.5), 3)
        side = min(side + 1 - side % 2, height, width)
        first, row, column = _window(images, side, draw(2))
        second, *_ = _window(images, side, draw(2))
        lying = (draw(1) < 0.5)[:, :, None]
        shape = bump(side).to(images)[torch.where(lying, column, row), torch.where(lying, row, column)][:, None]
        change = best - images
        unused = (eps**2 - change.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
        energy = (change * (first | second)).square().sum((2, 3), keepdim=True) + unused / channels
        new = _unit(change * first, (2, 3)) + _signs(draw(channels, 1, 1)) * shape * first
        moved = torch.where(first, _unit(new, (2, 3)) * energy.sqrt(), change * ~second)
        return images + eps * _unit(moved, (1, 2, 3))


def bump(side: int) -> Tensor:
    """The update of algorithm 3, [side, side], of length 1: a bump in the upper half, minus one in the lower half."""
    half = side // 2
    upper, lower = _centred(half, side), _centred(side - half, side)
    return _unit(torch.cat([upper, -lower]), (0, 1))


def _centred(height: int, width: int) -> Tensor:
    """Nested squares around the middle, the one of radius k adding 1 / (k + 1)^2; [height, width], of length 1."""
    row, column = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    distance = torch.maximum(row.abs()[:, None], column.abs()[None, :])
    rings = 1 / torch.arange(1, max(height, width) // 2 + 2).float() ** 2
    outwards = rings.flip(0).cumsum(0).flip(0)
    return _unit(outwards[distance], (0, 1))


def _window(images: Tensor, side: int, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One square of each image as bool [b, 1, H, W], anywhere in it; and each pixel's row [b, H, W] and column therein.

    Rows and columns of pixels outside are those of the nearest pixel inside.
    """
    height, width = images.shape[2:]
    corner = (place * torch.tensor([height - side + 1, width - side + 1], device=place.device)).long()
    row = torch.arange(height, device=images.device) - corner[:, :1]
    column = torch.arange(width, device=images.device) - corner[:, 1:]
    across, along = (row >= 0) & (row < side), (column >= 0) & (column < side)
    shape = (len(images), height, width)
    return (
        (across[:, :, None] & along[:, None, :])[:, None],
        row.clamp(0, side - 1)[:, :, None].expand(shape),
        column.clamp(0, side - 1)[:, None, :].expand(shape),
    )


def _cells(length: int, side: int, device: torch.device) -> Tensor:
    """Position of each pixel on a centred row of whole squares, int64 [length]; -1 where it is on none of them."""
    whole = length // side * side
    place = torch.arange(length, device=device) - (length - whole) // 2
    return place.masked_fill((place < 0) | (place >= whole), -1)


def _signs(uniform: Tensor) -> Tensor:
    """-1 or 1, each as often."""
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _unit(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Divided by the Euclidean length over `dims`; what is zero stays zero."""
    return values / values.square().sum(dims, keepdim=True).sqrt().clamp_min(_TINY)
