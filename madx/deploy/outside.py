"""ONNX files that madx did not make: whether they can be judged, and how they want to be fed.

Whatever the runtime accepts is accepted: any names, any layout of the images, integers, weights beside the file, other
operators than the standard's. Facts that only the user has come from the recipe (`verify.input`, `verify.output`).
What cannot be judged is refused with every reason at once, each with what to do; metadata is never one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import onnx
from onnx import ModelProto, TensorProto

from madx.closeness import rounding_of
from madx.deploy.check import (
    OnnxArtifact,
    describe_model,
    explain_random,
    local_path,
    one_line,
    read_model,
    require_known,
    unsound_weights,
)
from madx.deploy.external import Data, identity, put_inside, size
from madx.deploy.graphs import damage_told, nodes, tensors, values
from madx.deploy.interface import Interface
from madx.deploy.numbers import NARROW, UNKNOWN, has_weights_of, has_wide_weights, number_types, reduced
from madx.deploy.signature import Expected, other_layouts, read_input, read_output
from madx.errors import ExportError

_NAMES: Mapping[int, str] = MappingProxyType(
    {
        TensorProto.FLOAT: "fp32",
        TensorProto.FLOAT16: "fp16",
        TensorProto.BFLOAT16: "bf16",
        TensorProto.DOUBLE: "fp64",
    }
)
_QUANTISED = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"),
        *("QLinearConv", "QLinearMatMul", "QGemm", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
    }
)
_WHOLE = (TensorProto.INT64, TensorProto.INT32)
UNTOLD = "unknown numbers"
"""What a file computes in where nothing tells; it has no row of its own, so it is held to float32's."""
_BATCH_WIDE = ("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
"""Operators that look at a whole batch by design, also those that ONNX Runtime's own optimiser writes."""
_LARGEST_BATCH, _MOST_BATCHES = 4096, 8
"""What a shape inside a file may begin with to be taken for a batch, and how many of these are tried."""


def check_given(payload: bytes, data: Data, expected: Expected) -> OnnxArtifact:
    """Read a file from outside and find out how it wants to be fed.

    Args:
        payload: of the ONNX file.
        data: its external data, by location.
        expected: the data's images and classes, and what the recipe says of the file.

    Returns:
        The file with its interface; whether it answers so is for the runtime to show.

    Raises:
        ExportError: the bytes are no ONNX file, or it cannot be judged; with every reason.
    """
    if expected.precision is not None:
        require_known(expected.precision)
    with damage_told():
        return _checked(payload, data, expected)


def _checked(payload: bytes, data: Data, expected: Expected) -> OnnxArtifact:
    """`check_given` of a file that is as the format says."""
    model = read_model(payload, data)
    put_inside(model, data)  # also with no data at all: then nothing may lie outside
    fed, problems = read_input(model.graph, expected)
    output, more = read_output(model, expected)
    live = reduced(model, [output] if output else [value.name for value in model.graph.output])
    precision = precision_of(live, expected.precision)
    problems += [*more, *unsound_weights(model)]
    problems += _other_precision(live, precision, expected.precision) if expected.precision else []
    if problems or fed is None:
        raise ExportError(_together(problems))
    facts = describe_model(model, size(payload, data))
    interface = Interface(output=output, shape=expected.shape, classes=expected.classes, **fed)
    return OnnxArtifact(
        payload,
        identity(payload, data),
        expected.shape,
        expected.classes,
        next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        precision,
        facts | _looks(model, live, precision, expected.precision),
        interface=interface,
        others=tuple(replace(interface, **other) for other in other_layouts(model.graph, expected)),
        batches=_batches_inside(model),
        form=expected.output.form,
        data=data,
        notes=_notes(model, output),
    )


def _looks(model: ModelProto, live: ModelProto | None, precision: str, named: str | None) -> dict[str, object]:
    """What a verdict must know: whole batches, chance, and numbers that the recipe has no word for."""
    kinds, computes = {node.op_type for node in nodes(model)}, computes_in(live, named)
    coarser = named is not None and rounding_of(computes) > rounding_of(named)
    return {
        "batch_wide": [kind for kind in _BATCH_WIDE if kind in kinds],
        "random": explain_random(live or model),  # its answers are measured, and decide nothing
        "computes_in": "" if computes == precision else computes,
        "numbers": numbers_of(live),
        "held_to": named if coarser else "",  # what a recipe does not name, nobody agreed to give room to
    }


def numbers_of(live: ModelProto | None) -> str:
    """Every number type that products compute in, for what rounds and what is slow are two questions.

    A file is as slow, or as fast, as its types are somewhere, whatever their shares: none is left out for being one of
    many, and a name alone (fp32) says that all products are that. What is quantised comes first; what nothing reads
    does not count, as no runtime computes it.
    """
    names = sorted({_NAMES.get(kind, UNTOLD if kind == UNKNOWN else "others") for kind in number_types(live)})
    if live is None or not names:
        return UNTOLD
    if _quantised(live):
        names = ["int8", *names]
    if names in (["fp16"], ["bf16"]) and has_wide_weights(live):
        return f"{names[0]} with weights of fp32"
    written_out = "fp64" not in names and has_weights_of(live, {TensorProto.DOUBLE})  # sums that are no product
    return " and ".join(names) + (" with weights of fp64" if written_out else "")


def same_speed_of_numbers(reference: str, candidate: str) -> bool:
    """Whether no speed-up can come of the reference's number type, as `numbers_of` has both.

    What float32 is served for a smaller type is compared with, as that is what a release asks. Any other type is fair
    where all of both files is that; two mixtures of one name may have other shares.
    """
    return reference == "fp32" or (reference == candidate and reference in _NAMES.values())


def _batches_inside(model: ModelProto) -> tuple[int, ...]:
    """Numbers of images that the file may know inside: what its shapes begin with, of constants and of outputs."""
    shapes = [values(one).tolist() for _, one in tensors(model) if one.data_type in _WHOLE and len(one.dims) == 1]
    shapes += [[dim.dim_value for dim in one.type.tensor_type.shape.dim] for one in model.graph.output]
    first = [shape[0] for shape in shapes if len(shape) > 1 and 1 < shape[0] <= _LARGEST_BATCH]
    return tuple(dict.fromkeys(first))[:_MOST_BATCHES]


def _together(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} things stand in the way: " + "; ".join(
        f"({number}) {problem}" for number, problem in enumerate(problems, start=1)
    )


def precision_of(live: ModelProto | None, named: str | None = None) -> str:
    """The recipe's word for what a file computes in: fp16 only for float16 throughout.

    One that is coarse in parts is no coarse file: the room for rounding would be that of the coarsest part. Only who
    names int8 gives its room to a file with layers that stay float, as files of int8 usually have. Where nothing tells
    the type of any product, it is called what the recipe calls it: that gives it no room.
    """
    if named in (None, "int8") and _is_int8(live, named):
        return "int8"
    known = number_types(live) - {UNKNOWN}
    if not known:
        return named or "fp32"
    return "fp16" if known == {TensorProto.FLOAT16} else "fp32"


def computes_in(live: ModelProto | None, named: str | None = None) -> str:
    """The same in more words, and no coarser than is certain: this is what its rounding is judged by.

    int8 where all weights are that, or the recipe says so; fp16, bf16 and fp64 where all products are that and no
    weights are finer.
    """
    if _is_int8(live, named):
        return "int8"
    types = number_types(live)
    if UNKNOWN in types or not types:
        return UNTOLD
    found = _NAMES.get(min(types), "fp32") if len(types) == 1 else "fp32"
    return "fp32" if rounding_of(found) > rounding_of("fp32") and has_wide_weights(live) else found


def _is_int8(live: ModelProto | None, named: str | None) -> bool:
    return live is not None and _quantised(live) and (named == "int8" or not has_wide_weights(live))


def _quantised(live: ModelProto) -> bool:
    """Whether anything that is read was quantised, by its weights or by its operators."""
    return has_weights_of(live, NARROW) or any(node.op_type in _QUANTISED for node in nodes(live))


def _other_precision(live: ModelProto | None, found: str, named: str) -> list[str]:
    """Rounding is judged by what the file computes in, so whoever calls it something else must be told."""
    types = number_types(live)
    if found == named or not types & {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}:
        return []
    given = "float16" if found == "fp16" else "float32"
    given += " in parts, and in float16 in others" if TensorProto.FLOAT16 in types and found != "fp16" else ""
    return [
        f"the ONNX file computes in {given}, and the recipe's engine has precision {named}; name it in the recipe: "
        f"export.engines: [{{kind: ..., precision: {found}}}]"
    ]


def type_names(payload: bytes, data: Data) -> str:
    """Number types other than float32 that a file computes in or takes, for a sentence; empty where there are none."""
    model = read_model(payload, data)
    live = reduced(model, [value.name for value in model.graph.output])
    found = number_types(live) | {value.type.tensor_type.elem_type for value in model.graph.input}
    names = {TensorProto.BFLOAT16: "bfloat16", TensorProto.DOUBLE: "float64", TensorProto.FLOAT16: "float16"}
    return ", ".join(name for kind, name in names.items() if kind in found)


def _notes(model: ModelProto, output: str) -> tuple[str, ...]:
    """What a reader should know and nothing hangs on."""
    found = []
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        found.append(f"the ONNX checker would not pass this file, the runtime decides: {one_line(error)[:200]}")
    if line := local_path(model):
        found.append(f"its metadata names a path of some machine ({line!r}), and goes where the file goes")
    if others := [value.name for value in model.graph.output if value.name != output]:
        found.append(f"the output {output!r} is judged; not looked at: {', '.join(others)}")
    return tuple(found)
