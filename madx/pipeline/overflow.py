"""Whether an export of lower precision holds at the edges of what it may be shown, and where it breaks if it does not.

A few usual images say little of float16's range: attacks drive values up, and so do images that no data set has. So the
file is computed with every node rounded (`madx.deploy.rounded`), as hardware of that precision does, on clean,
adversarial and extreme images, and held against torch. Only selection images are looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from madx.closeness import apart, rounding_of
from madx.deploy.check import OnnxArtifact
from madx.deploy.engine import Engine, backend
from madx.deploy.rounded import first_overflow, rounded
from madx.errors import ExportError
from madx.pipeline.context import Context
from madx.pipeline.examples import examples_on
from madx.precisions import PRECISIONS
from madx.recipe import AttackConfig, EngineConfig
from madx.seeds import numpy_generator
from madx.verify import Images
from madx.verify.arrays import Bools

_RANDOM = 16
"""Images of random pixels that are 0 or 1."""
_ATTACKED = 16
"""Images that are attacked without a bound."""
_BATCH = 64
_UNBOUNDED = AttackConfig(steps=10)
Logits = Callable[[Images], Images]


def extreme_images(shape: tuple[int, int, int]) -> dict[str, Images]:
    """Images that no data set has and every camera may: [n, C, H, W] in [0, 1], by what they are."""
    _, height, width = shape
    fine = (np.indices((height, width)).sum(0) % 2).astype(np.float32)
    coarse = (np.indices((height, width)) // 4).sum(0).astype(np.float32) % 2
    boards = np.stack([fine, 1 - fine, coarse, 1 - coarse])[:, None]
    draws = numpy_generator(0, "extreme images")
    return {
        "black": np.zeros((1, *shape), np.float32),
        "white": np.ones((1, *shape), np.float32),
        "checkerboard": np.broadcast_to(boards, (4, *shape)).astype(np.float32),
        "random black and white": draws.integers(0, 2, (_RANDOM, *shape)).astype(np.float32),
    }


def check_range(
    context: Context, module: nn.Module, artifact: OnnxArtifact, reference: Logits, clean: Images, adversarial: Images
) -> dict[str, Any]:
    """Hold a file of lower precision against torch where its range ends; JSON-ready, what was tried and found.

    Raises:
        ExportError: logits are no numbers, or not the network's; it names the first node whose output overflows.
    """
    with_bound = {"clean": clean, "adversarial": adversarial}
    sets = with_bound | {"attacked without a bound": _unbounded(context, module)} | extreme_images(artifact.input_shape)
    engine = backend("ort-cpu").load(rounded(artifact.payload, artifact.precision), EngineConfig(kind="ort-cpu"))
    try:
        return _checked(artifact, engine, reference, sets)
    finally:
        engine.close()


def _unbounded(context: Context, module: nn.Module) -> Images:
    """Selection images attacked with every image allowed: what the network can be driven to at most."""
    images, labels = context.splits.selection.tensors(0, _ATTACKED)
    widest = 1.0 if context.recipe.threat.norm == "linf" else float(images[0].numel()) ** 0.5
    threat = context.recipe.threat.model_copy(update={"eps": widest})
    found: Tensor = examples_on(context, module, images, labels, attack=_UNBOUNDED, stream=("overflow",), threat=threat)
    return found.numpy()


def _checked(artifact: OnnxArtifact, engine: Engine, reference: Logits, sets: dict[str, Images]) -> dict[str, Any]:
    usual, precision = reference(sets["clean"]), artifact.precision
    worst, undefined = 0.0, 0
    for name, images in sets.items():
        found, expected = _in_batches(engine, images), _in_batches(reference, images)
        judged = np.isfinite(expected).all(axis=1)  # where torch has no logits either, precision is not to blame
        undefined += int((~judged).sum())
        lost = judged & ~np.isfinite(found).all(axis=1)
        off = np.zeros(len(images))
        numbers = judged & ~lost
        if numbers.any():
            off[numbers] = apart(found[numbers], expected[numbers], rounding=rounding_of(precision), usual=usual)
        if lost.any() or off.max() > 1:
            raise ExportError(_broken(artifact, name, images, np.asarray(lost), off))
        worst = max(worst, float(off.max()))
    return {
        "rounded_images": {name: len(images) for name, images in sets.items()},
        "rounded_apart": worst,
        "undefined_in_torch": undefined,
    }


def _in_batches(classifier: Logits | Engine, images: Images) -> Images:
    parts = [classifier(images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return np.concatenate([np.array(part) for part in parts])


def _broken(artifact: OnnxArtifact, name: str, images: Images, lost: Bools, off: NDArray[np.float64]) -> str:
    """What became of the logits on which images, the first node to blame, and what to do."""
    precision, worst = artifact.precision, int(np.argmax(np.where(lost, np.inf, off)))
    what = (
        f"its logits are NaN or infinite on {int(lost.sum())} of {len(images)} images"
        if lost.any()
        else f"its logits differ from torch's by up to {off.max():.3g} times what rounding explains"
    )
    overflow = first_overflow(artifact.payload, precision, images[worst : worst + 1])
    if overflow is None:
        where = "no node overflows there, so it is rounding that adds up, or a constant that was changed"
        where += f" ({'; '.join(artifact.notes)})" if artifact.notes else ""
    else:
        gives = f"gives up to {overflow.largest:.3g}" if np.isfinite(overflow.largest) else "gives no number"
        where = (
            f"the first node whose output overflows is {overflow.node!r} ({overflow.operator}): it {gives}, and "
            f"{precision} ends at {PRECISIONS[precision].largest:g}"
        )
    return (
        f"the network does not hold in {precision}: computed with every node rounded as a GPU does, {what} ({name}); "
        f"{where}. Take precision: fp32 for this engine (export.engines), or bring what goes into that node into range "
        "(a normalisation before it, smaller weights, a division that comes earlier)"
    )
