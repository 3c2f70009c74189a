"""The engines of a verification, loaded, each with its torch twin; and images that attacks are tried on there.

Images are float32 NCHW in [0, 1], labels int64; as tensors they lie on the device of the twins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from madx.attacks import Attack, Victim, run_suite
from madx.closeness import rounding_of
from madx.deploy.engine import Engine, backend
from madx.deploy.interface import Interface
from madx.models.folding import folded
from madx.pipeline.contenders import Contender
from madx.pipeline.context import Context
from madx.pipeline.given import CANDIDATE
from madx.pipeline.twins import BATCH
from madx.recipe import EngineConfig, ThreatConfig
from madx.seeds import torch_generator
from madx.verify import Images
from madx.verify.arrays import Bools
from madx.verify.contract import Logits, logits_of
from madx.verify.projection import project

_FOLDING_EXAMPLES = 64
_PIECE = 50
"""Images a call where attacks ask an engine or what they found is scored: the same pieces on any machine, however many
threads ask at once, so that the same is found."""


@dataclass(frozen=True)
class Side:
    """A loaded engine and, unless it was given without, its torch twin."""

    role: str
    """As in `madx.verify.measurements.Subject`."""
    engine: Engine
    twin: nn.Module | None
    """In eval mode, on the device that attacks are made on."""
    again: Callable[[], Engine] | None = None
    """Loads the engine once more; None for what can only be called."""
    interface: Interface | None = None
    """How it is fed; None as madx's own exports are."""
    precision: str = "fp32"
    """As in `Contender`."""
    computes_in: str = "fp32"
    """As in `Contender`."""
    numbers: str = "fp32"
    """As in `Contender`."""
    callers: int = 1
    """How many threads may ask the engine at once, as in `madx.deploy.engine.Engine`."""

    @property
    def rounding(self) -> float:
        """What its own precision explains, as in `madx.closeness.apart`."""
        return rounding_of(self.computes_in)

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
            return logits_of(self.engine, images)
        with ThreadPoolExecutor(self.callers) as pool:
            return np.concatenate(list(pool.map(partial(logits_of, self.engine), pieces)))

    def right(self, images: Images, labels: Tensor) -> Bools:
        """Which of the images the engine takes for what they are, [B]."""
        found: Bools = self.answers(images).argmax(axis=1) == labels.cpu().numpy()
        return found


@contextmanager
def loaded_sides(
    context: Context, config: EngineConfig, reference: Contender | None, candidate: Contender
) -> Iterator[tuple[Side | None, Side]]:
    """Both engines, or the candidate's alone, until the block ends; with their twins as attacks want them.

    Raises:
        EngineError: an engine cannot be loaded here.
    """
    with ExitStack() as stack:

        def loaded(one: Contender) -> Side:
            runtime = backend(config.kind)
            own = config.of_precision(one.precision)
            load = partial(runtime.load, one.payload, own, interface=one.interface, data=one.data)
            engine = stack.enter_context(closing(load()))
            twin = _fast_twin(context, one.twin) if one.twin else None
            precise = (one.precision, one.computes_in, one.numbers)
            callers = engine.callers if context.world.size == 1 else 1  # the other processes have the other cores
            return Side(one.role, engine, twin, load, one.interface, *precise, callers)

        yield loaded(reference) if reference else None, loaded(candidate)


def _fast_twin(context: Context, network: nn.Module) -> nn.Module:
    """The network with BatchNorms folded, which attacks climb in two thirds of the time; its logits are checked."""
    example, _ = context.splits.selection.tensors(0, _FOLDING_EXAMPLES)
    format = context.compute_format("fp32")
    return folded(network.to(context.device), example.to(context.device), format=format)


@dataclass(frozen=True)
class Trial:
    """Images that attacks are tried on beside the verification's own, and within which threat."""

    threat: ThreatConfig
    seed: int
    images: Tensor
    """[M, C, H, W]"""
    labels: Tensor
    """[M]"""

    @property
    def widest(self) -> float:
        """The radius of a ball that holds every image, whatever its centre."""
        return 1.0 if self.threat.norm == "linf" else math.sqrt(self.images[0].numel())

    def within(self, eps: float) -> Trial:
        """The same with another radius."""
        return replace(self, threat=self.threat.model_copy(update={"eps": eps}))

    def of(self, rows: Bools) -> Trial:
        """Some of the images; `rows` is [M]."""
        chosen = torch.from_numpy(np.flatnonzero(rows))
        return replace(self, images=self.images[chosen], labels=self.labels[chosen])

    def withstood(self, side: Side, attacks: Sequence[Attack], *, stream: tuple[str | int, ...]) -> Bools:
        """Which images the engine still gets right, [M], on what the attacks make of them, projected and asked again.

        Args:
            side: attacked by its twin's gradients, or by queries of the engine where it has no twin.
            attacks: one after the other.
            stream: names their random numbers.
        """
        victim = Victim.query_only(side.logits) if side.twin is None else Victim.of(side.twin)
        generator = torch_generator(self.seed, *stream)
        right = np.zeros(len(self.labels), dtype=bool)
        for start in range(0, len(self.labels), BATCH):  # nothing at all where there is no image
            rows = slice(start, start + BATCH)
            x, y = self.images[rows], self.labels[rows]
            found = run_suite(victim, x, y, attacks=tuple(attacks), threat=self.threat, generator=generator)
            examples = project(found.points.float().cpu().numpy(), x.cpu().numpy(), self.threat).images
            right[rows] = side.right(examples, y)
        return right
