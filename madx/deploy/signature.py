"""What goes into an ONNX file from outside and what comes out: read from its graph and from the recipe.

A file that leaves something open, or names several of it, is for the recipe to settle; each function gives what it
found, and a sentence for each thing that is wrong, so that all of them can be told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from madx.recipe import InputConfig, OutputConfig

Dims = list[int | str]
Shape = tuple[int, int, int]
_UNTOLD = TensorProto.UNDEFINED
_ONE_CLASSIFIER = ("Softmax", "LogSoftmax", "Sigmoid")
"""What of logits makes other numbers in the same order."""
_COPIES = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze")
_MEANINGS = {"mean": 0.0, "std": 1.0}
_LEVELS = 255
"""Whole numbers that images become at least: 256 grey levels, or one fewer where a type is used symmetrically."""


@dataclass(frozen=True)
class Expected:
    """What a file is to fit."""

    shape: tuple[int, int, int]
    """(C, H, W) of the data's images."""
    classes: int
    precision: str | None
    """That the file must have; None: whatever it computes in."""
    input: InputConfig
    output: OutputConfig
    section: str = "verify.input"
    """Where the recipe says these; the output's is named alike."""

    @property
    def outputs(self) -> str:
        """The section of the output."""
        return self.section.replace("input", "output")


# --- The input ------------------------------------------------------------------------------------------------------


def read_input(graph: GraphProto, expected: Expected) -> tuple[dict[str, Any] | None, list[str]]:
    """The interface's side of the input, and what is wrong with it."""
    known = {tensor.name for tensor in graph.initializer} | {one.values.name for one in graph.sparse_initializer}
    inputs, wanted = [value for value in graph.input if value.name not in known], expected.input
    named = [value for value in inputs if wanted.name in (None, value.name)]
    listed = ", ".join(f"{value.name!r} {_kind(value)}" for value in inputs) or "none"
    if len(inputs) != 1:
        return None, [
            f"the ONNX file has the inputs {listed}; expected one, the images: make the others constants of the file "
            "(initialisers), at the values that it is deployed with"
        ]
    if not named:
        return None, [f"{expected.section}: there is no input {wanted.name!r}; the ONNX file has {listed}"]
    value, problems = named[0], []
    dtype = _numpy_type(value)
    if dtype is None:
        problems.append(
            f"the ONNX input {value.name!r} is {_kind(value)}; expected numbers that numpy has: put a Cast before it, "
            "so that it takes float32 images"
        )
    elif wanted.dtype not in (None, dtype):
        problems.append(
            f"{expected.section} says dtype {wanted.dtype}, and the ONNX input {value.name!r} is {dtype}; leave "
            "out dtype"
        )
    shaped, problem = _image_shape(value, expected)
    problems += [problem] if problem else []
    batch, problem = _batch(value, expected)
    problems += [problem] if problem else []
    steps, problem = _steps(dtype or "float32", expected)
    problems += [problem] if problem else []
    return {"input": value.name, "dtype": dtype or "float32", "batch": batch, **shaped, **steps}, problems


def _image_shape(value: ValueInfoProto, expected: Expected) -> tuple[dict[str, Any], str]:
    """The layout and the shape of one image as the file has it; what is wrong, or nothing."""
    dims, (channels, height, width) = _dims(value), expected.shape
    usual: dict[str, Shape] = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    asked = [expected.input.layout] if expected.input.layout else list(usual)
    if fitting := _fitting_shapes(value, expected):
        return fitting[0], ""
    if dims is not None and (padded := _with_ones(dims[1:], usual, asked)):
        return padded, ""
    given = f"the ONNX input is {dims}"
    if dims is not None and any(_fits(dims, usual[layout]) for layout in asked):
        return {}, f"{given}, one image without a batch; export it with a batch as its first dimension"
    orders = ", or channels last " + _shown(usual["NHWC"]) if channels > 1 else ""
    if expected.input.layout:
        orders = f", as {expected.section} says layout {expected.input.layout}"
    return {}, (
        f"{given}; expected {_shown(usual[asked[0]])}{orders}, as the images of the data are: give the file that was "
        "made for them, or read the data with as many channels and at that size"
    )


def other_layouts(graph: GraphProto, expected: Expected) -> list[dict[str, Any]]:
    """Further layouts that the declared shape of the input leaves open, for a file that refuses the first one."""
    known = {tensor.name for tensor in graph.initializer}
    return next((_fitting_shapes(value, expected)[1:] for value in graph.input if value.name not in known), [])


def _fitting_shapes(value: ValueInfoProto, expected: Expected) -> list[dict[str, Any]]:
    """Layouts and shapes of one image that the declared one may be, the usual one first."""
    dims, (channels, height, width) = _dims(value), expected.shape
    usual: dict[str, Shape] = {"NCHW": (channels, height, width), "NHWC": (height, width, channels)}
    found = []
    for layout in [expected.input.layout] if expected.input.layout else list(usual):
        shapes: list[tuple[int, ...]] = [usual[layout], (prod(expected.shape),)]
        shapes += [(height, width)] if channels == 1 else []
        found += [{"layout": layout, "image": one} for one in shapes if dims is None or _fits(dims[1:], one)]
    return found


def _with_ones(dims: Dims, usual: dict[str, Shape], asked: Sequence[str]) -> dict[str, Any]:
    """An image whose fixed sides are the data's but for dimensions of 1 ([1, C, H, W], [C * H * W, 1]); or nothing."""
    sides = tuple(side for side in dims if isinstance(side, int) and side > 1)
    if all(isinstance(side, int) for side in dims):
        for layout in asked:
            wanted = tuple(side for side in usual[layout] if side > 1)
            if sides in (wanted, (prod(wanted),)):
                return {"layout": layout, "image": tuple(dims)}
    return {}


def _fits(dims: Dims, shape: Sequence[int]) -> bool:
    """Whether the fixed ones are these, and there are as many."""
    return len(dims) == len(shape) and all(dim in (side, *_names(dim)) for dim, side in zip(dims, shape, strict=True))


def _names(dim: int | str) -> tuple[str, ...]:
    """A dimension that is not fixed may be anything."""
    return (dim,) if isinstance(dim, str) else ()


def _shown(shape: Sequence[int]) -> str:
    return f"[batch, {', '.join(map(str, shape))}]"


def _batch(value: ValueInfoProto, expected: Expected) -> tuple[int | None, str]:
    """How many images a call the file declares, or the recipe asks for; what is wrong, or nothing."""
    dims, asked = _dims(value), expected.input.batch
    fixed = dims[0] if dims and isinstance(dims[0], int) else None
    if fixed is not None and asked not in (None, fixed):
        return (
            None,
            f"{expected.section} says batch {asked}, and the ONNX file takes {fixed} images a call; leave out batch",
        )
    return asked or fixed, ""


def _steps(dtype: str, expected: Expected) -> tuple[dict[str, Any], str]:
    """What is done to images before the file; what is wrong, or nothing."""
    wanted, channels = expected.input, expected.shape[0]
    usual = 255.0 if np.issubdtype(np.dtype(dtype), np.integer) else 1.0
    found: dict[str, Any] = {"scale": usual if wanted.scale is None else float(wanted.scale)}
    for name in _MEANINGS:
        given = getattr(wanted, name)
        if given is None:
            continue
        if len(given) not in (1, channels):
            return {}, f"{expected.section}.{name} has {len(given)} numbers, and the images have {channels} channel(s)"
        spread = tuple(map(float, given)) * (channels // len(given))
        found[name] = () if set(spread) == {_MEANINGS[name]} else spread
    if dtype == "int8" and wanted.mean is None:
        found["mean"] = (128.0,) * channels
    if problem := _does_not_hold(dtype, found, expected):
        return {}, problem
    if wanted.channel_order == "bgr":
        if channels == 1:
            return {}, f"{expected.section}.channel_order: bgr is for images of several channels; these have one"
        found["bgr"] = True
    return found, ""


def _does_not_hold(dtype: str, steps: dict[str, Any], expected: Expected) -> str:
    """Why images do not go into whole numbers unharmed, or nothing: these are clipped and rounded without a word."""
    if not np.issubdtype(np.dtype(dtype), np.integer):
        return ""
    limits, zero, one = np.iinfo(dtype), np.zeros(1), np.ones(1)
    mean, std = np.array(steps.get("mean") or zero), np.array(steps.get("std") or one)
    ends = np.sort([(x * steps["scale"] - mean) / std for x in (zero, one)], axis=0)  # [2, C]
    low, high, levels = np.rint(ends[0].min()), np.rint(ends[1].max()), np.rint(np.ptp(ends, axis=0).min()) + 1
    if low >= limits.min and high <= limits.max and levels >= _LEVELS:
        return ""
    usual = "{scale: 255, mean: 128}" if dtype == "int8" else "{scale: 255}"
    return (
        f"the ONNX input is {dtype}, from {limits.min} to {limits.max}, and {expected.section} makes images in [0, 1] "
        f"numbers from {low:g} to {high:g}, of which {levels:g} are whole: pixels would be cut off, or become one. "
        f"Expected at least {_LEVELS} within its range: leave out scale, mean and std, which is {usual}, or export the "
        "file with a float32 input and give them"
    )


# --- The output -----------------------------------------------------------------------------------------------------


def read_output(model: ModelProto, expected: Expected) -> tuple[str, list[str]]:
    """The name of the output that is judged, and what is wrong."""
    outputs, wanted, section = _computed(model.graph), expected.output.name, expected.outputs
    row = _one_image(model.graph)
    listed = ", ".join(f"{value.name!r} {_kind(value)}" for value in outputs)
    if wanted is not None:
        chosen = [value for value in outputs if value.name == wanted]
        if not chosen:
            return "", [f"{section}: there is no output {wanted!r}; the ONNX file has {listed}"]
        problem = "" if _scores(chosen[0], expected.classes, row=row) else _no_scores(chosen, expected)
        return wanted, [problem] if problem else []
    possible = [value for value in outputs if _scores(value, expected.classes, row=row)]
    if len(possible) > 1:
        possible = _before_softmax(model, possible)
    if len(possible) == 1:
        return possible[0].name, []
    if not possible:
        return "", [_no_scores(outputs, expected)]
    names = " or ".join(f"{{name: {value.name}}}" for value in possible)
    return "", [
        f"the ONNX file has the outputs {listed}, and several could be the scores of the classes; name the one that is "
        f"deployed in the recipe, as {section}: {names}"
    ]


def _computed(graph: GraphProto) -> list[ValueInfoProto]:
    """The outputs that may depend on the images, each name once: a constant that a file gives too says nothing."""
    constants = {tensor.name for tensor in graph.initializer}
    return list({value.name: value for value in graph.output if value.name not in constants}.values())


def _one_image(graph: GraphProto) -> bool:
    """Whether the file is declared for one image a call, so that a squeezed output may lack the batch."""
    return any((_dims(value) or [])[:1] == [1] for value in graph.input)


def _scores(value: ValueInfoProto, classes: int, *, row: bool) -> bool:
    """Whether an output may be a row of scores for each image: [B, K], also with dimensions of 1 beside K.

    Wider integers are no scores but labels, or places. What is not declared is for the answers to show.

    Args:
        value: the output.
        classes: K.
        row: whether one image's [K], without a batch, will do.
    """
    dims = _dims(value)
    if not _is_open(value) and not (value.type.HasField("tensor_type") and _is_score(value)):
        return False
    if dims is None or (row and dims == [classes]):
        return True
    rest = [side for side in dims[1:] if side != 1]
    return len(dims) >= 2 and len(rest) == 1 and rest[0] in (classes, *_names(rest[0]))


def _before_softmax(model: ModelProto, possible: list[ValueInfoProto]) -> list[ValueInfoProto]:
    """Of logits and their own softmax, which are one classifier, the logits; else all of them."""
    made = {output: node for node in model.graph.node for output in node.output}
    origins = {value.name: _origin(made, value.name) for value in possible}
    after = {
        name
        for name, origin in origins.items()
        if origin in made
        and made[origin].op_type in _ONE_CLASSIFIER
        and _origin(made, made[origin].input[0]) in set(origins.values()) - {origin}
    }
    kept = [value for value in possible if value.name not in after]
    return kept if len(kept) == 1 else possible


def _origin(made: dict[str, NodeProto], name: str) -> str:
    """What a value is a copy of, in another shape or type at most."""
    seen = {name}
    while name in made and made[name].op_type in _COPIES and made[name].input and made[name].input[0] not in seen:
        name = made[name].input[0]
        seen.add(name)
    return name


def _no_scores(outputs: Sequence[ValueInfoProto], expected: Expected) -> str:
    """Why none of these outputs can be judged, and what to export instead."""
    listed = ", ".join(f"{value.name!r} {_kind(value)}" for value in outputs)
    wanted = f"expected an output [batch, {expected.classes}] of floating-point scores, one for each class of the data"
    columns = [value for value in outputs if _is_score(value) and (_dims(value) or [0])[1:] in ([], [1])]
    if len(columns) == expected.classes > 1:
        remedy = (
            "the classes' scores stand in an output each: join them (a Concat at the end; skl2onnx: "
            "options={'zipmap': False} in place of 'columns')"
        )
    elif any(_is_boxed(value) for value in outputs):
        remedy = "a list of tensors, or an optional one, is no array: export the tensor in it"
    elif any(not value.type.HasField("tensor_type") for value in outputs):
        remedy = (
            "a sequence or map (ZipMap) is no array: export without it (skl2onnx: options={'zipmap': False}), so that "
            "the probabilities are an array"
        )
    elif any(_numpy_type(value) in ("int64", "int32") or _is_text(value) for value in outputs):
        remedy = (
            "it gives labels, not scores, and attacks need scores: export the network without its ArgMax (or TopK) at "
            "the end"
        )
    elif any(value.type.tensor_type.elem_type == TensorProto.BFLOAT16 for value in outputs):
        remedy = "nothing outside the runtime reads bfloat16: put a Cast to float32 behind it"
    elif expected.classes == 2 and any((_dims(value) or [])[1:] in ([], [1]) for value in outputs):
        remedy = "one score stands for two classes: export both, [-z, z] of a logit or [1 - p, p] of a probability"
    else:
        remedy = "a detector, a segmentation, features or another number of classes cannot be judged as this classifier"
    return f"the ONNX file has the outputs {listed}; {wanted}: {remedy}"


# --- Values ---------------------------------------------------------------------------------------------------------


def _dims(value: ValueInfoProto) -> Dims | None:
    """Numbers where fixed, names (or '?') where dynamic; None where nothing is known, not even how many."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in tensor.shape.dim]


def _numpy_type(value: ValueInfoProto) -> str | None:
    """Numpy's name of the type; None for what numpy lacks, and for text."""
    kind = value.type.tensor_type.elem_type
    if not value.type.HasField("tensor_type") or kind in (TensorProto.BFLOAT16, TensorProto.UNDEFINED):
        return None
    found = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    return found.name if found.kind in "fiu" else None


def _is_score(value: ValueInfoProto) -> bool:
    """Floating-point numbers, or scores that were quantised to 8 bits."""
    kind = _numpy_type(value) or ""
    return kind.startswith("float") or kind in ("uint8", "int8")


def _is_open(value: ValueInfoProto) -> bool:
    """Whether the file does not say of what type it is; runtimes find that out themselves."""
    tensor = value.type.HasField("tensor_type")
    return value.type.WhichOneof("value") is None or (tensor and value.type.tensor_type.elem_type == _UNTOLD)


def _is_text(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.elem_type == TensorProto.STRING


def _is_boxed(value: ValueInfoProto) -> bool:
    """Whether it is a list of tensors, or one that may be missing."""
    return value.type.WhichOneof("value") in ("sequence_type", "optional_type") and not _has_maps(value)


def _has_maps(value: ValueInfoProto) -> bool:
    inner = value.type.sequence_type.elem_type if value.type.WhichOneof("value") == "sequence_type" else TypeProto()
    return bool(inner.WhichOneof("value") == "map_type")


def _kind(value: ValueInfoProto) -> str:
    """The type and the shape as a sentence has them, for example float32 ['batch', 10]."""
    if not value.type.HasField("tensor_type"):
        which = value.type.WhichOneof("value") or "of no type"
        return which.removesuffix("_type") + (" of maps" if _has_maps(value) else "")
    kind = value.type.tensor_type.elem_type
    return f"{_numpy_type(value) or TensorProto.DataType.Name(kind).lower()} {_dims(value)}"
