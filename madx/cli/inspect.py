"""`madx inspect`: what is in a run directory, whether its files still are what stages wrote, and what is unfinished.

A terminal gets tables with bars, anything else one plain line for each fact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from madx.artifacts import parse_object, read_json
from madx.errors import ArtifactError
from madx.rundir import CHECKPOINTS, MANIFEST, RunDirectory

if TYPE_CHECKING:
    from madx.report.saliency_views import LayerRow

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"
_NARROWEST = 80
"""Columns that the tables are made for; of more, names, bars and spreads get a quarter each."""
_NAME, _BAR, _SPREAD = 17, 8, 13
"""Characters of a layer's name, of each of its two bars and of the spread of its scores, in the narrowest terminal."""


def examine(root: Path) -> dict[str, Any]:
    """Stages, files, unfinished work, kept share and saliency per layer, and verdict of a run, JSON-ready.

    Raises:
        ArtifactError: the folder is not a run directory.
    """
    run = RunDirectory(root)
    if not run.begun:
        raise ArtifactError(f"{root} is not a madx run directory: it has no {MANIFEST}")
    stages = {}
    for name, record in run.manifest()["stages"].items():
        kept = {key: record.get(key) for key in ("key", "seconds", "finished", "tools", "machine")}
        stages[name] = kept | {"files": record["outputs"], "changed": run.changed_outputs(name)}
    return {
        "run_dir": str(root),
        "stages": stages,
        "precision": [record.get("choice") for record in run.probes().values()],
        "unfinished": _unfinished(run),
        "weights": _weights(root),
        "coverage": _optional(root / "coverage.json"),
        "saliency": _optional(root / "saliency.json"),
        "classes": _classes(run),
        "verdict": _optional(root / "verdict.json"),
    }


def print_findings(findings: dict[str, Any]) -> None:
    """For people, and for what reads lines."""
    console = Console(highlight=False, soft_wrap=True)
    root = Path(findings["run_dir"])
    with _reading(root / MANIFEST):
        _print_stages(console, findings["stages"])
    with _reading(root / "dense/training.json"):
        if findings["weights"] and findings["weights"]["notes"]:
            console.print(escape(f"weights that were given: {'; '.join(findings['weights']['notes'])}"))
    for choice in findings["precision"]:
        console.print(escape(str(choice)))
    for work in findings["unfinished"]:
        console.print(f"[yellow]unfinished[/yellow] {escape(_standing(work))}")
    for engine, rows in findings["classes"].items():
        _print_classes(console, engine, rows)
    shown = {"coverage": _print_coverage, "saliency": _print_saliency, "verdict": _print_verdict}
    for name, show in shown.items():
        if content := findings[name]:
            with _reading(root / f"{name}.json"):
                show(console, content)
    for work in findings["unfinished"]:
        if findings["verdict"] and work["stage"] == "verify" and work["later"]:
            console.print(f"[yellow]{_newer(work)}[/yellow]")


def _classes(run: RunDirectory) -> dict[str, list[dict[str, Any]]]:
    """Accuracy by class, and what is taken for what, of each engine that was measured and whose file is whole."""
    record = run.stage("verify") or {"outputs": {}}
    names = [name for name in record["outputs"] if name.startswith("measurements/")]
    if not names:
        return {}
    from madx.pipeline.reporting import read_arrays
    from madx.report.class_views import class_rows
    from madx.verify import Measurements

    found = {}
    for name in names:
        with suppress(ArtifactError, AttributeError):  # damaged, which its stage's line says, or of an earlier madx
            verdict = parse_object(run.read("verdict.json"), "verdict.json", ("provenance",))
            measured = Measurements.from_arrays(read_arrays(run.read(name)))
            rows = class_rows(measured.accuracy, verdict["provenance"].get("classes") or ())
            found[measured.engine] = [asdict(row) for row in rows]
    return found


def _weights(root: Path) -> dict[str, Any] | None:
    """Where in the file that was given the dense weights were found, and what of it was left."""
    log = _optional(root / "dense/training.json")
    return log.get("weights") if isinstance(log, dict) else None


def _print_classes(console: Console, engine: str, rows: list[dict[str, Any]]) -> None:
    """Clean and robust accuracy, before and after, and the most frequent mistakes."""
    title = f"{engine} by class"
    table = _table(title, "class", "images:", "clean:", "robust:", "clean images taken for")
    for row in rows:
        before = row["reference"] or (None, None)
        clean, robust = (f"{a} to {b}" if a else b for a, b in zip(before, row["candidate"], strict=True))
        table.add_row(escape(row["name"]), str(row["images"]), clean, robust, escape(row["taken_for"]))
    if console.is_terminal:
        console.print(table)
        return
    console.print(title)
    for row in rows:
        parts = [f"{row['images']} images", f"clean {row['candidate'][0]}, robust {row['candidate'][1]}"]
        parts += [f"reference {' and '.join(row['reference'])}"] if row["reference"] else []
        console.print(escape(f"  {row['name']}: {', '.join(parts)}; taken for {row['taken_for']}"))


def _unfinished(run: RunDirectory) -> list[dict[str, Any]]:
    """What stages keep that were begun and not finished; the pipeline is asked only if there is anything."""
    if not run.path(CHECKPOINTS).is_dir():
        return []
    from madx.pipeline.unfinished import described, unfinished

    return [described(one, run.stage(one.stage)) for one in unfinished(run)]


def _standing(work: Mapping[str, Any]) -> str:
    """One line on work that was begun."""
    facts = [f"begun and not finished, last at {work['last_written']}"]
    if work["shards"]:
        facts = [f"shard {', '.join(work['shards'])}, to be merged; last at {work['last_written']}"]
    if work["chunks"] is not None:
        facts.append(f"{work['chunks']} {'chunk' if work['chunks'] == 1 else 'chunks'} of images")
    if work["differs_in"]:
        facts.append(f"differs from the finished {work['stage']} in {', '.join(work['differs_in'])}")
    if work["problem"]:
        facts.append(work["problem"])
    return f"{work['stage']}  {'; '.join(facts)}"


def _newer(work: Mapping[str, Any]) -> str:
    """That the verdict is not of the last verification that was begun."""
    which = "the same verification" if work["differs_in"] == [] else "another verification"
    what = f"shard {', '.join(work['shards'])} of {which}" if work["shards"] else which
    return f"{what} was begun later and is not finished: this verdict is of the earlier one"


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of a file that is JSON, but not what its stage writes, that it was damaged."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise ArtifactError(
            f"{path} does not hold what madx writes there ({type(error).__name__}: {error}); delete it, and the "
            f"command that made it makes it again: {RunDirectory(path.parent).maker}"
        ) from error


def _print_stages(console: Console, stages: dict[str, Any]) -> None:
    for name, stage in stages.items():
        console.print(
            f"[bold]{name}[/bold]  {stage['finished'] or 'at an unknown time'}, {stage['seconds'] or 0:.0f} s"
        )
        for file, entry in stage["files"].items():
            state = "  [red]CHANGED since the stage wrote it[/red]" if file in stage["changed"] else ""
            console.print(f"  {escape(file)}  {entry.get('bytes', 0):,} bytes  {entry['sha256'][:12]}{state}")


def _print_verdict(console: Console, verdict: dict[str, Any]) -> None:
    console.print(f"verdict: [bold]{verdict['outcome']}[/bold]")


def _print_coverage(console: Console, coverage: dict[str, Any]) -> None:
    title = f"kept {coverage['kept_share']:.1%} of the weights"
    table = _table(title, "layer", "before", "after", "kept:", "why its outputs stayed")
    if not console.is_terminal:
        console.print(title)
    for layer in coverage["layers"]:
        name = layer["name"] or "the network"
        before, after = ("x".join(map(str, layer[side])) for side in ("shape_before", "shape_after"))
        kept, reason = f"{layer['kept'] / layer['weights']:.1%}", escape(layer["reason"])
        table.add_row(_ending(name, console.width), before, after, kept, reason)
        if not console.is_terminal:
            console.print(f"  {escape(name)}: {before} to {after}, kept {kept}{reason and f'; {reason}'}")
    if console.is_terminal:
        console.print(table)


def _print_saliency(console: Console, saliency: dict[str, Any]) -> None:
    from madx.report import saliency_views

    rows, points = saliency_views.layer_rows(saliency), saliency_views.curve(saliency)
    if console.is_terminal:
        console.print(_sensitivity(rows, console.width))
    else:
        console.print("saliency")
        for row in rows:
            levels = ", ".join(f"{level:.0%} {value:.3g}" for level, value in row.quantiles.items())
            console.print(
                f"  {escape(row.name)}: mean {row.mean:.3g}, kept {row.kept:.1%}, below zero {row.negative:.1%}, "
                f"exactly zero {row.zero:.1%}, quantiles {levels}"
            )
    for sentence in filter(None, saliency_views.sentences(saliency)):
        console.print(escape(sentence), soft_wrap=not console.is_terminal)
    if points:
        overlaps = ", ".join(f"{point.overlap:.0%} after {point.batches}" for point in points)
        console.print(f"Overlap of the halves: {overlaps} batches.", soft_wrap=not console.is_terminal)


def _sensitivity(rows: Sequence[LayerRow], width: int) -> Table:
    """Mean saliency on a logarithmic scale, kept share, and how the scores are spread, from negative to positive."""
    from madx.report import words
    from madx.report.saliency_views import scale_of

    table = _table("saliency", "layer", "mean:", "log scale", "kept:", "", "spread")
    length = _BAR + _quarter(width)
    places = scale_of([row.mean for row in rows]).place([row.mean for row in rows])
    largest = max(abs(places)) or 1.0
    for row, place in zip(rows, places, strict=True):
        colour = "yellow" if place < 0 else "blue"
        table.add_row(
            _ending(row.name, width),
            words.scientific(float(f"{row.mean:.1e}")),
            f"[{colour}]{_bar(abs(place) / largest, length)}[/{colour}]",
            f"{row.kept:.1%}",
            f"[blue]{_bar(row.kept, length)}[/blue]",
            _spark(
                [a + b for a, b in zip(row.kept_counts, row.removed_counts, strict=True)], _SPREAD + _quarter(width)
            ),
        )
    return table


def _table(title: str, *headings: str) -> Table:
    """A heading with a colon at its end is a column of numbers."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, title=title, title_justify="left", title_style="bold")
    for heading in headings:
        numbers = heading.endswith(":")
        table.add_column(heading.rstrip(":"), justify="right" if numbers else "left", no_wrap=heading != headings[-1])
    return table


def _quarter(width: int) -> int:
    """What names, bars and spreads each get of what a terminal is wider than the narrowest."""
    return max(0, width - _NARROWEST) // 4


def _ending(name: str, width: int) -> str:
    """A layer's name as far as a table has place for it; plain lines have it whole."""
    from madx.report import words

    return escape(words.ending(name, _NAME + _quarter(width)))


def _bar(share: float, length: int) -> str:
    """A bar of at most `length` characters, to an eighth of a character."""
    whole, eighths = divmod(round(8 * length * share), 8)
    return _EIGHTHS[8] * whole + _EIGHTHS[eighths].strip()


def _spark(counts: Sequence[int], length: int) -> str:
    """The counts as columns, neighbours taken together until they fit; nothing is drawn where there are none."""
    together = -(-len(counts) // length)
    sums = [sum(counts[start : start + together]) for start in range(0, len(counts), together)]
    top = max(sums, default=0) or 1
    return "".join(_LEVELS[min(7, 8 * value // top)] if value else " " for value in sums)


def _optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
