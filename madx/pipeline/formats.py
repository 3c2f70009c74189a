"""The format that a run's networks are computed in: measured once, and kept for the run in its manifest.

What was measured is kept for the machine too, so that two runs of one recipe end with the same bits where two formats
are nearly as fast as each other. It belongs to the processor and what of it may be used, to torch, and to the network's
shapes: elsewhere it is measured again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from madx.artifacts import read_json, sha256_bytes, write_json
from madx.errors import ArtifactError, ModelError
from madx.machine import instruction_sets, processor_name
from madx.models.precision import Precision, Probe, Timing, probe
from madx.plugins import USER_ERRORS, describe, source_digest
from madx.recipe import ModelConfig, canonical_json
from madx.rundir import RunDirectory

_SLOWER = 1.1
"""A precision that was named and takes this many times as long as the fastest one is told of."""
_LIMITS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""Settings that keep torch from using all of the processor."""


def processor_facts(device: torch.device) -> dict[str, Any]:
    """What a format's speed depends on beside the network: the processor, what torch uses of it, and torch."""
    return {
        "processor": processor_name() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "instruction_sets": instruction_sets(),
        "torch": torch.__version__,
        "torch_uses": torch.backends.cpu.get_cpu_capability(),
        "limits": {name: os.environ[name] for name in _LIMITS if name in os.environ},
    }


def kept_probe(
    run: RunDirectory, model: ModelConfig, network: nn.Module, *, shape: tuple[int, ...], device: torch.device
) -> Probe:
    """What the formats came to for a network here: as this run has it, else as this machine has it, else measured.

    Args:
        run: its manifest is written if it has nothing yet.
        model: the recipe's section; its weights play no part.
        network: that model, with any weights.
        shape: of an image, (channels, height, width).
        device: where torch works.

    Raises:
        ModelError: the network does not run forward and backward.
    """
    facts = processor_facts(device)
    layers = {name: list(value.shape) for name, value in network.named_parameters()}
    code = source_digest(model.factory, error=ModelError) if model.factory else None
    made_of = {"model": model.architecture, "code": code, "layers": layers}
    subject = sha256_bytes(canonical_json(made_of | {"facts": facts, "image": list(shape)}).encode())
    record = run.probes().get(subject)
    if record is None:
        record = _of_this_machine(subject, lambda: _measured(network.to(device), shape) | {"machine": facts})
        run.keep_probe(subject, record)
    return probe_of(record)


def record_of(found: Probe) -> dict[str, Any]:
    """A probe for a manifest, JSON-ready, with the choice in words for those who do not load torch."""
    return {"choice": describe_choice(found), "timings": [asdict(timing) for timing in found.timings]}


def probe_of(record: dict[str, Any]) -> Probe:
    """The probe that a manifest's record holds."""
    return Probe(tuple(Timing(**entry) for entry in record["timings"]))


def _measured(network: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    try:
        found = probe(network, shape)
    except USER_ERRORS as problem:
        raise ModelError(
            f"model: the network does not run forward and backward on images of shape {list(shape)}: "
            f"{describe(problem)}; mend its forward, which training, pruning and attacks differentiate"
        ) from problem
    return record_of(found)


def _of_this_machine(subject: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What an earlier run measured, or a new measurement; where nothing can be kept, each run measures for itself."""
    file = _machines_folder()
    path = file / f"{subject[:32]}.json" if file else None
    if path is not None and path.is_file():
        with contextlib.suppress(ArtifactError, ValueError, KeyError, TypeError):  # damaged: measured again
            record: dict[str, Any] = read_json(path)
            probe_of(record)
            return record
    record = measure()
    if path is not None:
        with contextlib.suppress(ArtifactError, OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, record)
    return record


def _machines_folder() -> Path | None:
    """The user's cache, if there is one."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "madx" / "probes"
    home = os.environ.get("HOME")
    return Path(home) / ".cache" / "madx" / "probes" if home else None


def describe_choice(found: Probe) -> str:
    """What `precision: auto` is here, and what the other precision would cost."""
    best = found.fastest()
    other: Precision = "fp32" if best.precision == "bf16" else "bf16"
    if all(timing.precision != other for timing in found.timings):
        return f"precision auto: {best}"
    return f"precision auto: {best} ({other} takes {found.slowdown(other):.2g} times as long here)"


def warning(found: Probe, asked: Precision, setting: str) -> str:
    """What to say of a precision that the recipe names and that is slower here, or nothing."""
    ratio = found.slowdown(asked)
    if ratio < _SLOWER:
        return ""
    return (
        f"{setting}: {asked} takes {ratio:.2g} times as long on this machine as {found.fastest()}; "
        f"set {setting}: auto to have the fastest one"
    )
