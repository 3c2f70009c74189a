"""The report stage: from the files of a run to HTML for people, Markdown for pull requests, JUnit for CI."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.artifacts import read_json, write_atomically
from madx.pipeline.context import Context
from madx.report import ReportContent, render_html, render_junit, render_markdown
from madx.verify import Measurements, Verdict

VERDICT = "verdict.json"
COVERAGE = "coverage.json"
FINETUNING = "pruned/finetuning.json"
SALIENCY = "saliency.safetensors"


def report(context: Context) -> list[str]:
    """Render every report from what the run directory holds; nothing is computed or measured again."""
    content = read_content(context)
    reports = {
        "report.html": render_html(content),
        "report.md": render_markdown(content),
        "junit.xml": render_junit(content),
    }
    for name, text in reports.items():
        write_atomically(context.run.path(name), text)
    return list(reports)


def read_content(context: Context) -> ReportContent:
    """Everything a report shows, read from the run directory.

    Raises:
        ArtifactError: the run has no verdict yet, or a file is damaged.
    """
    verdict = read_json(context.run.path(VERDICT))
    engines = [engine.name for engine in context.recipe.export.engines]
    files = [context.run.path(f"measurements/{name}.npz") for name in engines]
    return ReportContent(
        recipe=context.recipe.model_dump(mode="json"),
        verdict=Verdict.from_json(verdict),
        provenance=verdict["provenance"],
        measurements=tuple(
            Measurements.from_arrays(read_arrays(path.read_bytes())) for path in files if path.is_file()
        ),
        coverage=read_json(context.run.path(COVERAGE)),
        finetuning=read_json(context.run.path(FINETUNING)),
        builds={name: read_json(context.run.path(f"engines/{name}/build.json")) for name in engines},
        saliency=_layer_means(context),
        stages={name: record for name, record in context.run.manifest()["stages"].items() if name != "report"},
    )


def read_arrays(payload: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; no code in it is run."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as content:
        return {name: content[name] for name in content.files}


def _layer_means(context: Context) -> dict[str, float]:
    """Mean saliency of each parameter, in the network's order: how sensitive it is to adversarial examples."""
    scores = context.read_tensors(SALIENCY)
    layers = [layer["name"] for layer in read_json(context.run.path(COVERAGE))["layers"]]
    names = [f"{layer}.{kind}" if layer else kind for layer in layers for kind in ("weight", "bias")]
    return {name: float(scores[name].mean()) for name in names if name in scores}
