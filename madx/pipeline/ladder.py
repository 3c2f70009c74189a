"""The attribution ladder of an engine: which step from the dense fp32 engine to the deployed one bought what.

Rungs follow one order: dense fp32, channels removed, the engine's precision, zeros among the weights (2:4 or single
ones). A rung that the recipe lists is the run's own engine; the others are exported and built here, in memory: they
are timed, never judged, and no file of theirs is left where a gate could find it.
"""

from __future__ import annotations

from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Literal

from torch import nn

from madx.deploy.engine import Engine, backend
from madx.errors import EngineError, ExportError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.exporting import checked_onnx
from madx.pipeline.timed_images import Shown, timed_images
from madx.prune import fill_zeros_, removes_channels
from madx.recipe import EngineConfig, PruneConfig
from madx.seeds import torch_generator
from madx.verify import Ladder, Timer, measure_ladder

_REMOVED = {
    "unstructured": "single weights removed",
    "channels": "channels removed",
    "2:4": "2:4",
    "channels+2:4": "channels removed and 2:4",
}
FEWEST = 3
"""Rungs that are worth a ladder: two are the engines whose speed-up is measured anyway."""


@dataclass(frozen=True)
class Rung:
    """One engine of the ladder: a network at a precision."""

    network: Literal["dense", "filled", "pruned"]
    """The run's own two, or the pruned one's shapes without a zero among the weights."""
    precision: str
    removed: str = "dense"
    """What was removed so far, in words."""

    @property
    def name(self) -> str:
        """As the report shows it."""
        return f"{self.removed}, {self.precision}"


def rungs(prune: PruneConfig, precision: str) -> tuple[Rung, ...]:
    """From the dense network in fp32 to the pruned one at `precision`, each a single step further.

    The network before its zeros are set is needed for its timing alone: `filled` has its shapes, and how long an engine
    takes hangs on these and on zeros that a runtime can skip, not on what the weights have learned.
    """
    found = [Rung("dense", "fp32")]
    if removes_channels(prune):
        found.append(Rung("pruned" if prune.structure == "channels" else "filled", "fp32", _REMOVED["channels"]))
    before = found[-1]
    if precision != "fp32":
        found.append(Rung(before.network, precision, before.removed))
    if prune.structure != "channels":
        found.append(Rung("pruned", precision, _REMOVED[prune.structure]))
    return tuple(found)


def ladder(context: Context, config: EngineConfig) -> Ladder | None:
    """Timed in one session; None where the recipe wants none, or fewer than `FEWEST` rungs lead to this engine.

    Raises:
        EngineError: the engine itself does not work.
    """
    settings = context.recipe.verify.latency
    *below, deployed = rungs(context.recipe.prune, config.precision)
    if not settings.ladder or len(below) + 1 < FEWEST:
        return None
    shown = timed_images(context, settings.batch)
    with ExitStack() as stack:
        top = stack.enter_context(closing(_engine(context, config, deployed)))
        found: dict[str, Timer] = {}
        missing: dict[str, str] = {}
        for rung in below:
            try:
                found[rung.name] = _timer(stack.enter_context(closing(_engine(context, config, rung))), top, shown)
            except (EngineError, ExportError) as error:
                missing[rung.name] = str(error)
                context.progress.say(f"{config.name}: the ladder lacks the rung {rung.name}: {error}")
        if not found:
            return None
        context.progress.say(f"timing {len(found) + 1} rungs of the ladder, up to {settings.seconds:g} s")
        timers = found | {deployed.name: top.timer(shown.images, shown.rows)}
        return measure_ladder(
            timers,
            config=settings,
            seed=context.recipe.seed,
            timing=top.timing,
            missing=missing,
            images=len(shown.rows),
        )


def _timer(engine: Engine, top: Engine, shown: Shown) -> Timer:
    """Of a rung's engine.

    Raises:
        EngineError: it is timed otherwise than `top`, or cannot be.
    """
    if engine.timing != top.timing:
        raise EngineError(f"it is timed as {engine.timing!r}, the engine as {top.timing!r}")
    return engine.timer(shown.images, shown.rows)


def _engine(context: Context, config: EngineConfig, rung: Rung) -> Engine:
    """The run's own where it has one, else built now.

    Raises:
        ExportError: the network cannot be exported at this precision.
        EngineError: the engine cannot be built or run here.
    """
    wanted = config.model_copy(update={"precision": rung.precision})
    payload = _own(context, wanted, rung) or _built(context, wanted, rung)
    return backend(wanted.kind).load(payload, wanted)


def _own(context: Context, wanted: EngineConfig, rung: Rung) -> bytes | None:
    """The bytes of an engine that differs from the wanted one in `verify` at most, if the run has built it."""
    for engine in context.recipe.export.engines:
        same = engine.model_copy(update={"verify": wanted.verify}) == wanted
        if same and rung.network != "filled" and engine.precision_of(rung.network) == rung.precision:
            file = files.recorded(context.read_json(files.build(engine)), rung.network)
            return context.read_bytes(file) if file else None
    return None


def _built(context: Context, wanted: EngineConfig, rung: Rung) -> bytes:
    context.progress.say(f"building the rung {rung.name} of the ladder to {wanted.kind}")
    artifact = checked_onnx(context, _network(context, rung), rung.precision)
    return backend(wanted.kind).build(artifact, wanted, batch=context.recipe.verify.latency.batch).payload


def _network(context: Context, rung: Rung) -> nn.Module:
    if rung.network == "dense":
        return context.dense_model()
    module = context.pruned_model()
    if rung.network == "filled":
        fill_zeros_(module, generator=torch_generator(context.recipe.seed, "ladder"))
    return module
