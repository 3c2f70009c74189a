"""The two engines of a verification: which two are compared, what is known of their files, and both of them loaded.

Images are float32 NCHW in [0, 1], labels int64; as tensors they lie on the device of the torch models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from madx.closeness import ROUNDING, between_batches_of, rounding_of
from madx.deploy.content import content_sha256
from madx.deploy.engine import Engine, backend
from madx.deploy.external import Data, identity, size
from madx.deploy.interface import Interface
from madx.errors import ArtifactError
from madx.models.folding import folded
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.given import CANDIDATE
from madx.recipe import EngineConfig
from madx.verify import Images, Subject
from madx.verify.arrays import Bools
from madx.verify.contract import Classifier, Logits, logits_of
from madx.verify.parity import in_eight_bits

_FOLDING_EXAMPLES = 64
_PIECE = 50
"""Images a call where attacks ask an engine or what they found is scored: the same pieces on any machine, however many
threads ask at once, so that the same is found."""


@dataclass(frozen=True)
class EngineUnderTest:
    """One of the two: its files, what was found in them, its torch model, and the engine once it is loaded."""

    role: str
    """As in `madx.verify.Subject`."""
    torch_model: nn.Module | None
    """The network that it was made from, in eval mode; None if it was given without. On the CPU, and of an engine that
    is loaded on the device that attacks are made on, as they want it."""
    config: EngineConfig = field(default_factory=EngineConfig)
    """The recipe's, in the precision that its own file computes in."""
    payload: bytes = b""
    data: Data = field(default_factory=dict)
    """Its external data, by location."""
    interface: Interface | None = None
    """How it is fed; None as madx's own exports are."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the record of its build has of its file."""
    loaded: Engine | None = None
    callers: int = 1
    """How many threads may ask it at once, as in `madx.deploy.engine.Engine`."""

    @property
    def session(self) -> Engine:
        """The loaded engine."""
        assert self.loaded is not None, f"the {self.role} is asked before it is loaded"
        return self.loaded

    def load(self) -> Engine:
        """One more engine from its bytes; EngineError if that cannot be had here."""
        return backend(self.config.kind).load(self.payload, self.config, interface=self.interface, data=self.data)

    @property
    def subject(self) -> Subject:
        """What measurements are bound to."""
        return Subject(self.role, identity(self.payload, self.data))

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return size(self.payload, self.data)

    @property
    def precision(self) -> str:
        """The recipe's word for what its file computes in, as was read from it."""
        return self.config.precision

    @property
    def computes_in(self) -> str:
        """The same in more words (int8), which its rounding is judged by: for a candidate no coarser than asked."""
        return str(self.facts.get("held_to") or self.facts.get("computes_in") or self.precision)

    @property
    def numbers(self) -> str:
        """What it computes in, whatever it is held to: an engine may be slow or fast for its numbers alone."""
        return str(self.facts.get("numbers") or self.facts.get("computes_in") or self.precision)

    @property
    def rounding(self) -> float:
        """What its own precision explains, as in `madx.closeness.apart`."""
        return rounding_of(self.computes_in)

    @property
    def between_batches(self) -> float:
        """The same between two answers of its own."""
        return between_batches_of(self.computes_in)

    @property
    def batch(self) -> int | None:
        """Images a call, where its file takes no other number of them."""
        return self.interface.batch if self.interface else None

    @property
    def rounds(self) -> bool:
        """Whether images are rounded before its file, which takes whole numbers."""
        return self.interface is not None and self.interface.whole_numbers

    @property
    def label(self) -> str:
        """The role as it stands before "engine" or "twin"."""
        return "given" if self.role == CANDIDATE else self.role

    def logits(self, images: Tensor) -> Tensor:
        """The engine's logits, as a torch network would return them."""
        return torch.from_numpy(self.answers(images.cpu().numpy())).to(images.device)

    def answers(self, images: Images) -> Logits:
        """The engine's logits [B, K], checked, of any number of images; one of few threads is asked by several."""
        pieces = [images[at : at + _PIECE] for at in range(0, max(len(images), 1), _PIECE)]
        if len(pieces) == 1:
            return logits_of(self.session, images)
        with ThreadPoolExecutor(self.callers) as pool:
            return np.concatenate(list(pool.map(partial(logits_of, self.session), pieces)))

    def right(self, images: Images, labels: Tensor) -> Bools:
        """Which of the images the engine takes for what they are, [B]."""
        found: Bools = self.answers(images).argmax(axis=1) == labels.cpu().numpy()
        return found

    def torch_classifier(self, device: torch.device) -> Classifier:
        """Its torch model as a callable; where its file takes whole numbers, the model is shown the same ones."""
        assert self.torch_model is not None, f"the {self.role} has no torch model"
        plain = as_classifier(self.torch_model, device)
        return (lambda images: plain(in_eight_bits(images))) if self.rounds else plain


Pair = tuple[EngineUnderTest | None, EngineUnderTest]
"""The reference, if there is one, and the candidate."""


def as_classifier(module: nn.Module, device: torch.device) -> Classifier:
    """The network as an engine would be called: images [B, C, H, W] -> logits [B, K], float32."""
    module = module.eval().to(device)

    def logits(images: Images) -> Images:
        with torch.no_grad():
            found: Images = module(torch.from_numpy(images).to(device)).float().cpu().numpy()
        return found

    return logits


def roles(context: Context) -> tuple[str | None, str]:
    """What the reference, if there is one, and the candidate are called: the run's own, or those from outside."""
    outside = [role for role in context.taken if role != CANDIDATE]
    own = None if context.alone else "dense"
    return outside[0] if outside else own, CANDIDATE if context.alone else "pruned"


def compared(context: Context, config: EngineConfig) -> Pair:
    """The two, not loaded yet.

    Raises:
        ArtifactError: an engine was not built, or a file is no longer what its stage wrote.
    """
    record = build_record(context, config)
    reference, candidate = roles(context)
    return (
        _read(context, config, record, reference) if reference else None,
        _read(context, config, record, candidate),
    )


@contextmanager
def loaded_engines(context: Context, reference: EngineUnderTest | None, candidate: EngineUnderTest) -> Iterator[Pair]:
    """Both engines, or the candidate's alone, until the block ends; with their torch models as attacks want them.

    Raises:
        EngineError: an engine cannot be loaded here.
    """
    with ExitStack() as stack:

        def load(one: EngineUnderTest) -> EngineUnderTest:
            session = stack.enter_context(closing(one.load()))
            model = None if one.torch_model is None else _fast(context, one.torch_model)
            callers = (
                getattr(session, "callers", 1) if context.world.size == 1 else 1
            )  # else other processes work there
            return replace(one, loaded=session, torch_model=model, callers=callers)

        yield load(reference) if reference else None, load(candidate)


def _fast(context: Context, network: nn.Module) -> nn.Module:
    """The network with BatchNorms folded, which attacks climb in two thirds of the time; its logits are checked."""
    example, _ = context.splits.selection.tensors(0, _FOLDING_EXAMPLES)
    format = context.compute_format("fp32")
    return folded(network.to(context.device), example.to(context.device), format=format)


def has_torch_model(context: Context, role: str) -> bool:
    """Whether there is a torch model beside the engine of that role; the run's own engines have theirs."""
    if role in ("dense", "pruned"):
        return True
    return role in context.sources and context.sources[role].twin is not None


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


def _read(context: Context, config: EngineConfig, record: Mapping[str, Any], role: str) -> EngineUnderTest:
    file = files.recorded(record, role)
    if file is None:
        raise ArtifactError(f"{context.run.root} has no {role} engine: {record['reason']}")
    return replace(
        _as_recorded(config, record, role),
        payload=context.read_bytes(file),
        torch_model=_torch_model(context, role),
        data=_data(context, record, role),
    )


def _as_recorded(config: EngineConfig, record: Mapping[str, Any], role: str) -> EngineUnderTest:
    """All that is known of an engine without its files."""
    entry = record[role]
    interface = entry.get("interface")
    return EngineUnderTest(
        role,
        None,
        config.of_precision(entry.get("precision", config.precision)),
        interface=Interface.from_json(interface) if interface else None,
        facts=entry.get("facts", {}),
    )


def _torch_model(context: Context, role: str) -> nn.Module | None:
    if role == "dense":
        return context.dense_model()
    if role == "pruned":
        return context.pruned_model()
    return context.loaded_model(files.taken_twin(role)) if has_torch_model(context, role) else None


def _data(context: Context, record: Mapping[str, Any], role: str) -> Data:
    beside: Mapping[str, str] = record[role].get("data") or {}
    return {location: context.read_bytes(file) for location, file in beside.items()}


def content_of(context: Context, record: Mapping[str, Any], role: str) -> str | None:
    """Hash of what an engine computes (`madx.deploy.content`); None where none was built."""
    file = files.recorded(record, role)
    return None if file is None else content_sha256(context.read_bytes(file), _data(context, record, role))


def _both_as_recorded(context: Context, config: EngineConfig) -> list[EngineUnderTest]:
    """Those of the two that there are, without their files."""
    record = build_record(context, config)
    there = [role for role in roles(context) if role and files.recorded(record, role)]
    return [_as_recorded(config, record, role) for role in there]


def how_precise(context: Context, config: EngineConfig) -> list[str]:
    """Said where the two do not compute in the same numbers, or in others than the recipe's engine is called by."""
    both = _both_as_recorded(context, config)
    own = [one.numbers for one in both]
    if set(own) <= {config.precision}:
        return []
    listed = ", ".join(f"the {one.role} computes in {one.numbers}" for one in both)
    lacking = [numbers for numbers in dict.fromkeys(own) if numbers not in ROUNDING]
    without = f" For {', '.join(lacking)} there is no measure yet, so float32's is taken." if lacking else ""
    each = " Each is held to what its own precision rounds; compared are networks and precisions together."
    held = {one.role: one.facts["held_to"] for one in both if one.facts.get("held_to")}
    stricter = "".join(
        f" The recipe calls the {role} {precision}, so it is held to what {precision} rounds; where it is meant to be "
        "coarser, say so: export.engines: [{kind: ..., precision: int8}]."
        for role, precision in held.items()
    )
    known = f"as was read from the file.{each if len(own) > 1 and not held else ''}{stricter}{without}"
    return [f"{config.name}: {listed}, {known}"]


def how_fed(context: Context, config: EngineConfig) -> list[str]:
    """What is done outside the files that are judged, a sentence for each: a verdict holds for both together."""
    found = []
    for one in _both_as_recorded(context, config):
        if one.interface is None or one.interface.plain:
            continue
        told = one.interface.describe()
        only = "" if one.batch is None else f" It was measured at batch {one.batch} alone."
        found.append(
            f"{config.name}: the {one.role}'s ONNX file is not fed images as they are, and the verdict holds for file "
            f"and feeding together: {told['fed']} -> {told['gives']}.{only}"
        )
    return found
