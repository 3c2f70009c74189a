"""Norm balls: where a perturbation may start, which way it steps, and how it comes back into the ball.

Perturbations are float32 [B, ...]; every operation is per image of the batch.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

_TINY = 1e-12


class Norm(Protocol):
    """The geometry of one threat model."""

    def start(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """A random perturbation, uniform in the ball of radius `eps`, shaped as `like`."""
        ...

    def direction(self, gradient: Tensor) -> Tensor:
        """The unit perturbation along which a linear loss with this gradient rises fastest."""
        ...

    def project(self, perturbation: Tensor, eps: float) -> Tensor:
        """The nearest perturbation inside the ball of radius `eps`."""
        ...

    def size(self, perturbation: Tensor) -> Tensor:
        """The norm of each image's perturbation, [B]."""
        ...


class Linf:
    """Largest absolute change of any pixel."""

    def start(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Uniform in the cube."""
        return (_uniform(like, generator) * 2 - 1) * eps

    def direction(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        return gradient.sign()

    def project(self, perturbation: Tensor, eps: float) -> Tensor:
        """Clamp every pixel."""
        return perturbation.clamp(-eps, eps)

    def size(self, perturbation: Tensor) -> Tensor:
        """Largest absolute value, [B]."""
        return perturbation.flatten(1).abs().amax(1)


class L2:
    """Euclidean length of the change of the whole image."""

    def start(self, like: Tensor, eps: float, generator: torch.Generator) -> Tensor:
        """Uniform in the ball: a Gaussian direction times a radius U^(1/d)."""
        noise = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
        dimensions = like.shape[1:].numel()
        radius = torch.rand(len(like), generator=generator, dtype=like.dtype).to(like.device) ** (1 / dimensions)
        return self.direction(noise) * per_image(radius, like) * eps

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient over its own length; an image with a zero gradient stays where it is."""
        # Scaled first: the squares of a saturated network's tiny gradient underflow, and the attack would stand still.
        largest = gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        scaled = gradient / per_image(largest, gradient)
        return scaled / per_image(self.size(scaled).clamp_min(_TINY), scaled)

    def project(self, perturbation: Tensor, eps: float) -> Tensor:
        """Shrink to the sphere what lies outside of it."""
        scale = (eps / self.size(perturbation).clamp_min(_TINY)).clamp_max(1)
        return perturbation * per_image(scale, perturbation)

    def size(self, perturbation: Tensor) -> Tensor:
        """Euclidean length, [B]."""
        length: Tensor = torch.linalg.vector_norm(perturbation.flatten(1), dim=1)
        return length


_NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


def norm_named(name: str) -> Norm:
    """The norm that a recipe's `threat.norm` names."""
    return _NORMS[name]


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """U(0, 1) from the CPU generator, so that every device sees the same numbers."""
    return torch.rand(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def inside(norm: Norm, point: Tensor, images: Tensor, eps: float) -> Tensor:
    """`point` [B, ...] brought back into the ball around `images`, and into the box [0, 1]."""
    # In this order: the images are in the box, so clamping to it makes no perturbation larger.
    return (images + norm.project(point - images, eps)).clamp(0, 1)


def per_image(values: Tensor, like: Tensor) -> Tensor:
    """[B] -> [B, 1, ..., 1] to multiply with `like`."""
    return values.view(-1, *([1] * (like.dim() - 1)))
