"""What an engine is to the rest of madx, and how the runtimes that make one are found.

A `Backend` turns a checked ONNX file into bytes (`build`) and these bytes into a callable (`load`). An `Engine`
maps float32 images [B, C, H, W] in [0, 1] to float32 logits [B, K], whatever tensors its file takes and gives
(`madx.deploy.interface`). The bytes are the identity of an engine: whatever is measured is bound to their SHA-256. A
runtime's module is imported when its kind is asked for.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from madx.clocks import CallTime
from madx.deploy.external import NONE, Data, identity, size
from madx.deploy.interface import Interface
from madx.deploy.trying import tried
from madx.errors import EngineError, RecipeError
from madx.recipe import ENGINE_KINDS

if TYPE_CHECKING:
    from madx.deploy.check import OnnxArtifact
    from madx.recipe import EngineConfig

Images = NDArray[np.float32]
Logits = NDArray[np.float32]
Rows = NDArray[np.intp]


class Engine(Protocol):
    """A loaded engine: call it with images, get logits."""

    name: str
    """The engine's name in reports, for example 'ort-cpu-fp32'."""
    timing: str
    """What a number from `timer` measures, for example 'host call, preallocated I/O'."""
    facts: dict[str, Any]
    """How the engine runs here: versions, threads, device, precision as the runtime reports it."""
    callers: int
    """How many threads may call it at the same time and are answered sooner for it; 1 where that is not known."""

    def __call__(self, images: Images) -> Logits:
        """Logits [B, K] of images [B, C, H, W], any B >= 1; EngineError for anything else."""
        ...

    def timer(self, images: Images, rows: Rows | None = None) -> Callable[..., float | CallTime]:
        """A callable with its own preallocated I/O: it runs one inference and returns its seconds.

        A CPU engine whose work one thread does returns a `CallTime` with its CPU time (`madx.clocks.clocked`); of any
        other the CPU time is not the time of a call, and it returns a `CallTime` without, or a number of seconds.

        Args:
            images: [N, C, H, W].
            rows: [M, B] images that each of M batches is made of; the callable takes the number of a batch, 0 by
                default, and puts it in place before its clock starts. Without it, all images are the one batch.
        """
        ...

    def close(self) -> None:
        """Release the engine's memory; a later call raises EngineError."""
        ...


def batch_of(images: Images, rows: Rows | None, number: int) -> Images:
    """The batch of that number, [B, C, H, W]."""
    return images if rows is None else images[rows[number]]


INSTALL = "install it with: "
"""Before the pip line in a sentence that says what is missing."""


@dataclass(frozen=True)
class Availability:
    """What a backend can do on this machine."""

    can_build: bool
    can_run: bool
    reason: str
    """One sentence: the version found, or what is missing."""
    remedy: str = ""
    """The one pip line that helps, or nothing."""

    @classmethod
    def missing(cls, package: str, problem: object, remedy: str) -> Availability:
        """Of a runtime whose package cannot be imported, for the `problem` that Python gives."""
        return cls(False, False, f"{package} cannot be imported ({problem})", remedy)

    @property
    def explanation(self) -> str:
        """The reason, and the remedy where there is one."""
        return f"{self.reason}; {INSTALL}{self.remedy}" if self.remedy else self.reason


@dataclass(frozen=True)
class BuiltEngine:
    """The bytes of an engine and the record of their making."""

    payload: bytes
    sha256: str
    suffix: str
    """File ending of the payload: '.onnx' or '.plan'."""
    facts: dict[str, Any]
    """JSON-ready: build seconds, size, tool versions, flags, and for TensorRT what the builder's log says."""
    interface: Interface | None = None
    """How it is fed; None as madx's own exports are."""
    data: Data = field(default_factory=dict)
    """Its external data, by location."""

    @classmethod
    def of(
        cls,
        payload: bytes,
        suffix: str,
        facts: dict[str, Any],
        *,
        interface: Interface | None = None,
        data: Data = NONE,
    ) -> BuiltEngine:
        """Hash its files and add their size, and how it is fed, to `facts`."""
        more = {} if interface is None else interface.describe()
        facts = {**facts, **more, "bytes": size(payload, data)}
        return cls(payload, identity(payload, data), suffix, facts, interface, data)


class Backend(Protocol):
    """One runtime."""

    kind: str

    def availability(self) -> Availability:
        """What can be built and run here. Never raises."""
        ...

    def build(self, onnx: OnnxArtifact, config: EngineConfig, *, batch: int) -> BuiltEngine:
        """Build an engine whose tactics are chosen for `batch` images; EngineError if it cannot be built here."""
        ...

    def load(
        self, payload: bytes, config: EngineConfig, *, interface: Interface | None = None, data: Data = NONE
    ) -> Engine:
        """Load a built engine, fed as `interface` says (None: as madx's own); EngineError if it cannot run here."""
        ...


def check_runs(runtime: Backend, config: EngineConfig) -> None:
    """EngineError, with what is missing and how to get it, where engines of this runtime cannot run."""
    available = _told_by(lambda: runtime, config.kind)
    if not available.can_run:
        raise EngineError(f"{config.name} cannot run here: {available.explanation}")


def build_by_loading(runtime: Backend, onnx: OnnxArtifact, config: EngineConfig) -> BuiltEngine:
    """For a runtime whose engine is the ONNX file itself: the file, after proving that the runtime loads it.

    Raises:
        EngineError: the runtime does not take the file.
        ExportError: a file from outside does not answer as a classifier does, however it is fed.
    """
    require_same_precision(onnx, config)
    started = time.perf_counter()
    interface = onnx.interface
    if interface is not None:
        load = partial(_loaded, runtime, onnx, config)
        interface = tried(load, interface, form=onnx.form, others=onnx.others, batches=onnx.batches)
    engine = _loaded(runtime, onnx, config, interface)
    facts = {**engine.facts, "build_seconds": time.perf_counter() - started}
    engine.close()
    return BuiltEngine.of(onnx.payload, ".onnx", facts, interface=interface, data=onnx.data)


def with_facts(built: BuiltEngine, more: dict[str, Any]) -> BuiltEngine:
    """The same engine with more in the record of its making."""
    return replace(built, facts={**built.facts, **more})


def _loaded(runtime: Backend, onnx: OnnxArtifact, config: EngineConfig, interface: Interface | None) -> Engine:
    return runtime.load(onnx.payload, config, interface=interface, data=onnx.data)


def kinds() -> tuple[str, ...]:
    """All kinds of engine, madx's own first."""
    return tuple(ENGINE_KINDS)


def backend(kind: str) -> Backend:
    """The backend of `kind`; its module is imported here, the engine's own package only when it is used."""
    if kind not in ENGINE_KINDS:
        raise EngineError(f"there is no engine kind {kind!r}; known kinds are {', '.join(kinds())}")
    module, _, name = ENGINE_KINDS[kind].backend.partition(":")
    with ENGINE_KINDS.blamed(kind):  # as any import: never from the current directory, where a file may bear any name
        made: Backend = getattr(importlib.import_module(module), name)(kind)
    return made


def availabilities() -> dict[str, Availability]:
    """What every kind can do on this machine."""
    return {kind: availability(kind) for kind in kinds()}


def availability(kind: str) -> Availability:
    """What engines of this kind can do on this machine; a package's broken one can do nothing, and says why.

    Raises:
        EngineError: there is no such kind.
    """
    try:
        return _told_by(lambda: backend(kind), kind)
    except RecipeError as problem:
        return Availability(False, False, str(problem))


def _told_by(made: Callable[[], Backend], kind: str) -> Availability:
    """What a backend of this kind says of itself.

    Raises:
        RecipeError: it is a package's, and fails.
    """
    with ENGINE_KINDS.blamed(kind):
        found: object = made().availability()
        if not isinstance(found, Availability):
            raise TypeError(f"`availability` gave {type(found).__name__}, expected madx.deploy.engine.Availability")
        return found


def checked_images(images: Images, shape: tuple[int, int, int], name: str) -> Images:
    """`images` as a contiguous array if they are float32 [B, *shape] with B >= 1; else EngineError."""
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        given = getattr(images, "dtype", type(images).__name__)
        raise EngineError(f"{name} takes float32 numpy images, not {given}; use astype(numpy.float32)")
    if images.ndim != 4 or images.shape[1:] != shape or len(images) == 0:
        expected = ", ".join(str(side) for side in shape)
        raise EngineError(f"{name} takes images [B, {expected}] with B >= 1, not {list(images.shape)}")
    return np.ascontiguousarray(images)


def in_chunks(images: Images, limit: int) -> Iterator[Images]:
    """Views of at most `limit` images each, in order."""
    for start in range(0, len(images), limit):
        yield images[start : start + limit]


def require_same_precision(onnx: OnnxArtifact, config: EngineConfig) -> None:
    """Engines are strongly typed: the file decides the precision, so the recipe's word must agree with it."""
    if onnx.precision != config.precision:
        raise EngineError(
            f"{config.name} was given an ONNX file of precision {onnx.precision}; export it with precision "
            f"{config.precision!r}, because engines take the precision of their file"
        )
