"""A share of a verification's images, measured by itself: for machines and jobs that know nothing of each other.

Each shard works in a copy of the exported run. It attacks every Nth chunk on every engine, times nothing and judges
nothing; `madx.pipeline.merging` brings the chunks together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from madx.errors import ArtifactError, RecipeError
from madx.pipeline.attacking import measure_chunks
from madx.pipeline.chunks import begin_record, chunks_in_all, images_in
from madx.pipeline.context import Context
from madx.pipeline.engines import compared, loaded_engines
from madx.pipeline.stages import begin, stage_named
from madx.pipeline.takeover import examine_given
from madx.pipeline.verifying import missing_engines
from madx.recipe import EngineConfig

_FORM = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


@dataclass(frozen=True)
class Shard:
    """Which part of the chunks: the `number`th of `of` parts."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "2/4".

        Raises:
            RecipeError: it is not of this form, or there is no such part.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise RecipeError(f"--shard {text!r} is not of the form I/N, for example 2/4: the second of four shards")
        number, of = (int(part) for part in match.groups())
        if not 1 <= number <= of:
            raise RecipeError(f"--shard {text}: there is no such part; N shards are 1/N, 2/N, ... N/N")
        return cls(number, of)

    def chunks(self, total: int) -> range:
        """The chunks that are its own, of those from 0 to total - 1: every Nth, so that shards take about as long."""
        return range(self.number - 1, total, self.of)

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"


@dataclass(frozen=True)
class ShardReport:
    """What a shard came to; it says nothing of any gate."""

    shard: Shard
    chunks: tuple[int, ...]
    """Its own, by number."""
    in_all: int
    """Chunks of the whole verification."""
    images: int
    """In its own chunks."""
    engines: tuple[str, ...]
    """Those that they were measured on."""
    missing: dict[str, str]
    """Why others were not, by name."""


def measure_shard(context: Context, shard: Shard, *, again: bool = False) -> ShardReport:
    """Attack the shard's chunks on every engine and keep them; what is kept already is not attacked again.

    Args:
        context: the run; every process of a job calls this with the same one, and the chunks are divided among them.
        shard: which chunks.
        again: measure although this run directory has its verdict.

    Raises:
        ArtifactError: the run has its verdict already, or a stage before is missing.
        EngineError: an engine does not work; what was measured so far is kept.
    """
    context, reason = begin(context, stage_named("verify"), part=f"--shard {shard}")
    if not reason and not again:
        raise ArtifactError(
            f"{context.run.root} has its verdict for this recipe already, so there is nothing to share; "
            "add --again to measure a shard of it once more"
        )
    total = chunks_in_all(context)
    numbers, engines = shard.chunks(total), []
    missing = context.world.share(lambda: _begin_shard(context, shard))
    for config in context.recipe.export.engines:
        if config.name in missing:
            context.progress.say(f"{config.name}: missing: {missing[config.name]}")
        elif config.verify:
            _measure(context, config, numbers)
            engines.append(config.name)
    images = sum(images_in(context, number) for number in numbers)
    return ShardReport(shard, tuple(numbers), total, images, tuple(engines), missing)


def _begin_shard(context: Context, shard: Shard) -> dict[str, str]:
    """Note which shard the chunks are of; returns why engines of the recipe cannot be had here, by name."""
    begin_record(context, shard=f"{shard.number}/{shard.of}")
    return missing_engines(context)


def _measure(context: Context, config: EngineConfig, numbers: range) -> None:
    context.progress.say(f"{config.name}: measuring {len(numbers)} chunks of images")
    with loaded_engines(context, *compared(context, config)) as engines:
        context.world.share(lambda: examine_given(context, engines))
        measure_chunks(context, config, engines, numbers=numbers)
