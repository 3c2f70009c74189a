"""The recipe that a command line without one stands for: a finished ONNX file, images, and what an attacker may do.

It is a recipe like any other, text that is read and validated, and everything after it goes the usual way. It is
written into the run directory beside the verdict that it led to, to be committed and repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from madx.artifacts import sha256_bytes, write_atomically
from madx.data.inspecting import classes_in, look_at_tests
from madx.deploy.numbers import reduced
from madx.deploy.outside import precision_of
from madx.deploy.signature import Expected, read_output
from madx.errors import ArtifactError, DataError, RecipeError
from madx.pipeline.given import Given
from madx.recipe import InputConfig, OutputConfig, Recipe, parse_recipe
from madx.recipe.reading import apply_override, parse_value
from madx.recipe.short import (
    check_for_one_engine,
    consented,
    gate_of,
    skeleton,
    text_of,
    usual_gates,
    with_paths_from,
    with_precision,
)

RECIPE = "recipe.yaml"
"""Its name in the run directory."""
_SOURCE = "the recipe that the options stand for"
_HEAD = (
    "Written by madx verify --engine, which was given no recipe: this is what its options stood for.\n"
    "Paths are relative to this file. With the same --engine (and --reference) it gives the same verdict."
)
_ADDED = (
    "\nNo gate that was given is on robustness, which is what this verdict is for: so the usual one on robust_drop "
    "was added.\nTo ask for more or less of it, give it yourself: --gate 'robust_drop<=0.05'."
)
_SEAL = "# of the lines above: "
"""Before a digest, so that what somebody changed is not written over."""


@dataclass(frozen=True)
class Asked:
    """What the options say where there is no recipe."""

    data: Path
    eps: str
    """As a recipe writes it, such as 8/255."""
    norm: str
    attack: str
    seed: int
    images: int | None
    gates: Sequence[str]
    """As `--gate` writes them; empty: the usual ones."""
    query_only: bool
    """Whether gates on robustness accept that attacks had nothing but queries."""


@dataclass(frozen=True)
class StandIn:
    """A recipe that no file held yet."""

    text: str
    written: Recipe
    root: Path
    """The run directory."""
    size: tuple[int, int, int] | None = None
    """(C, H, W) that the engine's file takes, where it says so plainly."""

    @property
    def path(self) -> Path:
        """Where its file will be."""
        return self.root / RECIPE

    def told_of(self, problem: DataError) -> DataError:
        """What is wrong with the images, and how more is said of them without a recipe."""
        return _told(problem, self.size)

    def write(self) -> None:
        """Write the file, beside the verdict that it led to."""
        write_atomically(self.path, self.text, remedy="give another --out")


def stand_in(asked: Asked, given: Given, overrides: Sequence[str], run_dir: Path | None) -> StandIn:
    """The recipe of these options; `overrides` may say anything that a recipe can.

    Raises:
        RecipeError: an option makes no recipe, or nothing says how much robustness is enough.
        DataError: the images cannot be read, or it is not clear how.
        ArtifactError: the run directory holds a recipe of the user's own.
    """
    assert given.engine is not None  # the command line asks for it
    content = _content(asked, given)
    for override in overrides:
        apply_override(content, override)
    _check_twin(given, content)
    recipe = parse_recipe(text_of(content | {"data": {}}, head=_HEAD), source=_SOURCE)  # before any image is read
    head = _HEAD
    if not _compares(given):
        check_for_one_engine(recipe.verify.gates)
    elif not any(gate.on_robustness for gate in recipe.verify.gates):
        content["verify"], head = _with_robustness(content["verify"], query_only=asked.query_only), _HEAD + _ADDED
    model = _opened(given.engine)
    size, outputs = _sizes(model)
    content["data"] = _data(asked.data, content["data"], size, outputs)
    content = with_precision(content, _precision(model, recipe.verify.output.name, content["data"]))
    root = run_dir or Path("runs") / f"{recipe.name}-engine"
    text = _sealed(text_of(with_paths_from(content, root), head=head))
    found = StandIn(text, parse_recipe(text, source=_SOURCE), root, size)
    _check_own(found.path)
    return found


def _content(asked: Asked, given: Given) -> dict[str, Any]:
    """What the options say; values that are wrong are for the recipe to refuse."""
    assert given.engine is not None
    if not asked.gates and not _compares(given):
        check_for_one_engine(())
    gates = [gate_of(text) for text in asked.gates] or usual_gates()
    verify: dict[str, Any] = {"attack": asked.attack}
    if asked.images is not None:
        verify["images"] = asked.images
    verify["gates"] = consented(gates) if asked.query_only else gates
    threat = {"norm": asked.norm, "eps": parse_value(asked.eps, f"--eps {asked.eps!r}")}
    return skeleton(given.engine, seed=asked.seed, threat=threat, verify=verify)


def _opened(engine: Path) -> onnx.ModelProto | None:
    """The file, whatever its name ends with; None where it is none, and the take stage says what is wrong with it."""
    try:
        return onnx.load(engine, format="protobuf", load_external_data=False)
    except (OSError, DecodeError):
        return None


def _precision(model: onnx.ModelProto | None, output: str | None, data: Mapping[str, Any]) -> str:
    """What the judged output is computed in, as nobody names it: the take stage holds the two together, as always.

    Which one is judged is asked as that stage asks, and only where it matters.
    """
    if model is None:
        return "fp32"
    names = [value.name for value in model.graph.output]
    found = {name: precision_of(reduced(model, [name])) for name in names}
    if len(set(found.values())) > 1 and output is None:
        expected = Expected((0, 0, 0), classes_in(data), None, InputConfig(), OutputConfig())  # no image is fed here
        output, _ = read_output(model, expected)
    return found[output] if output in found else precision_of(reduced(model, names))


def _compares(given: Given) -> bool:
    return given.reference is not None or given.baseline is not None


def _with_robustness(verify: Mapping[str, Any], *, query_only: bool) -> dict[str, Any]:
    """The section of a valid recipe with the usual gate on robustness behind the gates that it has, none of them on it.

    Without a reference there is no usual one: `check_for_one_engine` asks for a bound then.
    """
    usual = usual_gates()[:1]
    return {**verify, "gates": [*verify["gates"], *(consented(usual) if query_only else usual)]}


def _check_twin(given: Given, content: Mapping[str, Any]) -> None:
    if (given.twin or given.reference_twin) and "model" not in content:
        raise RecipeError(
            "--twin and --reference-twin are weights, and without a recipe nothing says of which network: add --set "
            "model.name=resnet18, say, or --set model.name=factory --set model.factory=mypackage.nets:build, or give a "
            "recipe"
        )


def _data(path: Path, more: Any, size: tuple[int, int, int] | None, outputs: int | None) -> dict[str, Any]:
    """The section of the images, with what the ONNX file says of them and they do not say themselves."""
    if not isinstance(more, Mapping):
        raise RecipeError(
            f"--set data={more!r}: beside --data, give keys of that section, such as --set data.image_size=224"
        )
    if "path" in more:
        raise RecipeError("--data and --set data.path both say where the images are; give one of them")
    try:
        return look_at_tests(path, dict(more), outputs=outputs, channels=size[0] if size else None)
    except DataError as problem:
        raise _told(problem, size) from None


def _told(problem: DataError, size: tuple[int, int, int] | None) -> DataError:
    taken = f" (the ONNX file takes images of {size[1]} x {size[2]} pixels)" if size else ""
    return DataError(f"--data: {problem}{taken}. Without a recipe, data.KEY: VALUE is said as --set data.KEY=VALUE")


def _sizes(model: onnx.ModelProto | None) -> tuple[tuple[int, int, int] | None, int | None]:
    """(C, H, W) that an ONNX file takes and how many classes it tells, as far as its declarations are plain.

    What is not stays open here: the file is read in earnest when it is taken over.
    """
    if model is None:
        return None, None
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    shapes = [_dims(values[0]) if len(values) == 1 else [] for values in (inputs, graph.output)]
    image, scores = shapes[0][1:], shapes[1]
    outputs = scores[1] if len(scores) == 2 and scores[1] > 1 else None
    if len(image) != 3 or 0 in image:
        return None, outputs
    first = image[0] <= image[2]  # channels are the short side of the two
    return (image[0], image[1], image[2]) if first else (image[2], image[0], image[1]), outputs


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Declared sizes; 0 where one is open."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def _sealed(text: str) -> str:
    return f"{text}{_SEAL}{sha256_bytes(text.encode())[:16]}\n"


def _check_own(path: Path) -> None:
    """A recipe that somebody put there, or changed, is not written over."""
    if not path.exists():
        return
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text or _sealed(text.rpartition(_SEAL)[0]) != text:
        raise ArtifactError(
            f"{path} is not as madx wrote it, and the recipe that these options stand for would take its place; give "
            "another --out, or that recipe instead of --data and --eps"
        )
