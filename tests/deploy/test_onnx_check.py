import hashlib

import numpy as np
import onnx
import pytest
from deploy_cases import OPSET, SHAPE, exported, images, tiny_onnx
from onnx import TensorProto, helper

from madx.deploy.check import check_onnx
from madx.errors import ExportError


def _check(model, **expected):
    payload = model if isinstance(model, bytes) else model.SerializeToString()
    return check_onnx(payload, **{"shape": SHAPE, "opset": OPSET, **expected})


def test_a_good_file_is_described_by_what_is_in_it():
    model = tiny_onnx(np.array([0.5, 0, 1, 2, 0, 3], np.float32).reshape(2, 3, 1, 1))
    artifact = _check(model, classes=2)
    payload = model.SerializeToString()
    assert artifact.payload == payload
    assert artifact.sha256 == hashlib.sha256(payload).hexdigest()
    assert (artifact.input_shape, artifact.classes, artifact.opset, artifact.precision) == (SHAPE, 2, OPSET, "fp32")
    facts = artifact.facts
    assert facts["bytes"] == len(payload)
    assert (facts["initialisers"], facts["initialiser_bytes"]) == (1, 24)
    assert (facts["parameters"], facts["nonzero_parameters"]) == (6, 4)
    assert facts["nodes"] == {"Conv": 1, "Flatten": 1, "GlobalAveragePool": 1}


def _nan_weight():
    return tiny_onnx(np.full((4, 3, 1, 1), np.nan, np.float32))


def _constant(number):
    model = tiny_onnx()
    constant = helper.make_tensor("c", TensorProto.FLOAT, [1], [number])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], name="constant", value=constant))
    return model


def _infinite_weight():
    return tiny_onnx(np.full((4, 3, 1, 1), np.inf, np.float32))


def test_an_infinite_constant_is_a_mask_and_passes():
    _check(_constant(-np.inf))


def _wrong_input_name():
    model = tiny_onnx()
    model.graph.input[0].name = model.graph.node[0].input[0] = "x"
    return model


def _wrong_output_name():
    model = tiny_onnx()
    model.graph.output[0].name = model.graph.node[-1].output[0] = "y"
    return model


def _two_outputs():
    model = tiny_onnx()
    model.graph.output.append(helper.make_tensor_value_info("pool_out", TensorProto.FLOAT, ["batch", 4, 1, 1]))
    return model


def _static_batch():
    model = tiny_onnx()
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def _external_data():
    model = tiny_onnx()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    return model


def _double():
    return tiny_onnx(dtype=TensorProto.DOUBLE)


def _custom_domain():
    model = tiny_onnx()
    model.graph.node[1].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def _local_path_in_metadata():
    model = tiny_onnx()
    model.graph.node[0].metadata_props.add(key="stack", value='File "/home/someone/net.py", line 3, in forward')
    return model


def _local_path_in_doc_string():
    model = tiny_onnx()
    model.graph.doc_string = r"exported from C:\models\net"
    return model


def _broken_graph():
    model = tiny_onnx()
    model.graph.node[1].input[0] = "nowhere"
    return model


def _output_declared_otherwise():
    model = tiny_onnx()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 9
    return model


def _truncated():
    return exported("residual").payload[:-100]


def _random(kind):
    model = tiny_onnx()
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "before"
    drawn = helper.make_node(kind, ["before"], ["noise"], name="noise")
    model.graph.node.extend([drawn, helper.make_node("Add", ["before", "noise"], [name], name="sum")])
    return model


def _training_dropout(*, known):
    model = tiny_onnx()
    last = model.graph.node[-1]
    name, last.output[0] = last.output[0], "before"
    ratio = helper.make_tensor("ratio", TensorProto.FLOAT, [], [1e-5])
    mode = helper.make_tensor("mode", TensorProto.BOOL, [], [True])
    model.graph.initializer.extend([ratio, mode] if known else [ratio])
    if not known:
        model.graph.node.extend([helper.make_node("Constant", [], ["mode"], name="mode", value=mode)])
    model.graph.node.extend([helper.make_node("Dropout", ["before", "ratio", "mode"], [name], name="drop")])
    return model


BAD = {
    "dropout that trains": (lambda: _training_dropout(known=True), {}, r"random numbers \(Dropout\)"),
    "dropout that trains, by a node": (lambda: _training_dropout(known=False), {}, r"random numbers \(Dropout\)"),
    "noise on the logits": (lambda: _random("RandomNormalLike"), {}, r"random numbers \(RandomNormalLike\)"),
    "seldom wrong": (lambda: _random("Bernoulli"), {}, r"random numbers \(Bernoulli\)"),
    "NaN weight": (_nan_weight, {}, "'w' has 12 values that are NaN"),
    "NaN constant": (lambda: _constant(np.nan), {}, "'c' has 1 values"),
    "infinite weight": (_infinite_weight, {}, "'w' has 12 values that are NaN or infinite"),
    "wrong input name": (_wrong_input_name, {}, r"inputs \['x'\].*named 'input'"),
    "wrong output name": (_wrong_output_name, {}, r"outputs \['y'\].*named 'logits'"),
    "two outputs": (_two_outputs, {}, "pool_out"),
    "static batch": (_static_batch, {}, "fixed to 1"),
    "external data": (_external_data, {}, "'w' lies outside"),
    "float64": (_double, {}, "'input' is DOUBLE; expected float32"),
    "custom domain": (_custom_domain, {}, "com.microsoft::GlobalAveragePool"),
    "path in metadata": (_local_path_in_metadata, {}, "local path"),
    "path in doc string": (_local_path_in_doc_string, {}, "local path"),
    "broken graph": (_broken_graph, {}, "ONNX checker refuses"),
    "declared classes are not computed": (_output_declared_otherwise, {}, "ONNX checker refuses"),
    "truncated": (_truncated, {}, "no ONNX file"),
    "empty": (lambda: b"", {}, "no ONNX graph"),
    "text": (lambda: b"<html>not found</html>", {}, "no ONNX"),
    "other shape": (tiny_onnx, {"shape": (3, 32, 32)}, r"\['batch', 3, 8, 8\]; expected \[batch, 3, 32, 32\]"),
    "other classes": (tiny_onnx, {"classes": 10}, r"\['batch', 4\]; expected \[batch, 10\]"),
    "other opset": (tiny_onnx, {"opset": 18}, r"\[20\]; expected 18"),
    "not the promised precision": (tiny_onnx, {"precision": "fp16"}, "is FLOAT; expected fp16"),
    "unknown precision": (tiny_onnx, {"precision": "fp8"}, "unknown precision 'fp8'"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_its_fault(case):
    make, expected, message = BAD[case]
    with pytest.raises(ExportError, match=message):
        _check(make(), **expected)


def test_an_fp16_file_is_not_taken_for_fp32():
    payload = exported("plain", "fp16").payload
    assert _check(payload, precision="fp16").precision == "fp16"
    with pytest.raises(ExportError, match="is FLOAT16; expected fp32"):
        _check(payload, precision="fp32")


def test_names_that_look_like_paths_are_no_leak():
    model = tiny_onnx()
    model.graph.node[0].name = "/stem/conv/Conv"
    assert _check(model).classes == 4


def test_the_hand_made_file_means_what_the_tests_think():
    result = onnx.reference.ReferenceEvaluator(tiny_onnx()).run(None, {"input": images(2)})[0]
    np.testing.assert_allclose(result, np.repeat(images(2).mean((2, 3)).sum(1, keepdims=True) / 2, 4, 1), rtol=1e-5)
