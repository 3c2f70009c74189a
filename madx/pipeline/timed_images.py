"""The images that engines are timed on: many of the gate's, drawn at random, and perturbed copies of them.

An engine may be fast for one image, for clean ones, or for those that it knows; what is timed is what will be served.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest
from madx.pipeline.examples import examples_on
from madx.recipe import AttackConfig
from madx.seeds import numpy_generator
from madx.verify import Images
from madx.verify.projection import project

IMAGES = 256
"""Gate images that batches are drawn from, at most."""
_BATCHES = 64
"""Clean batches, and as many of perturbed images."""
ATTACK = AttackConfig(steps=5, relative_step=2.5)


@dataclass(frozen=True)
class Shown:
    """The images that engines are timed on: batches of gate images, and of perturbed copies of them."""

    images: Images
    """[2 N, C, H, W]: N images, then their copies."""
    rows: NDArray[np.intp]
    """[M, B] images of each batch, the clean ones first."""
    clean: int
    """How many batches are clean."""


def timed_images(context: Context, batch: int, candidate: EngineUnderTest | None = None) -> Shown:
    """Batches that are drawn from the gate's images, and as many of perturbed copies.

    The copies are adversarial examples made on the candidate's torch twin; without one, every pixel is moved by the
    radius of the threat, up or down at random, as far as an L-infinity attack may.
    """
    images, labels = context.splits.gate.tensors(0, IMAGES)
    draws = numpy_generator(context.recipe.seed, "timed")
    if candidate is not None and candidate.torch_model is not None:
        others = examples_on(context, candidate.torch_model, images, labels, attack=ATTACK, stream=("timed",)).numpy()
    else:
        moved = images.numpy() + context.recipe.threat.eps * draws.choice([-1.0, 1.0], size=tuple(images.shape))
        others = project(moved.astype(np.float32), images.numpy(), context.recipe.threat).images
    rows = draws.integers(len(images), size=(_BATCHES, batch))
    return Shown(np.concatenate([images.numpy(), others]), np.concatenate([rows, rows + len(images)]), _BATCHES)
