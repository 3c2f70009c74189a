"""Who is compared with whom: the run's own two engines, or those that were given from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from madx.closeness import ROUNDING
from madx.deploy.content import content_sha256
from madx.deploy.external import Data, identity, size
from madx.deploy.interface import Interface
from madx.errors import ArtifactError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.given import CANDIDATE
from madx.recipe import EngineConfig
from madx.verify import Subject


@dataclass(frozen=True)
class Contender:
    """An engine's bytes, and the network they were made from."""

    role: str
    """As in `madx.verify.Subject`."""
    payload: bytes
    twin: nn.Module | None
    """In eval mode, on the CPU; None if it was given without."""
    interface: Interface | None = None
    """How it is fed; None as madx's own exports are."""
    data: Data = field(default_factory=dict)
    """Its external data, by location."""
    precision: str = "fp32"
    """The recipe's word for what its file computes in, as was read from it."""
    computes_in: str = "fp32"
    """The same in more words (int8), by which its rounding is judged: no coarser than the recipe calls a candidate."""
    numbers: str = "fp32"
    """What it computes in, whatever it is held to: an engine may be slow or fast for its numbers alone."""

    @property
    def subject(self) -> Subject:
        """What measurements are bound to."""
        return Subject(self.role, identity(self.payload, self.data))

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return size(self.payload, self.data)


def contenders(context: Context, config: EngineConfig) -> tuple[Contender | None, Contender]:
    """The reference, if there is one, and the candidate.

    Raises:
        ArtifactError: an engine was not built, or a file is no longer what its stage wrote.
    """
    record = build_record(context, config)
    reference, candidate = roles(context)
    return (
        _contender(context, config, record, reference) if reference else None,
        _contender(context, config, record, candidate),
    )


def roles(context: Context) -> tuple[str | None, str]:
    """What the reference and the candidate are called."""
    outside = [role for role in context.taken if role != CANDIDATE]
    own = None if context.alone else "dense"
    return outside[0] if outside else own, CANDIDATE if context.alone else "pruned"


def build_record(context: Context, config: EngineConfig) -> dict[str, Any]:
    """How the engine's files were built or taken over, and the first reason why one was not."""
    records = [context.read_json(name, "built", "reason") for name in _records(context, config)]
    merged: dict[str, Any] = {}
    for record in reversed(records):
        merged |= record
    unbuilt = [record for record in records if not record["built"]]
    return merged | {"built": not unbuilt, "reason": (unbuilt or records)[0]["reason"]}


def _records(context: Context, config: EngineConfig) -> list[str]:
    """Those of the stages that this run has."""
    own = [] if context.alone else [files.build(config)]
    return [*own, files.taken_build(config)] if context.taken else own


def _contender(context: Context, config: EngineConfig, record: dict[str, Any], role: str) -> Contender:
    file = files.recorded(record, role)
    if file is None:
        raise ArtifactError(f"{context.run.root} has no {role} engine: {record['reason']}")
    interface = record[role].get("interface")
    return Contender(
        role,
        context.read_bytes(file),
        _twin(context, role),
        Interface.from_json(interface) if interface else None,
        _data(context, record, role),
        *_precisions(config, record, role),
        _truth(config, record, role),
    )


def _precisions(config: EngineConfig, record: Mapping[str, Any], role: str) -> tuple[str, str]:
    """The recipe's word for what an engine computes in, and what its rounding is judged by."""
    facts = record[role].get("facts", {})
    precision = record[role].get("precision", config.precision)
    return precision, facts.get("held_to") or facts.get("computes_in") or precision


def _truth(config: EngineConfig, record: Mapping[str, Any], role: str) -> str:
    """What an engine computes in, whatever the recipe calls it."""
    facts = record[role].get("facts", {})
    found = facts.get("numbers") or facts.get("computes_in") or record[role].get("precision", config.precision)
    return str(found)


def how_precise(context: Context, config: EngineConfig) -> list[str]:
    """Said where the two do not compute in the same numbers, or in others than the recipe's engine is called by."""
    record = build_record(context, config)
    there = [role for role in roles(context) if role and files.recorded(record, role)]
    own = {role: _truth(config, record, role) for role in there}
    if set(own.values()) <= {config.precision}:
        return []
    listed = ", ".join(f"the {role} computes in {precision}" for role, precision in own.items())
    lacking = [one for one in dict.fromkeys(own.values()) if one not in ROUNDING]
    without = f" For {', '.join(lacking)} there is no measure yet, so float32's is taken." if lacking else ""
    both = " Each is held to what its own precision rounds; compared are networks and precisions together."
    held = {role: record[role]["facts"]["held_to"] for role in there if record[role].get("facts", {}).get("held_to")}
    stricter = "".join(
        f" The recipe calls the {role} {precision}, so it is held to what {precision} rounds; where it is meant to be "
        "coarser, say so: export.engines: [{kind: ..., precision: int8}]."
        for role, precision in held.items()
    )
    known = f"as was read from the file.{both if len(own) > 1 and not held else ''}{stricter}{without}"
    return [f"{config.name}: {listed}, {known}"]


def how_fed(context: Context, config: EngineConfig) -> list[str]:
    """What is done outside the files that are judged, a sentence for each: a verdict holds for both together."""
    record, found = build_record(context, config), []
    for role in roles(context):
        interface = record[role].get("interface") if role and files.recorded(record, role) else None
        if not interface or (fed := Interface.from_json(interface)).plain:
            continue
        told = fed.describe()
        only = "" if fed.batch is None else f" It was measured at batch {fed.batch} alone."
        found.append(
            f"{config.name}: the {role}'s ONNX file is not fed images as they are, and the verdict holds for file and "
            f"feeding together: {told['fed']} -> {told['gives']}.{only}"
        )
    return found


def content_of(context: Context, record: Mapping[str, Any], role: str) -> str | None:
    """Hash of what an engine computes (`madx.deploy.content`); None where none was built."""
    file = files.recorded(record, role)
    return None if file is None else content_sha256(context.read_bytes(file), _data(context, record, role))


def _data(context: Context, record: Mapping[str, Any], role: str) -> Data:
    beside: Mapping[str, str] = record[role].get("data") or {}
    return {location: context.read_bytes(file) for location, file in beside.items()}


def _twin(context: Context, role: str) -> nn.Module | None:
    if role == "dense":
        return context.dense_model()
    if role == "pruned":
        return context.pruned_model()
    return context.loaded_model(files.taken_twin(role)) if context.sources[role].twin else None
