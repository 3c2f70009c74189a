"""Before hours are spent: the gates of a recipe that no network could pass with so many images are refused."""

from __future__ import annotations

from madx.errors import RecipeError
from madx.pipeline.chunks import gate_images
from madx.pipeline.context import Context
from madx.pipeline.engines import has_torch_model, roles
from madx.pipeline.stages import due
from madx.recipe import GateConfig
from madx.verify.feasible import Samples, explain, undecidable
from madx.verify.parity import PARITY_IMAGES
from madx.verify.sampling import BLOCK_CALLS, FEWEST_PAIRS


def samples(context: Context) -> Samples:
    """What the recipe's gates will have to go on; reads the data, for their classes."""
    gate, settings, images = context.splits.gate, context.recipe.verify, gate_images(context)
    return Samples(
        labels=gate.source.labels[gate.index],
        images=images,
        parity=min(PARITY_IMAGES, images),
        most_parity=PARITY_IMAGES,
        pairs=settings.latency.pairs or FEWEST_PAIRS,
        block_calls=settings.latency.block_calls or BLOCK_CALLS,
        sequential=settings.sequential,
    )


def judged_gates(context: Context) -> list[GateConfig]:
    """The gates that this verification has something to hold against: a file from outside may come alone."""
    reference, candidate = roles(context)
    without_network = not has_torch_model(context, candidate)
    return [
        gate
        for gate in context.recipe.verify.gates
        if not (gate.compares and reference is None) and not (gate.about.needs_twin and without_network)
    ]


def check_gates(context: Context, *, force: bool, again: bool = False) -> None:
    """Refuse gates that cannot pass even on the best data; with `force`, say so and go on.

    A verdict that is there already is shown whatever it says, unless it is asked for `again`; and engines are timed
    again (`--only latency`) beside whatever else was measured.

    Raises:
        RecipeError: a gate cannot pass, and nobody insists.
    """
    if context.only_latency or (not again and "verify" not in due(context)):
        return
    reasons = [explain(found) for found in undecidable(judged_gates(context), samples(context))]
    if not reasons:
        return
    told = "; ".join(f"verify.gates: {reason}" for reason in reasons)
    if not force:
        raise RecipeError(f"{told}. Change that, or give --force to measure all the same")
    context.progress.say(f"{told}. Measured all the same (--force)")
