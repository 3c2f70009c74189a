"""The last release as a run directory: which of its engines and weights a baseline is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from madx.artifacts import parse_object
from madx.deploy.check import ELEMENTS
from madx.deploy.interface import Interface
from madx.errors import ArtifactError
from madx.pipeline import files
from madx.pipeline.given import (
    CANDIDATE,
    Given,
    GivenEngine,
    Released,
    Source,
    bundle_source,
    check_twins,
    onnx_source,
)
from madx.recipe import EngineConfig
from madx.rundir import RunDirectory

_TWINS = {"pruned": files.PRUNED, CANDIDATE: files.taken_twin(CANDIDATE)}
"""The networks that a run may have released, and where it keeps their weights."""


def sources(given: Given, engines: Iterable[EngineConfig]) -> dict[str, Source]:
    """Everything that was given, by role.

    Raises:
        ArtifactError: a file is not there, or not what its run wrote.
        RecipeError: one engine has a twin and the other has not.
    """
    configs = tuple(engines)
    names = [config.name for config in configs]
    found = {}
    if given.engine is not None:
        found[CANDIDATE] = onnx_source(CANDIDATE, given.engine, given.twin, names=names)
    if given.reference is not None:
        found["reference"] = onnx_source("reference", given.reference, given.reference_twin, names=names)
    if given.baseline is not None:
        found["baseline"] = _baseline(given.baseline, configs)
    check_twins(found, own_twins=not given.alone)
    return found


def _baseline(path: Path, configs: tuple[EngineConfig, ...]) -> Source:
    if not path.exists():
        raise ArtifactError(f"--baseline {path}: there is no such file or folder; give a run directory or a bundle")
    if RunDirectory(path).begun:
        return _run_source(path, configs)
    return bundle_source("baseline", path, names={config.name: config.precision for config in configs})


def _run_source(path: Path, configs: tuple[EngineConfig, ...]) -> Source:
    """The engines that another run released; every byte is checked against its manifest."""
    run = RunDirectory(path)
    stages = run.manifest()["stages"].values()
    vouched = {name for record in stages for name in record["outputs"]}
    engines, absent, roles = {}, {}, set()
    for config in configs:
        found = _found(run, config, vouched)
        if isinstance(found, str):
            absent[config.name] = f"the baseline's run did not build it: {found}"
            continue
        data = {location: run.read(name) for location, name in found.data.items()}
        engines[config.name] = GivenEngine(run.read(found.file), data, found.released)
        roles.add(found.role)
    if not roles:
        why = "; ".join(f"{name}: {reason}" for name, reason in absent.items())
        raise ArtifactError(f"--baseline {path}: there is nothing to compare with; {why}. Build an engine there first")
    twin = _TWINS[roles.pop()]
    if twin in vouched:
        run.read(twin)  # refuses other bytes than the run's own
    own = run.path(twin) if twin in vouched else None
    return Source("baseline", engines, own, absent)


@dataclass(frozen=True)
class _Found:
    """Where a run has the engine that it released."""

    role: str
    file: str
    data: Mapping[str, str]
    """Files of its external data, by location."""
    released: Released


def _found(run: RunDirectory, config: EngineConfig, vouched: set[str]) -> _Found | str:
    """The engine that this run was judged by, or why it built none.

    One of another precision is taken where the run records none of the recipe's: what a change of precision costs is
    what a release asks. One that was promised there and not built is missing, whatever else there is.

    Raises:
        ArtifactError: it does not know such an engine.
    """
    for precision, names in _records(config).items():
        recorded = [(name, parse_object(run.read(name), name, ("reason",))) for name in names if name in vouched]
        for name, record in recorded:
            for role in _TWINS:
                if file := files.recorded(record, role):
                    return _of_record(name, record[role], role, file, precision)
        if recorded:
            return str(recorded[0][1]["reason"])
    there = sorted({name.split("/")[1] for name in vouched if name.endswith("/build.json")})
    raise ArtifactError(
        f"--baseline {run.root}: this run has no engine {config.name} to compare with (it has "
        f"{', '.join(there) or 'none'}); export it there, or leave {config.name} out of export.engines"
    )


def _of_record(name: str, entry: Mapping[str, Any], role: str, file: str, precision: str) -> _Found:
    known = entry.get("facts") or {}
    facts = {fact: str(known[fact]) for fact in files.FOUND_IN_FILE if known.get(fact)}
    interface = _interface(entry.get("interface"), name)
    own = name.startswith(f"{files.ENGINES}/")
    released = Released(Path(file).suffix, entry.get("precision", precision), interface, facts, own)
    return _Found(role, file, entry.get("data") or {}, released)


def _records(config: EngineConfig) -> dict[str, list[str]]:
    """Where a run may keep the record of an engine of this kind, by its precision; the recipe's own first."""
    own, others = config.precision, [one for one in ELEMENTS if one != config.precision]
    return {
        precision: [kept(config.of_precision(precision)) for kept in (files.build, files.taken_build)]
        for precision in (own, *others)
    }


def _interface(recorded: Any, name: str) -> Interface | None:
    """How an engine was fed, as the record of that name says.

    Raises:
        ArtifactError: it is another madx's record.
    """
    if not recorded:
        return None
    try:
        return Interface.from_json(recorded)
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{name} of the baseline says how its engine is fed in words that this madx does not know ({error!r}); "
            "verify that run again with this madx"
        ) from error
