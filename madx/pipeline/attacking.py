"""The attacked part of a verification: the recipe's suite, aimed at each of the two engines in every way it can be.

Both engines face every example of every adversary (`madx.verify.robustness`), so what is made on the dense network is
also the transfer attack on the pruned one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from madx.attacks import Attack, Suite, Victim, run_suite, suite_of
from madx.data import Ahead
from madx.pipeline.chunks import begin_record, chunk, chunks_in_all, gate_images, store_chunk, stored_chunks
from madx.pipeline.context import Context
from madx.pipeline.engines import EngineUnderTest, Pair
from madx.pipeline.examples import BATCH
from madx.recipe import EngineConfig
from madx.seeds import torch_generator
from madx.verify import Accuracy, Adversary, Examples, Kind, decided, measure_chunk
from madx.verify.robustness import Served

ATTACKING = {True: "attacking both engines", False: "attacking the engine"}
"""What the progress calls it, with and without a reference."""


def measure_accuracy(context: Context, config: EngineConfig, engines: Pair) -> Accuracy:
    """The suite on both engines, chunk after chunk; those that are stored are read, not made again."""
    total = chunks_in_all(context)
    parts = context.world.share(lambda: stored_chunks(context, config))
    left = [number for number in range(total) if number not in parts]
    with closing(_measured(context, config, engines, left, done=len(parts))) as values:
        for number in range(total):
            if number not in parts:
                parts[number] = next(values)
            if context.recipe.verify.sequential and _enough(context, _joined(parts, number + 1)):
                break
    return _joined(parts, number + 1)


def measure_chunks(context: Context, config: EngineConfig, engines: Pair, *, numbers: Sequence[int]) -> None:
    """Store these chunks, and only these; those that are stored already are not made again."""
    parts = context.world.share(lambda: stored_chunks(context, config))
    left = [number for number in numbers if number not in parts]
    for _ in _measured(context, config, engines, left, done=len(numbers) - len(left)):
        pass


def _measured(
    context: Context, config: EngineConfig, engines: Pair, left: Sequence[int], *, done: int
) -> Generator[Accuracy, None, None]:
    """These chunks, one after the other; each is stored before it is handed out."""
    reference, candidate = engines
    recipe, suite = context.recipe, suite_of(context.recipe.verify.attack)
    attackers = adversaries(context, suite, (candidate,) if reference is None else (reference, candidate))

    def measured(number: int) -> Accuracy:
        return measure_chunk(
            reference.answers if reference else None,
            candidate.answers,
            chunk=images(number),
            adversaries=attackers,
            threat=recipe.threat,
            eight_bit=recipe.verify.eight_bit,
            served=Served(
                candidate.batch or recipe.verify.latency.batch,
                tuple(engine.between_batches for engine in engines if engine is not None),
                sessions=tuple(engine.session for engine in engines if engine is not None),
                probabilities=candidate.interface is not None and candidate.interface.form == "probabilities",
            ),
        )

    begin_record(context)
    for line in budget(suite, with_twins=candidate.torch_model is not None):
        context.progress.say(f"{suite.name}: {line}")
    if done:
        context.progress.say(f"{done} of {done + len(left)} chunks of images are measured already")
    with Ahead(partial(chunk, context), context.world.own(left)) as images:
        values = context.world.map(measured, left)
        tracked = context.progress.track(values, ATTACKING[reference is not None], total=done + len(left), done=done)
        for number, value in zip(left, tracked, strict=True):
            store_chunk(context, config, number, value)
            yield value


def _enough(context: Context, so_far: Accuracy) -> bool:
    """Whether the gates are decided; one on the worst class not before every class of the gate's images was seen."""
    gates, gate = context.recipe.verify.gates, context.splits.gate
    if any(asked.metric == "worst_class_drop" for asked in gates):
        wanted = set(gate.source.labels[gate.index[: gate_images(context)]].tolist())
        if wanted - set(so_far.labels.tolist()):
            return False
    return decided(so_far, gates)


def _joined(parts: dict[int, Accuracy], chunks: int) -> Accuracy:
    """The first chunks as one measurement, in the committed order of the images."""
    return Accuracy.concatenate([parts[number] for number in range(chunks)])


def budget(suite: Suite, *, with_twins: bool) -> tuple[str, ...]:
    """One line for each attack that is made: without torch twins only queries can be."""
    return (suite if with_twins else replace(suite, twin=(), in_the_loop=())).budget()


def adversaries(context: Context, suite: Suite, engines: Sequence[EngineUnderTest]) -> list[Adversary]:
    """Every part of the suite on every engine; the cheap and strong ones first, as each sees only what still stands."""
    return [
        Adversary(name, kind, _examples(context, attacks, victim, name))
        for name, kind, attacks, victim in _aims(suite, engines)
        if attacks
    ]


def _aims(suite: Suite, engines: Sequence[EngineUnderTest]) -> Iterator[tuple[str, Kind, tuple[Attack, ...], Victim]]:
    models = [(engine, engine.torch_model) for engine in engines if engine.torch_model is not None]
    for engine, model in models:
        yield f"{suite.name} on the {engine.label} twin", "white-box", suite.twin, Victim.of(model)
    for engine, model in models:
        victim = Victim.in_the_loop(engine.logits, model)
        yield f"{suite.name}, {engine.label} engine in the loop", "engine in the loop", suite.in_the_loop, victim
    for engine in engines:
        victim = Victim.query_only(engine.logits)
        yield f"{suite.name}, queries of the {engine.label} engine", "query", suite.query, victim


def _examples(
    context: Context, attacks: tuple[Attack, ...], victim: Victim, name: str
) -> Callable[[Tensor, Tensor, int], Examples]:
    """The worst examples that the attacks find; their random numbers belong to the name and the chunk."""

    def examples(images: Tensor, labels: Tensor, number: int) -> Examples:
        generator = torch_generator(context.recipe.seed, "verify", name, number)
        found, forward, gradient = [], 0, 0
        for x, y in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
            outcome = run_suite(
                victim,
                x.to(context.device),
                y.to(context.device),
                attacks=attacks,
                threat=context.recipe.threat,
                generator=generator,
            )
            found.append(outcome.points.cpu())
            forward += sum(record.passes.forward for record in outcome.records)
            gradient += sum(record.passes.gradient for record in outcome.records)
        return Examples(torch.cat(found), forward, gradient)

    return examples
