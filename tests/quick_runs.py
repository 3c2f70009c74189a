"""What calls of the command line in a test's own process are spared: time, long security curves, drawn figures,
and tracing the same network again.

On a clock that the test owns, engines compute as ever, but how long they take follows from their bytes, on a quiet
machine: a gate on latency decides alike everywhere and beside any neighbour. Error rates on noisy machines are the
matter of tests/verify, real timers that of tests/deploy, figures that of tests/report; the slow tests have all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from noisy_machine import NoisyMachine

from madx.sensors import Watch

SECONDS_A_BYTE = 1e-8
"""Of one inference: what is half as large is twice as fast."""


@contextmanager
def own_clock(seed: int = 0) -> Iterator[None]:
    """Until the end of the block, the CPU engines that are loaded in this process are timed by a simulated machine.

    With the seed of another block it repeats that block's times: fixtures that are timed again have one of their own.
    """
    from madx.deploy.openvino import OpenVinoBackend
    from madx.deploy.ort import OrtBackend
    from madx.pipeline import timing
    from madx.verify import latency

    machine = NoisyMachine(seed)
    watch = Watch(clock=lambda: machine.now, read=machine.read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "over_this_machine", lambda **_: watch)
        # A reference is exported once more to see whether that is faster; simulated times say nothing of that.
        as_given = timing.TimedReference
        patch.setattr(timing, "fastest_reference", lambda _c, _e, given, *_: as_given(given.load, given.session.facts))
        patch.setattr(latency, "LOADS", 2)  # simulated times do not depend on it, and loading takes real ones
        for runtime in (OrtBackend, OpenVinoBackend):
            patch.setattr(runtime, "load", _timed_by(machine, runtime.load))
        yield


def _timed_by(machine: NoisyMachine, load: Callable[..., Any]) -> Callable[..., Any]:
    def loaded(runtime: Any, payload: bytes, config: Any, **fed: Any) -> Any:
        engine = load(runtime, payload, config, **fed)
        real = engine.timer

        def timer(images: Any, rows: Any = None) -> Callable[..., float]:
            assert real(images, rows)().seconds > 0, "what is not simulated is that it runs"
            return machine.timer(len(payload) * SECONDS_A_BYTE, "")

        engine.timer = timer
        return engine

    return loaded


@contextmanager
def few_radii() -> Iterator[None]:
    """Until the end of the block, a security curve has four radii: it is most of what a small verification costs."""
    from madx.pipeline import curve

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve, "FACTORS", (0.0, 1.0, 2.0, 4.0))
        yield


@contextmanager
def blank_figures() -> Iterator[None]:
    """Until the end of the block, figures are made and not drawn: a report has ten of them, and takes half a second."""
    from matplotlib.figure import Figure

    def save(_: Figure, stream: Any, **__: Any) -> None:
        stream.write('<svg viewBox="0 0 1 1"></svg>')

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield


@contextmanager
def plain_format() -> Iterator[None]:
    """Until the end of the block, networks that no run has timed yet are computed in float32 and in torch's own order.

    Which format is the fastest is the machine's and the moment's; nothing is kept for the machine. A test that has put
    a probe of its own in place keeps it.
    """
    from madx.models.precision import Probe, Timing, probe
    from madx.pipeline import formats

    with pytest.MonkeyPatch.context() as patch:
        if formats.probe is probe:
            patch.setattr(formats, "probe", lambda *_: Probe((Timing("fp32", False, 1.0, 0.0),)))
            patch.setattr(formats, "_machines_folder", lambda: None)
        yield


_EXPORTED: dict[tuple[object, ...], Any] = {}


@contextmanager
def exports_kept() -> Iterator[None]:
    """Until the end of the block, a network of madx's own that this process exported once is not traced again.

    Tracing takes seconds, and small runs of different tests export the same weights; tests/deploy trace every time.
    """
    from madx.models import state_digest
    from madx.pipeline import exporting

    trace = exporting.export_onnx

    def export(module: Any, shape: Any, **settings: Any) -> Any:
        if not type(module).__module__.startswith("madx."):
            return trace(module, shape, **settings)
        what = (repr(module), state_digest(module), shape, *settings.items())
        if what not in _EXPORTED:
            _EXPORTED[what] = trace(module, shape, **settings)
        return _EXPORTED[what]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "export_onnx", export)
        yield


@contextmanager
def quick_runs(seed: int = 0, *, whole_curve: bool = False) -> Iterator[None]:
    """All of it; with the whole curve if that is what a test looks at."""
    with (
        own_clock(seed),
        plain_format(),
        exports_kept(),
        blank_figures(),
        nullcontext() if whole_curve else few_radii(),
    ):
        yield
