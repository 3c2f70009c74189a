"""A file from outside is tried before it is judged: at which batches it answers, and what its answers look like.

What a file declares of its batch is often not so: a Reshape inside may know one image alone. And nothing in a file says
for certain that its output is probabilities; its answers do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from madx.deploy.interface import Form, Interface
from madx.errors import EngineError, ExportError

if TYPE_CHECKING:
    from madx.deploy.engine import Engine, Images

_TRIED = 3
"""Images of the first call: not 1, which is what most files that know one batch know."""
_OTHERS = 2
"""Images of another call: a file that takes any number of them does not know three alone."""
_USUAL_BATCHES = (1, 2, 3, 4, 8, 16, 32, 64, 128)
_ROW_SUM_TOLERANCE = 0.02
"""Of probabilities that were quantised to 8 bits, too."""


def tried(
    load: Callable[[Interface], Engine],
    interface: Interface,
    *,
    form: Form | None = None,
    others: Sequence[Interface] = (),
    batches: Sequence[int] = (),
) -> Interface:
    """The interface with the layout and the batch that the file really takes, and with what it gives.

    Args:
        load: the engine, fed as an interface says.
        interface: as the file and the recipe have it.
        form: what the recipe says of its output; None: what it looks like.
        others: interfaces of other layouts, for a file that refuses the first one.
        batches: numbers of images that the file speaks of, tried after the usual ones.

    Raises:
        EngineError: the runtime does not load the file.
        ExportError: it answers at no usual batch, or not with a score for each class, or not with what the recipe says.
    """
    images = np.random.default_rng(0).random((_TRIED, *interface.shape), dtype=np.float32)
    layouts = [replace(one, form="logits") for one in (interface, *others)]
    found, problem = _first_that_answers(load, layouts, images)
    if found is None and interface.batch is None:
        more = dict.fromkeys((*_USUAL_BATCHES, *batches))
        found, _ = _first_that_answers(load, [replace(one, batch=batch) for batch in more for one in layouts], images)
    if found is None:
        raise ExportError(f"it does not answer {_TRIED} images: {problem}") from problem
    fed, output = found
    looks: Form = "probabilities" if _are_probabilities(output) else "logits"
    if form == "probabilities" != looks:
        raise ExportError(_no_probabilities(output))
    return replace(fed, form=form or looks)


def _no_probabilities(output: Images) -> str:
    """Why the recipe's word is not taken: below zero, the logarithm would be one number for whatever comes."""
    given = (
        "verify.output (or reference_output) says form: probabilities, and the file's answers to random images are "
        f"from {output.min():.3g} to {output.max():.3g}, with rows that sum to {output.sum(axis=1).min():.3g} to "
        f"{output.sum(axis=1).max():.3g}; "
    )
    if _are_probabilities(np.exp(np.minimum(output, 1.0))):
        return given + "they are logarithms of probabilities (log-softmax), which are logits: leave out form"
    return (
        given
        + "probabilities of classes are in [0, 1] and sum to 1: leave out form, or export the softmax's output (a "
        "sigmoid's scores are no probabilities of one class; export what goes into it)"
    )


def _first_that_answers(
    load: Callable[[Interface], Engine], interfaces: Iterable[Interface], images: Images
) -> tuple[tuple[Interface, Images] | None, EngineError | None]:
    """The first interface that works, and the answers; or None and why the first one does not."""
    problem = None
    for fed in interfaces:
        engine = load(fed)
        try:
            output = engine(images)
            if fed.batch is None:
                engine(images[:_OTHERS])
            return (fed, output), None
        except EngineError as error:
            problem = problem or error
        finally:
            engine.close()
    return None, problem


def _are_probabilities(output: Images) -> bool:
    """Numbers of logits that sum to one in every row, and are in [0, 1], by chance, are of no network."""
    inside = bool(output.min() >= 0 and output.max() <= 1 + _ROW_SUM_TOLERANCE)
    return inside and bool(np.abs(output.sum(axis=1) - 1).max() < _ROW_SUM_TOLERANCE)
