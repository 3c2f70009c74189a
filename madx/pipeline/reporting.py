"""The report stage: from the files of a run to HTML for people, Markdown for pull requests, JUnit for CI."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from madx.artifacts import UNREADABLE
from madx.errors import ArtifactError
from madx.pipeline import files
from madx.pipeline.context import Context
from madx.pipeline.engines import build_record
from madx.recipe import EngineConfig
from madx.report import ReportContent, render_html, render_junit, render_markdown
from madx.verify import Measurements, Verdict


def report(context: Context) -> list[str]:
    """Render every report from what the run directory holds; nothing is computed or measured again."""
    content = read_content(context)
    texts = (render_html(content), render_markdown(content), render_junit(content))
    for name, text in zip(files.REPORTS, texts, strict=True):
        context.write_bytes(name, text.encode())
    return list(files.REPORTS)


def read_verdict(context: Context) -> tuple[Verdict, dict[str, Any]]:
    """The run's verdict and its provenance.

    Raises:
        ArtifactError: the run has none, or it is not the one that was written.
    """
    content = context.read_json(files.VERDICT, "provenance")
    return Verdict.from_json(content), content["provenance"]


def read_content(context: Context) -> ReportContent:
    """Everything a report shows, each file checked against the manifest.

    Raises:
        ArtifactError: the run has no verdict yet, or a file is damaged.
    """
    verdict, provenance = read_verdict(context)
    measured = context.run.hashes("verify")
    recipe, engines = _judged_by(provenance)
    names = [files.measurements(engine) for engine in engines if files.measurements(engine) in measured]
    return ReportContent(
        recipe=recipe,
        verdict=verdict,
        provenance=provenance,
        measurements=tuple(Measurements.from_arrays(read_arrays(context.run.read(name))) for name in names),
        coverage=_of_pruning(context, files.COVERAGE),
        finetuning=_of_pruning(context, files.FINETUNING),
        builds={engine.name: build_record(context, engine) for engine in engines},
        saliency=_of_pruning(context, files.SALIENCY_SUMMARY),
        stages={name: record for name, record in context.run.manifest()["stages"].items() if name != "report"},
    )


def _judged_by(provenance: Mapping[str, Any]) -> tuple[Mapping[str, Any], list[EngineConfig]]:
    """The recipe of the verdict, whatever the command line says now, and the engines that it promised.

    Raises:
        ArtifactError: this madx knows other engines than the one that wrote the verdict.
    """
    try:
        recipe: Mapping[str, Any] = provenance["recipe"]
        return recipe, [EngineConfig.model_validate(engine) for engine in recipe["export"]["engines"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the verdict's recipe cannot be read by this madx ({error}); verify again") from None


def read_arrays(payload: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; no code in it is run.

    Raises:
        ArtifactError: the bytes are damaged, or those of another kind of file.
    """
    try:
        with np.load(io.BytesIO(payload), allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except UNREADABLE as error:
        raise ArtifactError(f"the arrays cannot be read ({type(error).__name__}: {error})") from None
    if foreign := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
        raise ArtifactError(f"{foreign[0]} is no array, so the file is not one that madx wrote")
    return arrays


def _of_pruning(context: Context, name: str) -> dict[str, Any]:
    """What the prune stage summed up; nothing where no run pruned the engine."""
    content: dict[str, Any] = {}
    if name in context.run.hashes("prune"):
        content = context.read_json(name)
    return content
