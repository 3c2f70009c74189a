"""`madx inspect`: what is in a run directory, and whether its files still are what the stages wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from madx.artifacts import read_json
from madx.errors import ArtifactError
from madx.rundir import RunDirectory


def examine(root: Path) -> dict[str, Any]:
    """Stages, files, kept share per layer and verdict of a run, JSON-ready.

    Raises:
        ArtifactError: the folder is not a run directory.
    """
    if not root.joinpath("manifest.json").is_file():
        raise ArtifactError(f"{root} is not a madx run directory: it has no manifest.json")
    run = RunDirectory(root)
    stages = {}
    for name, record in run.manifest()["stages"].items():
        kept = {key: record.get(key) for key in ("key", "seconds", "finished", "tools", "machine")}
        stages[name] = kept | {"files": record["outputs"], "changed": run.changed_outputs(name)}
    return {
        "run_dir": str(root),
        "stages": stages,
        "coverage": _optional(root / "coverage.json"),
        "verdict": _optional(root / "verdict.json"),
    }


def print_findings(findings: dict[str, Any]) -> None:
    """For people."""
    console = Console(highlight=False)
    for name, stage in findings["stages"].items():
        console.print(
            f"[bold]{name}[/bold]  {stage['finished'] or 'at an unknown time'}, {stage['seconds'] or 0:.0f} s"
        )
        for file, entry in stage["files"].items():
            state = "  [red]CHANGED since the stage wrote it[/red]" if file in stage["changed"] else ""
            console.print(f"  {escape(file)}  {entry.get('bytes', 0):,} bytes  {entry['sha256'][:12]}{state}")
    if coverage := findings["coverage"]:
        console.print(_layers(coverage))
    if verdict := findings["verdict"]:
        console.print(f"verdict: [bold]{verdict['outcome']}[/bold]")


def _layers(coverage: dict[str, Any]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=f"kept {coverage['kept_share']:.1%} of the weights")
    for heading in ("layer", "before", "after", "kept", "why its outputs stayed"):
        table.add_column(heading, justify="right" if heading == "kept" else "left")
    for layer in coverage["layers"]:
        shapes = ("x".join(map(str, layer[side])) for side in ("shape_before", "shape_after"))
        table.add_row(layer["name"], *shapes, f"{layer['kept'] / layer['weights']:.1%}", escape(layer["reason"]))
    return table


def _optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
