"""`madx doctor`: what this machine can build and run, and the one pip line for what is missing."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table


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
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    for heading in ("engine", "builds here", "runs here", "why", "what to do"):
        table.add_column(heading)
    for kind, found in findings["engines"].items():
        marks = ("yes" if found["can_build"] else "no", "yes" if found["can_run"] else "no")
        table.add_row(kind, *marks, escape(found["reason"]), escape(found["remedy"]))
    console.print(table)
    for name, place in findings["data"].items():
        console.print(f"data {name}: {escape(place or 'not here')}", soft_wrap=True)


def _data_sets() -> dict[str, str | None]:
    """Where each data set with standard file names would be read from."""
    from madx.data.places import HOW_TO_GET, candidates

    found = {name: [place for place in candidates(name) if place.is_dir()] for name in HOW_TO_GET}
    return {name: str(places[0]) if places else None for name, places in found.items()}
