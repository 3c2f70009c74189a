"""Back into the threat: what an attack returns is never trusted.

Written apart from the attacks' own projection and in float64, so that the checker does not share the producer's
errors. Images are float32 [B, C, H, W] in [0, 1], eps in the same unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.errors import MadxError
from madx.recipe.threat import ThreatConfig
from madx.verify.contract import Images

Doubles = NDArray[np.float64]

_SHRINKING_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Projected:
    """Examples that obey the threat, and how far the given ones did not."""

    images: Images
    """[B, C, H, W] within eps of the clean images (in float64 arithmetic) and within [0, 1]."""
    overrun: float
    """How far the worst given example lay outside the ball or outside [0, 1], in units of eps; 0.0 when float32
    rounding explains it."""


def project(examples: Images, images: Images, threat: ThreatConfig) -> Projected:
    """Bring `examples` into the ball around `images` and into [0, 1].

    The result is inside although it is float32: bounds are rounded inwards. max |x' - x| <= eps (1 + 1e-6) holds for
    both norms.

    Raises:
        MadxError: if the examples have another shape than the images, or are not finite.
    """
    if examples.shape != images.shape:
        raise MadxError(f"an attack returned shape {list(examples.shape)} for images {list(images.shape)}")
    if not np.isfinite(examples).all():
        raise MadxError("an attack returned NaN or infinite pixels; expected images in [0, 1]")
    x, given = images.astype(np.float64), examples.astype(np.float64)
    inside = _into_cube(given, x, threat.eps) if threat.norm == "linf" else _into_sphere(given, x, threat.eps)
    return Projected(images=inside, overrun=_overrun(given, x, threat))


def perturbation_size(examples: NDArray[np.floating], images: NDArray[np.floating], norm: str) -> Doubles:
    """The norm of each image's perturbation, [B], in float64."""
    change = (examples.astype(np.float64) - images.astype(np.float64)).reshape(len(images), -1)
    size: Doubles = np.abs(change).max(axis=1) if norm == "linf" else np.sqrt((change**2).sum(axis=1))
    return size


def _into_cube(given: Doubles, x: Doubles, eps: float) -> Images:
    low = _round(np.maximum(x - eps, 0), up=True)
    high = _round(np.minimum(x + eps, 1), up=False)
    return np.clip(given.astype(np.float32), low, high)


def _round(bound: Doubles, *, up: bool) -> Images:
    """The nearest float32 on the inner side of the bound; x itself is float32, so it stays inside."""
    nearest = bound.astype(np.float32)
    outside = nearest < bound if up else nearest > bound
    inner: Images = np.where(outside, np.nextafter(nearest, np.float32(1 if up else 0)), nearest)
    return inner


def _into_sphere(given: Doubles, x: Doubles, eps: float) -> Images:
    """Box first, then shrink towards x: the box is convex and holds x, so shrinking cannot leave it."""
    change = np.clip(given, 0, 1) - x
    scale = np.ones(len(x))
    for step in range(_SHRINKING_ROUNDS):  # once for the ball, again only where rounding to float32 stuck out
        images: Images = (x + change * scale[:, None, None, None]).astype(np.float32)
        size = perturbation_size(images, x, "l2")
        outside = size > eps
        if not outside.any():
            return images
        # By more each time: what is less than float32 resolves moves no pixel, and x itself would be no example.
        scale[outside] *= eps / size[outside] * (1 - 1e-7 * 8**step)
    images[outside] = x[outside].astype(np.float32)  # an eps below float32's resolution: only x itself is inside
    return images


def _overrun(given: Doubles, x: Doubles, threat: ThreatConfig) -> float:
    """Float32 leaves about 1e-7 per pixel and 1e-5 of a norm; what is beyond that is the attack's fault."""
    outside_ball = float((perturbation_size(given, x, threat.norm) - threat.eps).max())
    outside_box = float(max(-given.min(), given.max() - 1))
    excess = max(outside_ball, outside_box)
    return excess / threat.eps if excess > 1e-6 + 1e-5 * threat.eps else 0.0
