"""The attribution ladder of an engine: which step from the dense fp32 engine to the pruned one bought what.

Its rungs are engines that the run has built anyway, of the same runtime: a recipe that wants to know what a lower
precision bought lists the runtime in fp32 too.
"""

from __future__ import annotations

from contextlib import ExitStack, closing

from madx.deploy.engine import Engine, backend
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.recipe import EngineConfig
from madx.verify import Ladder, measure_ladder

_REMOVED = {
    "unstructured": "single weights removed",
    "channels": "channels removed",
    "2:4": "2:4",
    "channels+2:4": "channels removed and 2:4",
}


def ladder(context: Context, config: EngineConfig) -> Ladder | None:
    """Timed in one session; None for an engine that no other of the run leads up to.

    Raises:
        EngineError: an engine does not work.
    """
    full = _full_precision(context, config)
    if full is None:
        return None
    pruned = _REMOVED[context.recipe.prune.structure]
    with ExitStack() as stack:
        rungs = {
            f"dense, {full.precision}": stack.enter_context(closing(_load(context, full, "dense"))),
            f"{pruned}, {full.precision}": stack.enter_context(closing(_load(context, full, "pruned"))),
            f"{pruned}, {config.precision}": stack.enter_context(closing(_load(context, config, "pruned"))),
        }
        return _timed(context, config, rungs)


def _timed(context: Context, config: EngineConfig, rungs: dict[str, Engine]) -> Ladder | None:
    settings = context.recipe.verify.latency
    timings = {engine.timing for engine in rungs.values()}
    if len(timings) > 1:
        context.progress.say(f"{config.name}: no ladder, its rungs are timed differently: {sorted(timings)}")
        return None
    images = context.splits.gate.tensors(0, settings.batch)[0].numpy()
    context.progress.say(f"{config.name}: timing {len(rungs)} rungs, up to {settings.seconds:g} s")
    timers = {name: engine.timer(images) for name, engine in rungs.items()}
    return measure_ladder(timers, config=settings, seed=context.recipe.seed, timing=timings.pop())


def _full_precision(context: Context, config: EngineConfig) -> EngineConfig | None:
    """The engine of the same runtime in fp32, if the recipe has it, this is another, and it was built."""
    for other in context.recipe.export.engines:
        same = (other.kind, other.precision, other.threads) == (config.kind, "fp32", config.threads)
        if same and config.precision != "fp32":
            return other if context.read_json(files.build(other))["built"] else None
    return None


def _load(context: Context, config: EngineConfig, role: str) -> Engine:
    record = context.read_json(files.build(config))
    return backend(config.kind).load(context.read_bytes(record[role]["file"]), config)
