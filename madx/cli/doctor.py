"""`madx doctor`: what this machine can build and run, and the one pip line for what is missing."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_SHAPE = (1, 28, 28)
"""Of the images that formats are timed on."""


def examine() -> dict[str, Any]:
    """Machine, torch, engines and data sets, JSON-ready."""
    import torch

    from madx.deploy.engine import availabilities
    from madx.machine import describe_machine
    from madx.pipeline.versions import tool_versions

    return {
        "machine": describe_machine(),
        "tools": tool_versions(),
        "torch": {
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.is_available(),
        },
        "precision": _precision(),
        "engines": {kind: found.__dict__ for kind, found in availabilities().items()},
        "data": _data_sets(),
    }


def print_findings(findings: dict[str, Any]) -> None:
    """For people."""
    console = Console(highlight=False)
    machine = findings["machine"]
    gpus = ", ".join(machine["gpus"]) or "no NVIDIA GPU"
    console.print(
        f"{escape(machine['processor'])}, {machine['cpus']} CPUs; {escape(gpus)}; {escape(machine['system'])}"
    )
    console.print(", ".join(f"{name} {version}" for name, version in findings["tools"].items()))
    precision = findings["precision"]
    sets = ", ".join(precision["machine"]["instruction_sets"]) or "none that the kernel tells of"
    console.print(f"{escape(precision['choice'])}; instruction sets: {sets}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("engine", "builds here", "runs here", "why", "what to do"):
        table.add_column(heading)
    for kind, found in findings["engines"].items():
        marks = ("yes" if found["can_build"] else "no", "yes" if found["can_run"] else "no")
        table.add_row(kind, *marks, escape(found["reason"]), escape(found["remedy"]))
    console.print(table)
    for name, place in findings["data"].items():
        console.print(f"data {name}: {escape(place or 'not here')}", soft_wrap=True)


def _precision() -> dict[str, Any]:
    """What `precision: auto` comes to here: measured on the network that a recipe has by default."""
    import torch

    from madx.models import build_model
    from madx.models.precision import probe
    from madx.pipeline.formats import processor_facts, record_of
    from madx.recipe import ModelConfig

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_model(ModelConfig(), shape=_SHAPE, classes=10, seed=0).to(device)
    return record_of(probe(network, _SHAPE)) | {"machine": processor_facts(device)}


def _data_sets() -> dict[str, str | None]:
    """Where each data set with standard file names would be read from."""
    from madx.data.places import HOW_TO_GET, candidates

    found = {name: [place for place in candidates(name) if place.is_dir()] for name in HOW_TO_GET}
    return {name: str(places[0]) if places else None for name, places in found.items()}
