"""The report stage: from the files of a run to HTML for people, Markdown for pull requests, JUnit for CI."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.artifacts import write_atomically
from madx.pipeline import files
from madx.pipeline.contenders import build_record
from madx.pipeline.context import Context
from madx.report import ReportContent, render_html, render_junit, render_markdown
from madx.verify import Measurements, Verdict


def report(context: Context) -> list[str]:
    """Render every report from what the run directory holds; nothing is computed or measured again."""
    content = read_content(context)
    texts = (render_html(content), render_markdown(content), render_junit(content))
    for name, text in zip(files.REPORTS, texts, strict=True):
        write_atomically(context.run.path(name), text)
    return list(files.REPORTS)


def read_verdict(context: Context) -> tuple[Verdict, dict[str, Any]]:
    """The run's verdict and its provenance.

    Raises:
        ArtifactError: the run has none, or it is not the one that was written.
    """
    content = context.read_json(files.VERDICT)
    return Verdict.from_json(content), content["provenance"]


def read_content(context: Context) -> ReportContent:
    """Everything a report shows, each file checked against the manifest.

    Raises:
        ArtifactError: the run has no verdict yet, or a file is damaged.
    """
    verdict, provenance = read_verdict(context)
    measured = context.run.hashes("verify")
    engines = context.recipe.export.engines
    names = [files.measurements(engine) for engine in engines if files.measurements(engine) in measured]
    return ReportContent(
        recipe=context.recipe.model_dump(mode="json"),
        verdict=verdict,
        provenance=provenance,
        measurements=tuple(Measurements.from_arrays(read_arrays(context.run.read(name))) for name in names),
        coverage=_of_pruning(context, files.COVERAGE),
        finetuning=_of_pruning(context, files.FINETUNING),
        builds={engine.name: build_record(context, engine) for engine in engines},
        saliency=_of_pruning(context, files.SALIENCY_SUMMARY),
        stages={name: record for name, record in context.run.manifest()["stages"].items() if name != "report"},
    )


def read_arrays(payload: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; no code in it is run."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _of_pruning(context: Context, name: str) -> dict[str, Any]:
    """What the prune stage summed up; nothing where no run pruned the engine, or an older madx did."""
    content: dict[str, Any] = {}
    if name in context.run.hashes("prune"):
        content = context.read_json(name)
    return content
