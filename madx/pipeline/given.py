"""What a verification is given from outside its run: engine files, weights of their twins, the last release.

A release is a run directory (its pruned engine of the same kind, and its pruned network), or a bundle: an .onnx file
with a .safetensors of the same name beside it, or a folder with one of each. Bytes count, paths do not: everything is
copied into the run, and what was given is told by its SHA-256.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from madx.artifacts import sha256_bytes, sha256_file
from madx.deploy.external import Data, read_beside
from madx.deploy.interface import Interface
from madx.errors import ArtifactError, RecipeError
from madx.report import Invocation

CANDIDATE = "engine"
_TWIN_NEEDED = (
    "one engine has a torch twin and the other has none, so attacks would know more of one than of the other and the "
    "comparison would mean nothing; give the weights of both (--twin, --reference-twin; a baseline bundle has them "
    "beside its .onnx), or of neither"
)


@dataclass(frozen=True)
class Given:
    """The paths of a command line; without any, a run measures what it made itself."""

    engine: Path | None = None
    """An ONNX file to judge in place of the run's own pruned engine."""
    twin: Path | None = None
    """Weights of its torch twin."""
    reference: Path | None = None
    """An ONNX file to compare it with."""
    reference_twin: Path | None = None
    """Weights of that one's torch twin."""
    baseline: Path | None = None
    """The last release, to compare with in place of the run's dense engine or of `reference`."""

    def __post_init__(self) -> None:
        if self.engine is None and (alone := [name for name in _ALONE if getattr(self, name) is not None]):
            options = ", ".join(f"--{name.replace('_', '-')}" for name in alone)
            raise RecipeError(f"{options} belongs to --engine model.onnx, the file to judge; give that too")
        if self.reference is not None and self.baseline is not None:
            raise RecipeError("--reference and --baseline are both what to compare with; give one of them")
        if self.reference_twin is not None and self.reference is None:
            raise RecipeError("--reference-twin holds the weights of --reference, which was not given")

    def typed(self, recipe: Path, run_dir: Path | None, overrides: Sequence[str]) -> Invocation:
        """The command line that these files were given on."""
        options = {f"--{one.name.replace('_', '-')}": getattr(self, one.name) for one in fields(self)}
        given = {option: str(path) for option, path in options.items() if path is not None}
        return Invocation(str(recipe), None if run_dir is None else str(run_dir), tuple(overrides), given)

    @property
    def alone(self) -> bool:
        """Whether an engine is judged that no run made."""
        return self.engine is not None

    @property
    def any(self) -> bool:
        """Whether there is anything at all."""
        return self.alone or self.baseline is not None


_ALONE = ("twin", "reference", "reference_twin")
NOTHING = Given()


@dataclass(frozen=True)
class Released:
    """What the run that released an engine recorded of it."""

    suffix: str
    """File ending; an ONNX file is checked and built here as any other, and another engine is taken as it is."""
    precision: str
    """The recipe's word for what it computes in."""
    interface: Interface | None
    """How it was fed (None: as madx's own exports are): of that run's verdict it is a part, so it goes before what a
    recipe says of another file."""
    facts: Mapping[str, str]
    """What was found in its ONNX file (`files.FOUND_IN_FILE`); an engine built from that shows none of it."""
    exported: bool = False
    """Whether that run exported it itself, and so knew which of its layers are in that precision."""


@dataclass(frozen=True)
class GivenEngine:
    """The files of an engine from outside."""

    payload: bytes
    data: Data = field(default_factory=dict)
    """External data of its ONNX file, by location."""
    released: Released | None = None
    """None of one that comes without its run: nothing is known of such a file."""


@dataclass(frozen=True)
class Source:
    """What was given in one role: an engine for each of the recipe's, and their torch twin."""

    role: str
    """engine (the candidate), reference or baseline."""
    engines: Mapping[str, GivenEngine]
    """By name of the recipe's engine."""
    twin: Path | None
    absent: Mapping[str, str] = field(default_factory=dict)
    """By the same name, why a release lacks an engine that the recipe promises."""

    def digests(self) -> dict[str, str]:
        """SHA-256 of everything that was given."""
        own = {name: sha256_bytes(engine.payload) for name, engine in self.engines.items()}
        for name, engine in self.engines.items():
            own |= {f"{name}: {location}": sha256_bytes(content) for location, content in engine.data.items()}
        return own if self.twin is None else own | {"twin": sha256_file(self.twin)}


def check_twins(sources: Mapping[str, Source], *, own_twins: bool) -> None:
    """Both engines are attacked with the same means, or nothing is compared.

    Args:
        sources: what was given, by role.
        own_twins: whether the candidate is the run's own network.

    Raises:
        RecipeError: one side has a twin and the other has not.
    """
    twins = [source.twin is not None for source in sources.values()] + ([True] if own_twins else [])
    if len(set(twins)) > 1:
        raise RecipeError(_TWIN_NEEDED)


def onnx_source(role: str, path: Path, twin: Path | None, *, names: list[str]) -> Source:
    """One ONNX file for every engine of the recipe.

    Raises:
        ArtifactError: there is no such file.
        ExportError: its external data cannot be read.
    """
    payload = _read(path, f"--{role}")
    if twin is not None and not twin.is_file():
        raise ArtifactError(f"{twin}: there is no such weights file; expected a .safetensors or torch file")
    return Source(role, dict.fromkeys(names, GivenEngine(payload, read_beside(path, payload))), twin)


def bundle_source(role: str, path: Path, *, names: Mapping[str, str]) -> Source:
    """A release that is no run directory: a folder, or an ONNX file with its twin beside it.

    Args:
        role: as in `Source`.
        path: of the folder or the file.
        names: precision by name of the recipe's engine.

    Raises:
        ArtifactError: there is nothing, or no telling which file is meant.
    """
    if not path.is_dir():
        return onnx_source(role, path, _beside(path), names=list(names))
    chosen = {name: _onnx_in(path, precision) for name, precision in names.items()}
    payloads = {name: _read(file, f"--{role}") for name, file in chosen.items()}
    engines = {name: GivenEngine(payloads[name], read_beside(file, payloads[name])) for name, file in chosen.items()}
    return Source(role, engines, _twin_in(path, set(chosen.values())))


def _read(path: Path, option: str) -> bytes:
    if path.is_dir():
        raise ArtifactError(f"{option} {path} is a folder; expected an ONNX file")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{option} {path} cannot be read: {error.strerror}; expected an ONNX file") from None


def _beside(path: Path) -> Path | None:
    """The twin's weights have the name of the engine's file."""
    weights = path.with_suffix(".safetensors")
    return weights if weights.is_file() else None


def _onnx_in(folder: Path, precision: str) -> Path:
    """The file that `madx export` wrote for this precision, or the only one there is."""
    named = folder / f"pruned-{precision}.onnx"
    files = [named] if named.is_file() else sorted(folder.glob("*.onnx"))
    if len(files) != 1:
        there = ", ".join(file.name for file in files) or "none"
        raise ArtifactError(
            f"{folder}: expected {named.name} or a single .onnx file, found {there}; name the file itself"
        )
    return files[0]


def _twin_in(folder: Path, engines: set[Path]) -> Path | None:
    """Weights of the engine's name, or the only ones there are."""
    named = {weights for engine in engines if (weights := _beside(engine)) is not None}
    files = sorted(named) or sorted(folder.glob("*.safetensors"))
    if len(files) > 1:
        raise ArtifactError(
            f"{folder}: which of {', '.join(file.name for file in files)} are the twin's weights? Keep one, or give it "
            "the name of the .onnx file"
        )
    return files[0] if files else None
