"""ONNX files that madx did not make: whether they can be judged, and how they want to be fed.

Whatever the runtime accepts is accepted: any names, any layout of the images, integers, weights beside the file, other
operators than the standard's. Facts that only the user has come from the recipe (`verify.input`, `verify.output`).
What cannot be judged is refused with every reason at once, each with what to do; metadata is never one of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import onnx
from onnx import ModelProto, TensorProto

from madx.deploy.check import (
    OnnxArtifact,
    describe_model,
    explain_random,
    local_path,
    one_line,
    read_model,
    require_known,
    unsound_weights,
    weighted,
)
from madx.deploy.external import Data, identity, put_inside, size
from madx.deploy.graphs import Scope, constant_behind, damage_told, input_of, nodes
from madx.deploy.interface import Interface
from madx.deploy.signature import Expected, read_input, read_output
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
_BATCH_WIDE = ("DynamicQuantizeLinear",)
"""Operators that look at a whole batch by design."""


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
    precision = precision_of(model)
    problems += [*more, *unsound_weights(model)]
    problems += _other_precision(model, precision, expected.precision) if expected.precision else []
    if problems or fed is None:
        raise ExportError(_together(problems))
    facts = describe_model(model, size(payload, data))
    return OnnxArtifact(
        payload,
        identity(payload, data),
        expected.shape,
        expected.classes,
        next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        precision,
        facts | _looks(model, facts["nodes"], precision),
        interface=Interface(output=output, shape=expected.shape, classes=expected.classes, **fed),
        form=expected.output.form,
        data=data,
        notes=_notes(model, output),
    )


def _looks(model: ModelProto, kinds: Collection[str], precision: str) -> dict[str, object]:
    """What a verdict must know: whole batches, chance, and numbers that the recipe has no word for."""
    computes = computes_in(model)
    return {
        "batch_wide": [kind for kind in _BATCH_WIDE if kind in kinds],
        "random": explain_random(model),  # its answers are measured, and decide nothing
        "computes_in": "" if computes == precision else computes,
    }


def _together(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} things stand in the way: " + "; ".join(
        f"({number}) {problem}" for number, problem in enumerate(problems, start=1)
    )


def number_types(model: ModelProto) -> set[int]:
    """The types in which convolutions and matrix products compute, as far as their weights show."""
    found = {_type_of(input_of(node, 1), scope) for scope, node in weighted(model)}
    return found - {TensorProto.UNDEFINED}


def _type_of(name: str, scope: Scope) -> int:
    """Of a value: what it is cast to, what it is dequantised to, or what it was stored as."""
    for found, where in scope.trail(name):
        if isinstance(found, TensorProto):
            return int(found.data_type)
        if found is None or found.op_type not in ("Cast", "Identity", "DequantizeLinear", "Transpose", "Reshape"):
            break
        if found.op_type == "Cast":
            return next((int(one.i) for one in found.attribute if one.name == "to"), int(TensorProto.UNDEFINED))
        if found.op_type == "DequantizeLinear":
            scale = constant_behind(input_of(found, 1), where)
            return int(scale.data_type if scale is not None else TensorProto.UNDEFINED)
    return int(TensorProto.UNDEFINED)


def precision_of(model: ModelProto) -> str:
    """The recipe's word for what a file computes in: fp16 only for float16 throughout.

    One that is coarse in parts is no coarse file: the room for rounding would be that of the coarsest part.
    """
    return "fp16" if number_types(model) & _NAMES.keys() == {TensorProto.FLOAT16} else "fp32"


def computes_in(model: ModelProto) -> str:
    """The same in more words: int8 where anything was quantised, bf16 and fp64 where products are that throughout."""
    if any(node.op_type in _QUANTISED for node in nodes(model)):
        return "int8"
    types = number_types(model) & _NAMES.keys()
    return _NAMES[types.pop()] if len(types) == 1 else "fp32"


def _other_precision(model: ModelProto, found: str, named: str) -> list[str]:
    """Rounding is judged by what the file computes in, so whoever calls it something else must be told."""
    types = number_types(model)
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
    found = number_types(model) | {value.type.tensor_type.elem_type for value in model.graph.input}
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
