"""ONNX files that madx did not make: whether they can be judged, and how they want to be fed.

Whatever the runtime accepts is accepted: any names, any layout of the images, integers, weights beside the file, other
operators than the standard's. Facts that only the user has come from the recipe (`verify.input`, `verify.output`).
What cannot be judged is refused with every reason at once, each with what to do; metadata is never one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from madx.deploy.check import (
    WEIGHTED_OPS,
    OnnxArtifact,
    describe_model,
    explain_random,
    local_path,
    one_line,
    read_model,
    require_known,
    weighted,
)
from madx.deploy.external import Data, identity, put_inside, size
from madx.deploy.graphs import Scope, constant_behind, damage_told, input_of, nodes, tensors, values
from madx.deploy.interface import Interface
from madx.deploy.signature import Expected, read_input, read_output
from madx.errors import ExportError

_FLOATING = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
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
    require_known(expected.precision)
    with damage_told():
        return _checked(payload, data, expected)


def _checked(payload: bytes, data: Data, expected: Expected) -> OnnxArtifact:
    """`check_given` of a file that is as the format says."""
    model = read_model(payload, data)
    put_inside(model, data)  # also with no data at all: then nothing may lie outside
    fed, problems = read_input(model.graph, expected)
    output, more = read_output(model, expected)
    problems += [*more, *_unsound_weights(model), *_other_precision(model, expected.precision)]
    problems += [problem] if (problem := explain_random(model)) else []
    if problems or fed is None:
        raise ExportError(_together(problems))
    facts = describe_model(model, size(payload, data))
    return OnnxArtifact(
        payload,
        identity(payload, data),
        expected.shape,
        expected.classes,
        next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        expected.precision,
        facts | {"batch_wide": [kind for kind in _BATCH_WIDE if kind in facts["nodes"]]},
        interface=Interface(output=output, shape=expected.shape, classes=expected.classes, **fed),
        form=expected.output.form,
        data=data,
        notes=_notes(model, output),
    )


def _together(problems: Sequence[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return f"{len(problems)} things stand in the way: " + "; ".join(
        f"({number}) {problem}" for number, problem in enumerate(problems, start=1)
    )


def _unsound_weights(model: ModelProto) -> list[str]:
    """NaN anywhere; infinities only among the weights of products, as elsewhere they mean "no limit"."""
    weights = {name for node in nodes(model) if node.op_type in WEIGHTED_OPS for name in node.input[1:]}
    found = []
    for name, tensor in tensors(model):
        array = values(tensor) if tensor.data_type in _FLOATING else None
        if array is None:
            continue
        wide = array.astype(np.float64)
        bad = np.count_nonzero(np.isnan(wide) if name not in weights else ~np.isfinite(wide))
        if bad:
            found.append(
                f"the weight {name!r} has {bad} values that are NaN or infinite: take an earlier checkpoint, or "
                "export again"
            )
    return found


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


def _other_precision(model: ModelProto, precision: str) -> list[str]:
    """Rounding is judged by the precision that the recipe names, so a coarser file must be called so.

    One that is coarse in parts is no coarse file: the room for rounding would be that of the coarsest part.
    """
    types = number_types(model) & {TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE}
    half = types == {TensorProto.FLOAT16}
    if half == (precision == "fp16") or not types:
        return []
    given, other = ("float16", "fp16") if half else ("float32", "fp32")
    given += " in parts, and in float16 in others" if TensorProto.FLOAT16 in types and not half else ""
    return [
        f"the ONNX file computes in {given}, and the recipe's engine has precision {precision}; name it in the recipe: "
        f"export.engines: [{{kind: ..., precision: {other}}}]"
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
