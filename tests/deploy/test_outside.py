"""ONNX files that madx did not make: each is one classifier, and must answer as it, or be refused with what to do."""

import contextlib
from contextlib import closing

import numpy as np
import onnx
import outside_cases as cases
import pytest
from onnx import TensorProto, helper
from outside_cases import CLASSES, FLOAT, INT64, SIDE, UINT8, constant, node, value

from madx.closeness import MOST_FLIPS, ROUNDING, most_flips_of, rounding_of
from madx.deploy.content import content_sha256
from madx.deploy.engine import backend
from madx.deploy.external import identity, put_inside, read_beside
from madx.deploy.interface import Interface
from madx.deploy.outside import check_given, same_speed_of_numbers
from madx.deploy.runtime_words import explain
from madx.deploy.signature import Expected
from madx.deploy.sparsity import sparsity_2_4
from madx.errors import EngineError, ExportError, MadxError
from madx.recipe import EngineConfig, InputConfig, OutputConfig

KINDS = [kind for kind in ("ort-cpu", "openvino-cpu") if backend(kind).availability().can_run]
NHWC = node("Transpose", "input", "x", perm=[0, 3, 1, 2])


def wanted(channels=1, precision="fp32", output=None, classes=CLASSES, **input):
    shape = (channels, SIDE, SIDE)
    return Expected(shape, classes, precision, InputConfig(**input), OutputConfig(**(output or {})))


def built(model, expected, *, kind="ort-cpu", data=None):
    """What the take stage makes of it: the engine's record, and the engine."""
    config = EngineConfig(kind=kind, precision=expected.precision, threads=1)
    payload = model if isinstance(model, bytes) else model.SerializeToString()
    found = backend(kind).build(check_given(payload, data or {}, expected), config, batch=1)
    return found, backend(kind).load(found.payload, config, interface=found.interface, data=found.data)


def _softmax(**more):
    return cases.model(
        after=[node("Softmax", "z", "p", axis=1)], outputs=[value("p", FLOAT, ("batch", CLASSES))], **more
    )


def _baked(batch):
    shape = constant("one", [batch, 1, SIDE, SIDE], np.int64)
    given = ("input", FLOAT, ("batch", 1, SIDE, SIDE))
    return cases.model(input=given, before=[node("Reshape", "input one", "x")], extra=[shape])


def _scaled(name, *, add=None, mul=None, dims=None, channels=1):
    """Undoes a normalisation that is done outside: x = fed * mul + add."""
    extra = [
        constant("mul", np.reshape(mul or [1], (1, -1, 1, 1))),
        constant("add", np.reshape(add or [0], (1, -1, 1, 1))),
    ]
    before = [node("Mul", "input mul", "m"), node("Add", "m add", "x")]
    given = (name, FLOAT, dims or ("batch", channels, SIDE, SIDE))
    return cases.model(channels=channels, input=given, before=before, extra=extra)


def _uint8(kind=UINT8, offset=0.0):
    before = [node("Cast", "input", "c", to=FLOAT), node("Add", "c off", "o"), node("Div", "o scale", "x")]
    given = ("input", kind, ("batch", 1, SIDE, SIDE))
    return cases.model(input=given, before=before, extra=[constant("scale", 255.0), constant("off", offset)])


def _half():
    kind = TensorProto.FLOAT16
    given, out = ("x", kind, ("batch", 1, SIDE, SIDE)), [value("z", kind, ("batch", CLASSES))]
    return cases.model(input=given, outputs=out, weight=np.float16)


def _brain():
    kind = TensorProto.BFLOAT16
    return cases.model(after=[node("Cast", "z", "b", to=kind)], outputs=[value("b", kind, ("batch", CLASSES))])


def _eight_bit_scores():
    """Logits in 256 steps."""
    levels = [constant("step", 0.1), constant("zero", 128, np.uint8)]
    after, out = [node("QuantizeLinear", "z step zero", "q")], [value("q", UINT8, ("batch", CLASSES))]
    return cases.model(after=after, outputs=out, extra=levels)


def _unsorted():
    model = cases.model(after=[node("Identity", "z", "out")], outputs=[value("out", FLOAT, ("batch", CLASSES))])
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[2], nodes[0]])
    return model


def _initialisers_as_inputs():
    model = cases.model(opset=9, ir=3)
    model.graph.input.append(value("w", FLOAT, (SIDE * SIDE, CLASSES)))
    return model


def _function():
    inner = [helper.make_node("Identity", ["a"], ["b"])]
    made = helper.make_function("mine", "Same", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    after, out = [node("Same", "z", "out", domain="mine")], [value("out", FLOAT, ("batch", CLASSES))]
    return cases.model(after=after, outputs=out, domains=[("mine", 1)], functions=[made])


def _two(kinds=("logits", "aux")):
    after = [node("Identity", "z", kinds[0]), node("Mul", "z zero", kinds[1])]
    out = [value(name, FLOAT, ("batch", CLASSES)) for name in kinds]
    return cases.model(after=after, outputs=out, extra=[constant("zero", 0.0)])


def _with_its_softmax():
    out = [value("p", FLOAT, ("batch", CLASSES)), value("z", FLOAT, ("batch", CLASSES))]
    return cases.model(after=[node("Softmax", "z", "p", axis=1)], outputs=out)


def _labels(*, scores=False):
    out = [value("label", INT64, ("batch",))]
    after = [node("ArgMax", "z", "label", axis=1, keepdims=0)]
    return cases.model(after=after, outputs=[*out, value("z", FLOAT, ("batch", CLASSES))] if scores else out)


def _described(text):
    model = cases.model()
    model.doc_string = text
    return model


def _shaped(dims, kind=FLOAT, **more):
    return cases.model(input=("pixels", kind, dims), **more)


FLAT = (None, SIDE * SIDE)
BGR = [node("Gather", "input order", "x", axis=1)]
ORDER = [constant("order", [2, 1, 0], np.int64)]
COLOUR = ("input", FLOAT, ("batch", 3, SIDE, SIDE))
OUT_4D = [node("Unsqueeze", "z axes", "out")], [value("out", FLOAT, ("batch", CLASSES, 1, 1))]


def _squeezed(dims, out):
    """Without axes: for one image the batch goes too."""
    return cases.model(input=("x", FLOAT, dims), after=[node("Squeeze", "z", "o")], outputs=[value("o", FLOAT, out)])


def _undeclared(*names):
    """Outputs of which the file says no more than the name."""
    model = cases.model()
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model


def _beside_its(kind, *more):
    """Logits, and what a classifier makes of them behind nodes that only copy."""
    after = [node(kind, "z", "s"), node("Cast", "s", "d", to=TensorProto.DOUBLE), node("Identity", "d", "p")]
    out = [value("p", TensorProto.DOUBLE, ("batch", CLASSES)), value("z", FLOAT, ("batch", CLASSES))]
    return cases.model(after=after, outputs=[*out, *more])


def _last_in_a_convolution(channels):
    """Any sides by the declaration; inside, channels come last and their number is fixed."""
    eye = constant("eye", np.eye(channels)[:, :, None, None])
    before = [node("Transpose", "input", "first", perm=[0, 3, 1, 2]), node("Conv", "first eye", "x")]
    return cases.model(channels=channels, input=("input", FLOAT, ("b", "h", "w", "c")), before=before, extra=[eye])


ACCEPTED = {
    "one image, squeezed": (lambda: _squeezed((1, 1, SIDE, SIDE), (CLASSES,)), {}),
    "squeezed where the batch is 1": (lambda: _squeezed(("batch", 1, SIDE, SIDE), ("batch", CLASSES)), {}),
    "dimensions of 1 in the input": (lambda: _shaped(("batch", 1, 1, SIDE, SIDE)), {}),
    "all in a row with dimensions of 1": (lambda: _shaped(("batch", SIDE * SIDE, 1, 1)), {}),
    "batch of 3 inside": (lambda: _baked(3), {}),
    "batch of 10 inside": (lambda: _baked(10), {}),
    "an output without a type": (lambda: _undeclared("z"), {}),
    "an output twice": (lambda: _undeclared("z", "z"), {}),
    "a constant beside the scores": (
        lambda: cases.model(
            outputs=[value("z", FLOAT, ("batch", CLASSES)), value("w", FLOAT, (SIDE * SIDE, CLASSES))],
        ),
        {},
    ),
    "channels last, of any sides": (lambda: _last_in_a_convolution(3), {"channels": 3}),
    "channels last, of any sides, grey": (lambda: _last_in_a_convolution(1), {}),
    "logits beside their copied softmax": (lambda: _beside_its("Softmax"), {}),
    "logits beside their log-softmax": (lambda: _beside_its("LogSoftmax"), {}),
    "logits beside their sigmoid": (lambda: _beside_its("Sigmoid"), {}),
    "any names": (lambda: _shaped(("batch", 1, SIDE, SIDE)), {}),
    "symbolic throughout": (lambda: _shaped(("b", "c", "h", "w")), {}),
    "batch without a name": (lambda: _shaped((None, 1, SIDE, SIDE)), {}),
    "batch of 1": (lambda: _shaped((1, 1, SIDE, SIDE), outputs=[value("z", FLOAT, (1, CLASSES))]), {}),
    "batch of 4": (lambda: _shaped((4, 1, SIDE, SIDE), outputs=[value("z", FLOAT, (4, CLASSES))]), {}),
    "batch of 1 inside": (lambda: _baked(1), {}),
    "batch of 8 inside": (lambda: _baked(8), {}),
    "batch that the recipe names": (cases.model, {"batch": 2}),
    "all in a row": (lambda: _shaped(FLAT), {}),
    "grey without a channel": (lambda: _shaped(("batch", SIDE, SIDE)), {}),
    "channels last": (
        lambda: cases.model(channels=3, input=("input", FLOAT, ("batch", SIDE, SIDE, 3)), before=[NHWC]),
        {"channels": 3},
    ),
    "channels last, symbolic": (
        lambda: cases.model(channels=3, input=("input", FLOAT, ("b", "h", "w", "c")), before=[NHWC]),
        {"channels": 3, "layout": "NHWC"},
    ),
    "uint8": (_uint8, {}),
    "int8": (lambda: _uint8(TensorProto.INT8, offset=128.0), {}),
    "int8, scaled by the recipe's word": (lambda: _uint8(TensorProto.INT8, offset=128.0), {"scale": 255}),
    "int8, all by the recipe's word": (lambda: _uint8(TensorProto.INT8, offset=128.0), {"scale": 255, "mean": 128}),
    "int32": (lambda: _uint8(TensorProto.INT32), {"dtype": "int32"}),
    "0 to 255": (lambda: _scaled("input", mul=[1 / 255]), {"scale": 255}),
    "normalised": (
        lambda: _scaled("input", add=[0.4, 0.5, 0.6], mul=[0.2, 0.3, 0.1], channels=3),
        {"channels": 3, "mean": [0.4, 0.5, 0.6], "std": ["0.2", 0.3, 0.1]},
    ),
    "blue, green, red": (
        lambda: cases.model(channels=3, input=COLOUR, before=BGR, extra=ORDER),
        {"channels": 3, "channel_order": "bgr"},
    ),
    "float16 outside": (_half, {"precision": "fp16"}),
    "initialisers as inputs": (_initialisers_as_inputs, {}),
    "unsorted": (_unsorted, {}),
    "a function of its own": (_function, {}),
    "dimensions of 1": (
        lambda: cases.model(after=OUT_4D[0], outputs=OUT_4D[1], extra=[constant("axes", [2, 3], np.int64)]),
        {},
    ),
    "the output that is named": (_two, {"output": {"name": "logits"}}),
    "logits beside their softmax": (_with_its_softmax, {}),
    "scores beside a label": (lambda: _labels(scores=True), {}),
    "a path in the metadata": (lambda: _described("/home/me/net.py"), {}),
    "softmax": (_softmax, {}),
    "softmax by the recipe's word": (_softmax, {"output": {"form": "probabilities"}}),
}


OPENVINO_REFUSES = {
    "a function of its own": r"OpenVINO has no operator mine.Same; ",
    "squeezed where the batch is 1": r"Squeeze leaves open how many dimensions .* name its axes",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", ACCEPTED)
def test_it_answers_as_the_classifier_that_it_is(case, kind):
    make, told = ACCEPTED[case]
    told = wanted(**told)
    x = cases.images(11, told.shape[0])
    model = make()
    if kind == "openvino-cpu" and case in OPENVINO_REFUSES:
        with pytest.raises(EngineError, match=OPENVINO_REFUSES[case]):
            built(model, told, kind=kind)
        return
    found, engine = built(model, told, kind=kind)
    assert found.payload == model.SerializeToString()  # the file is never rewritten
    with closing(engine):
        logits = engine(x)
    assert (logits.dtype, logits.shape) == (np.float32, (11, CLASSES))
    truth = cases.expected(x)
    off = (logits - truth) - (logits - truth).mean(1, keepdims=True)
    assert np.abs(off).max() < (0.05 if told.precision == "fp16" else 1e-3)
    assert ("probabilities" in found.facts["gives"]) is ("softmax" in case and "beside" not in case)


@pytest.mark.parametrize("kind", KINDS)
def test_a_timer_is_given_what_the_file_takes(kind):
    """In its type and layout, of the right images; and a file of one batch size is timed at no other."""
    _, engine = built(_uint8(), wanted(), kind=kind)
    with closing(engine):
        assert engine.timer(cases.images(9), np.array([[0, 1, 2], [8, 4, 4]]))(1).seconds > 0
    _, engine = built(_baked(1), wanted(), kind=kind)
    with closing(engine):
        assert engine.timer(cases.images(1))().seconds > 0
        with pytest.raises(EngineError, match=r"takes 1 images a call .* set verify.latency.batch: 1"):
            engine.timer(cases.images(3))


def _zipmap():
    maps = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
    out = [value("label", INT64, ("batch",)), helper.make_value_info("maps", helper.make_sequence_type_proto(maps))]
    made = [
        node("ArgMax", "z", "label", axis=1, keepdims=0),
        node("ZipMap", "z", "maps", domain="ai.onnx.ml", classlabels_int64s=list(range(CLASSES))),
    ]
    return cases.model(after=made, outputs=out, domains=[("ai.onnx.ml", 3)])


def _two_inputs():
    model = cases.model()
    model.graph.input.append(value("temperature", FLOAT, (1,)))
    return model


def _random_in_a_function():
    inner = [
        helper.make_node("RandomNormalLike", ["a"], ["n"], scale=1e-6),
        helper.make_node("Add", ["a", "n"], ["b"]),
    ]
    made = helper.make_function("mine", "Noise", ["a"], ["b"], inner, [helper.make_opsetid("", 17)])
    out = [value("out", FLOAT, ("batch", CLASSES))]
    return cases.model(
        after=[node("Noise", "z", "out", domain="mine")], outputs=out, domains=[("mine", 1)], functions=[made]
    )


def _nan():
    model = cases.model()
    model.graph.initializer[0].CopyFrom(constant("w", np.full((SIDE * SIDE, CLASSES), np.nan)))
    return model


def _boxes():
    out = [value("boxes", FLOAT, ("batch", 6, 14))]
    return cases.model(
        after=[node("Reshape", "z s", "boxes")], outputs=out, extra=[constant("s", [-1, 6, 14], np.int64)]
    )


def _many_faults():
    return cases.model(
        input=("pixels", TensorProto.FLOAT16, ("batch", 3, SIDE, SIDE)),
        after=[node("ArgMax", "z", "label", axis=1, keepdims=0)],
        outputs=[value("label", INT64, ("batch",))],
        weight=np.float16,
    )


def _columns():
    names = [f"class {number}" for number in range(CLASSES)]
    after = [helper.make_node("Split", ["z"], names, axis=1), node("ArgMax", "z", "label", axis=1, keepdims=0)]
    out = [value("label", INT64, ("batch",)), *(value(name, FLOAT, ("batch", 1)) for name in names)]
    return cases.model(after=after, outputs=out)


def _list_of_tensors():
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["batch", CLASSES]))
    return cases.model(after=[node("SequenceConstruct", "z", "o")], outputs=[helper.make_value_info("o", kind)])


def _changed(change):
    model = cases.model()
    change(model)
    return model


def _renamed(model):
    model.graph.node[1].input[1] = "nowhere"


REFUSED = {
    "a column for each class": (_columns, {}, ["an output each", "a Concat at the end"]),
    "a list of tensors": (_list_of_tensors, {}, ["export the tensor in it"]),
    "one image without a batch": (
        lambda: cases.model(channels=3, input=("x", FLOAT, (SIDE, SIDE, 3))),
        {"channels": 3},
        ["one image without a batch"],
    ),
    "other channels, undeclared": (
        lambda: cases.model(channels=3, input=("x", FLOAT, ("b", "c", "h", "w"))),
        {},
        ["MatMul_z is given tensors of shapes", "number of channels"],
    ),
    "no IR version": (lambda: _changed(lambda m: m.ClearField("ir_version")), {}, ["does not say its IR version"]),
    "no operator set": (lambda: _changed(lambda m: m.ClearField("opset_import")), {}, ["not say its operator set"]),
    "a name of nothing": (lambda: _changed(_renamed), {}, ["reads 'nowhere', which nothing makes"]),
    "an output of nothing": (lambda: _undeclared("y"), {}, ["no node makes its output 'y'"]),
    "a circle": (
        lambda: cases.model(
            input=("i", FLOAT, ("batch", 1, SIDE, SIDE)),
            before=[node("Add", "i y", "x")],
            after=[node("ReduceSum", "z", "y")],
        ),
        {},
        ["in a circle"],
    ),
    "another number inside": (
        lambda: cases.model(
            after=[node("Add", "z six", "o")],
            outputs=[value("o", FLOAT, ("batch", CLASSES))],
            extra=[constant("six", np.zeros((6, CLASSES)))],
        ),
        {},
        [r"Add_o is given .*verify.input: \{batch: 1\}"],
    ),
    "labels": (_labels, {}, [r"'label' int64", "labels, not scores", "ArgMax"]),
    "zipmap": (_zipmap, {}, ["sequence of maps", r"options=\{'zipmap': False\}"]),
    "two inputs": (_two_inputs, {}, [r"'temperature' float32 \[1\]", "constants of the file"]),
    "which output": (_two, {}, [r"verify.output: \{name: logits\} or \{name: aux\}"]),
    "no such output": (_two, {"output": {"name": "main"}}, ["no output 'main'"]),
    "one score for two classes": (
        lambda: cases.model(
            after=[node("Slice", "z from to axes", "s")],
            outputs=[value("s", FLOAT, ("batch", 1))],
            extra=[constant(name, [at], np.int64) for name, at in (("from", 0), ("to", 1), ("axes", 1))],
        ),
        {"classes": 2},
        [r"\[-z, z\] of a logit"],
    ),
    "bfloat16 outside": (_brain, {}, [r"bfloat16 \['batch', 5\]", "put a Cast to float32 behind it"]),
    "a row for each class": (
        lambda: cases.model(after=[node("Transpose", "z", "t", perm=[1, 0])], outputs=[value("t", FLOAT, ("a", "b"))]),
        {},
        [r"is \[5, 3\] for 3 images; expected \[3, 5\]"],
    ),
    "a detector": (_boxes, {}, [r"6, 14\]", "detector"]),
    "other channels": (lambda: _shaped(("b", 3, SIDE, SIDE)), {}, [r"'b', 3, 4, 4\]; expected \[batch, 1, 4, 4\]"]),
    "no batch": (lambda: _shaped((1, SIDE, SIDE + 1)), {}, ["expected"]),
    "another layout than the recipe's": (
        lambda: cases.model(channels=3, input=COLOUR),
        {"channels": 3, "layout": "NHWC"},
        [r"expected \[batch, 4, 4, 3\], as verify.input says layout NHWC"],
    ),
    "another type than the recipe's": (_uint8, {"dtype": "float32"}, ["says dtype float32", "is uint8"]),
    "another batch than the recipe's": (lambda: _shaped((4, 1, SIDE, SIDE)), {"batch": 1}, ["says batch 1", "takes 4"]),
    "means of other channels": (cases.model, {"mean": [0.1, 0.2, 0.3]}, ["mean has 3 numbers", r"1 channel\(s\)"]),
    "bgr of one channel": (cases.model, {"channel_order": "bgr"}, ["several channels"]),
    "NaN": (_nan, {}, ["NaN or infinite"]),
    "half precision that is not named": (_half, {}, ["float16", "precision: fp16"]),
    "float32 called fp16": (cases.model, {"precision": "fp16"}, ["float32", "precision: fp32"]),
    "no operator of that name": (
        lambda: cases.model(
            after=[node("Sharpen", "z", "out", domain="acme")],
            outputs=[value("out", FLOAT, ("batch", CLASSES))],
            domains=[("acme", 1)],
        ),
        {},
        ["no operator acme::Sharpen"],
    ),
    "too new": (lambda: cases.model(ir=99), {}, ["IR version 99", "older IR version"]),
    "int8 without its middle": (
        lambda: _uint8(TensorProto.INT8),
        {"mean": 0},
        ["from 0 to 255", "scale: 255, mean: 128"],
    ),
    "uint8 below nothing": (_uint8, {"mean": 104}, ["from -104 to 151", r"which is \{scale: 255\}"]),
    "uint8 of two levels": (_uint8, {"scale": 1}, ["from 0 to 1, of which 2 are whole"]),
    "uint8 of a normalisation": (_uint8, {"mean": 0.5, "std": "1/255"}, ["pixels would be cut off"]),
    "int32 of two levels": (lambda: _uint8(TensorProto.INT32), {"scale": 1}, ["of which 2 are whole"]),
    "logits called probabilities": (cases.model, {"output": {"form": "probabilities"}}, ["sum to 1: leave out form"]),
    "log-softmax called probabilities": (
        lambda: cases.model(
            after=[node("LogSoftmax", "z", "p", axis=1)], outputs=[value("p", FLOAT, ("batch", CLASSES))]
        ),
        {"output": {"form": "probabilities"}},
        [r"log-softmax\), which are logits"],
    ),
    "sigmoids called probabilities": (
        lambda: cases.model(after=[node("Sigmoid", "z", "p")], outputs=[value("p", FLOAT, ("batch", CLASSES))]),
        {"output": {"form": "probabilities"}},
        ["export what goes into it"],
    ),
    "every reason at once": (
        _many_faults,
        {},
        ["3 things", r"\(1\) the ONNX input", r"\(2\) the ONNX file has the outputs", r"\(3\) .*float16"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_judged_is_refused_with_what_to_do(case):
    make, told, words = REFUSED[case]
    with pytest.raises((ExportError, EngineError)) as caught:
        built(make(), wanted(**told))
    for word in words:
        assert caught.match(word)
    assert "onnxruntime_src" not in str(caught.value)
    assert "ONNXRuntimeError" not in str(caught.value)


def test_weights_beside_the_file_are_part_of_the_engine(tmp_path):
    """They are read from there, count in its identity and in what it computes, and must be whole."""
    file = tmp_path / "model.onnx"
    onnx.save(cases.model(), file, save_as_external_data=True, location="sub.data", size_threshold=0)
    payload = file.read_bytes()
    data = read_beside(file, payload)
    assert list(data) == ["sub.data"]
    for kind in KINDS:
        found, engine = built(payload, wanted(), kind=kind, data=data)
        assert (found.payload, found.sha256) == (payload, identity(payload, data))
        with closing(engine):
            np.testing.assert_allclose(engine(cases.images(5)), cases.expected(cases.images(5)), atol=1e-4)
    other = {"sub.data": bytes(len(data["sub.data"]))}
    assert identity(payload, other) != identity(payload, data) != identity(payload)
    assert content_sha256(payload, other) != content_sha256(payload, data)
    with pytest.raises(ExportError, match="ends after 3 bytes"):
        built(payload, wanted(), data={"sub.data": b"abc"})
    (tmp_path / "sub.data").unlink()
    with pytest.raises(ExportError, match=r"sub.data cannot be read .* put it beside"):
        read_beside(file, payload)


@pytest.mark.parametrize("length", ["0", None])
def test_the_length_of_a_weight_need_not_be_said(length):
    """The file may go on behind it."""
    content = cases.weights().tobytes()
    model = _external(("location", "w"), ("offset", "8"), *([("length", length)] if length else []))
    _, engine = built(model, wanted(), data={"w": bytes(8) + content + bytes(99)})
    with closing(engine):
        np.testing.assert_allclose(engine(cases.images(5)), cases.expected(cases.images(5)), atol=1e-4)


def _external(*facts, change=None):
    """The classifier, its weights elsewhere."""
    model = cases.model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in facts:
        tensor.external_data.add(key=key, value=said)
    if change:
        change(tensor)
    return model


def test_weights_that_nobody_listed_are_not_found_either(tmp_path, monkeypatch):
    """A branch without a node may have them; and a runtime must not look for them in the current directory."""
    monkeypatch.chdir(tmp_path)
    content = cases.weights().tobytes()
    (tmp_path / "w").write_bytes(content)
    model, branches = cases.model(), {}
    tensor = model.graph.initializer.pop()
    for name in ("then_branch", "else_branch"):
        branches[name] = helper.make_graph([], name, [], [value("w", FLOAT, (SIDE * SIDE, CLASSES))], [tensor])
        held = branches[name].initializer[0]
        held.ClearField("raw_data")
        held.data_location = TensorProto.EXTERNAL
        held.external_data.add(key="location", value="w")
    model.graph.initializer.append(constant("yes", True, np.bool_))
    model.graph.node.insert(0, node("If", "yes", "w", **branches))
    payload = model.SerializeToString()
    assert read_beside(tmp_path / "model.onnx", payload) == {"w": content}
    with pytest.raises(ExportError, match="was not given"):
        check_given(payload, {}, wanted())
    config = EngineConfig(kind="ort-cpu", precision="fp32", threads=1)
    with pytest.raises(EngineError):
        backend("ort-cpu").load(payload, config)


def _turn_in_functions():
    """One name is a constant's copy in a function, and another's in the next."""
    opset = [helper.make_opsetid("", 17)]
    made = [
        helper.make_function(
            "mine", "F", ["x", "a"], ["y"], [node("Identity", "a", "b"), node("MatMul", "x b", "y")], opset
        ),
        helper.make_function("mine", "G", ["b"], ["a"], [node("Identity", "b", "a")], opset),
    ]
    after = [node("G", "square", "same", domain="mine"), node("F", "z same", "out", domain="mine")]
    extra, out = [constant("square", np.eye(CLASSES))], [value("out", FLOAT, ("batch", CLASSES))]
    return cases.model(after=after, outputs=out, extra=extra, domains=[("mine", 1)], functions=made)


def test_names_of_one_function_mean_nothing_in_another():
    found, engine = built(_turn_in_functions(), wanted())
    with closing(engine):
        np.testing.assert_allclose(engine(cases.images(5)), cases.expected(cases.images(5)), atol=1e-4)
    sparsity_2_4(found.payload)


@pytest.mark.parametrize("names", [("T", "F"), ("F", "T")])
def test_a_name_in_another_function_hides_no_dropout(names):
    """It trains in one of them, by a constant of the same name as the other's."""
    made = []
    for name in names:
        inner = [
            helper.make_node("Constant", [], ["mode"], value=constant("v", name == "T", np.bool_)),
            helper.make_node("Constant", [], ["ratio"], value=constant("v", 0.01)),
            helper.make_node("Dropout", ["a", "ratio", "mode"], ["b"]),
        ]
        made.append(helper.make_function("mine", name, ["a"], ["b"], inner, [helper.make_opsetid("", 17)]))
    after = [node("T", "z", "t", domain="mine"), node("F", "t", "out", domain="mine")]
    out = [value("out", FLOAT, ("batch", CLASSES))]
    model = cases.model(after=after, outputs=out, domains=[("mine", 1)], functions=made)
    found = check_given(model.SerializeToString(), {}, wanted()).facts["random"]
    assert "draws random numbers (Dropout)" in found


def test_chance_is_noted_wherever_it_stands_and_nothing_is_noted_where_there_is_none():
    """The file is measured all the same; what was noted voids every gate, however seldom a call shows it."""
    assert "RandomNormalLike" in check_given(_random_in_a_function().SerializeToString(), {}, wanted()).facts["random"]
    assert not check_given(cases.model().SerializeToString(), {}, wanted()).facts["random"]


def _quantised():
    """Its weights are stored in 8 bits."""
    model = cases.model()
    stored = next(one for one in model.graph.initializer if len(one.dims) == 2)
    extra = [constant("stored", np.ones(list(stored.dims)), np.int8), constant("step", 0.1)]
    model.graph.node.insert(0, node("DequantizeLinear", "stored step", stored.name))
    model.graph.initializer.remove(stored)
    model.graph.initializer.extend(extra)
    return model


def _quantised_scores():
    """Float weights, and logits that went through 8 bits."""
    levels = [constant("step", 0.1), constant("zero", 128, np.uint8)]
    after = [node("QuantizeLinear", "z step zero", "q"), node("DequantizeLinear", "q step zero", "out")]
    return cases.model(after=after, outputs=[value("out", FLOAT, ("batch", CLASSES))], extra=levels)


@pytest.mark.parametrize(
    ("make", "named", "precision", "computes_in"),
    [
        (cases.model, "fp32", "fp32", ""),
        (_half, "fp16", "fp16", ""),
        (_half, None, "fp16", ""),  # a reference is judged by its own
        (cases.model, None, "fp32", ""),
        (_quantised, "fp32", "fp32", "int8"),
        (_quantised, "int8", "int8", ""),
        (_quantised, None, "int8", ""),
        (_quantised_scores, "fp32", "fp32", ""),  # its weights are float32: a node alone makes no room
        (_quantised_scores, None, "fp32", ""),
        (_quantised_scores, "int8", "int8", ""),  # whoever calls it so says that layers stay float
    ],
)
def test_the_precision_is_read_from_the_graph(make, named, precision, computes_in):
    found = check_given(make().SerializeToString(), {}, wanted(precision=named))
    assert (found.precision, found.facts["computes_in"]) == (precision, computes_in)


def _first(change):
    def made():
        model = cases.model()
        change(model)
        return model

    return made


def _weight(**fields):
    def change(model):
        tensor = model.graph.initializer[0]
        for name, content in fields.items():
            if isinstance(content, list):
                del getattr(tensor, name)[:]
                getattr(tensor, name).extend(content)
            else:
                setattr(tensor, name, content)

    return _first(change)


def _more_node(*made):
    return _first(lambda model: model.graph.node.extend(made))


def _text():
    tensor = helper.make_tensor("t", TensorProto.STRING, [1], [b"\xff\xfe"])
    return _first(lambda model: model.graph.initializer.append(tensor))()


DAMAGED = {
    "too few bytes": _weight(raw_data=bytes(7)),
    "no bytes": _weight(raw_data=b""),
    "huge": _weight(dims=[2**40, 2**40]),
    "negative": _weight(dims=[-3, 5]),
    "no such type": _weight(data_type=77),
    "no type": _weight(data_type=0),
    "text that is none": _text,
    "a product of nothing": _more_node(helper.make_node("MatMul", [], ["q"])),
    "a product of one": _more_node(helper.make_node("Conv", ["z"], ["q"])),
    "a product that gives nothing": _more_node(helper.make_node("MatMul", ["z", "w"], [])),
    "a cast to nothing": _more_node(
        helper.make_node("Cast", ["w"], ["v"]), helper.make_node("MatMul", ["z", "v"], ["q"])
    ),
    "a copy of nothing": _more_node(
        helper.make_node("Identity", [], ["v"]), helper.make_node("MatMul", ["z", "v"], ["q"])
    ),
    "a circle": _more_node(helper.make_node("Identity", ["v"], ["v"]), helper.make_node("MatMul", ["z", "v"], ["q"])),
    "dequantised from nothing": _more_node(
        helper.make_node("DequantizeLinear", ["w"], ["v"]), helper.make_node("MatMul", ["z", "v"], ["q"])
    ),
    "a constant of nothing": _more_node(helper.make_node("Constant", [], [])),
    "a softmax of nothing": lambda: _damaged_softmax(),
}


def _damaged_softmax():
    model = _with_its_softmax()
    del model.graph.node[-1].input[:]
    return model


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_refused_in_a_sentence(case, tmp_path):
    """By whatever comes first: what reads it, or the runtime."""
    payload = DAMAGED[case]().SerializeToString()
    with pytest.raises(MadxError):
        built(payload, wanted(), data=read_beside(tmp_path / "model.onnx", payload))
    with contextlib.suppress(MadxError):
        sparsity_2_4(payload)


SIZE = SIDE * SIDE * CLASSES * 4


@pytest.mark.parametrize(
    ("facts", "change", "said"),
    [
        ({"length": str(SIZE - 4)}, {}, f"has {SIZE - 4} bytes outside .* make {SIZE}"),
        ({"length": str(SIZE + 4)}, {}, f"make {SIZE}"),
        ({}, {"data_type": 77}, "of type number 77"),
        ({}, {"data_type": TensorProto.STRING}, "of type STRING"),
        ({}, {"dims": [2**40, 2**40]}, "ends after"),
        ({}, {"dims": [-3, 5]}, r"dimensions \[-3, 5\]"),
    ],
)
def test_weights_outside_are_as_many_as_their_dimensions_say(facts, change, said):
    def changed(tensor):
        tensor.data_type = change.get("data_type", tensor.data_type)
        if "dims" in change:
            del tensor.dims[:]
            tensor.dims.extend(change["dims"])

    model = _external(("location", "w"), *facts.items(), change=changed)
    with pytest.raises(ExportError, match=said):
        check_given(model.SerializeToString(), {"w": bytes(2 * SIZE)}, wanted())


def test_a_location_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(ExportError, match="can be no file's name"):
        read_beside(tmp_path / "model.onnx", _external(("location", "a\0b")).SerializeToString())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_one_product_in_float16_makes_no_file_of_that_precision(precision):
    """Its room for rounding is many times that of float32."""
    kind = TensorProto.FLOAT16
    after = [node("Cast", "z", "h", to=kind), node("MatMul", "h one", "i"), node("Cast", "i", "out", to=FLOAT)]
    out = [value("out", FLOAT, ("batch", CLASSES))]
    model = cases.model(after=after, outputs=out, extra=[constant("one", np.eye(CLASSES), np.float16)])
    if precision == "fp32":
        check_given(model.SerializeToString(), {}, wanted())
        return
    with pytest.raises(ExportError, match=r"in float32 in parts, and in float16 in others.*precision: fp32"):
        check_given(model.SerializeToString(), {}, wanted(precision=precision))


@pytest.mark.parametrize(("offset", "length"), [("-4", "4"), ("0", "-4"), ("a", "4"), ("8", "4e3")])
def test_weights_lie_where_whole_numbers_say(offset, length):
    """A runtime and a check that read other bytes of one file would speak of two networks."""
    model = cases.model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, said in (("location", "w"), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=said)
    with pytest.raises(ExportError, match="other than whole numbers"):
        built(model, wanted(), data={"w": bytes(64)})


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b"])
def test_weights_are_looked_for_in_the_file_s_own_folder(tmp_path, location):
    model = cases.model()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    with pytest.raises(ExportError, match="outside its own folder"):
        read_beside(tmp_path / "model.onnx", model.SerializeToString())
    with pytest.raises(ExportError, match="was not given"):
        put_inside(model, {})


def test_what_a_function_computes_is_part_of_what_the_file_computes():
    one, other = _function(), _function()
    other.functions[0].node[0].op_type = "Neg"
    assert content_sha256(one.SerializeToString()) != content_sha256(other.SerializeToString())


@pytest.mark.parametrize("kind", KINDS)
def test_scores_in_eight_bits_are_scores(kind):
    _, engine = built(_eight_bit_scores(), wanted(), kind=kind)
    with closing(engine):
        found = engine(cases.images(20)) / 10
    truth = cases.expected(cases.images(20))
    assert np.abs((found - truth) - (found - truth).mean(1, keepdims=True)).max() <= 0.1 + 1e-3


def test_an_interface_survives_its_record():
    fed = Interface(
        (3, 4, 4), 5, (4, 4, 3), input="x", layout="NHWC", batch=8, mean=(1.0, 2.0, 3.0), form="probabilities"
    )
    assert Interface.from_json(fed.to_json()) == fed
    assert not fed.plain
    assert Interface.canonical((3, 4, 4), 5).plain


def test_whole_numbers_are_rounded_and_stay_in_their_range():
    fed = Interface((1, 1, 3), 2, (1, 1, 3), dtype="uint8", scale=255.0)
    x = np.array([-0.1, 0.4 / 255, 1.2], np.float32).reshape(1, 1, 1, 3)
    assert fed.fed(x).ravel().tolist() == [0, 0, 255]


def test_a_probability_of_zero_is_no_infinite_logit():
    fed = Interface((1, 1, 3), 3, (1, 1, 3), form="probabilities")
    assert np.isfinite(fed.logits(np.array([[1.0, 0.0, 0.0]], np.float32), 1)).all()


def test_words_of_a_runtime_that_nobody_knows_are_cut_short():
    said = explain("[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/core/x.cc:12 a strange thing " + "y" * 500)
    assert said.startswith("its reason is 'a strange thing")
    words, _, remedy = said.partition(" (-v shows all of it); ")
    assert len(words) < 235
    assert "export the file again" in remedy


# --- In which numbers a file computes --------------------------------------------------------------------------------

F16, BF16 = TensorProto.FLOAT16, TensorProto.BFLOAT16


def _brain_weights(name="b16", shape=(CLASSES, CLASSES)):
    return helper.make_tensor(name, BF16, shape, np.eye(*shape, dtype=np.float32).ravel().tolist())


def _all_brain():
    """Images and logits in float32, the one product in bfloat16."""
    model = cases.model(
        before=[node("Identity", "input", "x")], input=("input", FLOAT, ("batch", 1, SIDE, SIDE)), extra=[]
    )
    flat, product = model.graph.node[1], model.graph.node[2]
    stored = helper.make_tensor("w", BF16, (SIDE * SIDE, CLASSES), cases.weights().ravel().tolist())
    del model.graph.initializer[:]
    model.graph.initializer.append(stored)
    flat.output[0], product.input[0], product.output[0] = "flat32", "flat", "coarse"
    model.graph.node.insert(2, node("Cast", "flat32", "flat", to=BF16))
    model.graph.node.append(node("Cast", "coarse", "z", to=FLOAT))
    return model


def _untraced(model):
    """The weight comes through a product with one, which changes no number."""
    weight = model.graph.initializer[0]
    one = helper.make_tensor("one", weight.data_type, [], [1.0])
    weight.name = "w stored"
    model.graph.initializer.append(one)
    model.graph.node.insert(0, helper.make_node("Mul", ["w stored", "one"], ["w"]))
    return model


def _with_a_decoy(domain="evil"):
    """float32 throughout, and a product of bfloat16 in name: a function that gives back what it gets."""
    function = helper.make_function(
        domain, "MatMul", ["a", "b"], ["c"], [node("Identity", "a", "c")], [helper.make_opsetid("", 17)]
    )
    model = cases.model(
        after=[helper.make_node("MatMul", ["z", "b16"], ["out"], domain=domain)],
        outputs=[value("out", FLOAT, ("batch", CLASSES))],
        extra=[_brain_weights()],
        domains=[(domain, 1)],
        functions=[function],
    )
    return _untraced(model)


def _with_a_dead_product():
    extra = [_brain_weights(), _brain_weights("a16")]
    return _untraced(cases.model(after=[node("MatMul", "a16 b16", "dead")], extra=extra))


def _with_a_declared_type():
    """What it declares of a value is no proof."""
    model = _untraced(cases.model())
    model.graph.value_info.append(value("w", BF16, (SIDE * SIDE, CLASSES)))
    return model


def _without_a_product():
    """The same sums, written out; beside them one product of bfloat16 that adds zero."""
    columns = [SIDE * SIDE, 1]
    model = cases.model(extra=[constant("last", columns, np.int64), constant("axis", [1], np.int64)])
    model.graph.node.pop()
    zeros = helper.make_tensor("zeros", BF16, (SIDE * SIDE, CLASSES), [0.0] * SIDE * SIDE * CLASSES)
    model.graph.initializer.extend([zeros, constant("to3", [-1, *columns], np.int64)])
    model.graph.node.extend(
        [
            node("Reshape", "flat to3", "tall"),
            node("Mul", "tall w", "each"),
            node("ReduceSum", "each axis", "sum", keepdims=0),
            node("Cast", "flat", "flat16", to=BF16),
            node("MatMul", "flat16 zeros", "nothing16"),
            node("Cast", "nothing16", "nothing", to=FLOAT),
            node("Add", "sum nothing", "z"),
        ]
    )
    return model


def _half_in_a_function():
    """The weight is an argument, and the product stands in the function."""
    model = _half()
    product = model.graph.node[-1]
    body = [node("MatMul", "a b", "c")]
    model.functions.append(
        helper.make_function("mine", "Linear", ["a", "b"], ["c"], body, [helper.make_opsetid("", 17)])
    )
    model.opset_import.append(helper.make_opsetid("mine", 1))
    product.op_type, product.domain = "Linear", "mine"
    return model


def _fused(kind, name):
    """A product by another name, in float32, before one of the standard's in bfloat16 or float16."""
    square = constant("square", np.eye(CLASSES))
    model = cases.model(extra=[square], domains=[("com.microsoft", 1)])
    model.graph.node[-1].output[0] = "mid"
    model.graph.node.append(helper.make_node(name, ["mid", "square"], ["fused"], domain=kind))
    model.graph.initializer.append(_brain_weights())
    model.graph.node.extend(
        [
            node("Cast", "fused", "fused16", to=BF16),
            node("MatMul", "fused16 b16", "z16"),
            node("Cast", "z16", "z", to=FLOAT),
        ]
    )
    return model


@pytest.mark.parametrize(
    "make",
    [
        _with_a_decoy,
        lambda: _with_a_decoy(""),
        _with_a_dead_product,
        _with_a_declared_type,
        _without_a_product,
        lambda: _fused("com.microsoft", "FusedMatMul"),
        lambda: _fused("nobody.knows", "Scores"),
    ],
    ids=["decoy", "decoy of no domain", "dead", "declared", "written out", "fused", "anybody's"],
)
def test_float32_never_gets_the_room_of_coarser_numbers(make):
    """Whatever it says of itself; also as a reference, which the recipe gives no precision."""
    for named in ("fp32", None):
        found = check_given(make().SerializeToString(), {}, wanted(precision=named))
        judged_by = found.facts["held_to"] or found.facts["computes_in"] or found.precision
        assert rounding_of(judged_by) == ROUNDING["fp32"]
        assert most_flips_of(judged_by) == MOST_FLIPS


@pytest.mark.parametrize("make", [_half, lambda: _untraced(_half()), _half_in_a_function])
def test_float16_is_found_wherever_its_weights_come_from(make):
    found = check_given(make().SerializeToString(), {}, wanted(precision="fp16"))
    assert (found.precision, found.facts["computes_in"], found.facts["held_to"]) == ("fp16", "", "")
    with pytest.raises(ExportError, match="computes in float16"):
        check_given(make().SerializeToString(), {}, wanted())


@pytest.mark.parametrize("make", [_all_brain, lambda: _untraced(_all_brain())])
def test_bfloat16_gets_no_room_that_the_recipe_did_not_give(make):
    for named, held in (("fp32", "fp32"), ("fp16", "fp16"), (None, "")):
        facts = check_given(make().SerializeToString(), {}, wanted(precision=named)).facts
        assert (facts["computes_in"], facts["held_to"]) == ("bf16", held)


def _in(kind, *, before=(), domains=(), extra=()):
    """The network whose one large product is of `kind`, and then a small one of the other type."""
    wide = np.float64 if kind == TensorProto.DOUBLE else np.float32
    other = FLOAT if kind == TensorProto.DOUBLE else TensorProto.DOUBLE
    model = cases.model(weight=wide, domains=domains, extra=extra)
    product = model.graph.node.pop()
    product.input[0], product.output[0] = "typed", "product"
    model.graph.node.extend([*before, node("Cast", "flat", "typed", to=kind), product])
    return model, other


def _plainly_in(kind, **more):
    model, _ = _in(kind, **more)
    model.graph.node.append(node("Cast", "product", "z", to=FLOAT))
    return model


def _quantised_beside(kind):
    """Nothing reads what is quantised."""
    return _plainly_in(kind, before=[node("QuantizeLinear", "flat step", "dead")], extra=[constant("step", 0.1)])


def _scaled_by_a_stranger(kind):
    domain = "ai.onnx.ml"
    scaler = helper.make_node("Scaler", ["flat"], ["scaled"], domain=domain, offset=[0.0], scale=[1.0])
    model = _plainly_in(kind, before=[scaler], domains=[(domain, 3)])
    model.graph.node[-3].input[0] = "scaled"
    return model


def _with_a_little_of_the_other(kind):
    model, other = _in(kind)
    eye = np.eye(CLASSES, dtype=np.float32 if other == FLOAT else np.float64)
    model.graph.initializer.append(constant("eye", eye, eye.dtype))
    more = [node("Cast", "product", "cast", to=other), node("MatMul", "cast eye", "last")]
    model.graph.node.extend([*more, node("Cast", "last", "z", to=FLOAT)])
    return model


def _written_out_in_double():
    model = _without_a_product()
    model.graph.node.pop(0)
    for tensor in model.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(constant("w", onnx.numpy_helper.to_array(tensor), np.float64))
        if tensor.name == "zeros":
            tensor.CopyFrom(constant("zeros", onnx.numpy_helper.to_array(tensor).astype(np.float32), np.float32))
    for one in model.graph.node:
        for attribute in one.attribute:
            if attribute.name == "to":
                attribute.i = FLOAT
    model.graph.node.insert(0, node("Flatten", "x", "flat"))
    model.graph.node.insert(1, node("Cast", "flat", "flat64", to=TensorProto.DOUBLE))
    model.graph.node[2].input[0] = "flat64"
    last = model.graph.node[-1]
    model.graph.node.insert(len(model.graph.node) - 1, node("Cast", "sum", "sum32", to=FLOAT))
    last.input[0] = "sum32"
    return model


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_quantised_beside, ("fp64", "fp32")),
        (_scaled_by_a_stranger, ("fp64 and unknown numbers", "fp32 and unknown numbers")),
        (_with_a_little_of_the_other, ("fp32 and fp64", "fp32 and fp64")),
    ],
    ids=["what is quantised is dead", "beside a stranger", "in other shares"],
)
def test_no_share_of_a_slow_number_type_hides_behind_a_name(make, words):
    """Reference in float64, candidate in float32, and both files of the same mixture by name."""
    found = [
        check_given(make(kind).SerializeToString(), {}, wanted()).facts["numbers"]
        for kind in (TensorProto.DOUBLE, FLOAT)
    ]
    assert tuple(found) == words
    assert not same_speed_of_numbers(*found)


@pytest.mark.parametrize(
    ("make", "numbers", "fair"),
    [
        (cases.model, "fp32", True),
        (_half, "fp16", True),
        (_quantised, "int8 and fp32", False),
        (_all_brain, "bf16", True),
        (_without_a_product, "bf16 with weights of fp32", False),
        (_written_out_in_double, "fp32 with weights of fp64", False),
        (lambda: _fused("nobody.knows", "Scores"), "bf16 and fp32 and unknown numbers", False),
    ],
)
def test_one_number_type_on_both_sides_is_fair_and_a_mixture_is_not(make, numbers, fair):
    found = check_given(make().SerializeToString(), {}, wanted(precision=None)).facts["numbers"]
    assert (found, same_speed_of_numbers(found, found)) == (numbers, fair)
    assert same_speed_of_numbers("fp32", found), "what a release asks: float32 beside whatever"
    assert same_speed_of_numbers(found, "fp32") == (found == "fp32")


def test_what_nothing_tells_is_called_what_the_recipe_says_and_held_to_float32():
    """Both inputs of the one product come from an operator that nobody knows."""
    model = _half()
    model.opset_import.append(helper.make_opsetid("nobody.knows", 1))
    for name in ("flat", "w"):
        model.graph.node.insert(-1, helper.make_node("Same", [name], [f"{name}?"], domain="nobody.knows"))
    model.graph.node[-1].input[:] = ["flat?", "w?"]
    model.graph.node.insert(0, model.graph.node.pop(1))
    found = check_given(model.SerializeToString(), {}, wanted(precision="fp16"))
    assert (found.precision, found.facts["computes_in"]) == ("fp16", "unknown numbers")
    assert rounding_of("unknown numbers") == ROUNDING["fp32"]


def test_a_random_node_that_nothing_reads_is_no_chance():
    dead = helper.make_node("RandomNormal", [], ["noise"], shape=[2])
    assert not check_given(cases.model(after=[dead]).SerializeToString(), {}, wanted()).facts["random"]


def test_a_dropout_of_nothing_is_no_chance_and_any_other_is():
    for ratio, drawn in ((0.0, False), (0.1, True)):
        found = cases.model(
            after=[node("Dropout", "z ratio train", "o")],
            outputs=[value("o", FLOAT, ("batch", CLASSES))],
            extra=[constant("ratio", ratio), constant("train", True, np.bool_)],
        )
        assert ("Dropout" in str(check_given(found.SerializeToString(), {}, wanted()).facts["random"])) is drawn


def test_what_the_runtime_s_optimiser_makes_of_dynamic_quantisation_looks_at_a_whole_batch_too():
    levels = [constant("q", np.ones((SIDE * SIDE, CLASSES)), np.int8), constant("s", 0.1), constant("n", 0, np.int8)]
    model = cases.model(domains=[("com.microsoft", 1)], extra=levels)
    model.graph.node[1].CopyFrom(node("DynamicQuantizeMatMul", "flat q s n", "z", domain="com.microsoft"))
    found = check_given(model.SerializeToString(), {}, wanted())
    assert found.facts["batch_wide"] == ["DynamicQuantizeMatMul"]


OTHER_FILES = {
    b"version https://git-lfs.github.com/spec/v1\n": "git lfs pull",
    b"PK\x03\x04" + bytes(40): "what torch.onnx.export wrote",
    b"\x80\x02}q\x00.": "a pickle",
    b"\x18\0\0\0ORTM" + bytes(40): "the .onnx file that it was made from",
    b"\x1f\x8b\x08" + bytes(40): "packed by gzip",
    b" <html></html>": "download the file itself",
}


@pytest.mark.parametrize("payload", OTHER_FILES)
def test_a_file_of_another_kind_is_called_what_it_is(payload):
    with pytest.raises(ExportError) as caught:
        built(payload, wanted())
    assert OTHER_FILES[payload] in str(caught.value)
